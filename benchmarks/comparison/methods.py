"""The optimizers that are compared, by name.

AdamW's names carry a learning rate, such as ``adamw@1e-04``: `SWEPT` are the methods
whose rate is swept, task by task, over `RATES` until the best is not at the edge.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from optax import contrib

from optax_armijo import Backtracking, adamsls, armijo_adam, one_group, plasls, salsa

DECAY = 0.01  # of AdamW, on matrices alone
RATES = tuple(float(f"{x}e{e}") for e in range(-6, 1) for x in (1, 2, 5))
CONSTANT = "adamw_constant"
SWEPT = {"adamw": "AdamW, warm-up and cosine", CONSTANT: "AdamW, constant rate"}
HAND_TUNED = "hand_tuned"


class Method(NamedTuple):
    """An optimizer of the comparison.

    Attributes:
      make: ``(labels, number of steps) -> transformation``; the labels name the parts
        of the task's params, for rates that are tuned by hand. Others find groups of
        their own.
      title: in tables.
      eval_params: ``(opt_state, params) -> params`` to validate, as its authors say.
    """

    make: Callable[[Any, int], optax.GradientTransformation]
    title: str
    eval_params: Callable[[Any, Any], Any] = lambda _, params: params


METHODS = {
    # Ours: the default, one step size for all, and what training from scratch takes.
    "armijo_adam": Method(lambda *_: armijo_adam(), "`armijo_adam()`"),
    "armijo_adam-one": Method(
        lambda *_: armijo_adam(one_group), "`armijo_adam(one_group)`"
    ),
    "armijo_adam-scratch": Method(
        lambda *_: armijo_adam(linesearch=Backtracking(loss_fraction=None)),
        "`armijo_adam(linesearch=Backtracking(loss_fraction=None))`",
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
}


def method_of(name: str) -> Method:
    """Returns the method of a name, such as that of AdamW at a rate.

    Example:
      >>> method_of("adamw_constant@2e-04").title
      'AdamW, constant rate, 2e-04'
    """
    if name in METHODS:
        return METHODS[name]
    kind, rate = name.split("@")

    def make(labels: Any, num_steps: int) -> optax.GradientTransformation:
        schedule = at_rate(float(rate), num_steps, kind == "adamw")
        return optax.adamw(schedule, weight_decay=DECAY, mask=matrices)

    return Method(make, f"{SWEPT[kind]}, {rate}")


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
    if not cosine:
        return rate
    curve = optax.warmup_cosine_decay_schedule(
        0.0, rate, max(1, num_steps // 10), num_steps + 1
    )
    # Neither the first nor the last step is wasted on a learning rate of 0.
    return lambda count: curve(count + 1)


def matrices(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
