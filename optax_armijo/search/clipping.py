"""Gradient clipping: how much one mini-batch may change Adam's moments.

The tests of sufficient decrease see the gradient of the loss as it is.
"""

import jax
import jax.numpy as jnp
import optax

from optax_armijo._numerics import divide, search_dtype
from optax_armijo._types import Scalar
from optax_armijo.labels.grouping import Grouping
from optax_armijo.search.directions import Leaves, debias

# One spoilt mini-batch would turn Adam's direction for ten steps, and fill its second
# moments for a thousand. Squares are summed before they are compared with second
# moments: those of rare words are young, and would rule a mean of ratios.
CLIP = 2.0  # times the average size so far: the largest that enters the moments
CLIP_FROM = 6  # the first step that clips: second moments of fewer batches say little
SIZE_DECAY = 0.9  # of the average


def relative_size(
    grouping: Grouping, grads: Leaves, old: optax.ScaleByAdamState, b2: Scalar
) -> jax.Array:
    """The gradient's norm relative to its second moments, f[].

    Of each group the sum of the squares over that of the second moments of the batches
    before, debiased, or 0 where these are 0; the root of the mean over groups.
    """
    moments = grouping.trainable(old.nu)
    dtype = search_dtype([*grads, *moments])
    squares = grouping.sum([jnp.square(g.astype(dtype)) for g in grads])
    sums = grouping.sum([v.astype(dtype) for v in moments])
    [sums] = debias([sums], b2, jnp.maximum(jnp.asarray(old.count), 1))
    mean = jnp.mean(divide(squares, sums, 0))
    root = jnp.sqrt(jnp.where(mean > 0, mean, 1))  # it has no slope at zero
    return jnp.where(mean > 0, root, mean)


def clipped(
    size: jax.Array, average: jax.Array, k: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What to scale a gradient of this relative size by, f[]; the average with it, f[].

    The average is that of the sizes after clipping, so it follows gradients that grow.
    It is 1 until the second batch. A size that is not finite changes nothing.
    """
    size = size.astype(average.dtype)
    limit = CLIP * jnp.maximum(average, 1)
    is_finite = jnp.isfinite(size)
    clips = is_finite & (k >= CLIP_FROM) & (size > limit)
    scale = jnp.where(clips, divide(limit, size, 1), 1)
    moved = SIZE_DECAY * average + (1 - SIZE_DECAY) * jnp.where(clips, limit, size)
    return scale, jnp.where(is_finite & (k > 1), moved, average)
