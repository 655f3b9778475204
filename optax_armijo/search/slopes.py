"""Between step sizes by group and trees: slopes, updates and the loss after them."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from optax_armijo._numerics import on_its_own, search_dtype
from optax_armijo.labels.grouping import Grouping

Leaves: TypeAlias = Sequence[jax.Array]
"""One array a trainable leaf of params."""


def slopes(
    grouping: Grouping, grads: Leaves, direction: Sequence[jax.Array]
) -> jax.Array:
    r"""Returns :math:`-\langle g, d \rangle` by group: the fall a unit step, [G]."""
    dtype = search_dtype([*grads, *direction])
    # The sum of products, unlike a dot of flattened arrays, keeps any sharding.
    return -grouping.sum(
        [
            g.astype(dtype) * d.astype(dtype)
            for g, d in zip(grads, direction, strict=True)
        ]
    )


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


def choose(
    grouping: Grouping,
    condition: jax.Array,
    if_true: Leaves,
    if_false: Leaves,
) -> list[jax.Array]:
    """Takes the leaves of `if_true` in the groups where `condition`, [G], holds."""
    return [
        jnp.where(is_true, x, y)
        for is_true, x, y in zip(
            grouping.spread(condition), if_true, if_false, strict=True
        )
    ]
