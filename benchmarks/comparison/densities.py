"""Models of distributions: a flow, a diffusion model, a Gaussian process.

Shapes: N rows, D columns.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from classification import Rows, digit_rows
from flax import nnx
from regressions import NUM_EPOCHS, drawn, held_out, regression_task, shuffled
from scipy.special import logsumexp
from sklearn.datasets import make_friedman1
from small_models import Perceptron
from tasks import Setup, Task
from text_data import SPLIT_SEED

NUM_PLACES, NUM_CLUSTERS, CLUSTER = 6000, 8, 0.15  # on a circle; a cluster's deviation
NUM_LAYERS, UNITS = 4, 32  # of the flow, and of the networks in it
NUM_FREQUENCIES, REPEATS = 8, 8  # of the time; of each digit in validation
NUM_POINTS, COLUMNS, PROCESS_STEPS = 200, 10, 20  # of the process; an epoch


class Flow(nnx.Module):
    """Couples two coordinates by turns, so that normal numbers come out."""

    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.List([Coupling(rngs) for _ in range(NUM_LAYERS)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Minus the log density of places: [N, 2] -> [N]."""
        log_volume = jnp.zeros(len(x))
        for layer in self.layers:
            x, log_scale = layer(x)
            log_volume += log_scale
        return jnp.sum(x**2 + jnp.log(2 * jnp.pi), axis=1) / 2 - log_volume


class Coupling(nnx.Module):
    """Shifts and scales the second coordinate by a network of the first."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(1, UNITS, rngs=rngs)
        self.second = nnx.Linear(UNITS, UNITS, rngs=rngs)
        self.last = nnx.Linear(UNITS, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the coordinates, swapped, [N, 2], and the log scale, [N]."""
        held, moved = x[:, :1], x[:, 1]
        hidden = nnx.tanh(self.second(nnx.tanh(self.first(held))))
        shift, log_scale = self.last(hidden).T
        log_scale = 2 * jnp.tanh(log_scale)
        moved = moved * jnp.exp(log_scale) + shift
        return jnp.stack([moved, held[:, 0]], axis=1), log_scale


