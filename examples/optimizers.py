"""The optimizers to choose from, and what each step of theirs tells."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from settings import Settings

import optax_armijo

LABEL_FUNCTIONS = {
    "layer": optax_armijo.by_layer,
    "one": optax_armijo.one_group,
    "depth": optax_armijo.by_depth(4),
    "attention": optax_armijo.by_attention,
}


class Optimizer(NamedTuple):
    """How params move, and which are validated.

    Attributes:
      transform: makes the steps.
      schedule: that it follows, if it has one.
      eval_params: ``(opt_state, params) -> params`` to validate.
    """

    transform: optax.GradientTransformationExtraArgs
    schedule: optax.Schedule | None
    eval_params: Callable[[Any, Any], Any] = lambda _, params: params


def make_optimizer(settings: Settings, num_steps: int) -> Optimizer:
    """Builds the optimizer of `settings` for a run of `num_steps` steps."""
    optimizer = _of_last_iterates(settings, num_steps)
    if not settings.average:
        return optimizer
    return optimizer._replace(
        transform=optax_armijo.average_iterates(optimizer.transform),
        eval_params=optax_armijo.averaged_params,
    )


def _of_last_iterates(settings: Settings, num_steps: int) -> Optimizer:
    decay, labels = settings.weight_decay or 0.0, LABEL_FUNCTIONS[settings.groups]
    if settings.optimizer == "adamw":
        return adamw(settings.learning_rate or 0.0, decay, num_steps)
    if settings.optimizer == "armijo_adamw":
        transform = optax_armijo.armijo_adamw(
            labels, weight_decay=decay, mask=_matrices
        )
    else:
        transform = optax_armijo.armijo_adam(labels)
    return Optimizer(transform, schedule=None)


def adamw(learning_rate: float, weight_decay: float, num_steps: int) -> Optimizer:
    """The papers' baseline: warm-up over a tenth of the steps, then a cosine to 0."""
    curve = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=learning_rate,
        warmup_steps=max(1, num_steps // 10),
        decay_steps=num_steps + 1,
    )

    def schedule(count: Any) -> Any:
        # Neither the first nor the last step is wasted on a learning rate of 0.
        return curve(count + 1)

    adamw = optax.adamw(schedule, weight_decay=weight_decay, mask=_matrices)
    return Optimizer(optax.with_extra_args_support(adamw), schedule)


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def last_step(optimizer: Optimizer, opt_state: Any) -> str:
    """A table of what the search did in the last step; empty for a schedule."""
    has_search = optimizer.schedule is None
    return str(optax_armijo.armijo_info(opt_state)) if has_search else ""


def step_facts(optimizer: Optimizer, opt_state: Any, step: int) -> dict[str, Any]:
    """Tells of the step just made, as JSON can hold it.

    Args:
      optimizer: whose state it is.
      opt_state: the state after the step.
      step: counted from 0.

    Returns:
      ``step_size``, ``applied_step_size`` and ``num_trials``, each by group, and
      ``num_evaluations`` of the loss beside the one that comes with the gradient.
    """
    if optimizer.schedule is not None:
        rates = {"all": np.asarray(optimizer.schedule(step)).item()}
        return {
            "step_size": rates,
            "applied_step_size": rates,
            "num_trials": {"all": 0},
            "num_evaluations": 0,
        }
    info = jax.device_get(optax_armijo.armijo_info(opt_state))
    by_group = {
        name: dict(zip(info.labels, getattr(info, name).tolist(), strict=True))
        for name in ("step_size", "applied_step_size", "num_trials")
    }
    return {**by_group, "num_evaluations": int(info.num_evaluations)}
