"""One step of a method once its direction is known: look, plan, search, move, learn."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo._numerics import on_its_own
from optax_armijo._state import LastStep
from optax_armijo.labels.grouping import Grouping
from optax_armijo.presets.acceptance import shares
from optax_armijo.presets.directions import Directions, choose
from optax_armijo.presets.method import (
    MAX_STEP_SIZE,
    MIN_STEP_SIZE,
    Method,
    Opening,
    Outcome,
    PolicyStates,
    Settings,
    settings_of,
)
from optax_armijo.presets.search import Found, Problem, search_rays
from optax_armijo.presets.state import ArmijoState, next_state
from optax_armijo.presets.turns import Turns, any_on_ray, sum_on_ray, take_turns
from optax_armijo.search.directions import Leaves
from optax_armijo.search.transformation import Batch
from optax_armijo.search.weight_decay import decay_updates


class Situation(NamedTuple):
    """What is known of a step before anything is searched.

    Attributes:
      grouping: which leaf belongs to which group.
      method: which is followed.
      settings: its numbers.
      batch: what the step is made of.
      directions: where to search and where to go.
      state: the search's, before the step.
      value: the loss at params, in the search's dtype.  # f[]
      slopes: decrease of the loss a unit of step size, by group.  # f[G]
      is_finite: whether loss, gradient and direction all are.  # bool[]
      searchable: groups along whose direction a search makes sense.  # bool[G]
    """

    grouping: Grouping
    method: Method
    settings: Settings
    batch: Batch
    directions: Directions
    state: ArmijoState
    value: jax.Array
    slopes: jax.Array
    is_finite: jax.Array
    searchable: jax.Array


class Plan(NamedTuple):
    """What a step is going to do.

    Attributes:
      turns: which rays are searched.
      start: step sizes at which their searches begin.  # f[G]
      at_rest: what a group moves by when it is not searched.  # f[G]
      kept: what it then keeps as its step size.  # f[G]
      decay: the weight decay, by the step sizes of the step before; None for none.
      offset: added to params in the trials of the search; None for nothing.
    """

    turns: Turns
    start: jax.Array
    at_rest: jax.Array
    kept: jax.Array
    decay: Leaves | None
    offset: Leaves | None


def take_step(
    grouping: Grouping,
    method: Method,
    batch: Batch,
    directions: Directions,
    state: ArmijoState,
) -> tuple[Any, ArmijoState]:
    """Returns the updates of a step, structured like params, and the next state."""
    here = _look(grouping, method, batch, directions, state)
    plan, memory = _plan(here, _observe(here))
    found = _search(here, memory, plan)
    # A group whose search found nothing stays where it is.
    applied = jnp.where(found.accepted, plan.start * found.factor, 0)
    applied = jnp.where(found.searched, applied, plan.at_rest)
    step_size = jnp.where(found.searched, plan.start * found.factor, plan.kept)
    memory = _learn(here, memory, plan.turns, found, step_size)
    merged, step_size = method.merging(memory.merged, step_size)
    return _move(here, plan, found, applied), next_state(
        state,
        step_size=jnp.clip(step_size, MIN_STEP_SIZE, MAX_STEP_SIZE),
        bracketed=jnp.where(found.searched, found.settled, state.bracketed),
        bracket_limit=_bracket_limit(state, found),
        memory=memory._replace(merged=merged),
        last=LastStep(
            applied_step_size=applied,
            searched=found.searched,
            accepted=found.accepted,
            num_trials=found.num_trials,
            predicted_decrease=found.predicted_decrease,
            actual_decrease=found.actual_decrease,
            step_factor=jnp.ones((), step_size.dtype),
            num_evaluations=found.num_evaluations,
        ),
    )


def _look(
    grouping: Grouping,
    method: Method,
    batch: Batch,
    directions: Directions,
    state: ArmijoState,
) -> Situation:
    """Works out what loss, gradient and direction say."""
    dtype = state.step_size.dtype
    fall, is_finite = directions.descent
    fall = fall.astype(dtype)
    descends = fall > 0
    if not method.acceptance.needs_descent:
        # What is looked for from nothing must lead down all the same.
        descends |= state.bracketed
    return Situation(
        grouping=grouping,
        method=method,
        settings=settings_of(method, dtype),
        batch=batch,
        directions=directions,
        state=state,
        # The loss of a bad batch is not to be learned from, though it be finite.
        value=jnp.where(is_finite, batch.value.astype(dtype), jnp.nan),
        slopes=fall,
        is_finite=is_finite,
        searchable=is_finite & descends,
    )


def _observe(here: Situation) -> PolicyStates:
    """Shows the loss of a step to the acceptance test, if it is finite."""
    memory = here.state.memory
    seen = here.method.acceptance.observe(memory.acceptance, here.value)
    return memory._replace(acceptance=_where(here.is_finite, seen, memory.acceptance))


def _plan(here: Situation, memory: PolicyStates) -> tuple[Plan, PolicyStates]:
    """Returns the plan, and the memory in which the turns have been taken."""
    state, method, settings = here.state, here.method, here.settings
    was_searched = state.total_trials > 0
    due = method.frequency.due(memory.frequency, state.num_steps)
    turns, selection_state = take_turns(
        method.selection,
        memory.selection,
        is_joint=_is_joint(here),
        due=due | ~was_searched | ~state.bracketed,
        merged=memory.merged,
        searchable=here.searchable,
    )
    opening = Opening(
        step_size=state.step_size,
        init_step_size=settings.init_step_size,
        increase_factor=settings.increase_factor,
        value=here.value,
        ray_slopes=sum_on_ray(jnp.where(here.searchable, here.slopes, 0), turns.ray_of),
    )
    start = method.start.first(memory.start, opening)
    # What is to be bracketed begins where it is.
    brackets = any_on_ray(here.searchable & ~state.bracketed, turns.ray_of)
    at_rest, kept = method.start.rest(opening)
    # No group moves before its first search.
    at_rest = jnp.where(here.searchable & was_searched, at_rest, 0)
    at_rest = jnp.minimum(at_rest, MAX_STEP_SIZE)
    decay = _decay(here, at_rest)
    plan = Plan(
        turns=turns,
        start=jnp.where(brackets, state.step_size, start),
        at_rest=at_rest,
        kept=jnp.where(here.is_finite, kept, state.step_size),
        decay=decay,
        offset=_offset(here, turns, at_rest, decay),
    )
    return plan, memory._replace(selection=selection_state)


def _is_joint(here: Situation) -> jax.Array:
    if here.method.selection.is_joint or here.grouping.num_groups == 1:
        return jnp.ones((), jnp.bool_)
    return here.state.num_steps < here.settings.num_joint_steps


def _decay(here: Situation, at_rest: jax.Array) -> Leaves | None:
    """Returns the weight decay, by the step sizes of the step before."""
    rate = here.method.weight_decay
    if rate is None:
        return None
    step_size = jnp.where(at_rest > 0, here.state.step_size, 0)
    return decay_updates(here.grouping, here.batch.params, step_size, rate, mask=None)


def _offset(
    here: Situation, turns: Turns, at_rest: jax.Array, decay: Leaves | None
) -> Leaves | None:
    """Returns the decay, and the moves of the groups before the one in turn."""
    if not here.method.earlier_groups_moved:
        return decay
    groups = jnp.arange(at_rest.shape[0], dtype=jnp.int32)
    is_earlier = (groups < jnp.argmax(turns.pending)) & ~turns.is_joint
    earlier = jnp.where(is_earlier, at_rest, 0)
    kept = here.directions.kept
    leaves = here.grouping.trainable(here.batch.params)
    moves = scale_direction(here.grouping, earlier, kept, leaves)
    return moves if decay is None else add(moves, decay)


def _search(here: Situation, memory: PolicyStates, plan: Plan) -> Found:
    """Searches the rays whose turn it is."""
    evaluate = loss_after_step(
        here.batch.loss_fn,
        here.grouping,
        here.batch.params,
        here.directions.searched,
        plan.offset,
    )
    problem = Problem(
        value=here.value,
        slopes=here.slopes,
        searchable=here.searchable,
        step_size=plan.start,
        bracketed=here.state.bracketed,
        bracket_limit=here.state.bracket_limit,
        acceptance=here.method.acceptance,
        acceptance_state=memory.acceptance,
    )
    return search_rays(evaluate, problem, plan.turns, here.settings)


def _move(here: Situation, plan: Plan, found: Found, applied: jax.Array) -> Any:
    """Moves all groups together, decay beside them; returns updates like params."""
    grouping, directions = here.grouping, here.directions
    direction = directions.kept
    if directions.keeps_trial:
        direction = choose(grouping, found.searched, directions.searched, direction)
    leaves = grouping.trainable(here.batch.params)
    moves = scale_direction(grouping, applied, direction, leaves)
    if plan.decay is not None:
        # A group that does not move does not decay.
        nothing = [jnp.zeros_like(leaf) for leaf in plan.decay]
        moves = add(moves, choose(grouping, applied > 0, plan.decay, nothing))
    params = grouping.treedef.flatten_up_to(here.batch.params)
    return grouping.merge(moves, [jnp.zeros_like(leaf) for leaf in params])


def _learn(
    here: Situation,
    memory: PolicyStates,
    turns: Turns,
    found: Found,
    step_size: jax.Array,
) -> PolicyStates:
    """Shows what the searches brought to the policies, unless the batch was bad."""
    method = here.method
    parts = jnp.where(found.searched, jnp.abs(step_size * here.slopes), 0)
    outcome = Outcome(
        searched=found.searched,
        accepted=found.accepted,
        step_size=step_size,
        slopes=here.slopes,
        num_trials=found.num_trials,
        actual_decrease=found.actual_decrease,
        share=shares(parts, sum_on_ray(parts, turns.ray_of)),
    )
    new = PolicyStates(
        acceptance=method.acceptance.update(memory.acceptance, outcome),
        start=method.start.update(memory.start, outcome),
        selection=method.selection.update(memory.selection, outcome),
        frequency=method.frequency.update(memory.frequency, outcome),
        merged=memory.merged,
    )
    return _where(here.is_finite, new, memory)


def _bracket_limit(state: ArmijoState, found: Found) -> jax.Array:
    """After a search has failed the next ones do not go beyond where it began.

    Without this a batch on which nothing passes would be followed by the largest step
    that passes on some batch, found by one search from nothing.
    """
    has_failed = found.searched & ~found.accepted & state.bracketed
    limit = jnp.where(has_failed, state.step_size, state.bracket_limit)
    return jnp.where(found.accepted, jnp.finfo(limit.dtype).max, limit)


def _where(condition: jax.Array, if_true: Any, if_false: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), if_true, if_false)


def scale_direction(
    grouping: Grouping,
    step_size: jax.Array,
    direction: Leaves,
    params: Leaves,
) -> list[jax.Array]:
    """Returns the updates ``step_size[label] * direction``, in the params' dtypes.

    A group whose step size is 0 gets zeros, whatever its direction holds.
    """
    updates = []
    for eta, d, p in zip(grouping.spread(step_size), direction, params, strict=True):
        eta = on_its_own(eta)
        update = jnp.where(eta > 0, eta * d.astype(eta.dtype), 0)
        updates.append(update.astype(p.dtype))
    return updates


def loss_after_step(
    loss_fn: Callable[[Any], jax.Array],
    grouping: Grouping,
    params: Any,
    direction: Leaves,
    offset: Leaves | None = None,
) -> Callable[[jax.Array], jax.Array]:
    """Returns the function from step sizes, [G], to the loss after that step, [].

    Without an `offset`, which is added to params beside the step, the point it
    evaluates is, bit for bit, the one that ``optax.apply_updates`` reaches with these
    step sizes.
    """
    leaves = grouping.trainable(params)
    if offset is not None:
        leaves = add(leaves, offset)
    frozen = grouping.treedef.flatten_up_to(params)

    def evaluate(step_size: jax.Array) -> jax.Array:
        updates = scale_direction(grouping, step_size, direction, leaves)
        return loss_fn(grouping.merge(add(leaves, updates), frozen))

    return evaluate


def add(xs: Leaves, ys: Leaves) -> list[jax.Array]:
    """Adds leaf by leaf."""
    return [x + y for x, y in zip(xs, ys, strict=True)]
