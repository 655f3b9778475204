"""Small models of everyday use: of tables, words, sequences, ratings; an autoencoder.

All begin from random weights. Shapes: N rows, D columns.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from classification import SOURCES, Rows, digit_rows, scratch_task
from flax import nnx
from regressions import held_out, mean_squared_error, regression_task, shuffled
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_wine,
    make_friedman1,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from tasks import Setup, Task
from text_data import SPLIT_SEED, read_bbc, split_pool

WIDTH, CODE = 64, 8  # hidden units; numbers that a digit is squeezed into
NUM_USERS, NUM_ITEMS, NUM_RATINGS, TRUE_RANK, RANK = 300, 200, 12_000, 4, 8
NUM_WORDS, NUM_TEXTS = 2000, 600  # of the vocabulary; of the validation rows
MOST_TEXTS = 4000  # of the others
LENGTH, UNITS, NUM_SEQUENCES = 10, 32, 5000  # of the sequences, of the network for them
NUM_CENTRES, NUM_POINTS = 64, 2000
PAIRS, KEY_SIZE, NUM_LOOKUPS = 8, 8, 4000  # that a query is looked up in; its numbers
TABLES = {"breast-cancer": (load_breast_cancer, 200), "wine": (load_wine, 78)}


class Perceptron(nnx.Module):
    """Two hidden layers of `WIDTH` units."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
        self.first = nnx.Linear(inputs, WIDTH, rngs=rngs)
        self.second = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.last = nnx.Linear(WIDTH, outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, inputs] -> [N, outputs]."""
        return self.last(nnx.gelu(self.second(nnx.gelu(self.first(x)))))


class Autoencoder(nnx.Module):
    """Squeezes rows into `CODE` numbers, and makes rows of these."""

    def __init__(self, columns: int, rngs: nnx.Rngs):
        self.encoder = Perceptron(columns, CODE, rngs)
        self.decoder = Perceptron(CODE, columns, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.decoder(self.encoder(x))


def table(name: str, *, setup: Setup) -> Task:
    """Measurements of 569 tumours or 178 wines, and their class."""
    load, num_validation = TABLES[name]
    data: Any = load()
    pool, validation = split(data.data, data.target.astype(np.int32), num_validation)
    inputs, outputs = data.data.shape[1], int(data.target.max()) + 1
    return scratch_task(
        lambda seed: Perceptron(inputs, outputs, nnx.Rngs(seed)),
        *(pool, len(pool.labels), validation),
        setup._replace(batch_size=setup.batch_size or 8),
    )


def diabetes(*, setup: Setup) -> Task:
    """10 measurements of 442 patients, and how a disease went on; 142 for validation.

    Most of it cannot be told from the measurements.
    """
    data: Any = load_diabetes()
    pool, validation = split(data.data, standardized(data.target[:, None]), 142)
    return module_task(
        lambda seed: Perceptron(10, 1, nnx.Rngs(seed)), pool, validation, setup
    )


def autoencoder(*, setup: Setup) -> Task:
    """scikit-learn's digits, 64 pixels each, through `CODE` numbers."""
    pool, validation = (
        Rows(x.reshape(-1, 64), x.reshape(-1, 64))
        for x in (rows.inputs for rows in digit_rows())
    )
    return module_task(
        lambda seed: Autoencoder(64, nnx.Rngs(seed)), pool, validation, setup
    )


def word_counts(source: str, *, setup: Setup) -> Task:
    """A linear classifier of news by topic, or of tweets, on weighted word counts."""
    texts = read_bbc() if source == "news" else SOURCES[source]()
    others, validation = split_pool(texts, NUM_TEXTS)
    rows = others[:MOST_TEXTS], validation
    pool, validation = ([row.text for row in part] for part in rows)
    names = sorted({row.label for row in rows[0]})
    vectorizer: Any = TfidfVectorizer(stop_words="english", max_features=NUM_WORDS)
    counts = vectorizer.fit_transform(pool), vectorizer.transform(validation)
    pool, validation = (
        Rows(
            x.toarray().astype(np.float32),
            np.array([names.index(row.label) for row in part], np.int32),
        )
        for x, part in zip(counts, rows, strict=True)
    )
    return scratch_task(
        lambda seed: nnx.Linear(NUM_WORDS, len(names), rngs=nnx.Rngs(seed)),
        *(pool, len(pool.labels), validation, setup),
    )


