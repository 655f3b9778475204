"""What a task is, and what a run may vary of it."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

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
