"""The optimizers that are compared, by name.

Some names carry a learning rate, such as ``adamw@1e-04``. The rate of the methods in
`SWEPT` is swept task by task, over `RATES`, until the best is not at the edge. That of
the methods in `SHARED` is one for all tasks, the best on the development tasks.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from optax import contrib
from rivals import (
    LORA_PLUS_RATIO,
    adamw,
    gsplat_adam,
    lora_plus,
    warm_up_and_cosine,
)
from schedule_free_plus import schedule_free_plus, schedule_free_plus_eval_params

from optax_armijo import adamsls, armijo_adam, by_layer, one_group, plasls, salsa

RATES = tuple(float(f"{x}e{e}") for e in range(-6, 1) for x in (1, 2, 5))
CONSTANT, LORA_PLUS = "adamw_constant", "lora_plus"
SWEPT = {
    "adamw": "AdamW, warm-up and cosine",
    CONSTANT: "AdamW, constant rate",
    LORA_PLUS: f"LoRA+, B at {LORA_PLUS_RATIO} times the rate of A",
}
# name: (whose rate it is, title); each is one method with one rate for all tasks.
SHARED = {
    "one_adamw": ("adamw", "one AdamW for everything, warm-up and cosine"),
    "one_schedule_free": ("schedule_free_adamw", "one schedule-free AdamW, warm-up"),
    "one_momo": ("momo_adam", "one MoMo-Adam"),
}
SHARED_TITLES = dict(SHARED.values())
FIRST_SHARED_RATES = (2e-2, 5e-2)
HAND_TUNED, PUBLISHED, LBFGS = "hand_tuned", "published_rates", "lbfgs"


class Method(NamedTuple):
    """An optimizer of the comparison.

    Attributes:
      make: ``(labels, number of steps) -> transformation``; the labels name the parts
        of the task's params, for rates that are tuned by hand. Others find groups of
        their own.
      title: in tables.
      eval_params: ``(opt_state, params) -> params`` to validate, as its authors say.
      num_gradients: ``(opt_state) -> number`` of gradients that the last step took
        beside the first.
      num_evaluations: ``(opt_state) -> number`` of evaluations of the loss that it
        took, of a method that `armijo_info` does not know.
      finds_rates: whether `make` gets learning rates by label instead of labels: those
        of a search before the run, which counts in its cost.
      follows: whether params may follow the average of `average_iterates`, which users
        of `armijo_adam` keep where the length of the run is not known.
    """

    make: Callable[[Any, int], optax.GradientTransformation]
    title: str
    eval_params: Callable[[Any, Any], Any] = lambda _, params: params
    num_gradients: Callable[[Any], int] = lambda _: 0
    num_evaluations: Callable[[Any], int] = lambda _: 0
    finds_rates: bool = False
    follows: bool = False


def over_the_run(num_steps: int) -> optax.Schedule:
    """A cosine from 1 to 0, which the authors of Prodigy and D-Adaptation advise."""
    return optax.cosine_decay_schedule(1.0, num_steps)


def at_found_rates(
    rates: dict[Any, float], num_steps: int
) -> optax.GradientTransformation:
    """AdamW at a peak rate for each layer, with the papers' schedule."""
    parts = {k: adamw(at_rate(x, num_steps, True)) for k, x in rates.items()}
    return optax.partition(parts, by_layer)


