"""Reads states that were saved without their types."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_armijo._state import decode_labels
from optax_armijo.labels.paths import Path, paths_and_leaves


def restore_state(fresh: Any, saved: Any) -> Any:
    """Returns a saved optimizer state in the types of this version.

    Entries are found by their paths in the tree, so `saved` may be what ``orbax``
    restores without a target (nested dicts and lists).

    Args:
      fresh: ``tx.init(params)``, for its structure.
      saved: the state as it was read.

    Returns:
      A state structured like `fresh` with the arrays of `saved`. Where those of `fresh`
      are committed to devices, they are on the same ones, with the same shardings.

    Raises:
      ValueError: `saved` lacks an entry, has an unknown one, or has one of another
        shape or dtype, or its groups have other labels or leaves. The message names
        what differs.

    Example:
      >>> import jax, jax.numpy as jnp, optax_armijo
      >>> tx = optax_armijo.armijo_adam()
      >>> params = {"w": jnp.ones(3)}
      >>> saved = jax.tree.map(lambda x: x, tx.init(params))._asdict()
      >>> saved["adam"] = saved["adam"]._asdict()
      >>> saved["last"] = saved["last"]._asdict()
      >>> saved["num_updates"] = jnp.array(7)
      >>> state = restore_state(tx.init(params), saved)
      >>> type(state).__name__, int(state.num_updates)
      ('ArmijoState', 7)
    """
    wanted, found = map(dict, map(paths_and_leaves, (fresh, saved)))
    unknown = [path for path in found if path not in wanted]
    missing = [path for path in wanted if path not in found]
    if unknown or missing:
        raise ValueError(
            f"the saved state does not fit: it lacks {_text(missing)} and has "
            f"{_text(unknown)} besides. It belongs to another optimizer, to other "
            "params or to another version of optax_armijo."
        )
    leaves = [_checked(path, leaf, found[path]) for path, leaf in wanted.items()]
    return jax.tree.structure(fresh).unflatten(leaves)


def _checked(path: Path, fresh: jax.Array, saved: Any) -> jax.Array:
    # Params may have these names, too, but other dtypes.
    if path[-1:] == ("label_codes",) and fresh.dtype == jnp.uint8:
        _check_labels(fresh, saved)
    if path[-1:] == ("checksum",) and fresh.dtype == jnp.uint32:
        _check_members(fresh, saved)
    if jnp.shape(saved) != fresh.shape or jnp.result_type(saved) != fresh.dtype:
        raise ValueError(
            f"{'/'.join(path)} has shape {fresh.shape} and dtype {fresh.dtype}, but "
            f"that of the saved state has {jnp.shape(saved)} and "
            f"{jnp.result_type(saved)}"
        )
    if getattr(fresh, "committed", False):
        saved = jax.device_put(saved, fresh.sharding)
    # A copy, since the next step may donate it. (JAX 0.5 ignores `may_alias=False`.)
    return jnp.array(saved)


def _check_labels(fresh: jax.Array, saved: Any) -> None:
    mine, theirs = (decode_labels(np.asarray(x)) for x in (fresh, saved))
    if mine != theirs:
        raise ValueError(
            f"param_labels gives the groups {mine}, but the saved state has {theirs}"
        )


def _check_members(fresh: jax.Array, saved: Any) -> None:
    if np.any(np.asarray(saved) != np.asarray(fresh)):
        raise ValueError(
            "param_labels gives the groups other leaves than those of the saved state"
        )


def _text(paths: list[Path]) -> str:
    return ", ".join("/".join(path) for path in paths) or "nothing"
