"""Which groups are searched at a step, and along which rays."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo._types import Search


class Turns(NamedTuple):
    """The rays to search at a step.

    Ray `i` moves group `i` alone, but when `joint` is set the one ray moves all.

    Attributes:
      pending: which rays are to be searched.  # bool[G]
      joint: whether all groups move along one ray.  # bool[]
    """

    pending: jax.Array
    joint: jax.Array


def take_turns(
    search: Search,
    count: jax.Array,
    num_joint_steps: jax.Array,
    searchable: jax.Array,
) -> Turns:
    """Chooses the rays of step `count`.

    Args:
      search: ``"cycle"``, one group in turn; ``"joint"``, all with a common factor;
        ``"each"``, every group by itself.
      count: steps made before this one, shape [].
      num_joint_steps: that many first steps are joint in any mode, shape [].
      searchable: groups whose direction descends, shape [G].

    Returns:
      The turns. A ray that would move no searchable group is not pending.
    """
    num_groups = searchable.shape[0]
    groups = jnp.arange(num_groups, dtype=jnp.int32)
    if search == "joint" or num_groups == 1:
        joint = jnp.ones([], jnp.bool_)
    else:
        joint = count < num_joint_steps
    if search == "cycle":
        turn = jnp.maximum(count - num_joint_steps, 0) % num_groups
        alone = searchable & (groups == turn)
    else:
        alone = searchable
    together = jnp.any(searchable) & (groups == 0)
    return Turns(pending=jnp.where(joint, together, alone), joint=joint)


def next_ray(pending: jax.Array, after: jax.Array) -> jax.Array:
    """Returns the first pending ray beyond `after`, or G when there is none."""
    num_rays = pending.shape[0]
    rays = jnp.arange(num_rays, dtype=jnp.int32)
    return jnp.min(rays, where=pending & (rays > after), initial=num_rays)
