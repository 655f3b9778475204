"""A net under the whole step: what moves together is tested together.

Each group was searched alone, and all of them move: the sum of steps that each
lower the loss can raise it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from optax_armijo._numerics import nan_to_inf, rounding_error
from optax_armijo._types import Net
from optax_armijo.presets.search import Evaluate

NET_DECREASE_FACTOR = 0.5
"""By what the whole step is shrunk until it passes."""

AVERAGE_DECAY = 0.9
"""Of the running average of losses."""


class NetResult(NamedTuple):
    """What the net made of the whole step.

    Attributes:
      factor: by what to multiply every step size, 0 when no trial passed.  # f[]
      num_trials: loss evaluations made.  # i32[]
    """

    factor: jax.Array
    num_trials: jax.Array


def update_average(average: jax.Array, value: jax.Array) -> jax.Array:
    r"""Returns :math:`0.9\,a + 0.1\,f`, or `value` while there is no average (+inf).

    A loss that is not finite leaves the average as it is.
    """
    mixed = AVERAGE_DECAY * average + (1 - AVERAGE_DECAY) * value
    started = jnp.where(jnp.isfinite(average), mixed, value)
    return jnp.where(jnp.isfinite(value), started, average)


def highest_loss(net: Net, value: jax.Array, average: jax.Array) -> jax.Array:
    """Returns the loss that the whole step may lead to."""
    return jnp.maximum(value, average) if net == "average" else value


def shrink_until_safe(
    evaluate: Evaluate,
    step_size: jax.Array,
    highest: jax.Array,
    is_needed: jax.Array,
    *,
    max_trials: jax.Array,
    rounding_ulps: jax.Array,
    loss_dtype: jnp.dtype,
) -> NetResult:
    """Halves the whole step until the loss after it is not above `highest`."""

    class Carry(NamedTuple):
        factor: jax.Array
        is_safe: jax.Array
        num_trials: jax.Array

    def cond_fn(carry: Carry) -> jax.Array:
        return ~carry.is_safe & (carry.num_trials < max_trials)

    def body_fn(carry: Carry) -> Carry:
        trial = evaluate(carry.factor * step_size)
        rounding = rounding_error(highest, rounding_ulps, loss_dtype, trial.dtype)
        trial_value = nan_to_inf(trial.astype(highest.dtype))
        is_safe = trial_value <= highest + rounding
        factor = jnp.where(is_safe, carry.factor, NET_DECREASE_FACTOR * carry.factor)
        return Carry(factor, is_safe, carry.num_trials + 1)

    whole = Carry(jnp.ones_like(highest), ~is_needed, jnp.zeros([], jnp.int32))
    end = lax.while_loop(cond_fn, body_fn, whole)
    return NetResult(jnp.where(end.is_safe, end.factor, 0), end.num_trials)
