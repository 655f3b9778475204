"""Decoupled weight decay by the step size that each group moved by."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optax_armijo._grouping import Grouping, broadcast_prefix
from optax_armijo._types import Scalar


def decay_weights(
    updates: Any,
    params: Any,
    grouping: Grouping,
    applied_step_size: jax.Array,
    weight_decay: Scalar,
    mask: Any | Callable[[Any], Any] | None,
) -> Any:
    r"""Returns ``updates - min(applied_step_size * weight_decay, 1) * params``.

    Args:
      updates: structured like `params`.
      params: the whole params; frozen leaves do not decay.
      grouping: which leaf belongs to which group.
      applied_step_size: shape [G].
      weight_decay: at least 0.
      mask: bools, a prefix of params' tree, or a function to them; None decays all.
    """
    mask = mask(params) if callable(mask) else mask
    decays = broadcast_prefix("mask", True if mask is None else mask, params)
    dtype = applied_step_size.dtype
    # No decay turns a weight round, however large the step.
    rates = jnp.minimum(applied_step_size * jnp.asarray(weight_decay, dtype), 1)
    leaves = [
        u - (rates[group] * p.astype(dtype)).astype(p.dtype) if is_decayed else u
        for group, is_decayed, u, p in zip(
            grouping.trainable_ids,
            grouping.trainable(grouping.treedef.unflatten(decays)),
            grouping.trainable(updates),
            grouping.trainable(params),
            strict=True,
        )
    ]
    return grouping.merge(leaves, grouping.treedef.flatten_up_to(updates))
