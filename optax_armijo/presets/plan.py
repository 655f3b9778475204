"""The plan of a step: whose turn it is, from which step sizes, from which point."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo._numerics import rounding_error
from optax_armijo.presets.policies import Opening, PolicyStates
from optax_armijo.presets.situation import Situation
from optax_armijo.presets.turns import Turns, any_on_ray, sum_on_ray, take_turns
from optax_armijo.search.slopes import Leaves, add, scale_direction
from optax_armijo.search.weight_decay import decay_updates


class Plan(NamedTuple):
    """What a step is going to do.

    Attributes:
      turns: which rays are searched.
      start: step sizes at which their searches begin.  # f[G]
      at_rest: what a group moves by when it is not searched.  # f[G]
      kept: what it then keeps as its step size.  # f[G]
      trial_offset: added to params in the trials of the search; None for nothing.
      step_offset: added to params beside the step, also where the net tests it.
    """

    turns: Turns
    start: jax.Array
    at_rest: jax.Array
    kept: jax.Array
    trial_offset: Leaves | None
    step_offset: Leaves | None


def make_plan(here: Situation, memory: PolicyStates) -> tuple[Plan, PolicyStates]:
    """Returns the plan, and the memory in which the turns have been taken."""
    state, policies = here.state, here.options.policies
    was_searched = state.total_trials > 0
    due = policies.frequency.due(memory.frequency, state.num_steps)
    turns, selection_state = take_turns(
        policies.search,
        memory.selection,
        is_joint=_is_joint(here),
        due=due | ~was_searched | ~state.bracketed,
        merged=memory.merged,
        searchable=here.searchable,
    )
    opening = Opening(
        step_size=state.step_size,
        init_step_size=here.settings.init_step_size,
        increase_factor=here.settings.increase_factor,
        value=here.value,
        ray_slopes=_sum_moved(here, turns, here.slopes),
    )
    at_rest, kept = policies.start.rest(memory.start, opening)
    # No group moves before its first search.
    at_rest = jnp.where(here.searchable & was_searched, at_rest, 0)
    at_rest = jnp.minimum(at_rest, here.settings.max_step_size)
    decay = _decay_in_trial(here, at_rest)
    plan = Plan(
        turns=turns,
        start=_start(here, memory, turns, opening),
        at_rest=at_rest,
        kept=jnp.where(here.is_finite, kept, state.step_size),
        trial_offset=_trial_offset(here, turns, at_rest, decay),
        step_offset=decay,
    )
    return plan, memory._replace(selection=selection_state)


def _is_joint(here: Situation) -> jax.Array:
    if here.options.policies.search.is_joint or here.grouping.num_groups == 1:
        return jnp.ones((), jnp.bool_)
    return here.state.num_steps < here.settings.num_joint_steps


def _start(
    here: Situation, memory: PolicyStates, turns: Turns, opening: Opening
) -> jax.Array:
    """Returns where searches begin, the policy's word kept within reason, f[G]."""
    step_size = here.state.step_size
    start = here.options.policies.start.first(memory.start, opening)
    # A decrease that drowns in the loss's rounding tells nothing of the step's size:
    # without this, step sizes would grow for ever on a loss that has come to zero.
    required = here.settings.c * _sum_moved(here, turns, start * here.slopes)
    ulps, loss_dtype = here.settings.rounding_ulps, here.batch.value.dtype
    is_visible = jnp.abs(required) > rounding_error(here.value, ulps, loss_dtype)
    start = jnp.where(is_visible, start, jnp.minimum(start, step_size))
    # What is to be bracketed begins where it is.
    brackets = any_on_ray(here.searchable & ~here.state.bracketed, turns.ray_of)
    return jnp.where(brackets, step_size, start)


def _sum_moved(here: Situation, turns: Turns, values: jax.Array) -> jax.Array:
    """Returns for each group the sum over what its ray moves, f[G]."""
    return sum_on_ray(jnp.where(here.searchable, values, 0), turns.ray_of)


def _decay_in_trial(here: Situation, at_rest: jax.Array) -> Leaves | None:
    """Returns the decay that trials see, by the step sizes of the step before."""
    options = here.options
    if options.weight_decay is None or not options.decay_in_trial:
        return None
    step_size = jnp.where(at_rest > 0, here.state.step_size, 0)
    return decay_updates(
        here.grouping,
        here.batch.params,
        step_size,
        options.weight_decay,
        options.decay_mask,
    )


def _trial_offset(
    here: Situation, turns: Turns, at_rest: jax.Array, decay: Leaves | None
) -> Leaves | None:
    """Returns the decay, and the moves of the groups before the one in turn."""
    if not here.options.earlier_groups_moved:
        return decay
    groups = jnp.arange(at_rest.shape[0], dtype=jnp.int32)
    is_earlier = (groups < jnp.argmax(turns.pending)) & ~turns.is_joint
    earlier = jnp.where(is_earlier, at_rest, 0)
    kept = here.batch.directions.kept
    moves = scale_direction(here.grouping, earlier, kept, here.leaves)
    return moves if decay is None else add(moves, decay)
