"""The tasks of the comparison, in two lists that were written down before any run.

*Development* tasks may be used to choose a default. *Test* tasks judge it once it is
chosen, and what they say is reported whatever it is. The smoke tasks are quick and take
part in no table.
"""

import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

# name: (module, function, arguments)
DEVELOPMENT = {
    "tweets-3": ("text", "fine_tuning", ("tweets", 500)),
    "tweets-polar": ("text", "fine_tuning", ("tweets-polar", 500)),
    "news-5": ("text", "fine_tuning", ("news-5", 500)),
    "tweets-3-5000": ("text", "fine_tuning", ("tweets", 5000)),
    "lora-tweets-3": ("text", "lora", ("tweets", 500)),
    "gaussians-flower": ("parts", "gaussians", ("flower.jpg",)),
    "oscillator": ("parts", "oscillator", ()),
    "digits-500": ("scratch", "digits", (500,)),
    "language_model-news": ("scratch", "language_model", ("news-5",)),
}
TEST = {
    "tweets-neutral": ("text", "fine_tuning", ("tweets-neutral", 500)),
    "news-2": ("text", "fine_tuning", ("news-2", 500)),
    "news-5-body": ("text", "fine_tuning", ("news-5-body", 500)),
    "tweets-polar-5000": ("text", "fine_tuning", ("tweets-polar", 5000)),
    "lora-news-5-body": ("text", "lora", ("news-5-body", 500)),
    "gaussians-china": ("parts", "gaussians", ("china.jpg",)),
    "decay": ("parts", "decay", ()),
    "digits-1437": ("scratch", "digits", (1437,)),
    "language_model-tweets": ("scratch", "language_model", ("tweets",)),
}
SMOKE = {
    "tweets-3-small": ("text", "fine_tuning", ("tweets", 500, 3)),
    "news-5-small": ("text", "fine_tuning", ("news-5", 500, 3)),
}
LISTS = {"development": DEVELOPMENT, "test": TEST, "smoke": SMOKE}
TASKS = DEVELOPMENT | TEST | SMOKE

# What the tables call alike: fine-tuning, parts of different scale, from scratch.
KINDS = {
    "fine-tuning": ("tweets", "news"),
    "parts of different scale": ("lora", "gaussians", "oscillator", "decay"),
    "from scratch": ("digits", "language_model"),
}

# Where the sweeps of learning rates begin, by the beginnings of tasks' names.
FIRST_RATES = {
    ("tweets", "news"): (5e-5, 1e-4, 2e-4),
    ("lora",): (1e-3, 2e-3, 5e-3),
    ("gaussians", "oscillator", "decay"): (1e-2, 2e-2, 5e-2),
    ("digits", "language_model"): (5e-3, 1e-2, 2e-2),
}
PARTS = {
    "lora": ("A", "B", "head"),
    "gaussians": ("position", "log_scale", "rotation", "colour", "opacity"),
    "oscillator": ("network", "damping", "stiffness"),
    "decay": ("network", "amplitude", "life"),
}


class Setup(NamedTuple):
    """What a run may vary of a task.

    Attributes:
      batch_size: rows a step; None for the task's own.
      dropout: whether the model trains with it.
      compute: dtype of the forward pass; params stay float32.
    """

    batch_size: int | None = None
    dropout: bool = False
    compute: str = "float32"


USUAL = Setup()


class Task(NamedTuple):
    """All that a run needs to know of a task.

    Attributes:
      init: ``(seed) -> params``.
      loss_fn: ``(params, batch, key) -> loss``; without dropout the key is unused.
      batches: ``(seed, epoch) -> batches`` of an epoch, counted from 0.
      steps_per_epoch: how many those are.
      num_epochs: of a run.
      evaluate: ``(params) -> {"score": ..., "loss": ...}`` on validation rows. The
        score is an accuracy or decibels, the higher the better.
      num_rows: ``(training, validation)``.
      labels: the parts of params, for methods that tell them apart; None for layers.
    """

    init: Callable[[int], Any]
    loss_fn: Callable[[Any, Any, jax.Array], jax.Array]
    batches: Callable[[int, int], Iterator[Any]]
    steps_per_epoch: int
    num_epochs: int
    evaluate: Callable[[Any], dict[str, float]]
    num_rows: tuple[int, int]
    labels: Callable[[Any], Any] | None = None


@functools.lru_cache(maxsize=2)
def make_task(name: str, setup: Setup = USUAL) -> Task:
    """Returns the task of a name in `TASKS`."""
    module, function, arguments = TASKS[name]
    return getattr(importlib.import_module(module), function)(*arguments, setup=setup)


def kind_of(name: str) -> str:
    """Returns the heading under which a task is reported.

    Example:
      >>> kind_of("tweets-3"), kind_of("lora-tweets-3")
      ('fine-tuning', 'parts of different scale')
    """
    return next(kind for kind, starts in KINDS.items() if name.startswith(starts))


def first_rates(name: str) -> tuple[float, ...]:
    """Returns the learning rates with which a task's sweep begins."""
    return next(x for starts, x in FIRST_RATES.items() if name.startswith(starts))


def parts_of(name: str) -> tuple[str, ...]:
    """Names the parts of a task's params; none where parts do not differ in scale."""
    return PARTS.get(name.split("-")[0], ())
