r"""The searches of a step, ray after ray: which trials are made, and when to stop.

A ray is a step :math:`u` of the groups that move together; a trial is a factor
:math:`t > 0`, and the point :math:`w + t u` is tested. There are two ways to go:

* **backtracking**, when the step is known to be of the right size: start a little
  above it and shrink until a trial passes (Algorithm 1 of arXiv 2403.18506);
* **bracketing**, after a search that found nothing. On a loss that is never negative
  Armijo's test can pass only below :math:`t_{max} = f(w) / (c s)`. Climb a ladder of
  rungs a factor of 4 apart from far below :math:`t_{max}` until a trial fails, then
  halve the gap once. Should the lowest rung fail, fall by growing strides to a rung
  that passes and climb from there. So the accepted trial is the largest of an unbroken
  row of trials that pass, starting at zero: a dip beyond a wall is not accepted, as
  far as the trials can tell.

All is one `lax.while_loop` with one evaluation of the loss in it, however many groups
there are, and costs exactly the trials that it makes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from optax_armijo._numerics import nan_to_inf, safe_divide
from optax_armijo.presets.method import (
    MAX_STEP_SIZE,
    Acceptance,
    PolicyState,
    Settings,
    Trial,
)
from optax_armijo.presets.turns import Turns, next_ray

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


Evaluate = Callable[[jax.Array], jax.Array]
"""From a step size a group, shape [G], to the loss after that step, shape []."""


class Problem(NamedTuple):
    """What a search starts from.

    Attributes:
      value: the loss at params.  # f[]
      slopes: decrease of the loss a unit of step size, by group.  # f[G]
      searchable: groups that may be searched.  # bool[G]
      step_size: step sizes at which searches begin.  # f[G]
      bracketed: whether a group's step size is known to be of the right size. # bool[G]
      bracket_limit: step sizes beyond which bracketing does not go.  # f[G]
      acceptance: the test that a trial must pass.
      acceptance_state: the test's state.
    """

    value: jax.Array
    slopes: jax.Array
    searchable: jax.Array
    step_size: jax.Array
    bracketed: jax.Array
    bracket_limit: jax.Array
    acceptance: Acceptance
    acceptance_state: PolicyState


class Found(NamedTuple):
    """What the searches of a step found, by group.

    Attributes:
      factor: by what to multiply the step size, > 0; 1 for unsearched groups.  # f[G]
      searched: whether the group was searched.  # bool[G]
      accepted: whether a trial passed.  # bool[G]
      settled: whether the search came to its own end.  # bool[G]
      num_trials: loss evaluations that the group took part in.  # i32[G]
      num_evaluations: loss evaluations of all searches.  # i32[]
      predicted_decrease: step size times slope, of the accepted trial.  # f[G]
      actual_decrease: of the accepted trial.  # f[G]
    """

    factor: jax.Array
    searched: jax.Array
    accepted: jax.Array
    settled: jax.Array
    num_trials: jax.Array
    num_evaluations: jax.Array
    predicted_decrease: jax.Array
    actual_decrease: jax.Array


class _Carry(NamedTuple):
    ray_index: jax.Array  # i32[]
    ray: Ray
    passed_value: jax.Array  # f[], the loss at ray.passed
    found: Found


def search_rays(
    evaluate: Evaluate, problem: Problem, turns: Turns, settings: Settings
) -> Found:
    """Searches every pending ray, one after the other, each from the same params."""
    num_groups = problem.slopes.shape[0]

    def begin(index: jax.Array, found: Found) -> _Carry:
        ray = _start(problem, settings, _moved(problem, turns, index))
        return _Carry(index, ray, problem.value, found)

    def cond_fn(carry: _Carry) -> jax.Array:
        return carry.ray_index < num_groups

    def body_fn(carry: _Carry) -> _Carry:
        index, ray, passed_value, found = carry
        moved = _moved(problem, turns, index)
        step_size = jnp.where(moved, ray.factor * problem.step_size, 0)
        trial = Trial(
            value=problem.value,
            trial_value=nan_to_inf(evaluate(step_size).astype(problem.value.dtype)),
            step_size=step_size,
            slopes=problem.slopes,
            c=settings.c,
        )
        is_pass = problem.acceptance.accept(problem.acceptance_state, trial)
        passed_value = jnp.where(is_pass, trial.trial_value, passed_value)
        ray = advance(ray, is_pass, settings.decrease_factor)
        is_spent = ray.num_trials >= settings.max_trials
        is_done = is_settled(ray) | is_spent
        found = _record(found, problem, ray, passed_value, moved & is_done)
        next_index = next_ray(turns.pending, index)
        return _select(
            is_done,
            begin(next_index, found),
            _Carry(index, ray, passed_value, found),
        )

    first = next_ray(turns.pending, jnp.full([], -1, jnp.int32))
    return lax.while_loop(cond_fn, body_fn, begin(first, _nothing(problem))).found


def _moved(problem: Problem, turns: Turns, index: jax.Array) -> jax.Array:
    """Returns the groups that ray `index` moves, bool[G]."""
    return problem.searchable & (turns.ray_of == index)


def _start(problem: Problem, settings: Settings, moved: jax.Array) -> Ray:
    step_size = jnp.where(moved, problem.step_size, 0)
    slope = jnp.sum(step_size * problem.slopes)
    largest = safe_divide(jnp.asarray(MAX_STEP_SIZE, slope.dtype), jnp.max(step_size))
    largest = jnp.minimum(largest, jnp.finfo(slope.dtype).max)
    one = jnp.ones_like(slope)
    backtracking = start_backtracking(jnp.minimum(one, largest))
    can_pass = safe_divide(problem.value, settings.c * slope)
    largest = jnp.minimum(largest, jnp.where(problem.value > 0, can_pass, jnp.inf))
    limit = problem.bracket_limit / jnp.where(moved, problem.step_size, 1)
    largest = jnp.minimum(largest, jnp.min(limit, where=moved, initial=jnp.inf))
    bracketing = start_bracketing(one, largest)
    is_bracketed = jnp.all(problem.bracketed | ~moved)
    return _select(is_bracketed, backtracking, bracketing)


def _nothing(problem: Problem) -> Found:
    floats = jnp.zeros_like(problem.slopes)
    flags = jnp.zeros(problem.slopes.shape, jnp.bool_)
    counts = jnp.zeros(problem.slopes.shape, jnp.int32)
    return Found(
        factor=jnp.ones_like(problem.slopes),
        searched=flags,
        accepted=flags,
        settled=flags,
        num_trials=counts,
        num_evaluations=jnp.zeros([], jnp.int32),
        predicted_decrease=floats,
        actual_decrease=floats,
    )


def _record(
    found: Found, problem: Problem, ray: Ray, passed_value: jax.Array, done: jax.Array
) -> Found:
    """Writes the outcome of a ray into the groups `done`, none while it goes on."""
    is_pass = ray.passed > 0
    step_size = jnp.where(done, problem.step_size, 0)
    outcome = Found(
        # Where nothing passed, go on below the last trial.
        factor=jnp.where(is_pass, ray.passed, ray.factor),
        searched=jnp.ones([], jnp.bool_),
        accepted=is_pass,
        settled=is_settled(ray),
        num_trials=ray.num_trials,
        num_evaluations=found.num_evaluations + ray.num_trials,
        predicted_decrease=ray.passed * jnp.sum(step_size * problem.slopes),
        actual_decrease=problem.value - passed_value,
    )
    return Found(
        *(
            jnp.where(jnp.any(done) if old.ndim == 0 else done, new, old)
            for new, old in zip(outcome, found, strict=True)
        )
    )


def _select(condition: jax.Array, if_true: Any, if_false: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), if_true, if_false)