class Recurrent(nnx.Module):
    """Gated recurrent units, whose last state is mapped to a number."""

    def __init__(self, rngs: nnx.Rngs):
        self.cell = nnx.RNN(nnx.GRUCell(2, UNITS, rngs=rngs), rngs=rngs)
        self.last = nnx.Linear(UNITS, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, LENGTH, 2] -> [N, 1]."""
        first = jnp.zeros((x.shape[0], UNITS))
        states: Any = self.cell(x, initial_carry=first)  # [N, LENGTH, UNITS]
        return self.last(states[:, -1])


def recurrent(*, setup: Setup) -> Task:
    """The sum of the two marked numbers of a sequence; a fifth for validation."""
    pool, validation = held_out(marked_sequences(), NUM_SEQUENCES // 5)
    return module_task(lambda seed: Recurrent(nnx.Rngs(seed)), pool, validation, setup)


def marked_sequences() -> Rows:
    """Numbers and marks, float32 [N, LENGTH, 2], and the sums of the marked [N, 1]."""
    rng = np.random.default_rng(SPLIT_SEED)
    numbers = rng.uniform(size=(NUM_SEQUENCES, LENGTH))
    marks = rng.permuted(np.tile(np.arange(LENGTH) < 2, (NUM_SEQUENCES, 1)), axis=1)
    inputs = np.stack([numbers, marks], axis=2).astype(np.float32)
    return Rows(inputs, np.sum(numbers * marks, axis=1, keepdims=True, dtype="float32"))


class Attention(nnx.Module):
    """A query attends to keys; what it finds there goes through hidden units."""

    def __init__(self, rngs: nnx.Rngs):
        self.query = nnx.Linear(KEY_SIZE, UNITS, rngs=rngs)
        # With a bias all keys would fit a query better or worse alike.
        self.key = nnx.Linear(KEY_SIZE, UNITS, use_bias=False, rngs=rngs)
        self.value = nnx.Linear(1, UNITS, rngs=rngs)
        self.last = nnx.Linear(UNITS, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, 1 + PAIRS, KEY_SIZE + 1], the query first -> [N, 1]."""
        query = self.query(x[:, 0, :KEY_SIZE])
        key, value = self.key(x[:, 1:, :KEY_SIZE]), self.value(x[:, 1:, KEY_SIZE:])
        fits = jnp.einsum("nu,npu->np", query, key) / UNITS**0.5
        found = jnp.einsum("np,npu->nu", jax.nn.softmax(fits), value)
        return self.last(nnx.gelu(found))


