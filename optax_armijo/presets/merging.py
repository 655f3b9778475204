"""Which groups are searched as one? Groups whose step sizes collapse are merged."""

import math

import jax
import jax.numpy as jnp

from optax_armijo._checks import check_range
from optax_armijo.presets.policies import Merging


def separate() -> Merging:
    """Merges nothing: every group keeps its own turn and step size.

    Example:
      >>> import jax.numpy as jnp
      >>> merging = separate()
      >>> merged, _ = merging.update(merging.init(3), jnp.array([1e-30, 1e-30, 1.0]))
      >>> merged.tolist()
      [0, 1, 2]
    """
    return Merging(_alone, _as_they_are)


def combine(
    threshold: float = 1e-12,
    *,
    relative_threshold: float = 0.0,
    split_above: float | None = None,
) -> Merging:
    r"""Merges the two groups with the smallest step sizes once the smallest collapses.

    When the smallest step size is below :math:`\max(\theta, \theta_r\,
    \mathrm{median}(\eta))`, the two groups with the smallest ones are one from then on:
    they share their turn, are searched by a common factor, and step by the mean of
    their step sizes (arXiv 2403.18506, section IV, ``combine`` in its code). At most
    one pair is merged in a step. Which groups are one is state: nothing is compiled
    anew. A search's ``relative_floor`` keeps step sizes apart from zero before they
    collapse; set it to 0 for merging to come about.

    Args:
      threshold: :math:`\theta`, at least 0.
      relative_threshold: :math:`\theta_r`, in [0, 1).
      split_above: merged groups whose step size has grown past this part from each
        other again; at least `threshold`, None for never, as in the paper.

    Raises:
      ValueError: an argument outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> merging = combine(1e-6)
      >>> merged, step_size = merging.update(
      ...     merging.init(3), jnp.array([2e-7, 1e-3, 4e-7]))
      >>> merged.tolist(), [f"{x:.0e}" for x in step_size.tolist()]
      ([0, 1, 0], ['3e-07', '1e-03', '3e-07'])
    """
    check_range("threshold", threshold, at_least=0)
    check_range("relative_threshold", relative_threshold, at_least=0, below=1)
    if split_above is not None:
        check_range("split_above", split_above, at_least=threshold)
    split = math.inf if split_above is None else split_above

    def update(merged: jax.Array, step_size: jax.Array) -> tuple[jax.Array, jax.Array]:
        groups = jnp.arange(merged.shape[0], dtype=jnp.int32)
        merged = jnp.where(step_size[merged] > split, groups, merged)
        is_first = merged == groups
        sizes = jnp.where(is_first, step_size, jnp.inf)
        smallest = jnp.argmin(sizes).astype(jnp.int32)
        others = jnp.where(groups == smallest, jnp.inf, sizes)
        second = jnp.argmin(others).astype(jnp.int32)
        limit = jnp.maximum(threshold, relative_threshold * jnp.median(step_size))
        collapses = (sizes[smallest] < limit) & jnp.isfinite(others[second])
        is_part = collapses & ((merged == smallest) | (merged == second))
        mean = (sizes[smallest] + sizes[second]) / 2
        return (
            jnp.where(is_part, jnp.minimum(smallest, second), merged),
            jnp.where(is_part, mean, step_size),
        )

    return Merging(_alone, update)


def _alone(num_groups: int) -> jax.Array:
    return jnp.arange(num_groups, dtype=jnp.int32)


def _as_they_are(
    merged: jax.Array, step_size: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return merged, step_size
