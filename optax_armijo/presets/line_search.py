"""One step of the optimizer once its direction is known: plan, search, move, learn."""

from typing import Any

import jax
import jax.numpy as jnp

from optax_armijo._state import LastStep
from optax_armijo.labels.grouping import Grouping
from optax_armijo.presets.memory import learn, observe, outcome_of
from optax_armijo.presets.move import make_move
from optax_armijo.presets.options import Options, Settings
from optax_armijo.presets.plan import make_plan
from optax_armijo.presets.policies import PolicyStates
from optax_armijo.presets.search import Found, Problem, search_rays
from optax_armijo.presets.situation import Batch, Situation, look
from optax_armijo.presets.state import ArmijoState, next_state
from optax_armijo.search.slopes import loss_after_step


def step(
    grouping: Grouping, options: Options, batch: Batch, state: ArmijoState
) -> tuple[Any, ArmijoState]:
    """Returns the updates of a step, structured like params, and the next state."""
    here = look(grouping, options, batch, state)
    plan, memory = make_plan(here, observe(here))
    found = search_rays(
        loss_after_step(
            batch.loss_fn,
            grouping,
            batch.params,
            batch.directions.searched,
            plan.trial_offset,
        ),
        _problem(here, memory, plan.start),
        plan.turns,
        here.settings,
    )
    found = _taken(here, found)
    move = make_move(here, plan, found)
    step_size = jnp.where(found.searched, plan.start * found.factor, plan.kept)
    outcome = outcome_of(here, plan.turns, found, step_size)
    memory = learn(options.policies, memory, outcome, here.is_finite)
    merged, step_size = options.policies.merging.update(memory.merged, step_size)
    return move.updates, next_state(
        state,
        step_size=_bounded(step_size, here.settings),
        bracketed=jnp.where(found.searched, found.settled, state.bracketed),
        bracket_limit=_bracket_limit(state, found),
        loss_average=move.loss_average,
        memory=memory._replace(merged=merged),
        last=LastStep(
            applied_step_size=move.applied_step_size,
            searched=found.searched,
            accepted=found.accepted,
            num_trials=found.num_trials,
            predicted_decrease=found.predicted_decrease,
            actual_decrease=found.actual_decrease,
            net_factor=move.net.factor,
            num_evaluations=found.num_evaluations + move.net.num_trials,
        ),
    )


def _problem(here: Situation, memory: PolicyStates, start: jax.Array) -> Problem:
    return Problem(
        value=here.value,
        slopes=here.slopes,
        searchable=here.searchable,
        step_size=start,
        bracketed=here.state.bracketed,
        bracket_limit=here.state.bracket_limit,
        loss_dtype=here.batch.value.dtype,
        acceptance=here.options.policies.acceptance,
        acceptance_state=memory.acceptance,
        shrink=here.options.policies.shrink,
    )


def _taken(here: Situation, found: Found) -> Found:
    """Takes of step sizes that bracketing found the part that the policy wants."""
    part = here.options.policies.start.bracketed_part
    taken = jnp.where(here.state.bracketed, 1, jnp.asarray(part, found.factor.dtype))
    factor = jnp.where(found.accepted, taken * found.factor, found.factor)
    return found._replace(factor=factor)


def _bracket_limit(state: ArmijoState, found: Found) -> jax.Array:
    """After a search has failed the next ones do not go beyond where it began.

    Without this a batch on which nothing passes would be followed by the largest step
    that passes on some batch, found by one search from nothing.
    """
    has_failed = found.searched & ~found.accepted & state.bracketed
    limit = jnp.where(has_failed, state.step_size, state.bracket_limit)
    return jnp.where(found.accepted, jnp.inf, limit)


def _bounded(step_size: jax.Array, settings: Settings) -> jax.Array:
    """Keeps stored step sizes able to come back: within bounds, none far behind."""
    floor = settings.relative_floor * jnp.median(step_size)
    step_size = jnp.maximum(step_size, floor)
    return jnp.clip(step_size, settings.min_step_size, settings.max_step_size)
