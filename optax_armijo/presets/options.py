"""The options of a line search: their checks, and their values at a step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo._checks import check_choice, check_order, check_range
from optax_armijo._types import Net, Scalar, ScalarOrSchedule
from optax_armijo.presets.choices import Policies


class Options(NamedTuple):
    """The options of `scale_by_armijo`, which documents them, and of its kin.

    Attributes:
      policies: one of each kind.
      earlier_groups_moved: whether trials of a group alone depart from where the groups
        before it in order have made this step's move, as in the released code of arXiv
        2403.18506.
      weight_decay: None for none; this and the next two as `armijo_adamw` has them.
      decay_mask: None for all.
      decay_in_trial: whether trials see the decay.
    """

    policies: Policies
    c: Scalar
    decrease_factor: Scalar
    increase_factor: Scalar
    init_step_size: Scalar
    min_step_size: Scalar
    max_step_size: ScalarOrSchedule
    max_trials: Scalar
    num_joint_steps: Scalar
    net: Net
    rounding_ulps: Scalar
    relative_floor: Scalar
    lower_bound: Scalar | None
    earlier_groups_moved: bool = False
    weight_decay: Scalar | None = None
    decay_mask: Any | Callable[[Any], Any] | None = None
    decay_in_trial: bool = False


class Settings(NamedTuple):
    """The numbers that a step goes by, as arrays of shape []."""

    c: jax.Array
    decrease_factor: jax.Array
    increase_factor: jax.Array
    init_step_size: jax.Array
    min_step_size: jax.Array
    max_step_size: jax.Array
    max_trials: jax.Array
    num_joint_steps: jax.Array
    rounding_ulps: jax.Array
    relative_floor: jax.Array
    lower_bound: jax.Array | None


def settings_at(options: Options, num_steps: jax.Array, dtype: Any) -> Settings:
    """Returns what the step after `num_steps` goes by."""

    def number(value: Scalar) -> jax.Array:
        return jnp.asarray(value, dtype)

    cap = options.max_step_size
    low = options.lower_bound
    return Settings(
        c=number(options.c),
        decrease_factor=number(options.decrease_factor),
        increase_factor=number(options.increase_factor),
        init_step_size=number(options.init_step_size),
        min_step_size=number(options.min_step_size),
        max_step_size=number(cap(num_steps) if callable(cap) else cap),
        max_trials=jnp.asarray(options.max_trials, jnp.int32),
        num_joint_steps=jnp.asarray(options.num_joint_steps, jnp.int32),
        rounding_ulps=number(options.rounding_ulps),
        relative_floor=number(options.relative_floor),
        lower_bound=None if low is None else number(low),
    )


def check_options(options: Options) -> None:
    """Raises ValueError for an option outside its range."""
    check_range("c", options.c, above=0, below=1)
    check_range("decrease_factor", options.decrease_factor, above=0, below=1)
    check_range("increase_factor", options.increase_factor, at_least=1)
    check_range("min_step_size", options.min_step_size, above=0)
    check_range("init_step_size", options.init_step_size, above=0)
    low, start, high = "min_step_size", "init_step_size", "max_step_size"
    if not callable(options.max_step_size):
        check_range("max_step_size", options.max_step_size, above=0)
        check_order(low, options.min_step_size, high, options.max_step_size)
        check_order(start, options.init_step_size, high, options.max_step_size)
    check_order(low, options.min_step_size, start, options.init_step_size)
    check_range("max_trials", options.max_trials, at_least=1)
    check_range("num_joint_steps", options.num_joint_steps, at_least=0)
    check_range("rounding_ulps", options.rounding_ulps, at_least=0)
    check_range("relative_floor", options.relative_floor, at_least=0, below=1)
    if options.lower_bound is not None:
        check_range("lower_bound", options.lower_bound)
    if options.weight_decay is not None:
        check_range("weight_decay", options.weight_decay, at_least=0)
    check_choice("net", options.net, ("no_rise", "average", "off"))
