"""Small models of everyday use: of tables, an autoencoder, a factorization.

All begin from random weights. Scores of regressions are ``-10 log10(error / variance)``
of validation rows, in decibels. Shapes: N rows, D columns.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from classification import Rows, digit_rows, scratch_task
from flax import nnx
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from tasks import Setup, Task
from text_data import SPLIT_SEED

WIDTH, CODE = 64, 8  # hidden units; numbers that a digit is squeezed into
NUM_USERS, NUM_ITEMS, NUM_RATINGS, TRUE_RANK, RANK = 300, 200, 12_000, 4, 8
NUM_EPOCHS = 10
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
    return regression_task(
        lambda seed: Perceptron(10, 1, nnx.Rngs(seed)), pool, validation, setup
    )


def autoencoder(*, setup: Setup) -> Task:
    """scikit-learn's digits, 64 pixels each, through `CODE` numbers."""
    pool, validation = (
        Rows(x.reshape(-1, 64), x.reshape(-1, 64))
        for x in (rows.inputs for rows in digit_rows())
    )
    return regression_task(
        lambda seed: Autoencoder(64, nnx.Rngs(seed)), pool, validation, setup
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


def regression_task(
    new_model: Callable[[int], Any], pool: Rows, validation: Rows, setup: Setup
) -> Task:
    """A task of a module that maps inputs to labels."""
    graphdef, _ = nnx.split(new_model(0), nnx.Param)
    return _task(
        lambda seed: nnx.state(new_model(seed), nnx.Param),
        lambda params, x: nnx.merge(graphdef, params)(x),
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
    """A task of mean squared errors, whose seed draws the order of the rows."""
    power, num_rows = float(np.var(validation.labels)), len(pool.labels)

    def loss_fn(params: Any, batch: Rows, key: jax.Array | None = None) -> jax.Array:
        return jnp.mean((output(params, jnp.asarray(batch.inputs)) - batch.labels) ** 2)

    error_of = jax.jit(loss_fn)

    def evaluate(params: Any) -> dict[str, float]:
        error = float(error_of(params, validation))
        return {"score": -10 * float(np.log10(error / power)), "loss": error}

    def batches(seed: int, epoch: int) -> Iterator[Rows]:
        order = np.random.default_rng((seed, epoch)).permutation(num_rows)
        for i in range(0, num_rows - batch_size + 1, batch_size):
            yield pool.at(order[i : i + batch_size])

    return Task(
        init=init,
        loss_fn=loss_fn,
        batches=batches,
        steps_per_epoch=num_rows // batch_size,
        num_epochs=NUM_EPOCHS,
        evaluate=evaluate,
    )
