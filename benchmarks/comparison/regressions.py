"""What regressions have in common: mean squared errors, scored in decibels.

Batches have ``inputs`` and ``labels``, [N, ...] each.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from classification import Rows
from tasks import Task

NUM_EPOCHS = 10


def mean_squared_error(output: Callable[[Any, jax.Array], jax.Array]) -> Any:
    """The loss ``(params, batch, key)`` of a model ``output(params, inputs)``."""

    def loss_fn(params: Any, batch: Any, key: jax.Array | None = None) -> jax.Array:
        return jnp.mean((output(params, jnp.asarray(batch.inputs)) - batch.labels) ** 2)

    return loss_fn


def regression_task(
    init: Callable[[int], Any],
    loss_fn: Callable[..., jax.Array],
    batches: Callable[[int, int], Iterator[Any]],
    validation: Any,
    *,
    steps_per_epoch: int,
    power: float | None = None,
    least: float = 0.0,
) -> Task:
    """A task scored by ``-10 log10(error / power)`` of validation rows.

    The power is the error of a constant: with None the variance of the labels. The
    error is how far the loss is above the least one, that of what the rows came from.
    """
    power = float(np.var(validation.labels)) if power is None else power
    error_of = jax.jit(loss_fn)

    def evaluate(params: Any) -> dict[str, float]:
        error = float(error_of(params, validation)) - least
        return {"score": -10 * float(np.log10(error / power)), "loss": error}

    return Task(
        init=init,
        loss_fn=loss_fn,
        batches=batches,
        steps_per_epoch=steps_per_epoch,
        num_epochs=NUM_EPOCHS,
        evaluate=evaluate,
    )


def held_out(rows: Rows, num_validation: int) -> tuple[Rows, Rows]:
    """Rows in no order: a pool, and the first ones for validation."""
    return rows.at(slice(num_validation, None)), rows.at(slice(num_validation))


def shuffled(pool: Rows, batch_size: int) -> Callable[[int, int], Iterator[Rows]]:
    """Rows that come in another order in each epoch."""
    return drawn(len(pool.labels), batch_size, lambda _, rows: pool.at(rows))


def drawn(
    num_rows: int,
    batch_size: int,
    batch_of: Callable[[np.random.Generator, np.ndarray], Rows],
) -> Callable[[int, int], Iterator[Rows]]:
    """Batches of rows in another order in each epoch, with noise that is new in each.

    Args:
      num_rows: of the pool.
      batch_size: rows of a batch.
      batch_of: makes a batch of the numbers of its rows, int[B].
    """

    def batches(seed: int, epoch: int) -> Iterator[Rows]:
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(num_rows)
        for i in range(0, num_rows - batch_size + 1, batch_size):
            yield batch_of(rng, order[i : i + batch_size])

    return batches
