"""Regressions by other losses than squares: of counts, quantiles, survival and orders.

One finds a normal distribution for each row. Shapes: N rows, Q queries.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from classification import Rows
from flax import nnx
from regressions import held_out, regression_task, shuffled
from small_models import Perceptron
from tasks import Setup, Task
from text_data import SPLIT_SEED

NUM_ROWS, COLUMNS = 3000, 12
LEVELS = (0.1, 0.5, 0.9)  # parts of the rows that lie below the quantiles
NUM_QUERIES, NUM_DOCUMENTS = 600, 10  # to be ordered; of each query


def event_counts(*, setup: Setup) -> Task:
    """Counts of events in times of exposure of 1 to 100; a quarter for validation.

    A network finds the logarithms of the rates.
    """
    pool, validation = held_out(exposed(), NUM_ROWS // 4)
    counts, exposure = validation.labels.T
    constant = np.full((len(counts), 1), np.log(counts.sum() / exposure.sum()))
    return perceptron_task(
        lambda output, labels: half_deviance(output[:, 0], labels),
        *(pool, validation, constant, setup),
    )


def half_deviance(log_rate: Any, labels: Any) -> jax.Array:
    """Of Poisson distributions: the mean of y log(y / m) - y + m, with m their means.

    Args:
      log_rate: of events per unit of exposure.  # f[N]
      labels: counts y beside exposures.  # f[N, 2]
    """
    counts, exposure = labels.T
    log_mean = log_rate + jnp.log(exposure)
    ratio = jnp.log(jnp.maximum(counts, 1)) - log_mean  # of no weight where y = 0
    return jnp.mean(counts * ratio - counts + jnp.exp(log_mean))


def exposed() -> Rows:
    """Columns, float32 [N, COLUMNS], and counts beside exposures, [N, 2].

    Four of the columns say something of the rate, which is between .02 and 2 or so.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    x = rng.normal(size=(NUM_ROWS, COLUMNS))
    exposure = np.exp(rng.uniform(0, np.log(100), NUM_ROWS))
    log_rate = 0.6 * np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] * x[:, 2] - 0.4 * x[:, 3] - 1.5
    counts = rng.poisson(exposure * np.exp(log_rate))
    labels = np.stack([counts, exposure], axis=1)
    return Rows(x.astype(np.float32), labels.astype(np.float32))


