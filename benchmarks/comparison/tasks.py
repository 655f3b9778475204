"""The tasks of the comparison, in two lists that were written down before any run.

*Development* tasks may be used to choose a default. *Test* tasks judge it afterwards,
and their results are reported in any case.
"""

import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from optax_armijo import by_layer

# name: (family, arguments of its function)
DEVELOPMENT = {
    "tweets-3": ("fine_tuning", "tweets", 500),
    "tweets-polar": ("fine_tuning", "tweets-polar", 500),
    "news-5": ("fine_tuning", "news-5", 500),
    "tweets-3-5000": ("fine_tuning", "tweets", 5000),
    "lora-tweets-3": ("lora", "tweets", 500),
    "gaussians-flower": ("gaussians", "flower.jpg"),
    "oscillator": ("oscillator",),
    "digits-500": ("digits", 500),
    "language_model-news": ("language_model", "news-5"),
}
TEST = {
    "tweets-neutral": ("fine_tuning", "tweets-neutral", 500),
    "news-2": ("fine_tuning", "news-2", 500),
    "news-5-body": ("fine_tuning", "news-5-body", 500),
    "tweets-polar-5000": ("fine_tuning", "tweets-polar", 5000),
    "lora-news-5-body": ("lora", "news-5-body", 500),
    "gaussians-china": ("gaussians", "china.jpg"),
    "decay": ("decay",),
    "digits-1437": ("digits", 1437),
    "language_model-tweets": ("language_model", "tweets"),
}
LISTS = {"development": DEVELOPMENT, "test": TEST}
TASKS: dict[str, tuple[Any, ...]] = DEVELOPMENT | TEST


class Family(NamedTuple):
    """What tasks have in common that one function makes.

    Attributes:
      module: of the function, which has the family's name.
      kind: the heading under which the tasks are reported.
      first_rates: with which sweeps of the learning rate begin.
      parts: of params, where these differ in scale.
      unit: of the score.
    """

    module: str
    kind: str
    first_rates: tuple[float, ...]
    parts: tuple[str, ...] = ()
    unit: str = "accuracy"


TUNING, SCALES, SCRATCH = "fine-tuning", "parts of different scale", "from scratch"
LARGE_RATES, LARGEST_RATES = (5e-3, 1e-2, 2e-2), (1e-2, 2e-2, 5e-2)
PICTURE = ("position", "log_scale", "rotation", "colour", "opacity")
LAW, FALLING = ("network", "damping", "stiffness"), ("network", "amplitude", "life")
FAMILIES = {
    "fine_tuning": Family("classification", TUNING, (5e-5, 1e-4, 2e-4)),
    "lora": Family("classification", SCALES, (1e-3, 2e-3, 5e-3), ("A", "B", "head")),
    "gaussians": Family("parts", SCALES, LARGEST_RATES, PICTURE, "dB"),
    "oscillator": Family("parts", SCALES, LARGEST_RATES, LAW, "dB"),
    "decay": Family("parts", SCALES, LARGEST_RATES, FALLING, "dB"),
    "digits": Family("classification", SCRATCH, LARGE_RATES),
    "language_model": Family("classification", SCRATCH, LARGE_RATES),
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
      evaluate: ``(params) -> {"score": ..., "loss": ...}`` on validation rows; the
        higher a score the better.
      labels: the parts of params that may have rates of their own, tuned by hand.
    """

    init: Callable[[int], Any]
    loss_fn: Callable[[Any, Any, jax.Array], jax.Array]
    batches: Callable[[int, int], Iterator[Any]]
    steps_per_epoch: int
    num_epochs: int
    evaluate: Callable[[Any], dict[str, float]]
    labels: Callable[[Any], Any] = by_layer


@functools.lru_cache(maxsize=2)
def make_task(name: str, setup: Setup = USUAL) -> Task:
    """Returns the task of a name in `TASKS`."""
    function, *arguments = TASKS[name]
    module = importlib.import_module(family_of(name).module)
    return getattr(module, function)(*arguments, setup=setup)


def family_of(name: str) -> Family:
    """Returns what a task has in common with others.

    Example:
      >>> family_of("lora-tweets-3").kind
      'parts of different scale'
    """
    return FAMILIES[TASKS[name][0]]
