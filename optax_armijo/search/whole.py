"""The test of the whole step, and the bounds of its factor.

The direction has momentum, and all groups move. Shapes: G groups.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo._numerics import divide
from optax_armijo._types import Scalar
from optax_armijo.search.directions import Leaves
from optax_armijo.search.problem import Problem

LIMITED_FROM = 32  # the step from which `loss_fraction` holds; 32 / k times it before
BOUND_DECAY = 0.9  # of the average with which the factor follows the bound


def loss_limit(
    problem: Problem, predicted: jax.Array, lowest: jax.Array, k: jax.Array
) -> jax.Array:
    """The factor with `loss_fraction` of the loss as predicted decrease, f[].

    Infinity without a bound.
    """
    fraction, value = problem.linesearch.loss_fraction, problem.value
    infinity = jnp.asarray(jnp.inf, value.dtype)
    if fraction is None:
        return infinity
    # After a loss below 0, 0 is no lower bound.
    holds = (predicted > 0) & (value > 0) & (lowest >= 0)
    more = jnp.maximum(LIMITED_FROM / k.astype(value.dtype), 1)
    fraction = jnp.asarray(fraction, value.dtype) * more
    return jnp.where(holds, divide(fraction * value, predicted, 0), infinity)


def size_limit(problem: Problem, sizes: jax.Array, k: jax.Array) -> jax.Array:
    """The factor at which the largest step size is `max_step_size`, f[]."""
    bound = problem.linesearch.max_step_size
    infinity = jnp.asarray(jnp.inf, sizes.dtype)
    if bound is None:
        return infinity
    bound = jnp.asarray(bound(k - 1) if callable(bound) else bound, sizes.dtype)
    bound = jnp.where(bound > 0, bound, 0)  # NaN of a schedule: no step
    return divide(bound, jnp.max(sizes), jnp.inf)


class Whole(NamedTuple):
    """What the test of the whole step found; the carry of its loop.

    Attributes:
      factor: evaluated last.  # f[]
      loss: there; the loss at params before.  # f[]
      accepted: whether it passed.  # bool[]
      num_trials: evaluations.  # i32[]
      applied: what is applied: a factor that passed, or that at least lowers the
        loss, else 0.  # f[]
      lowest: loss of all evaluations.  # f[]
    """

    factor: jax.Array
    loss: jax.Array
    accepted: jax.Array
    num_trials: jax.Array
    applied: jax.Array
    lowest: jax.Array

    @classmethod
    def before(cls, begin: jax.Array, value: jax.Array) -> "Whole":
        """What is known before the first trial."""
        return cls(
            factor=begin,
            loss=value,
            accepted=jnp.zeros([], jnp.bool_),
            num_trials=jnp.zeros([], jnp.int32),
            applied=jnp.zeros_like(begin),
            lowest=jnp.full_like(value, jnp.inf),
        )


def search_whole(
    problem: Problem,
    direction: Leaves,
    sizes: jax.Array,
    predicted: jax.Array,
    begin: jax.Array,
    far: jax.Array,
    looks_far: jax.Array,
) -> Whole:
    """Backtracks from the factor `begin` until the whole step decreases the loss.

    Where the momentum does not descend on this batch, the loss may rise by (2 - c)
    times what the slope says. The first evaluation may be at the factor `far`, only to
    see whether the loss goes below zero.
    """
    search = problem.linesearch
    required = predicted - (1 - search.c) * jnp.abs(predicted)
    num_before = looks_far.astype(jnp.int32)

    def body(at: Whole) -> Whole:
        looks, again = at.num_trials < num_before, at.num_trials > num_before
        factor = at.factor * jnp.where(again, search.decrease_factor, 1)
        factor = factor.astype(at.factor.dtype)
        loss = problem.loss_after(jnp.where(looks, far, factor) * sizes, direction)
        passes = problem.value - loss >= factor * required - problem.tolerance
        # The whole step may be rounded away, and then a shorter one would be, too.
        accepted = ~looks & (passes | (loss == problem.value))
        lowers = accepted | (~looks & (loss <= problem.value))
        return Whole(
            factor=factor,
            loss=loss,
            accepted=accepted,
            num_trials=at.num_trials + 1,
            applied=jnp.where(lowers, factor, 0),
            lowest=jnp.minimum(at.lowest, loss),
        )

    most = search.max_trials + num_before
    return jax.lax.while_loop(
        lambda at: ~at.accepted & (at.num_trials < most),
        body,
        Whole.before(begin, problem.value),
    )


def learned(
    whole: Whole, begin: jax.Array, current: jax.Array, step_down: Scalar
) -> jax.Array:
    """The factor to continue with: a shortened one may have been too short."""
    passed = jnp.where(whole.factor < begin, whole.factor, jnp.maximum(begin, current))
    failed = step_down * jnp.minimum(whole.factor, current)
    return jnp.where(whole.accepted, passed, failed).astype(current.dtype)


def towards_limit(limit: jax.Array, factor: jax.Array, step_down: Scalar) -> jax.Array:
    """Moves a factor above the limit toward it, on a logarithmic scale.

    Otherwise the first batch whose loss is large again would get a step size that was
    right long ago.
    """
    ratio = jnp.minimum(divide(limit, factor, 1), 1)
    return factor * jnp.maximum(ratio ** (1 - BOUND_DECAY), step_down).astype(
        factor.dtype
    )