def flow(*, setup: Setup) -> Task:
    """Where places lie, in `NUM_CLUSTERS` clusters on a circle; a third validates.

    The loss is minus the log density, of which validation subtracts the true one's.
    """
    pool, validation = held_out(places(), NUM_PLACES // 3)
    graphdef, batch_size = nnx.graphdef(Flow(nnx.Rngs(0))), setup.batch_size or 64

    def loss_fn(params: Any, batch: Rows, key: jax.Array | None = None) -> jax.Array:
        return jnp.mean(nnx.merge(graphdef, params)(jnp.asarray(batch.inputs)))

    least = float(np.mean(true_losses(validation.inputs)))
    normal = np.mean(np.log(2 * np.pi * np.var(validation.inputs, axis=0)) + 1)
    return regression_task(
        lambda seed: nnx.state(Flow(nnx.Rngs(seed))),
        *(loss_fn, shuffled(pool, batch_size), validation),
        steps_per_epoch=len(pool.labels) // batch_size,
        power=float(normal) - least,  # of one normal distribution
        least=least,
    )


def centres() -> np.ndarray:
    """The centres of the clusters, [NUM_CLUSTERS, 2]."""
    angles = 2 * np.pi * np.arange(NUM_CLUSTERS) / NUM_CLUSTERS
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def true_losses(x: np.ndarray) -> np.ndarray:
    """Minus the log density of the mixture that places are drawn from: [N, 2] -> [N].

    Example:
      >>> round(float(true_losses(np.array([[1.0, 0.0]]))[0]), 2)
      0.12
    """
    squares = np.sum((x[:, None] - centres()) ** 2, axis=2) / (2 * CLUSTER**2)
    volume = NUM_CLUSTERS * 2 * np.pi * CLUSTER**2
    return np.log(volume) - logsumexp(-squares, axis=1)


def places() -> Rows:
    """Places on the plane, float32 [N, 2], and their clusters."""
    rng = np.random.default_rng(SPLIT_SEED)
    clusters = rng.integers(0, NUM_CLUSTERS, NUM_PLACES)
    x = centres()[clusters] + CLUSTER * rng.normal(size=(NUM_PLACES, 2))
    return Rows(x.astype(np.float32), clusters)


def denoising(*, setup: Setup) -> Task:
    """The noise in digits, whose share of a picture differs: a diffusion model.

    Noise and its share are new in every step. The score is in decibels below the noise.
    """
    pool, validation = (2 * rows.inputs.reshape(-1, 64) - 1 for rows in digit_rows())
    inputs, batch_size = 64 + 2 * NUM_FREQUENCIES, setup.batch_size or 64
    graphdef = nnx.graphdef(Perceptron(inputs, 64, nnx.Rngs(0)))

    def loss_fn(params: Any, batch: Rows, key: jax.Array | None = None) -> jax.Array:
        found = nnx.merge(graphdef, params)(jnp.asarray(batch.inputs))
        return jnp.mean((found - batch.labels) ** 2)

    batches = drawn(len(pool), batch_size, lambda rng, rows: noisy(rng, pool[rows]))
    rows = noisy(np.random.default_rng(SPLIT_SEED), np.repeat(validation, REPEATS, 0))
    return regression_task(
        lambda seed: nnx.state(Perceptron(inputs, 64, nnx.Rngs(seed))),
        *(loss_fn, batches, rows),
        steps_per_epoch=len(pool) // batch_size,
        power=1.0,
    )


def noisy(rng: np.random.Generator, x: np.ndarray) -> Rows:
    """Pictures with noise, and waves of its share t: [N, D + 2 F]; the noise [N, D]."""
    t, noise = rng.uniform(size=(len(x), 1)), rng.normal(size=x.shape)
    angles = np.pi * t * np.arange(1, NUM_FREQUENCIES + 1)
    mixed = np.cos(np.pi / 2 * t) * x + np.sin(np.pi / 2 * t) * noise
    inputs = np.concatenate([mixed, np.cos(angles), np.sin(angles)], axis=1)
    return Rows(inputs.astype(np.float32), noise.astype(np.float32))


def process(*, setup: Setup) -> Task:
    """A Gaussian process: the scale of each column, and of signal and noise.

    All rows are in one batch, and the loss is minus the log of their marginal
    likelihood. Validation is by the densities of other rows, counted from what they
    would be if the function were known.
    """
    del setup
    pool, validation, least = friedman_rows()

    def loss_fn(params: Any, batch: Rows, key: jax.Array | None = None) -> jax.Array:
        lower, weights = solved(params, batch)
        fit = jnp.asarray(batch.labels) @ weights / 2
        return (fit + jnp.sum(jnp.log(jnp.diagonal(lower)))) / len(batch.labels)

    @jax.jit
    def density_loss(params: Any) -> Any:
        lower, weights = solved(params, pool)
        across = kernel(params, validation.inputs, pool.inputs)
        half = jax.scipy.linalg.solve_triangular(lower, across.T, lower=True)
        amplitude, noise = jnp.exp(params["log_amplitude"]), noise_of(params)
        variance = amplitude**2 + noise - jnp.sum(half**2, axis=0)
        squares = (validation.labels - across @ weights) ** 2
        return jnp.mean(squares / variance + jnp.log(variance)) / 2

    constant = (1 + np.log(np.var(validation.labels))) / 2

    def evaluate(params: Any) -> dict[str, float]:
        error = float(density_loss(params)) - least
        score = -10 * float(np.log10(error / (constant - least)))
        return {"score": score, "loss": error}

    def init(seed: int) -> Any:
        rng = np.random.default_rng(seed)
        start = {"log_scales": COLUMNS, "log_amplitude": (), "log_noise": ()}
        draws = {k: 0.5 * rng.normal(size=shape) for k, shape in start.items()}
        return {k: jnp.asarray(x, jnp.float32) for k, x in draws.items()}

    return Task(
        init=init,
        loss_fn=loss_fn,
        batches=lambda seed, epoch: iter([pool] * PROCESS_STEPS),
        steps_per_epoch=PROCESS_STEPS,
        num_epochs=NUM_EPOCHS,
        evaluate=evaluate,
    )


def friedman_rows() -> tuple[Rows, Rows, float]:
    """Rows of Friedman's first function with noise; validation rows; their least loss.

    Five of the columns say nothing.
    """
    x, y = make_friedman1(2 * NUM_POINTS, COLUMNS, noise=1.0, random_state=SPLIT_SEED)
    _, truth = make_friedman1(2 * NUM_POINTS, COLUMNS, random_state=SPLIT_SEED)
    scale = np.std(y)
    labels = ((y - np.mean(y)) / scale).astype(np.float32)
    pool, validation = held_out(Rows(x.astype(np.float32), labels), NUM_POINTS)
    errors = (y - truth)[:NUM_POINTS] / scale
    deviation = 1 / scale  # the noise has a variance of 1
    least = np.mean((errors / deviation) ** 2 + 2 * np.log(deviation)) / 2
    return pool, validation, float(least)


def kernel(params: Any, x: Any, y: Any) -> jax.Array:
    """Covariances of the function at x [N, D] and at y [M, D], f[N, M]."""
    scales = jnp.exp(params["log_scales"])
    apart = (x[:, None] - y[None]) / scales
    squares = jnp.sum(apart**2, axis=2)
    return jnp.exp(2 * params["log_amplitude"] - squares / 2)


def noise_of(params: Any) -> jax.Array:
    """The variance of the noise; what is added keeps the matrix positive."""
    return jnp.exp(2 * params["log_noise"]) + 1e-4


def solved(params: Any, rows: Rows) -> tuple[jax.Array, jax.Array]:
    """The Cholesky factor of the covariances, and their inverse times the labels."""
    covariances = kernel(params, rows.inputs, rows.inputs)
    covariances += noise_of(params) * jnp.eye(len(rows.labels))
    lower = jnp.linalg.cholesky(covariances)
    return lower, jax.scipy.linalg.cho_solve((lower, True), jnp.asarray(rows.labels))
