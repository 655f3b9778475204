"""The tasks of the comparison, in two lists that were written down before any run.

*Development* tasks may be used to choose a default. *Test* tasks judge it afterwards,
and their results are reported in any case. A test task whose results were looked at
while a default was chosen becomes a development task: `LOOKED_AT` says which did.
"""

import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from optax_armijo import by_layer

# name: (family, arguments of its function)
DEVELOPMENT = {
    "tweets-3": ("texts", "tweets", 500),
    "tweets-polar": ("texts", "tweets-polar", 500),
    "tweets-neutral": ("texts", "tweets-neutral", 500),
    "tweets-positive": ("texts", "tweets-positive", 500),
    "news-5": ("texts", "news-5", 500),
    "news-2": ("texts", "news-2", 500),
    "tweets-3-5000": ("texts-5000", "tweets", 5000),
    "tweets-negative-5000": ("texts-5000", "tweets-negative", 5000),
    "lora-tweets-3": ("lora", "tweets", 500),
    "lora-64-tweets-3": ("lora", "tweets", 500, 64),
    "gaussians-flower": ("gaussians", "flower.jpg"),
    "camera-flower": ("camera", "flower.jpg"),
    "oscillator": ("oscillator",),
    "decay": ("decay",),
    "heat": ("heat",),
    "neural_ode": ("neural_ode",),
    "digits-500": ("digits", 500),
    "digits-1437": ("digits", 1437),
    "batchnorm-digits": ("batchnorm", "digits"),
    "efficientnet-digits": ("efficientnet", "digits"),
    "efficientnet-patches": ("efficientnet", "patches"),
    "language_model-news": ("language_model", "news-5"),
    "digits-mislabelled": ("digits-mislabelled", 500, 0.2),
    "regression-clean": ("regression", "clean"),
    "regression-fresh-noise": ("regression", "fresh-noise"),
    "regression-fixed-noise": ("regression", "fixed-noise"),
    "regression-outliers": ("regression", "outliers"),
    "regression-bad-batches": ("regression", "bad-batches"),
    "regression-loss-jumps": ("regression", "loss-jumps"),
    "compartments": ("compartments",),
    "residual-heavy-tails": ("residual", "heavy-tails"),
    "wine": ("tables", "wine"),
    "autoencoder-digits": ("autoencoder",),
    "breast-cancer": ("tables", "breast-cancer"),
    "factorization": ("factorization",),
    "residual-clean": ("residual", "clean"),
    "recurrent": ("recurrent",),
    "word-counts": ("word_counts", "news"),
    "attention": ("attention",),
    "purchases": ("purchases",),
    "denoising-digits": ("denoising",),
}
TEST = {
    "news-3": ("texts", "news-3", 500),
    "news-5-body": ("texts", "news-5-body", 500),
    "tweets-polar-5000": ("texts-5000", "tweets-polar", 5000),
    "passages-5-5000": ("texts-5000", "passages-5", 5000),
    "lora-news-5-body": ("lora", "news-5-body", 500),
    "lora-4-news-5-body": ("lora", "news-5-body", 500, 4),
    "gaussians-china": ("gaussians", "china.jpg"),
    "camera-china": ("camera", "china.jpg"),
    "burgers": ("burgers",),
    "batchnorm-patches": ("batchnorm", "patches"),
    "language_model-tweets": ("language_model", "tweets"),
    "news-5-mislabelled": ("texts-mislabelled", "news-5", 500, 0.2),
    "residual-fixed-noise": ("residual", "fixed-noise"),
    "residual-swapped-labels": ("residual", "swapped-labels"),
    "residual-loss-jumps": ("residual", "loss-jumps"),
    "diabetes": ("diabetes",),
    "radial-basis": ("radial_basis",),
    "event-counts": ("event_counts",),
    "bundle": ("bundle",),
    "quantiles": ("quantiles",),
    "survival": ("survival",),
    "picture-china": ("picture", "china.jpg"),
    "variational-digits": ("variational",),
    "graph": ("graph",),
    "word-counts-tweets": ("word_counts", "tweets"),
    "normal": ("normal",),
    "ranking": ("ranking",),
    "contrastive-digits": ("contrastive",),
    "flow": ("flow",),
    "process": ("process",),
}
LISTS = {"development": DEVELOPMENT, "test": TEST}
TASKS: dict[str, tuple[Any, ...]] = DEVELOPMENT | TEST
# Test tasks until they helped to choose a default or a rule, between 2026-11-28 and
# 2026-12-02, by their results or step sizes.
LOOKED_AT = (
    "decay",
    "digits-1437",
    "tweets-neutral",
    "news-2",
    "compartments",
    "residual-heavy-tails",
    "tweets-positive",
    "efficientnet-patches",
    "breast-cancer",
    "factorization",
    "residual-clean",
    "recurrent",
    "word-counts",
    "attention",
    "purchases",
    "denoising-digits",
)
# The newest test tasks. Two more of them have helped to choose a rule since: purchases,
# and denoising-digits, by which one was left out.
NEWEST = ("normal", "ranking", "contrastive-digits", "flow", "process")


