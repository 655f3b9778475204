r"""The search along one ray: which multiple of a step to try next, and when to stop.

It knows neither trees nor groups. A trial is a factor :math:`t > 0`; the point
:math:`w + t u` is tested for the step :math:`u` of the ray, and `advance` is told
whether the test was passed. There are two ways to go:

* **backtracking**, when the step is known to be of the right size: start a little
  above it and shrink until a trial passes (Algorithm 1 of arXiv 2403.18506);
* **bracketing**, when nothing is known of the step's size. The test can pass only
  below :math:`t_{max} = (f(w) - f_{low}) / (c s)`. Climb a ladder of rungs a factor
  of 4 apart from far below :math:`t_{max}` until a trial fails, then halve the gap
  once. Should the lowest rung fail, fall by growing strides to a rung that passes
  and climb from there. So the accepted trial is the largest of an unbroken row of
  trials that pass, starting at zero: a dip beyond a wall is not accepted, as far as
  the trials can tell.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

LADDER_FACTOR = 4.0
"""Ratio of neighbouring rungs while bracketing."""

HIGHEST_START = LADDER_FACTOR**-4
"""Bracketing starts at this part of the largest step that can pass, or lower."""

LOWEST_START = LADDER_FACTOR**-9
"""... and not lower than this: a decrease of 1e-6 of the loss drowns in rounding."""

_BRACKET_RATIO = 2.1
"""A bracket is narrow enough when its ends differ by this factor or less."""


class Ray(NamedTuple):
    """The state of the search along one ray.

    Attributes:
      factor: the next trial, > 0.  # f[]
      passed: the largest trial that passed, 0 when none did.  # f[]
      failed: the smallest trial that failed or is known to fail, else +inf.  # f[]
      num_trials: trials made.  # i32[]
      bracketing: whether the search brackets or backtracks.  # bool[]
    """

    factor: jax.Array
    passed: jax.Array
    failed: jax.Array
    num_trials: jax.Array
    bracketing: jax.Array


def start_backtracking(factor: jax.Array) -> Ray:
    """Begins at `factor`."""
    return Ray(
        factor=factor,
        passed=jnp.zeros_like(factor),
        failed=jnp.full_like(factor, jnp.inf),
        num_trials=jnp.zeros([], jnp.int32),
        bracketing=jnp.zeros([], jnp.bool_),
    )


def start_bracketing(factor: jax.Array, largest: jax.Array) -> Ray:
    """Begins at `factor`, moved to where a trial can tell something.

    Args:
      factor: where the user would start, > 0, shape [].
      largest: no trial at or above can pass, finite, shape [].
    """
    lowest, highest = largest * LOWEST_START, largest * HIGHEST_START
    return Ray(
        factor=jnp.clip(factor, lowest, highest),
        passed=jnp.zeros_like(factor),
        failed=largest,
        num_trials=jnp.zeros([], jnp.int32),
        bracketing=jnp.ones([], jnp.bool_),
    )


def advance(ray: Ray, is_pass: jax.Array, shrink_factor: jax.Array) -> Ray:
    """Takes in whether the trial at ``ray.factor`` passed; chooses the next one.

    Args:
      ray: the search so far.
      is_pass: shape [].
      shrink_factor: of a backtracking search, in (0, 1), shape [].
    """
    passed = jnp.where(is_pass, ray.factor, ray.passed)
    failed = jnp.where(is_pass, ray.failed, ray.factor)
    num_trials = ray.num_trials + 1
    climb = jnp.minimum(LADDER_FACTOR * passed, jnp.sqrt(passed) * jnp.sqrt(failed))
    fall = ray.factor * LADDER_FACTOR ** -num_trials.astype(ray.factor.dtype)
    bracket = jnp.where(passed > 0, climb, fall)
    return Ray(
        factor=jnp.where(ray.bracketing, bracket, ray.factor * shrink_factor),
        passed=passed,
        failed=failed,
        num_trials=num_trials,
        bracketing=ray.bracketing,
    )


def is_settled(ray: Ray) -> jax.Array:
    """Tells whether another trial has nothing to add, bool, shape []."""
    has_passed = ray.passed > 0
    is_narrow = ray.failed <= _BRACKET_RATIO * ray.passed
    return has_passed & (~ray.bracketing | is_narrow)
