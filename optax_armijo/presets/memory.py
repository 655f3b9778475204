"""What the policies of a search remember from step to step."""

from typing import Any

import jax
import jax.numpy as jnp

from optax_armijo._numerics import rounding_error
from optax_armijo.presets.choices import Policies
from optax_armijo.presets.policies import Outcome, PolicyStates
from optax_armijo.presets.search import Found
from optax_armijo.presets.situation import Situation
from optax_armijo.presets.turns import Turns, sum_on_ray


def observe(here: Situation) -> PolicyStates:
    """Shows the loss of a step to the acceptance test, if it is finite."""
    memory = here.state.memory
    seen = here.options.policies.acceptance.observe(memory.acceptance, here.value)
    return memory._replace(acceptance=_where(here.is_finite, seen, memory.acceptance))


def outcome_of(
    here: Situation, turns: Turns, found: Found, step_size: jax.Array
) -> Outcome:
    """Returns what the searches brought, each group's share in it told apart."""
    parts = jnp.where(found.searched, jnp.abs(step_size * here.slopes), 0)
    total = sum_on_ray(parts, turns.ray_of)
    promised = sum_on_ray(
        jnp.where(here.searchable, step_size * here.slopes, 0), turns.ray_of
    )
    rounding = rounding_error(
        here.value, here.settings.rounding_ulps, here.batch.value.dtype
    )
    came_along = here.batch.directions.is_held_out
    return Outcome(
        searched=found.searched,
        accepted=found.accepted,
        step_size=step_size,
        slopes=here.slopes,
        num_trials=found.num_trials,
        predicted_decrease=found.predicted_decrease,
        actual_decrease=found.actual_decrease,
        share=jnp.where(total > 0, parts / jnp.where(total > 0, total, 1), 0),
        c=here.settings.c,
        promised_decrease=promised,
        is_visible=jnp.abs(promised) > rounding,
        was_bracketed=here.state.bracketed,
        value=here.value,
        walked=here.state.step_size if came_along else 0.0,
    )


def learn(
    policies: Policies, memory: PolicyStates, outcome: Outcome, is_finite: jax.Array
) -> PolicyStates:
    """Shows the outcome of a step to the policies, unless its batch was bad."""
    new = PolicyStates(
        acceptance=policies.acceptance.update(memory.acceptance, outcome),
        start=policies.start.update(memory.start, outcome),
        selection=policies.search.update(memory.selection, outcome),
        frequency=policies.frequency.update(memory.frequency, outcome),
        merged=memory.merged,
    )
    return _where(is_finite, new, memory)


def _where(condition: jax.Array, if_true: Any, if_false: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), if_true, if_false)
