"""The optimizers that are compared, by name.

AdamW's names carry a learning rate, such as ``adamw@1e-04``: `SWEPT` are the methods
whose rate is swept, task by task, over `RATES` until the best one lies inside.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from optax import contrib

import optax_armijo

DECAY = 0.01  # of AdamW, on matrices alone
RATES = tuple(float(f"{x}e{e}") for e in range(-6, 1) for x in (1, 2, 5))
SWEPT = ("adamw", "adamw_constant")
HAND_TUNED = "hand_tuned"


class Method(NamedTuple):
    """An optimizer of the comparison.

    Attributes:
      make: ``(labels, number of steps) -> transformation``; the labels are of the parts
        of params, None where a task names none.
      eval_params: ``(opt_state, params) -> params`` to validate, as its authors say.
      title: in tables.
    """

    make: Callable[[Any, int], optax.GradientTransformation]
    title: str
    eval_params: Callable[[Any, Any], Any] = lambda _, params: params


def plain(make: Callable[[], optax.GradientTransformation], title: str) -> Method:
    """A method that needs neither the number of steps nor the parts of params."""
    return Method(lambda labels, num_steps: make(), title)


def grouped(make: Callable[..., Any], title: str, **options: Any) -> Method:
    """A method that is told the parts of params; layers where the task names none."""
    return Method(
        lambda labels, num_steps: make(labels or optax_armijo.by_layer, **options),
        title,
    )


METHODS = {
    # Ours: the default, one step size for all, and what training from scratch takes.
    "armijo_adam": grouped(optax_armijo.armijo_adam, "`armijo_adam()`"),
    "armijo_adam-one": plain(
        lambda: optax_armijo.armijo_adam(optax_armijo.one_group),
        "`armijo_adam(one_group)`",
    ),
    "armijo_adam-scratch": grouped(
        optax_armijo.armijo_adam,
        "`armijo_adam(linesearch=Backtracking(loss_fraction=None))`",
        linesearch=optax_armijo.Backtracking(loss_fraction=None),
    ),
    # The field's line searches, as published.
    "salsa": plain(optax_armijo.salsa, "SaLSA"),
    "adamsls": plain(optax_armijo.adamsls, "AdamSLS"),
    "plasls": grouped(optax_armijo.plasls, "PLASLS"),
    # Methods without a learning rate or a schedule, at their documented defaults.
    "prodigy": plain(contrib.prodigy, "Prodigy"),
    "dadapt_adamw": plain(contrib.dadapt_adamw, "D-Adaptation"),
    "momo_adam": plain(contrib.momo_adam, "MoMo-Adam"),
    "schedule_free_adamw": Method(
        lambda labels, num_steps: contrib.schedule_free_adamw(),
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
    return {"adamw": adamw, "adamw_constant": adamw_constant}[kind](float(rate))


def adamw(rate: float) -> Method:
    """The papers' baseline: warm-up over a tenth of the steps, then a cosine to 0."""
    return Method(
        lambda labels, num_steps: optax.adamw(
            warmup_cosine(rate, num_steps), weight_decay=DECAY, mask=matrices
        ),
        f"AdamW, warm-up and cosine, {rate:.0e}",
    )


def adamw_constant(rate: float) -> Method:
    """AdamW with neither warm-up nor decay."""
    return plain(
        lambda: optax.adamw(rate, weight_decay=DECAY, mask=matrices),
        f"AdamW, constant rate, {rate:.0e}",
    )


def hand_tuned(rates: dict[str, float], cosine: bool) -> Method:
    """Adam with a rate for each part, constant or with warm-up and cosine."""

    def make(labels: Any, num_steps: int) -> optax.GradientTransformation:
        def adam(rate: float) -> optax.GradientTransformation:
            return optax.adam(warmup_cosine(rate, num_steps) if cosine else rate)

        return optax.partition({k: adam(x) for k, x in rates.items()}, labels)

    return Method(make, "Adam, hand-tuned rates")


def warmup_cosine(rate: float, num_steps: int) -> optax.Schedule:
    curve = optax.warmup_cosine_decay_schedule(
        0.0, rate, max(1, num_steps // 10), num_steps + 1
    )
    # Neither the first nor the last step is wasted on a learning rate of 0.
    return lambda count: curve(count + 1)


def matrices(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
