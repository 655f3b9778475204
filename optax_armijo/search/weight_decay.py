"""Decoupled weight decay, in proportion to the step size of each group."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_armijo._types import Scalar
from optax_armijo.labels.checks import broadcast_prefix, is_function
from optax_armijo.labels.grouping import Grouping


def check_mask(mask: Any) -> None:
    """Raises ValueError for False, which ``inject_hyperparams`` makes of a function."""
    if mask is False:
        raise ValueError(
            "mask must be a pytree of bools or a function from params to one; got "
            "False, with which nothing decays. Inside optax.inject_hyperparams a "
            "function must be named in static_args; without decay take armijo_adam"
        )


def decay_updates(
    grouping: Grouping,
    params: Any,
    step_size: jax.Array,
    weight_decay: Scalar,
    mask: Any | Callable[[Any], Any] | None,
) -> list[jax.Array]:
    r"""Returns :math:`-\min(\eta_l \lambda, 1)\, w` for each trainable leaf.

    Args:
      grouping: which leaf belongs to which group.
      params: the whole params.
      step_size: :math:`\eta`, shape [G].
      weight_decay: :math:`\lambda`, at least 0.
      mask: a pytree of bools that is a prefix of params' tree, or a function from
        params to one; None decays all.
    """
    if is_function(mask):
        mask = mask(params)
    decays = broadcast_prefix("mask", True if mask is None else mask, params)
    for entry in decays:
        if not isinstance(entry, (bool, np.bool_)):
            raise ValueError(f"mask must have True or False as leaves; got {entry!r}")
    dtype = step_size.dtype
    # Decay never changes the sign of a weight, however large the step.
    rates = jnp.minimum(step_size * jnp.asarray(weight_decay, dtype), 1)
    return [
        # Infinite entries, such as those of masks, do not decay.
        jnp.where(jnp.isfinite(p), -(rate * p.astype(dtype)), 0).astype(p.dtype)
        if is_decayed
        else jnp.zeros_like(p)
        for rate, is_decayed, p in zip(
            grouping.spread(rates),
            grouping.trainable(grouping.treedef.unflatten(decays)),
            grouping.trainable(params),
            strict=True,
        )
    ]
