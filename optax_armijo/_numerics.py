"""Scalars that are safe to compare: their dtype, their rounding, NaN as +inf."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def search_dtype(leaves: Sequence[jax.Array]) -> np.dtype:
    """Returns the dtype of losses, slopes and step sizes: float32 or wider."""
    dtypes = [np.dtype(np.float32), *(leaf.dtype for leaf in leaves)]
    return max(dtypes, key=lambda dtype: dtype.itemsize)


def rounded(x: jax.Array, dtype: Any) -> jax.Array:
    """Returns `x` in `dtype`, with a rounding that XLA cannot skip.

    XLA skips casts to bfloat16 and float16 between operations that it fuses. Then a
    loss might belong to a point that the dtype of the params cannot represent.
    """
    info = jnp.finfo(dtype)
    if info.bits < 32:
        wide = x.astype(jnp.float32)
        x = jax.lax.reduce_precision(wide, info.nexp, info.nmant)
        if info.nexp < 8:
            # It turns numbers below float16's smallest normal number into zero.
            unit = float(info.smallest_subnormal)
            is_subnormal = jnp.abs(wide) < float(info.smallest_normal)
            x = jnp.where(is_subnormal, jnp.round(wide / unit) * unit, x)
    return x.astype(dtype)


def has_no_gradient(grad: Any) -> bool:
    """Tells whether this is what JAX returns as the gradient of an integer leaf."""
    return getattr(grad, "dtype", None) == jax.dtypes.float0


def is_key(leaf: Any) -> bool:
    """Tells whether a leaf holds random keys, as ``jax.random.key`` makes them."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def nonfinite_to_inf(value: jax.Array) -> jax.Array:
    """Turns NaN and -inf into +inf, since no non-finite loss is an improvement."""
    return jnp.where(jnp.isfinite(value), value, jnp.inf)


def in_dtype(number: Any, dtype: Any) -> Any:
    """Returns a hyper-parameter that leaves what it is combined with in this dtype.

    Python numbers do so by themselves. NumPy numbers do not, nor do the arrays that
    ``optax.inject_hyperparams`` passes.
    """
    return number if type(number) in (int, float) else jnp.asarray(number, dtype)


def rounding_error(
    value: jax.Array, ulps: jax.Array | float, *dtypes: np.dtype
) -> jax.Array:
    """Returns ``ulps * eps * |value|``, with eps of the coarsest of `dtypes`."""
    eps = max(float(jnp.finfo(dtype).eps) for dtype in dtypes)
    return ulps * jnp.asarray(eps, value.dtype) * jnp.abs(value)


def increment(count: Any) -> jax.Array:
    """Returns ``count + 1``, or the largest integer."""
    return jnp.asarray(optax.safe_increment(count))


def divide(x: jax.Array, y: jax.Array, otherwise: float) -> jax.Array:
    """Returns ``x / y``, and `otherwise` where y is not above 0."""
    return jnp.where(y > 0, x / jnp.where(y > 0, y, 1), otherwise)


def all_finite(leaves: Sequence[jax.Array]) -> jax.Array:
    """Tells whether the sum of the squares of each leaf is finite, bool[]."""
    if not leaves:
        return jnp.ones((), jnp.bool_)
    squares = [jnp.sum(jnp.square(x.astype(search_dtype([x])))) for x in leaves]
    return jnp.all(jnp.isfinite(jnp.stack(squares)))


@jax.custom_jvp
def on_its_own(x: jax.Array) -> jax.Array:
    """Returns flags, or numbers >= 0, that the compiler computes in its own kernel.

    XLA copies cheap computations into every kernel that uses their result. Then the
    kernels of a model's layers, which differ only in their step size, are compiled one
    by one, each with all of the search. XLA considers a square root expensive and does
    not copy it. The result is exact to rounding.
    """
    if x.dtype == jnp.bool_:
        return jnp.sqrt(x.astype(jnp.float32)) > 0
    return jnp.square(jnp.sqrt(x))


@on_its_own.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[Any, Any]:
    return on_its_own(*primals), tangents[0]  # the root alone has no derivative at zero