class Family(NamedTuple):
    """What tasks have in common that one function makes.

    Attributes:
      module: of the function.
      function: its name.
      kind: the heading under which the tasks are reported: of one sort and unit.
      first_rates: with which sweeps of the learning rate begin.
      parts: of params, where these differ in scale.
      unit: of the score.
      low_noise: whether the batches differ so little that L-BFGS is a rival.
    """

    module: str
    function: str
    kind: str
    first_rates: tuple[float, ...]
    parts: tuple[str, ...] = ()
    unit: str = "accuracy"
    low_noise: bool = False


TUNING, ROWS, LORA = "texts, 500 examples", "texts, 5,000 examples", "texts, LoRA"
PICTURES, PHYSICS = "pictures by Gaussians", "physical constants"
IMAGES, LANGUAGE = "convolutional networks", "language models"
NOISE, MISLABELLED = "regression", "a fifth of the labels wrong"
MEASURED, SMALL = "tables, counts of words", "other small models"
TEXT_RATES, LARGE_RATES = (5e-5, 1e-4, 2e-4), (5e-3, 1e-2, 2e-2)
LARGEST_RATES, SMALL_RATES = (1e-2, 2e-2, 5e-2), (1e-3, 2e-3, 5e-3)
PICTURE = ("position", "log_scale", "rotation", "colour", "opacity")
CAMERA = (*PICTURE, "camera")
SCENE = ("points", "rotations", "translations", "focal")
LAW, FALLING = ("network", "damping", "stiffness"), ("network", "amplitude", "life")
HEAT = ("network", "diffusivity", "source")
SWING = ("network", "drag", "stiffness")
BURGERS = ("network", "speed", "viscosity")
RATE_CONSTANTS = ("absorption", "elimination", "exchange", "volume")
FAMILIES = {
    "texts": Family("classification", "fine_tuning", TUNING, TEXT_RATES),
    "texts-5000": Family("classification", "fine_tuning", ROWS, TEXT_RATES),
    "texts-mislabelled": Family(
        "classification", "fine_tuning", MISLABELLED, TEXT_RATES
    ),
    "lora": Family("classification", "lora", LORA, SMALL_RATES, ("A", "B", "head")),
    "digits": Family("classification", "digits", IMAGES, LARGE_RATES),
    "digits-mislabelled": Family("classification", "digits", MISLABELLED, LARGE_RATES),
    "language_model": Family("classification", "language_model", LANGUAGE, LARGE_RATES),
    "batchnorm": Family("images", "batchnorm", IMAGES, SMALL_RATES),
    "efficientnet": Family("images", "efficientnet", IMAGES, SMALL_RATES),
    "gaussians": Family("parts", "gaussians", PICTURES, LARGEST_RATES, PICTURE, "dB"),
    "camera": Family("camera", "camera", PICTURES, LARGEST_RATES, CAMERA, "dB"),
    "oscillator": Family(
        "parts", "oscillator", PHYSICS, LARGEST_RATES, LAW, "dB", low_noise=True
    ),
    "decay": Family(
        "parts", "decay", PHYSICS, LARGEST_RATES, FALLING, "dB", low_noise=True
    ),
    "heat": Family("physics", "heat", PHYSICS, LARGE_RATES, HEAT, "dB", low_noise=True),
    "neural_ode": Family(
        "physics", "neural_ode", PHYSICS, LARGE_RATES, SWING, "dB", low_noise=True
    ),
    "burgers": Family(
        "physics", "burgers", PHYSICS, LARGE_RATES, BURGERS, "dB", low_noise=True
    ),
    "compartments": Family(
        *("physics", "compartments", PHYSICS, LARGE_RATES, RATE_CONSTANTS, "dB"),
        low_noise=True,
    ),
    "regression": Family("noise", "regression", NOISE, SMALL_RATES, unit="dB"),
    "residual": Family("noise", "residual", NOISE, SMALL_RATES, unit="dB"),
    "tables": Family("small_models", "table", MEASURED, SMALL_RATES),
    "diabetes": Family("small_models", "diabetes", NOISE, SMALL_RATES, unit="dB"),
    "autoencoder": Family("small_models", "autoencoder", SMALL, SMALL_RATES, unit="dB"),
    "factorization": Family(
        "small_models", "factorization", SMALL, SMALL_RATES, unit="dB"
    ),
    "word_counts": Family("small_models", "word_counts", MEASURED, LARGE_RATES),
    "recurrent": Family("small_models", "recurrent", SMALL, SMALL_RATES, unit="dB"),
    "radial_basis": Family(
        "small_models", "radial_basis", SMALL, SMALL_RATES, unit="dB"
    ),
    "attention": Family("small_models", "attention", SMALL, SMALL_RATES, unit="dB"),
    "event_counts": Family(
        "other_losses", "event_counts", NOISE, SMALL_RATES, unit="dB"
    ),
    "quantiles": Family("other_losses", "quantiles", NOISE, SMALL_RATES, unit="dB"),
    "survival": Family("other_losses", "survival", SMALL, SMALL_RATES, unit="dB"),
    "picture": Family("representations", "picture", SMALL, SMALL_RATES, unit="dB"),
    "variational": Family(
        "representations", "variational", SMALL, SMALL_RATES, unit="dB"
    ),
    "graph": Family(
        "representations", "graph", SMALL, LARGE_RATES, unit="dB", low_noise=True
    ),
    "normal": Family("other_losses", "normal", NOISE, SMALL_RATES, unit="dB"),
    "ranking": Family("other_losses", "ranking", SMALL, SMALL_RATES, unit="dB"),
    "contrastive": Family(
        "representations", "contrastive", SMALL, SMALL_RATES, unit="dB"
    ),
    "purchases": Family("representations", "purchases", SMALL, SMALL_RATES, unit="dB"),
    "flow": Family("densities", "flow", SMALL, SMALL_RATES, unit="dB"),
    "denoising": Family("densities", "denoising", SMALL, SMALL_RATES, unit="dB"),
    "process": Family(
        "densities", "process", SMALL, LARGE_RATES, unit="dB", low_noise=True
    ),
    "bundle": Family("bundle", "bundle", SMALL, LARGE_RATES, SCENE, "dB"),
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
    _, *arguments = TASKS[name]
    family = family_of(name)
    module = importlib.import_module(family.module)
    return getattr(module, family.function)(*arguments, setup=setup)


def family_of(name: str) -> Family:
    """Returns what a task has in common with others.

    Example:
      >>> family_of("lora-tweets-3").kind
      'texts, LoRA'
    """
    return FAMILIES[TASKS[name][0]]
