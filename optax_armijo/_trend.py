"""Do losses fall? The least-squares line through all of them, and how sure it is."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Line(NamedTuple):
    """Sums over what was measured at the times 1, 2, ..., each of f[].

    Attributes:
      num_values: how many measurements there are.
      mean: of measurements.
      squares: of their squared distances from it.
      products: of those distances and the times' from theirs.
    """

    num_values: jax.Array
    mean: jax.Array
    squares: jax.Array
    products: jax.Array


def no_line(dtype: jnp.dtype) -> Line:
    """Nothing measured yet; each an array of its own, since states may be donated."""
    return Line(*(jnp.zeros([], dtype) for _ in Line._fields))


def extended(line: Line, new: jax.typing.ArrayLike) -> Line:
    """Takes in a measurement; of one whose square would overflow, what does not."""
    largest = 0.5 * jnp.sqrt(jnp.finfo(line.mean.dtype).max)
    new = jnp.clip(jnp.asarray(new, line.mean.dtype), -largest, largest)
    num_values = line.num_values + 1
    before = new - line.mean
    mean = line.mean + before / num_values
    return Line(
        num_values=num_values,
        mean=mean,
        squares=line.squares + before * (new - mean),
        # From the mean of the times before, num_values / 2, to this one.
        products=line.products + line.num_values / 2 * before,
    )


def sure_fall(line: Line) -> jax.Array:
    r"""Returns by how many of its standard errors the line leads down, f[].

    With n measurements, C their sum of products and S that of the times' squares,
    :math:`n (n^2 - 1) / 12`, the line climbs :math:`b = C / S` in a step, give or take
    :math:`\sqrt{(Q - b C) / ((n - 2) S)}`, Q the sum of squares. 0 of less than four.

    Example:
      >>> line = no_line(jnp.float32)
      >>> for value in (5.0, 3.0, 4.0, 2.0):
      ...     line = extended(line, value)
      >>> sure_fall(line).item()  # b = -.8, sqrt((5 - 3.2) / (2 * 5)) = .42
      1.88...
    """
    times = line.num_values * (line.num_values**2 - 1) / 12
    climb = line.products / jnp.maximum(times, 1)
    rest = jnp.maximum(line.squares - climb * line.products, 0)
    error = jnp.sqrt(rest / jnp.maximum((line.num_values - 2) * times, 1))
    exact = jnp.where(climb < 0, jnp.inf, 0)
    surely = jnp.where(error > 0, -climb / jnp.where(error > 0, error, 1), exact)
    return jnp.where((line.num_values > 3) & (rest < jnp.inf), surely, 0)
