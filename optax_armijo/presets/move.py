"""The move of a step: all groups together, decay beside them, the net under them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo.presets.net import (
    NetResult,
    highest_loss,
    shrink_until_safe,
    update_average,
)
from optax_armijo.presets.plan import Plan
from optax_armijo.presets.search import Found
from optax_armijo.presets.situation import Situation
from optax_armijo.search.slopes import (
    Leaves,
    add,
    choose,
    loss_after_step,
    scale_direction,
)
from optax_armijo.search.weight_decay import decay_updates


class Move(NamedTuple):
    """How params move.

    Attributes:
      updates: to be added to params, structured like them.
      applied_step_size: by group, 0 where unmoved.  # f[G]
      net: what the net made of it.
      loss_average: running average of the losses at params.  # f[]
    """

    updates: Any
    applied_step_size: jax.Array
    net: NetResult
    loss_average: jax.Array


def make_move(here: Situation, plan: Plan, found: Found) -> Move:
    """Moves each group by what was found for it, or by what it has."""
    # A group whose search found nothing stays where it is.
    searched = jnp.where(found.accepted, plan.start * found.factor, 0)
    applied = jnp.where(found.searched, searched, plan.at_rest)
    average = update_average(here.state.loss_average, here.value)
    direction = _direction(here, found)
    net = _catch(here, plan, direction, applied, average)
    applied = applied * net.factor
    moves = scale_direction(here.grouping, applied, direction, here.leaves)
    moves = _with_decay(here, plan, moves, applied)
    params = here.grouping.treedef.flatten_up_to(here.batch.params)
    zeros = [jnp.zeros_like(leaf) for leaf in params]
    return Move(here.grouping.merge(moves, zeros), applied, net, average)


def _direction(here: Situation, found: Found) -> Leaves:
    directions = here.batch.directions
    kept, searched = directions.kept, directions.searched
    if directions.keeps_trial and kept is not searched:
        return choose(here.grouping, found.searched, searched, kept)
    return kept


def _catch(
    here: Situation,
    plan: Plan,
    direction: Leaves,
    applied: jax.Array,
    average: jax.Array,
) -> NetResult:
    """Puts the net under the whole step, unless that step was itself the trial.

    A step in which no group was due for a search evaluates no loss, here neither.
    """
    options, directions = here.options, here.batch.directions
    keeps_trial = directions.keeps_trial or directions.kept is directions.searched
    always_joint = options.policies.search.is_joint or here.grouping.num_groups == 1
    if options.net == "off" or (keeps_trial and always_joint):
        return NetResult(jnp.ones((), applied.dtype), jnp.zeros((), jnp.int32))
    is_untested = jnp.ones((), jnp.bool_)
    if keeps_trial:
        is_untested = ~plan.turns.is_joint
    return shrink_until_safe(
        loss_after_step(
            here.batch.loss_fn,
            here.grouping,
            here.batch.params,
            direction,
            plan.step_offset,
        ),
        applied,
        highest_loss(options.net, here.value, average),
        is_untested & plan.turns.is_due & jnp.any(applied > 0),
        max_trials=here.settings.max_trials,
        rounding_ulps=here.settings.rounding_ulps,
        loss_dtype=here.batch.value.dtype,
    )


def _with_decay(
    here: Situation, plan: Plan, moves: Leaves, applied: jax.Array
) -> Leaves:
    options = here.options
    if options.weight_decay is None:
        return moves
    if plan.step_offset is None:
        decay = decay_updates(
            here.grouping,
            here.batch.params,
            applied,
            options.weight_decay,
            options.decay_mask,
        )
    else:
        # A group that does not move does not decay.
        nothing = [jnp.zeros_like(leaf) for leaf in plan.step_offset]
        decay = choose(here.grouping, applied > 0, plan.step_offset, nothing)
    return add(moves, decay)
