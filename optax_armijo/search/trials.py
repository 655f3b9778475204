"""Trials of a step on its own mini-batch: the first bracket, and backtracking.

Shapes: G groups.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo._numerics import divide
from optax_armijo._state import InputErrors
from optax_armijo.search.directions import Leaves
from optax_armijo.search.problem import Problem

C_FIRST, C_LATER = 0.8, 0.1  # fraction of the promised decrease that a step must make
HALF, MOST_HALVINGS = 0.5, 10
FIRST_TRIAL = 0.01  # relative to the root mean square of the params
UP_LADDER, DOWN_LADDER = 4.0, 1 / 16
NARROW = 2.1  # the ends of a bracket are at last a factor of 2 apart, up to rounding
MOST_TRIALS = 20
# A decrease is compared with the slope only above this many rounding errors.
MEASURABLE = 16.0


class Trials(NamedTuple):
    """The carry of the loop of trials, and what it found.

    Attributes:
      factor: the factor on the step to evaluate next.  # f[]
      passed: the largest factor that passed, else 0.  # f[]
      failed: the smallest factor that failed, else +inf.  # f[]
      loss: the loss at the last trial, or before the step if there was none.  # f[]
      num_trials: number of evaluations.  # i32[]
      errors: errors of the inputs, as far as trials reveal them.
    """

    factor: jax.Array
    passed: jax.Array
    failed: jax.Array
    loss: jax.Array
    num_trials: jax.Array
    errors: InputErrors


def untested(problem: Problem, errors: InputErrors) -> Trials:
    """The result for a step that is made without a test."""
    one, none = jnp.ones_like(problem.value), jnp.zeros((), jnp.int32)
    return Trials(one, one, jnp.inf * one, problem.value, none, errors)


def tested(
    problem: Problem,
    along: Leaves,
    sizes: jax.Array,
    slope: jax.Array,
    is_first: jax.Array,
    errors: InputErrors,
) -> Trials:
    """Tests a step: brackets the first one of a run, and backtracks in later ones.

    The bracket finds the largest first step that passes with `C_FIRST`, within a factor
    of two; its first trial is a small fraction of ``sizes``. A later step is halved
    until it passes with `C_LATER`. If its momentum ascends on this mini-batch, the loss
    may rise by (2 - c) times what the slope says. A later step that leaves the loss
    exactly as it was passes, because it may have been rounded away.

    Before the first step, and if all trials fail, a step of 0 is evaluated as well. Its
    loss equals ``value`` if ``value_fn`` is the function of ``value``. The smallest
    trial whose decrease exceeds rounding decreases the loss by what the slope predicts
    if ``grad`` is the gradient of ``value``.
    """
    predicted = jnp.sum(sizes * slope)
    c = jnp.where(is_first, C_FIRST, C_LATER).astype(predicted.dtype)
    required = predicted - (1 - c) * jnp.abs(predicted)

    def body(at: Trials) -> Trials:
        loss, is_check = problem.loss_after(at.factor * sizes, along), at.factor == 0
        decrease, promised = problem.value - loss, at.factor * predicted
        passes = decrease >= at.factor * required - problem.tolerance
        passes |= ~is_first & (loss == problem.value)
        passed = jnp.where(passes, jnp.maximum(at.passed, at.factor), at.passed)
        fails = ~passes & ~is_check
        failed = jnp.where(fails, jnp.minimum(at.failed, at.factor), at.failed)
        longer = jnp.where(
            failed < jnp.inf, _middle(passed, failed), UP_LADDER * passed
        )
        shorter = at.factor * jnp.where(is_first, DOWN_LADDER, HALF)
        factor = jnp.where(
            passed > 0, longer, jnp.where(is_check, FIRST_TRIAL, shorter)
        )
        num_trials = at.num_trials + 1
        has_failed = ~is_first & (num_trials >= MOST_HALVINGS)
        # Trials shrink until one passes, and those after it are longer.
        measures = (at.passed == 0) & (
            jnp.abs(promised) > MEASURABLE * problem.tolerance
        )
        value_error = _relative_difference(loss, problem.value)
        slope_error = _relative_difference(decrease, promised)
        return Trials(
            factor=jnp.where(has_failed, 0, factor).astype(loss.dtype),
            passed=passed,
            failed=failed,
            loss=loss,
            num_trials=num_trials,
            errors=at.errors._replace(
                value=jnp.where(is_check, value_error, at.errors.value),
                slope=jnp.where(measures, slope_error, at.errors.slope),
            ),
        )

    def goes_on(at: Trials) -> jax.Array:
        is_found = (at.passed > 0) & (~is_first | (at.failed <= NARROW * at.passed))
        most = 1 + jnp.where(is_first, MOST_TRIALS, MOST_HALVINGS)
        return ~is_found & (at.num_trials < most)

    start = untested(problem, errors)
    zero = jnp.zeros_like(start.factor)
    first = jnp.where(is_first, zero, start.factor)
    end = jax.lax.while_loop(goes_on, body, start._replace(factor=first, passed=zero))
    # A later step that passes may be far from what the slope says, due to curvature.
    says = is_first | (end.passed == 0)
    slope = jnp.where(says, end.errors.slope, errors.slope)
    return end._replace(errors=end.errors._replace(slope=slope))


def _middle(passed: jax.Array, failed: jax.Array) -> jax.Array:
    return jnp.sqrt(passed) * jnp.sqrt(failed)


def _relative_difference(x: jax.Array, y: jax.Array) -> jax.Array:
    """``|x - y|`` over the larger of their sizes: from 0 to 2; 2 if x is infinite."""
    largest = jnp.maximum(jnp.abs(x), jnp.abs(y))
    ratio = divide(jnp.abs(x - y), largest, 0)
    return jnp.where(jnp.isfinite(x), ratio, 2).astype(y.dtype)
