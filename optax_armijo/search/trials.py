"""All evaluations of the loss in a step: where the last step began, and of trials.

Shapes: G groups.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from optax.tree_utils import tree_where

from optax_armijo._numerics import divide
from optax_armijo._state import InputErrors
from optax_armijo.search.directions import Leaves
from optax_armijo.search.problem import Problem

C_FIRST, C_LATER = 0.8, 0.1  # fraction of the promised decrease that a step must make
HALF = 0.5
MOST_FIRST_TRIALS, MOST_LATER_TRIALS = 20, 10
FIRST_TRIAL = 0.01  # relative to the proposed step
UP_LADDER, DOWN_LADDER = 4.0, 1 / 16
NARROW = 2.1  # a bracket ends at a factor of 2, up to rounding
# A decrease is compared with the slope only above this many rounding errors.
MEASURABLE = 16.0


class Evaluations(NamedTuple):
    """The carry of the loop of evaluations, and what it found.

    Attributes:
      looks_back: whether the loss before the last step is evaluated next.  # bool[]
      before: that loss; ``value`` if it is not evaluated.  # f[]
      factor: the factor on the step to evaluate next.  # f[]
      passed: the largest factor that passed, else 0; 1 for a later step that is not
        tested.  # f[]
      failed: the smallest factor that failed, else +inf.  # f[]
      loss: the loss at the last trial, or before the step if there was none.  # f[]
      num_trials: number of trials.  # i32[]
      errors: errors of the inputs, as far as trials reveal them.
    """

    looks_back: jax.Array
    before: jax.Array
    factor: jax.Array
    passed: jax.Array
    failed: jax.Array
    loss: jax.Array
    num_trials: jax.Array
    errors: InputErrors


class Step(NamedTuple):
    """A step: a step size for each group, and a direction."""

    size: jax.Array  # f[G]
    direction: Leaves


def evaluated(
    problem: Problem,
    *,
    back: Step,
    looks_back: jax.Array,
    step: Step,
    slope: jax.Array,
    tests: jax.Array,
    is_first: jax.Array,
    input_errors: InputErrors,
) -> Evaluations:
    """Evaluates the loss before the last step, and tests the next one.

    Both share one loop, so that the loss is compiled once for them. The loop ends at
    once in steps that do neither.

    The first step of a run is bracketed: the largest one that passes with `C_FIRST`,
    within a factor of two. Its first trial is a small fraction of ``step``. A later
    step is halved until it passes with `C_LATER`. If its momentum ascends on this
    mini-batch, the loss may rise by (2 - c) times what the slope says. A later step
    that leaves the loss exactly as it was passes, because it may have been rounded
    away.

    Wrong inputs are detected here. Before the first step, and if all trials fail, a
    step of 0 is evaluated as well: its loss equals ``value`` if ``value_fn`` is the
    function of ``value``. The smallest trial whose decrease exceeds rounding decreases
    the loss by what the slope predicts if ``grad`` is the gradient of ``value``.

    Args:
      problem: the loss and its gradient on this mini-batch.
      back: leads to the point before the last step.
      looks_back: whether the loss is evaluated there.  # bool[]
      step: the next step.
      slope: slopes along its direction.  # f[G]
      tests: whether ``step`` is tested.  # bool[]
      is_first: whether no step has been made.  # bool[]
      input_errors: errors of the inputs so far.
    """
    predicted = jnp.sum(step.size * slope)
    c = jnp.where(is_first, C_FIRST, C_LATER).astype(predicted.dtype)
    required = predicted - (1 - c) * jnp.abs(predicted)

    def body(at: Evaluations) -> Evaluations:
        size = jnp.where(at.looks_back, back.size, at.factor * step.size)
        pairs = zip(back.direction, step.direction, strict=True)
        direction = [jnp.where(at.looks_back, x, y) for x, y in pairs]
        loss = problem.loss_after(size, direction)
        seen = at._replace(looks_back=jnp.zeros_like(at.looks_back), before=loss)
        return tree_where(at.looks_back, seen, after_trial(at, loss))

    def after_trial(at: Evaluations, loss: jax.Array) -> Evaluations:
        is_check = at.factor == 0
        decrease, promised = problem.value - loss, at.factor * predicted
        passes = decrease >= at.factor * required - problem.tolerance
        passes |= ~is_first & (loss == problem.value)
        passed = jnp.where(passes, jnp.maximum(at.passed, at.factor), at.passed)
        fails = ~passes & ~is_check
        failed = jnp.where(fails, jnp.minimum(at.failed, at.factor), at.failed)
        middle = jnp.sqrt(passed) * jnp.sqrt(failed)  # their product may overflow
        longer = jnp.where(failed < jnp.inf, middle, UP_LADDER * passed)
        shorter = at.factor * jnp.where(is_first, DOWN_LADDER, HALF)
        factor = jnp.where(
            passed > 0, longer, jnp.where(is_check, FIRST_TRIAL, shorter)
        )
        num_trials = at.num_trials + 1
        has_failed = ~is_first & (num_trials >= MOST_LATER_TRIALS)
        # Trials shrink until one passes, and those after it are longer. So the last one
        # up to then is the shortest, where the loss is nearest to its linear model.
        reveals = (at.passed == 0) & (
            jnp.abs(promised) > MEASURABLE * problem.tolerance
        )
        value_error = _relative_difference(loss, problem.value)
        slope_error = _relative_difference(decrease, promised)
        return at._replace(
            factor=jnp.where(has_failed, 0, factor).astype(loss.dtype),
            passed=passed,
            failed=failed,
            loss=loss,
            num_trials=num_trials,
            errors=at.errors._replace(
                value=jnp.where(is_check, value_error, at.errors.value),
                slope=jnp.where(reveals, slope_error, at.errors.slope),
            ),
        )

    def goes_on(at: Evaluations) -> jax.Array:
        is_found = (at.passed > 0) & (~is_first | (at.failed <= NARROW * at.passed))
        most = 1 + jnp.where(is_first, MOST_FIRST_TRIALS, MOST_LATER_TRIALS)
        return at.looks_back | (tests & ~is_found & (at.num_trials < most))

    one = jnp.ones_like(problem.value)
    start = Evaluations(
        looks_back=looks_back,
        before=problem.value,
        factor=jnp.where(is_first, 0, one),
        passed=jnp.where(tests | is_first, 0, one),
        failed=jnp.inf * one,
        loss=problem.value,
        num_trials=jnp.zeros((), jnp.int32),
        errors=input_errors,
    )
    end = jax.lax.while_loop(goes_on, body, start)
    # A later step that passes may be far from what the slope says, due to curvature.
    says = is_first | (end.passed == 0)
    slope_error = jnp.where(says, end.errors.slope, input_errors.slope)
    return end._replace(errors=end.errors._replace(slope=slope_error))


def _relative_difference(x: jax.Array, y: jax.Array) -> jax.Array:
    """``|x - y|`` over the larger of their sizes: from 0 to 2; 2 if x is infinite."""
    largest = jnp.maximum(jnp.abs(x), jnp.abs(y))
    ratio = divide(jnp.abs(x - y), largest, 0)
    return jnp.where(jnp.isfinite(x), ratio, 2).astype(y.dtype)