def quantiles(*, setup: Setup) -> Task:
    """Three quantiles of a number whose spread depends on the columns.

    The loss has a kink at every row. A quarter is for validation.
    """
    pool, validation = held_out(spread(), NUM_ROWS // 4)
    constant = np.quantile(validation.labels[:, 0], LEVELS)
    return perceptron_task(
        quantile_loss,
        *(pool, validation, np.tile(constant, (len(validation.labels), 1)), setup),
    )


def quantile_loss(output: Any, labels: Any) -> jax.Array:
    """The mean over rows and quantiles q of max(q e, (q - 1) e), with e = y - output.

    Args:
      output: the quantiles of each row.  # f[N, 3]
      labels: y.  # f[N, 1]

    Example:
      >>> float(quantile_loss(np.array([[0.0, 0.0, 0.0]]), np.array([[3.0]])))
      1.5
    """
    error, levels = labels - output, jnp.asarray(LEVELS)
    return jnp.mean(jnp.maximum(levels * error, (levels - 1) * error))


def spread() -> Rows:
    """Columns, float32 [N, COLUMNS], and numbers [N, 1] of which three columns tell."""
    rng = np.random.default_rng(SPLIT_SEED)
    x = rng.normal(size=(NUM_ROWS, COLUMNS))
    middle = np.sin(2 * x[:, 0]) + 0.5 * x[:, 1]
    y = middle + np.exp(0.7 * x[:, 2] - 1) * rng.standard_t(4, NUM_ROWS)
    return Rows(x.astype(np.float32), y.astype(np.float32)[:, None])


def survival(*, setup: Setup) -> Task:
    """Who of a batch dies next, by hazards of Cox; a quarter for validation.

    45% are last seen alive.
    """
    pool, validation = held_out(patients(), NUM_ROWS // 4)
    constant = np.zeros((len(validation.labels), 1))
    setup = setup._replace(batch_size=setup.batch_size or 64)
    return perceptron_task(
        lambda output, labels: cox_loss(output[:, 0], labels),
        *(pool, validation, constant, setup),
    )


def cox_loss(log_hazard: Any, labels: Any) -> jax.Array:
    """Minus the partial log likelihood of Cox (1972), the mean over deaths.

    Args:
      log_hazard: relative to a common one.  # f[N]
      labels: times beside 1 for a death, 0 for who was alive then.  # f[N, 2]

    Example:
      >>> labels = np.array([[2.0, 0.0], [1.0, 1.0]])
      >>> round(float(cox_loss(np.zeros(2), labels)), 3)  # one of two
      0.693
    """
    times, is_death = labels.T
    is_at_risk = times[None, :] >= times[:, None]
    hazards = jnp.where(is_at_risk, log_hazard[None, :], -jnp.inf)
    losses = jax.nn.logsumexp(hazards, axis=1) - log_hazard
    return jnp.sum(is_death * losses) / jnp.maximum(jnp.sum(is_death), 1)


def patients() -> Rows:
    """Columns, float32 [N, COLUMNS], and times beside deaths, [N, 2]."""
    rng = np.random.default_rng(SPLIT_SEED)
    x = rng.normal(size=(NUM_ROWS, COLUMNS))
    log_hazard = 1.5 * np.tanh(2 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.5 * x[:, 3]
    death = rng.exponential(np.exp(-log_hazard))
    last_seen = rng.exponential(1.5, NUM_ROWS)
    labels = np.stack([np.minimum(death, last_seen), death <= last_seen], axis=1)
    return Rows(x.astype(np.float32), labels.astype(np.float32))


def normal(*, setup: Setup) -> Task:
    """A normal distribution for each row: its mean, and the log of its deviation.

    The loss is minus the log likelihood, but for a constant, and is below zero at the
    end. A quarter is for validation: by how much it is above that of the truth.
    """
    pool, validation = held_out(normal_rows(), NUM_ROWS // 4)
    y, *truth = validation.labels.T
    constant = np.tile([np.mean(y), np.log(np.std(y))], (len(y), 1))
    least = normal_loss(np.stack(truth, axis=1), validation.labels)
    return perceptron_task(
        normal_loss, pool, validation, constant, setup, least=float(least)
    )


def normal_loss(output: Any, labels: Any) -> jax.Array:
    """The mean over rows of log s + ((y - m) / s)^2 / 2.

    Args:
      output: m and log s of each row.  # f[N, 2]
      labels: y, and what is not used here.  # f[N, ...]

    Example:
      >>> float(normal_loss(np.array([[1.0, 0.0]]), np.array([[3.0]])))
      2.0
    """
    mean, log_deviation = output.T
    squares = ((labels[:, 0] - mean) * jnp.exp(-log_deviation)) ** 2
    return jnp.mean(log_deviation + squares / 2)


def normal_rows() -> Rows:
    """Columns, float32 [N, COLUMNS]; numbers, their means and log deviations [N, 3]."""
    rng = np.random.default_rng(SPLIT_SEED)
    x = rng.normal(size=(NUM_ROWS, COLUMNS))
    mean = np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] * x[:, 2]
    log_deviation = np.tanh(x[:, 3]) - 1.5
    y = mean + np.exp(log_deviation) * rng.normal(size=NUM_ROWS)
    labels = np.stack([y, mean, log_deviation], axis=1)
    return Rows(x.astype(np.float32), labels.astype(np.float32))


def ranking(*, setup: Setup) -> Task:
    """Which of two documents of a query is better, by a hinge of their scores.

    A batch is eight queries. A quarter of them is for validation.
    """
    pool, validation = held_out(queries(), NUM_QUERIES // 4)
    constant = np.zeros((*validation.labels.shape, 1))
    setup = setup._replace(batch_size=setup.batch_size or 8)
    return perceptron_task(
        lambda output, labels: pairwise_hinge(output[..., 0], labels),
        *(pool, validation, constant, setup),
    )


def pairwise_hinge(scores: Any, grades: Any) -> jax.Array:
    """The mean of max(0, 1 - s + s') over pairs of a query with grades g > g'.

    Args:
      scores: s of each document.  # f[Q, NUM_DOCUMENTS]
      grades: g of each document.  # f[Q, NUM_DOCUMENTS]

    Example:
      >>> float(pairwise_hinge(np.array([[0.5, 0.0]]), np.array([[2.0, 1.0]])))
      0.5
    """
    is_better = grades[:, :, None] > grades[:, None, :]
    losses = jnp.maximum(0, 1 - scores[:, :, None] + scores[:, None, :])
    return jnp.sum(is_better * losses) / jnp.maximum(jnp.sum(is_better), 1)


def queries() -> Rows:
    """Documents, float32 [Q, NUM_DOCUMENTS, COLUMNS], and grades from 0 to 4.

    What users think of a document is a noisy function of its columns.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    x = rng.normal(size=(NUM_QUERIES, NUM_DOCUMENTS, COLUMNS))
    worth = np.tanh(x[..., 0] + x[..., 1]) + 0.5 * x[..., 2] * x[..., 3]
    opinion = worth + 0.5 * rng.normal(size=worth.shape)
    grades = np.digitize(opinion, np.quantile(opinion, [0.5, 0.7, 0.85, 0.95]))
    return Rows(x.astype(np.float32), grades.astype(np.float32))


def perceptron_task(
    loss: Callable[[Any, Any], jax.Array],
    pool: Rows,
    validation: Rows,
    constant: np.ndarray,
    setup: Setup,
    *,
    least: float = 0.0,
) -> Task:
    """A regression by a perceptron, with this loss of outputs and labels.

    It is scored by how much lower the loss is than that of a constant output [N, M],
    both counted from the least one.
    """
    outputs, batch_size = constant.shape[-1], setup.batch_size or 32
    graphdef = nnx.graphdef(Perceptron(COLUMNS, outputs, nnx.Rngs(0)))

    def loss_fn(params: Any, batch: Any, key: jax.Array | None = None) -> jax.Array:
        output = nnx.merge(graphdef, params)(jnp.asarray(batch.inputs))
        return loss(output, batch.labels)

    return regression_task(
        lambda seed: nnx.state(Perceptron(COLUMNS, outputs, nnx.Rngs(seed))),
        *(loss_fn, shuffled(pool, batch_size), validation),
        steps_per_epoch=len(pool.labels) // batch_size,
        power=float(loss(constant, validation.labels)) - least,
        least=least,
    )
