"""Representations of pictures, digits, nodes of a graph, and customers.

Shapes: N rows, V nodes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from classification import Rows, digit_rows
from fit_gaussians import load_pixels
from flax import nnx
from regressions import drawn, held_out, regression_task, shuffled
from small_models import Perceptron, module_task
from tasks import Setup, Task
from text_data import SPLIT_SEED

NUM_FREQUENCIES, HIGHEST = 64, 30.0  # of the features of a place, and radians a height
CODE, SPREAD = 8, 0.2  # numbers that a digit is drawn from; deviation of its pixels
NUM_NODES, NUM_LABELLED, CLASSES, COLUMNS, UNITS = 600, 300, 4, 16, 32
LIKELY, UNLIKELY = 0.04, 0.01  # edges within a class, and between two
GRAPH_STEPS = 20  # an epoch
NUM_PAIRS, SEEN, BLUR = 60, 0.5, 0.1  # of a batch; of a view's pixels; their deviation
NUM_CUSTOMERS, NUM_GOODS, NUM_PURCHASES, NUM_OTHERS = 300, 500, 8000, 20
TRUE_RANK, RANK = 4, 16  # of what is bought; of the vectors that are found


class Painter(nnx.Module):
    """Colours of places, by sines and cosines of fixed frequencies."""

    def __init__(self, rngs: nnx.Rngs):
        self.network = Perceptron(2 * NUM_FREQUENCIES, 3, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, 2] -> [N, 3]."""
        rng = np.random.default_rng(0)
        angles = x @ (HIGHEST / 2 * rng.normal(size=(2, NUM_FREQUENCIES)))
        return self.network(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1))


