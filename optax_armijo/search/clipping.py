"""Gradient clipping, which limits how much one mini-batch may change Adam's moments.

Tests, the bound of the noise and new groups use the gradient of the loss as it is.
"""

import jax
import jax.numpy as jnp
import optax

from optax_armijo._numerics import divide, search_dtype
from optax_armijo._state import SLOW
from optax_armijo._types import Scalar
from optax_armijo.labels.grouping import Grouping
from optax_armijo.search.directions import Leaves, debias

# Without clipping, one spoilt mini-batch would distort Adam's direction for ten steps,
# and its second moments for a thousand. Squares are summed before they are compared
# with second moments, because those of rare words are young and would dominate a mean
# of ratios.
CLIP = 2.0  # largest size that enters the moments, relative to the average or 1
CLIP_FROM = 6  # the first step that clips: second moments of fewer batches say little


def relative_size(
    grouping: Grouping, grads: Leaves, old: optax.ScaleByAdamState, b2: Scalar
) -> jax.Array:
    """The gradient's norm relative to its second moments, f[].

    The sum of each group's squares is divided by the sum of its debiased second moments
    from the batches before; the ratio is 0 where these are 0. The size is the root of
    the mean over groups.
    """
    moments = grouping.trainable(old.nu)
    dtype = search_dtype([*grads, *moments])
    squares = grouping.sum([jnp.square(g.astype(dtype)) for g in grads])
    sums = grouping.sum([v.astype(dtype) for v in moments])
    [sums] = debias([sums], b2, jnp.maximum(jnp.asarray(old.count), 1))
    mean = jnp.mean(divide(squares, sums, 0))
    root = jnp.sqrt(jnp.where(mean > 0, mean, 1))  # no derivative at zero
    return jnp.where(mean > 0, root, mean)


def clip_scale(
    size: jax.Array, average: jax.Array, k: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the scale of a gradient of this relative size, and the new average, f[].

    The average is over the sizes after clipping, so it follows growing gradients. It is
    1 until the second batch. A non-finite size changes nothing.
    """
    size = size.astype(average.dtype)
    limit = CLIP * jnp.maximum(average, 1)
    is_finite = jnp.isfinite(size)
    clips = is_finite & (k >= CLIP_FROM) & (size > limit)
    # 1 if nothing is clipped. XLA repeats cheap operations in each leaf's kernel, but
    # no division: so kernels read the scale instead of computing it.
    scale = limit / jnp.where(clips, size, limit)
    new = SLOW * average + (1 - SLOW) * jnp.where(clips, limit, size)
    return scale, jnp.where(is_finite & (k > 1), new, average)
