"""Means over batches in which older ones count less, and how sure they are."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo._numerics import safe_divide


class Mean(NamedTuple):
    """Sums over what was measured.

    Attributes:
      total: of measurements.
      square: of squared measurements.
      weight: of how much went into both.
    """

    total: jax.Array
    square: jax.Array
    weight: jax.Array


def no_mean(shape: tuple[int, ...], dtype: jnp.dtype) -> Mean:
    """Nothing measured yet; each an array of its own, since states may be donated."""
    return Mean(*(jnp.zeros(shape, dtype) for _ in Mean._fields))


def faded(mean: Mean, decay: float, new: Any, counts: jax.Array | bool = True) -> Mean:
    """Lets all that is known count less, and takes in a measurement where it counts.

    One whose square would overflow counts as the largest that does not, so that a mean
    comes back from it.
    """
    dtype = mean.total.dtype
    largest = 0.5 * jnp.sqrt(jnp.finfo(dtype).max)
    rates = jnp.where(counts, 1 - decay, 0).astype(dtype)
    new = jnp.clip(jnp.where(counts, new, 0), -largest, largest)
    return Mean(
        total=decay * mean.total + rates * new,
        square=decay * mean.square + rates * new**2,
        weight=decay * mean.weight + rates,
    )


def value_of(mean: Mean) -> jax.Array:
    """Returns the mean, +inf where nothing was measured."""
    return safe_divide(mean.total, mean.weight)


def root_mean_square(mean: Mean) -> jax.Array:
    """Returns the root of the mean of squares, +inf where nothing was measured."""
    return jnp.sqrt(safe_divide(mean.square, mean.weight))


def standard_error(mean: Mean, decay: float) -> jax.Array:
    """Returns that of a mean which took in every batch; 0 of a single measurement.

    A mean with weights ``(1 - decay) * decay**age`` varies as a plain one over
    ``1 / share`` measurements does, `share` being the sum of the squared weights over
    the square of their sum.
    """
    weight = jnp.where(mean.weight > 0, mean.weight, 1)
    squared_weights = (1 - decay) / (1 + decay) * (1 - (1 - weight) ** 2)
    share = squared_weights / weight**2
    spread = jnp.maximum(mean.square / weight - (mean.total / weight) ** 2, 0)
    share = jnp.where(share < 0.99, share, 0)
    return jnp.sqrt(spread * share / (1 - share))