def picture(photograph: str, *, setup: Setup) -> Task:
    """The colours of a small photograph, an eighth of its pixels for validation."""
    places, colours = map(np.asarray, load_pixels(photograph))
    order = np.random.default_rng(SPLIT_SEED).permutation(len(places))
    pool, validation = held_out(Rows(places, colours).at(order), len(places) // 8)
    setup = setup._replace(batch_size=setup.batch_size or 64)
    return module_task(lambda seed: Painter(nnx.Rngs(seed)), pool, validation, setup)


class Variational(nnx.Module):
    """An encoder of digits into distributions of codes, and a decoder of codes."""

    def __init__(self, rngs: nnx.Rngs):
        self.encoder = Perceptron(64, 2 * CODE, rngs)
        self.decoder = Perceptron(CODE, 64, rngs)

    def __call__(self, x: jax.Array, noise: jax.Array) -> jax.Array:
        """Minus the evidence's lower bound, but for a constant: [N, 64] -> [N]."""
        mean, log_scale = jnp.split(self.encoder(x), 2, axis=1)
        found = self.decoder(mean + jnp.exp(log_scale) * noise)
        squares = jnp.sum((found - x) ** 2, axis=1) / (2 * SPREAD**2)
        return squares + divergence(mean, log_scale)


def divergence(mean: Any, log_scale: Any) -> jax.Array:
    """Of normal distributions from the standard one: f[N, CODE] -> f[N].

    Example:
      >>> float(divergence(np.array([[2.0, 0.0]]), np.zeros((1, 2)))[0])
      2.0
    """
    each = mean**2 + jnp.exp(2 * log_scale) - 1 - 2 * log_scale
    return jnp.sum(each, axis=1) / 2


def variational(*, setup: Setup) -> Task:
    """A variational autoencoder of scikit-learn's digits: noise in every batch."""
    pool, validation = (rows.inputs.reshape(-1, 64) for rows in digit_rows())
    graphdef = nnx.graphdef(Variational(nnx.Rngs(0)))
    batch_size = setup.batch_size or 32

    def loss_fn(params: Any, batch: Rows, key: jax.Array | None = None) -> jax.Array:
        return jnp.mean(nnx.merge(graphdef, params)(batch.inputs, batch.labels))

    def noisy(rng: np.random.Generator, rows: np.ndarray) -> Rows:
        noise = rng.normal(size=(batch_size, CODE)).astype(np.float32)
        return Rows(pool[rows], noise)

    noise = np.random.default_rng(0).normal(size=(len(validation), CODE))
    return regression_task(
        lambda seed: nnx.state(Variational(nnx.Rngs(seed))),
        *(loss_fn, drawn(len(pool), batch_size, noisy)),
        Rows(validation, noise.astype(np.float32)),
        steps_per_epoch=len(pool) // batch_size,
        # Of the mean digit, whatever the code.
        power=float(np.sum(np.var(validation, axis=0)) / (2 * SPREAD**2)),
    )


class Convolutions(nnx.Module):
    """Two graph convolutions: of features, and of what they make of neighbours."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(COLUMNS, UNITS, rngs=rngs)
        self.last = nnx.Linear(UNITS, CLASSES, rngs=rngs)

    def __call__(self, edges: jax.Array, x: jax.Array) -> jax.Array:
        """Normalized edges [V, V] and features [V, COLUMNS] -> [V, CLASSES]."""
        return self.last(edges @ nnx.relu(self.first(edges @ x)))


def graph(*, setup: Setup) -> Task:
    """Classes of the nodes of a graph, half of them labelled; one batch of all.

    The score is of the log loss of the other half, in decibels below that of a guess.
    """
    del setup
    edges, features, classes = communities()
    graphdef = nnx.graphdef(Convolutions(nnx.Rngs(0)))

    def loss_fn(params: Any, batch: Rows, key: jax.Array | None = None) -> jax.Array:
        logits = nnx.merge(graphdef, params)(edges, jnp.asarray(features))
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits[batch.inputs], batch.labels
        )
        return jnp.mean(losses)

    nodes = np.random.default_rng(SPLIT_SEED).permutation(NUM_NODES)
    pool, validation = (Rows(x, classes[x]) for x in np.split(nodes, [NUM_LABELLED]))
    return regression_task(
        lambda seed: nnx.state(Convolutions(nnx.Rngs(seed))),
        *(loss_fn, lambda seed, epoch: iter([pool] * GRAPH_STEPS), validation),
        steps_per_epoch=GRAPH_STEPS,
        power=float(np.log(CLASSES)),
    )


def communities() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges [V, V] with loops, normalized by degrees; features [V, COLUMNS]; classes.

    Nodes of a class are linked more often, and their features differ a little.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    classes = rng.integers(0, CLASSES, NUM_NODES).astype(np.int32)
    is_same = classes[:, None] == classes
    links = rng.uniform(size=is_same.shape) < np.where(is_same, LIKELY, UNLIKELY)
    edges = np.triu(links, 1) + np.triu(links, 1).T + np.eye(NUM_NODES)
    root = np.sqrt(np.sum(edges, axis=1))
    means = 0.5 * rng.normal(size=(CLASSES, COLUMNS))
    features = means[classes] + rng.normal(size=(NUM_NODES, COLUMNS))
    return (
        (edges / root[:, None] / root).astype(np.float32),
        features.astype(np.float32),
        classes,
    )


class Pairing(nnx.Module):
    """Directions of digits, and how sure of the nearest one it is."""

    def __init__(self, rngs: nnx.Rngs):
        self.encoder = Perceptron(64, CODE, rngs)
        self.log_sharpness = nnx.Param(jnp.zeros(()))

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Log loss of which y belongs to which x, and the reverse: [N, 64] twice."""
        x, y = (self.encoder(z) for z in (x, y))
        x, y = (z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
        logits = jnp.exp(self.log_sharpness[...]) * x @ y.T
        diagonal = jnp.arange(len(x))
        losses = [
            optax.softmax_cross_entropy_with_integer_labels(z, diagonal)
            for z in (logits, logits.T)
        ]
        return jnp.mean(jnp.stack(losses))


def contrastive(*, setup: Setup) -> Task:
    """Which two views show the same of `NUM_PAIRS` digits; half of the pixels are lost.

    All examples of a batch are in each other's loss.
    """
    del setup
    pool, validation = (rows.inputs.reshape(-1, 64) for rows in digit_rows())
    graphdef = nnx.graphdef(Pairing(nnx.Rngs(0)))

    def loss_fn(params: Any, batch: Rows, key: jax.Array | None = None) -> jax.Array:
        """Of batches [..., NUM_PAIRS, 64], each by itself."""
        pair = nnx.merge(graphdef, params)
        x, y = (
            jnp.asarray(z).reshape(-1, NUM_PAIRS, 64)
            for z in (batch.inputs, batch.labels)
        )
        return jnp.mean(jax.vmap(pair)(x, y))

    def views(rng: np.random.Generator, x: np.ndarray) -> Rows:
        def view() -> np.ndarray:
            is_seen = rng.uniform(size=x.shape) < SEEN
            blur = BLUR * rng.normal(size=x.shape)
            return (is_seen * (x + blur)).astype(np.float32)

        return Rows(view(), view())

    batches = drawn(len(pool), NUM_PAIRS, lambda rng, rows: views(rng, pool[rows]))
    rows = validation[: len(validation) // NUM_PAIRS * NUM_PAIRS]
    return regression_task(
        lambda seed: nnx.state(Pairing(nnx.Rngs(seed))),
        *(loss_fn, batches, views(np.random.default_rng(SPLIT_SEED), rows)),
        steps_per_epoch=len(pool) // NUM_PAIRS,
        power=float(np.log(NUM_PAIRS)),
    )


def purchases(*, setup: Setup) -> Task:
    """What customers buy, among goods that they do not: vectors of both.

    A batch has the gradients of few of them, and zeros for all others.
    """
    pool, validation = held_out(bought(), NUM_PURCHASES // 4)
    batch_size = setup.batch_size or 64

    def init(seed: int) -> Any:
        rng = np.random.default_rng(seed)
        sizes = {"customers": (NUM_CUSTOMERS, RANK), "goods": (NUM_GOODS, RANK)}
        vectors = {k: 0.1 * rng.normal(size=x) for k, x in sizes.items()}
        vectors |= {"popularity": np.zeros(NUM_GOODS)}
        return {k: jnp.asarray(x, jnp.float32) for k, x in vectors.items()}

    def loss_fn(params: Any, batch: Rows, key: jax.Array | None = None) -> jax.Array:
        goods = jnp.asarray(batch.labels)  # [N, 1 + NUM_OTHERS], the bought one first
        customers = params["customers"][batch.inputs]
        logits = jnp.einsum("nd,nmd->nm", customers, params["goods"][goods])
        logits += params["popularity"][goods]
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[:, 0])

    return regression_task(
        *(init, loss_fn, shuffled(pool, batch_size), validation),
        steps_per_epoch=len(pool.labels) // batch_size,
        power=float(np.log(1 + NUM_OTHERS)),
    )


def bought() -> Rows:
    """Customers, int32 [N]; what each bought and `NUM_OTHERS` other goods [N, ...]."""
    rng = np.random.default_rng(SPLIT_SEED)
    taste, kind = (
        rng.normal(size=(number, TRUE_RANK)) for number in (NUM_CUSTOMERS, NUM_GOODS)
    )
    logits = taste @ kind.T + rng.normal(size=NUM_GOODS)
    customers = rng.integers(0, NUM_CUSTOMERS, NUM_PURCHASES)
    goods = np.argmax(
        logits[customers] + rng.gumbel(size=(NUM_PURCHASES, NUM_GOODS)), 1
    )
    others = rng.integers(0, NUM_GOODS, (NUM_PURCHASES, NUM_OTHERS))
    labels = np.concatenate([goods[:, None], others], axis=1)
    return Rows(customers.astype(np.int32), labels.astype(np.int32))
