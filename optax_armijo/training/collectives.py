"""Means over a mapped axis, whichever way this JAX keeps account of what varies."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def varying(tree: Any, axis_name: Any) -> Any:
    """Marks what is the same on all devices of an axis as each device's own."""
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)

    def mark(x: jax.Array) -> jax.Array:
        missing = tuple(name for name in names if name not in _varies_over(x))
        if not missing:
            return x
        if hasattr(lax, "pcast"):
            return lax.pcast(x, missing, to="varying")
        pvary = getattr(lax, "pvary", None)  # its name in between; before, no account
        return x if pvary is None else pvary(x, missing)

    return jax.tree.map(mark, tree)


def _varies_over(x: Any) -> frozenset[Any]:
    typeof = getattr(jax, "typeof", None)
    if typeof is None:
        return frozenset()
    kind = getattr(typeof(x), "manual_axis_type", None)
    # Its name before JAX 0.10 or so was vma.
    return getattr(typeof(x), "vma", frozenset()) if kind is None else kind.varying


def mean_over(tree: Any, axis_name: Any) -> Any:
    """Averages the floating point leaves over an axis; the others stay as they are."""

    def mean(x: Any) -> Any:
        dtype = getattr(x, "dtype", None)
        is_float = dtype is not None and jnp.issubdtype(dtype, jnp.floating)
        return lax.pmean(x, axis_name) if is_float else x

    return jax.tree.map(mean, tree)
