"""What the steps of the methods come to, each beside its own framework's Adam."""

from collections.abc import Sequence
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np
from peer_process import Step

FIRST = 10  # steps that the median leaves out: the first search and its like


class Record(NamedTuple):
    """A method's run.

    Attributes:
      steps: all of them.
      compiling: seconds that compiling took.
      peak: bytes that its process has held at most.
      built: the same when the steps could begin.
      imported: the same when all was imported.
      scores: accuracy and log loss at the end.
    """

    steps: list[Step]
    compiling: float
    peak: int
    built: int
    imported: int
    scores: dict[str, float]

    @property
    def seconds(self) -> list[float]:
        return [step.seconds for step in self.steps]

    @property
    def losses(self) -> list[float]:
        return [step.loss for step in self.steps]


def figures(record: Record, adam: Record, epoch: int) -> dict[str, Any]:
    """A method's figures; `epoch` is in steps, `adam` its own framework's Adam."""
    evaluations = [step.evaluations for step in record.steps]
    ends = in_adams_steps(record.seconds, adam.seconds, epoch)
    losses = smoothed(record.losses, epoch)
    return {
        "median_ratio": after_first(record.seconds) / after_first(adam.seconds),
        "mean_ratio": fmean(record.seconds) / fmean(adam.seconds),
        "step": after_first(record.seconds),
        "first_step": record.seconds[0],
        "compile": record.compiling,
        "evaluations": fmean(evaluations),
        "most_evaluations": max(evaluations),
        "peak": record.peak,
        "imported": record.imported,
        "built": record.built,
        "peak_above_adam": record.peak - adam.peak,
        "steps_above_adam": (record.peak - record.built) - (adam.peak - adam.built),
        "train_loss": losses[-1],
        "equal_time_loss": at(len(adam.steps), ends, losses),
        **record.scores,
        "curve": {"time": rounded(ends), "loss": rounded(record.losses)},
    }


def after_first(seconds: Sequence[float]) -> float:
    """The median after the first steps, if there are more."""
    return median(seconds[FIRST:] or seconds)


def in_adams_steps(
    seconds: Sequence[float], adams: Sequence[float], epoch: int
) -> list[float]:
    """When each step ends, in mean steps of Adam.

    The mean is over the same epoch, whose steps were made in turn with these: when the
    machine slows down, the unit does as well.

    Example:
      >>> in_adams_steps([2.0, 2.0, 4.0, 4.0], [1.0, 1.0, 2.0, 2.0], epoch=2)
      [2.0, 4.0, 6.0, 8.0]
    """
    units = [fmean(adams[i - i % epoch :][:epoch]) for i in range(len(adams))]
    return np.cumsum(np.divide(seconds, units)).tolist()


def smoothed(losses: Sequence[float], epoch: int) -> list[float]:
    """At each step the mean over the epoch that ends there, or over all that was.

    Example:
      >>> smoothed([3.0, 1.0, 2.0], epoch=2)
      [3.0, 2.0, 1.5]
    """
    return [fmean(losses[max(0, i - epoch) : i]) for i in range(1, len(losses) + 1)]


def at(time: float, ends: Sequence[float], losses: Sequence[float]) -> float:
    """The loss reached by a time, interpolated between the ends of steps.

    Example:
      >>> at(3.0, ends=[2.0, 4.0, 6.0], losses=[5.0, 4.0, 3.0])
      4.5
    """
    return float(np.interp(time, ends, losses))


def rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]