def attention(*, setup: Setup) -> Task:
    """The square of the value of the key that is nearest to a query."""
    pool, validation = held_out(lookups(), NUM_LOOKUPS // 4)
    return module_task(lambda seed: Attention(nnx.Rngs(seed)), pool, validation, setup)


def lookups() -> Rows:
    """Queries above keys and values, float32 [N, 1 + PAIRS, KEY_SIZE + 1], and [N, 1].

    A query is one of the keys, a little off; its own value is 0.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    keys = rng.normal(size=(NUM_LOOKUPS, PAIRS, KEY_SIZE))
    keys /= np.linalg.norm(keys, axis=2, keepdims=True)
    values = rng.uniform(-1, 1, (NUM_LOOKUPS, PAIRS, 1))
    asked = np.arange(NUM_LOOKUPS), rng.integers(0, PAIRS, NUM_LOOKUPS)
    queries = keys[asked] + 0.05 * rng.normal(size=(NUM_LOOKUPS, KEY_SIZE))
    queries = np.append(queries, np.zeros((NUM_LOOKUPS, 1)), axis=1)[:, None]
    inputs = np.append(queries, np.append(keys, values, axis=2), axis=1)
    return Rows(inputs.astype(np.float32), (values[asked] ** 2).astype(np.float32))


class RadialBasis(NamedTuple):
    """Bumps of a width each around centres, and what stands beside them."""

    centres: Any  # [NUM_CENTRES, D]
    log_widths: Any  # [NUM_CENTRES]
    weights: Any  # [NUM_CENTRES]
    offset: Any  # []

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, D] -> [N, 1]."""
        squares = jnp.sum((x[:, None] - self.centres) ** 2, axis=2)
        bumps = jnp.exp(-squares / (2 * jnp.exp(2 * self.log_widths)))
        return (bumps @ self.weights + self.offset)[:, None]


def radial_basis(*, setup: Setup) -> Task:
    """Friedman's first function of five of ten inputs; a quarter for validation."""
    x, y = make_friedman1(NUM_POINTS, noise=1.0, random_state=SPLIT_SEED)
    rows = Rows(x.astype(np.float32), standardized(y[:, None]))

    def init(seed: int) -> RadialBasis:
        first, second = jax.random.split(jax.random.key(seed))
        return RadialBasis(
            jax.random.uniform(first, (NUM_CENTRES, x.shape[1])),
            jnp.zeros(NUM_CENTRES),
            0.1 * jax.random.normal(second, (NUM_CENTRES,)),
            jnp.zeros(()),
        )

    return _task(
        *(init, lambda params, x: params(x)),
        *held_out(rows, NUM_POINTS // 4),
        batch_size=setup.batch_size or 32,
    )


class Factors(NamedTuple):
    """What users like and items have, and what either is rated beside it."""

    users: Any  # [NUM_USERS, RANK]
    items: Any  # [NUM_ITEMS, RANK]
    user_means: Any  # [NUM_USERS]
    item_means: Any  # [NUM_ITEMS]
    mean: Any  # []

    def __call__(self, pairs: jax.Array) -> jax.Array:
        """[N, 2] numbers of users and items -> [N, 1] ratings."""
        user, item = pairs[:, 0], pairs[:, 1]
        fit = jnp.sum(self.users[user] * self.items[item], axis=1)
        return (fit + self.user_means[user] + self.item_means[item] + self.mean)[
            :, None
        ]


def factorization(*, setup: Setup) -> Task:
    """Ratings of items by users, some of them rarely rated; a sixth for validation."""

    def init(seed: int) -> Factors:
        users, items = jax.random.split(jax.random.key(seed))
        return Factors(
            0.1 * jax.random.normal(users, (NUM_USERS, RANK)),
            0.1 * jax.random.normal(items, (NUM_ITEMS, RANK)),
            *(jnp.zeros(NUM_USERS), jnp.zeros(NUM_ITEMS), jnp.zeros(())),
        )

    pairs, ratings = rated()
    parts = (Rows(pairs[i::6], ratings[i::6]) for i in range(6))
    validation, *others = parts
    pool = Rows(*map(np.concatenate, zip(*others, strict=True)))
    return _task(
        *(init, lambda params, x: params(x), pool, validation),
        batch_size=setup.batch_size or 128,
    )


def rated() -> tuple[np.ndarray, np.ndarray]:
    """Pairs of users and items, int32 [N, 2], and their ratings [N, 1]."""
    rng = np.random.default_rng(SPLIT_SEED)
    share = 1 / np.arange(
        1, NUM_ITEMS + 1
    )  # the second item half as often as the first
    users = rng.integers(0, NUM_USERS, NUM_RATINGS)
    items = rng.choice(NUM_ITEMS, NUM_RATINGS, p=share / share.sum())
    tastes = rng.normal(size=(NUM_USERS, TRUE_RANK)) / TRUE_RANK**0.5
    traits = rng.normal(size=(NUM_ITEMS, TRUE_RANK))
    ratings = 3 + np.sum(tastes[users] * traits[items], axis=1)
    ratings += 0.5 * rng.normal(size=NUM_USERS)[users]
    ratings += 0.5 * rng.normal(size=NUM_ITEMS)[items]
    ratings += 0.5 * rng.normal(size=NUM_RATINGS)
    pairs = np.stack([users, items], axis=1).astype(np.int32)
    return pairs, ratings.astype(np.float32)[:, None]


def split(x: np.ndarray, labels: np.ndarray, num_validation: int) -> tuple[Rows, Rows]:
    """Rows with standardized columns: a pool, and validation rows."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(x))
    rows = Rows(standardized(x), labels)
    return rows.at(order[num_validation:]), rows.at(order[:num_validation])


def standardized(x: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and variance 1, float32 [N, D].

    Example:
      >>> standardized(np.array([[1.0], [3.0]])).tolist()
      [[-1.0], [1.0]]
    """
    return ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32)


def module_task(
    new_model: Callable[[int], Any],
    pool: Rows,
    validation: Rows,
    setup: Setup,
) -> Task:
    """A regression by a module that maps inputs to labels."""
    graphdef, _, others = nnx.split(new_model(0), nnx.Param, ...)
    return _task(
        lambda seed: nnx.state(new_model(seed), nnx.Param),
        lambda params, x: nnx.merge(graphdef, params, others)(x),
        *(pool, validation),
        batch_size=setup.batch_size or 32,
    )


def _task(
    init: Callable[[int], Any],
    output: Callable[[Any, jax.Array], jax.Array],
    pool: Rows,
    validation: Rows,
    *,
    batch_size: int,
) -> Task:
    """A regression by least squares."""
    return regression_task(
        *(init, mean_squared_error(output), shuffled(pool, batch_size), validation),
        steps_per_epoch=len(pool.labels) // batch_size,
    )
