"""The loop over rays and trials: one `lax.while_loop`, the loss called in one place.

However many groups there are, the loop's body holds one evaluation of the loss, and
a search costs exactly the trials that it makes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from optax_armijo._numerics import nan_to_inf, rounding_error, safe_divide
from optax_armijo.presets.backtracking import (
    Ray,
    advance,
    is_settled,
    start_backtracking,
    start_bracketing,
)
from optax_armijo.presets.options import Settings
from optax_armijo.presets.policies import Acceptance, PolicyState, Shrink, Trial
from optax_armijo.presets.turns import Turns, next_ray

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
      loss_dtype: the dtype in which the user's loss came.
      acceptance: the test that a trial must pass.
      acceptance_state: the test's state.
      shrink: by what a refused trial is shrunk.
    """

    value: jax.Array
    slopes: jax.Array
    searchable: jax.Array
    step_size: jax.Array
    bracketed: jax.Array
    bracket_limit: jax.Array
    loss_dtype: jnp.dtype
    acceptance: Acceptance
    acceptance_state: PolicyState
    shrink: Shrink


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
        trial = _try(evaluate, problem, settings, step_size, ray.bracketing)
        is_pass = problem.acceptance.accept(problem.acceptance_state, trial)
        passed_value = jnp.where(is_pass, trial.trial_value, passed_value)
        shrink_factor = _shrink_factor(problem, settings, trial)
        ray = advance(ray, is_pass, shrink_factor)
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


def _try(
    evaluate: Evaluate,
    problem: Problem,
    settings: Settings,
    step_size: jax.Array,
    is_bracketing: jax.Array,
) -> Trial:
    """Evaluates the loss after a step, and its slope there where the test asks."""
    dtype, slope = problem.value.dtype, None
    if problem.acceptance.needs_slope:
        value, slope = jax.jvp(evaluate, (step_size,), (step_size,))
        slope = slope.astype(dtype)
    else:
        value = evaluate(step_size)
    return Trial(
        value=problem.value,
        trial_value=nan_to_inf(value.astype(dtype)),
        step_size=step_size,
        slopes=problem.slopes,
        c=settings.c,
        tolerance=rounding_error(
            problem.value, settings.rounding_ulps, problem.loss_dtype, value.dtype
        ),
        slope=slope,
        is_bracketing=is_bracketing,
    )


def _shrink_factor(problem: Problem, settings: Settings, trial: Trial) -> jax.Array:
    predicted = jnp.sum(trial.step_size * trial.slopes)
    decrease = trial.value - trial.trial_value
    is_positive = predicted > 0
    ratio = decrease / jnp.where(is_positive, predicted, 1)
    ratio = jnp.where(is_positive & (ratio < jnp.inf), ratio, -jnp.inf)
    return problem.shrink.factor(ratio, settings.c, settings.decrease_factor)


def _start(problem: Problem, settings: Settings, moved: jax.Array) -> Ray:
    step_size = jnp.where(moved, problem.step_size, 0)
    slope = jnp.sum(step_size * problem.slopes)
    largest = safe_divide(settings.max_step_size, jnp.max(step_size))
    largest = jnp.minimum(largest, jnp.finfo(slope.dtype).max)
    one = jnp.ones_like(slope)
    backtracking = start_backtracking(jnp.minimum(one, largest))
    if settings.lower_bound is not None:
        room = problem.value - settings.lower_bound
        can_pass = jnp.where(room > 0, safe_divide(room, settings.c * slope), jnp.inf)
        largest = jnp.minimum(largest, can_pass)
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


def _select(condition: jax.Array, if_true, if_false):
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), if_true, if_false)
