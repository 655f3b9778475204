"""Which groups are searched at a step, and along which rays."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo.presets.method import PolicyState, Selection


class Turns(NamedTuple):
    """The rays to search at a step.

    Attributes:
      ray_of: the ray that moves each group.  # i32[G]
      pending: which rays are to be searched.  # bool[G]
      is_joint: whether one ray moves all groups.  # bool[]
    """

    ray_of: jax.Array
    pending: jax.Array
    is_joint: jax.Array


def take_turns(
    selection: Selection,
    state: PolicyState,
    *,
    is_joint: jax.Array,
    due: jax.Array,
    merged: jax.Array,
    searchable: jax.Array,
) -> tuple[Turns, PolicyState]:
    """Chooses the rays of a step.

    Args:
      selection: which of the groups that are due are searched by themselves.
      state: the selection's.
      is_joint: whether this step moves all groups along one ray, shape [].
      due: groups that are due for a search, shape [G].
      merged: under whose number each group is searched, shape [G].
      searchable: groups whose direction can be searched, shape [G].

    Returns:
      The turns and the selection's next state. A ray that would move no searchable
      group has had its turn, but is not pending.
    """
    groups = jnp.arange(due.shape[0], dtype=jnp.int32)
    eligible = any_on_ray(due, merged) & (merged == groups)
    chosen, next_state = selection.choose(state, eligible)
    next_state = jax.tree.map(
        lambda new, old: jnp.where(is_joint, old, new), next_state, state
    )
    ray_of = jnp.where(is_joint, 0, merged)
    chosen = jnp.where(is_joint, jnp.any(due) & (groups == 0), chosen)
    pending = chosen & any_on_ray(searchable, ray_of)
    return Turns(ray_of, pending, is_joint), next_state


def next_ray(pending: jax.Array, after: jax.Array) -> jax.Array:
    """Returns the first pending ray beyond `after`, or G when there is none."""
    num_rays = pending.shape[0]
    rays = jnp.arange(num_rays, dtype=jnp.int32)
    return jnp.min(rays, where=pending & (rays > after), initial=num_rays)


def sum_on_ray(values: jax.Array, ray_of: jax.Array) -> jax.Array:
    """Returns for each group the sum over all that its ray moves, shape [G]."""
    return jnp.zeros_like(values).at[ray_of].add(values)[ray_of]


def any_on_ray(flags: jax.Array, ray_of: jax.Array) -> jax.Array:
    """Returns for each group whether any that its ray moves is flagged, bool[G]."""
    return jnp.zeros_like(flags).at[ray_of].max(flags)[ray_of]