def warmed_up_plus(_: Any, num_steps: int) -> optax.GradientTransformation:
    """ScheduleFree+ with a warm-up over a tenth of the steps, averaging after twice it.

    As its author advises for a warm-up.
    """
    steps = max(1, num_steps // 10)
    return schedule_free_plus(
        lambda count: jnp.minimum(1.0, (count + 1) / steps), c_warmup=2 * steps
    )


def num_zoom_steps(opt_state: Any) -> int:
    """The gradients that L-BFGS's line search took beside the step's own."""
    info = optax.tree.get(opt_state, "info")
    return int(info.num_linesearch_steps) if info is not None else 0


METHODS = {
    # Ours: the default, where the length of the run is known, one step size for all,
    # and rates of a short search that are handed over to AdamW.
    "armijo_adam": Method(lambda *_: armijo_adam(), "`armijo_adam()`", follows=True),
    "armijo_adam-num_steps": Method(
        lambda _, steps: armijo_adam(num_steps=steps), "`armijo_adam(num_steps=...)`"
    ),
    "armijo_adam-one": Method(
        lambda *_: armijo_adam(one_group), "`armijo_adam(one_group)`", follows=True
    ),
    "armijo_adam-handed_over": Method(
        at_found_rates, "AdamW, rates of `find_learning_rates`", finds_rates=True
    ),
    # The field's line searches, as published.
    "salsa": Method(lambda *_: salsa(), "SaLSA"),
    "adamsls": Method(lambda *_: adamsls(), "AdamSLS"),
    "plasls": Method(lambda *_: plasls(), "PLASLS"),
    # Methods without a learning rate or a schedule, at their documented defaults.
    "prodigy": Method(lambda *_: contrib.prodigy(), "Prodigy"),
    "dadapt_adamw": Method(lambda *_: contrib.dadapt_adamw(), "D-Adaptation"),
    "momo_adam": Method(lambda *_: contrib.momo_adam(), "MoMo-Adam"),
    "schedule_free_adamw": Method(
        lambda *_: contrib.schedule_free_adamw(),
        "schedule-free AdamW",
        contrib.schedule_free_eval_params,
    ),
    "schedule_free_plus": Method(
        lambda *_: schedule_free_plus(),
        "ScheduleFree+",
        schedule_free_plus_eval_params,
    ),
    # With a schedule over the run, whose length they know as AdamW's cosine does.
    "prodigy_cosine": Method(
        lambda _, steps: contrib.prodigy(over_the_run(steps)), "Prodigy, cosine"
    ),
    "dadapt_adamw_cosine": Method(
        lambda _, steps: contrib.dadapt_adamw(over_the_run(steps)),
        "D-Adaptation, cosine",
    ),
    "schedule_free_plus_warmup": Method(
        warmed_up_plus, "ScheduleFree+, warm-up", schedule_free_plus_eval_params
    ),
    # On tasks of some kinds alone.
    LBFGS: Method(
        lambda *_: optax.lbfgs(), "`optax.lbfgs()`", num_gradients=num_zoom_steps
    ),
    PUBLISHED: Method(gsplat_adam, "Adam, gsplat's rates"),
}


def method_of(name: str) -> Method:
    """Returns the method of a name, such as that of AdamW at a rate.

    Example:
      >>> method_of("adamw_constant@2e-04").title
      'AdamW, constant rate, 2e-04'
    """
    if name in METHODS:
        return METHODS[name]
    kind, _, text = name.partition("@")
    title, rate = f"{(SWEPT | SHARED_TITLES)[kind]}, {text}", float(text)
    if kind == "momo_adam":
        return Method(lambda *_: contrib.momo_adam(rate), title)
    if kind == "schedule_free_adamw":

        def warmed_up(_: Any, num_steps: int) -> optax.GradientTransformation:
            return contrib.schedule_free_adamw(rate, max(1, num_steps // 10))

        return Method(warmed_up, title, contrib.schedule_free_eval_params)
    if kind == LORA_PLUS:
        return Method(lambda _, num_steps: lora_plus(rate, num_steps), title)

    def make(_: Any, num_steps: int) -> optax.GradientTransformation:
        return adamw(at_rate(rate, num_steps, kind == "adamw"))

    return Method(make, title)


def hand_tuned(rates: dict[str, float], cosine: bool) -> Method:
    """Adam with a rate for each part, constant or with warm-up and cosine."""

    def make(labels: Any, num_steps: int) -> optax.GradientTransformation:
        def adam(rate: float) -> optax.GradientTransformation:
            return optax.adam(at_rate(rate, num_steps, cosine))

        return optax.partition({k: adam(x) for k, x in rates.items()}, labels)

    return Method(make, "Adam, hand-tuned rates")


def at_rate(rate: float, num_steps: int, cosine: bool) -> optax.ScalarOrSchedule:
    """A constant rate, or a warm-up over a tenth of the steps and then a cosine to 0.

    The latter is the papers' schedule.
    """
    return warm_up_and_cosine(rate, num_steps) if cosine else rate
