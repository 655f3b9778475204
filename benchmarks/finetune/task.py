"""What a task is, and what a run may vary of it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

EVAL_BATCH_SIZE = 100
EPOCH_ROWS = 1000  # validated on after each epoch; all of them after the last


class Task(NamedTuple):
    """All that a run needs to know of a task.

    Attributes:
      init: ``(seed) -> params``.
      loss_fn: ``(params, batch, key) -> loss``; without dropout the key is unused.
      batches: ``(seed, epoch) -> batches`` of an epoch, counted from 0.
      steps_per_epoch: how many those are.
      evaluate: ``(params, rows) -> scores``, on that many validation rows, or all.
      num_rows: ``(training, validation)``.
    """

    init: Callable[[int], Any]
    loss_fn: Callable[[Any, Any, jax.Array], jax.Array]
    batches: Callable[[int, int], Iterator[Any]]
    steps_per_epoch: int
    evaluate: Callable[[Any, int | None], dict[str, float]]
    num_rows: tuple[int, int]


class Setup(NamedTuple):
    """What a run may vary of a task.

    Attributes:
      batch_size: rows a step.
      dropout: whether the model trains with it.
      compute: dtype of the forward pass; params stay float32.
    """

    batch_size: int = 32
    dropout: bool = False
    compute: str = "float32"


def scores(sums: Iterable[jax.Array]) -> dict[str, float]:
    """From each batch's hits, losses and number of rows, [3], to the means over all.

    Example:
      >>> scores([np.array([3.0, 1.0, 4.0]), np.array([1.0, 2.0, 2.0])])["log_loss"]
      0.5
    """
    hits, loss, rows = map(float, np.sum(list(sums), axis=0))
    return {"accuracy": hits / rows, "log_loss": loss / rows}
