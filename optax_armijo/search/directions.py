"""The directions of this step and of the last one: Adam's, or given ones.

Both classes have the same methods, which return one array per trainable leaf.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from optax.tree_utils import tree_where

from optax_armijo._checks import check_range
from optax_armijo._numerics import in_dtype, increment, search_dtype
from optax_armijo._types import Scalar
from optax_armijo.labels.grouping import Grouping

Leaves: TypeAlias = Sequence[jax.Array]
"""One array per trainable leaf of the params."""


def products(
    grouping: Grouping, grads: Leaves, direction: Sequence[jax.Array]
) -> list[jax.Array]:
    r"""Returns :math:`\langle g, d \rangle` by leaf, as `Grouping.by_leaf` does."""
    dtype = search_dtype([*grads, *direction])
    # The sum of products, unlike a dot of flattened arrays, keeps any sharding.
    return grouping.by_leaf(
        [
            g.astype(dtype) * d.astype(dtype)
            for g, d in zip(grads, direction, strict=True)
        ]
    )


def check_adam(b1: Scalar, b2: Scalar, eps: Scalar) -> None:
    """Raises ValueError if one of Adam's constants is outside its range."""
    check_range("b1", b1, at_least=0, below=1)
    check_range("b2", b2, at_least=0, below=1)
    check_range("eps", eps, above=0)


def update_moment(old: Leaves, grads: Leaves, decay: Scalar, order: int) -> Leaves:
    """Adds gradients, to a power, to one of Adam's moments, and keeps its dtypes."""
    new = optax.tree_utils.tree_update_moment(grads, old, decay, order)
    return [x.astype(y.dtype) for x, y in zip(new, old, strict=True)]


def debias(moment: Leaves, decay: Scalar, count: jax.Array) -> list[jax.Array]:
    """Divides a moment by ``1 - decay ** count``."""
    dtype = search_dtype(moment)  # strict promotion allows no power of an integer
    decay, count = jnp.asarray(decay, dtype), count.astype(dtype)
    return optax.tree_utils.tree_bias_correction(list(moment), decay, count)


def inverse_root(moment: Leaves, eps: Scalar) -> list[jax.Array]:
    """Returns Adam's P for the debiased second moment."""
    return [1 / (jnp.sqrt(v) + in_dtype(eps, v.dtype)) for v in moment]


class AdamDirections(NamedTuple):
    """Adam's directions after this batch's gradient has entered the moments.

    Everything is computed from the old moments where it is needed, so that nothing of
    the size of the params is kept for a search that may not take place. This includes
    the gradients times `scale`, which replace the gradients in the moments.

    Attributes:
      grouping: the groups of the params.
      old: the moments of the batches before.
      grads: the gradients before clipping, in float32 or wider.
      scale: the factor that clips them, at most 1.  # f[]
      gradient_size: the average size to continue with after a good batch.  # f[]
      b1: decay rate of the first moment.
      b2: decay rate of the second moment.
      eps: added to the root of the second moment.
    """

    grouping: Grouping
    old: optax.ScaleByAdamState
    grads: Leaves
    scale: jax.Array
    gradient_size: jax.Array
    b1: Scalar
    b2: Scalar
    eps: Scalar

    @property
    def num_good(self) -> jax.Array:
        """The number of good batches, this one included."""
        return increment(self.old.count)

    def this_step(self) -> list[jax.Array]:
        """``-P m / (1 - b1^k)``; NaN where a gradient's square overflows.

        So such a mini-batch counts as one whose gradient is not finite.
        """
        nu = self._nu()
        pairs = zip(self._along(self._mu(), nu, self.num_good), nu, strict=True)
        return [jnp.where(v < jnp.inf, d, jnp.nan) for d, v in pairs]

    def last_step(self) -> list[jax.Array]:
        """The direction of the last step, computed again from the old moments."""
        mu, nu = map(self.grouping.trainable, (self.old.mu, self.old.nu))
        return self._along(mu, nu, jnp.maximum(jnp.asarray(self.old.count), 1))

    def settled(self, is_good: jax.Array) -> optax.ScaleByAdamState:
        """Returns the moments to continue with: after a bad batch the old ones.

        They are computed again, because it would take memory to keep them since the
        slopes were computed.
        """
        grads, old = jax.lax.optimization_barrier((self.grads, self.old))
        here = self._replace(grads=grads, old=old)
        masked = map(self.grouping.masked, (here._mu(), here._nu()))
        new = optax.ScaleByAdamState(self.num_good, *masked)
        return tree_where(is_good, new, old)

    def _mu(self) -> Leaves:
        mu = self.grouping.trainable(self.old.mu)
        return update_moment(mu, self._clipped(), self.b1, 1)

    def _nu(self) -> Leaves:
        nu = self.grouping.trainable(self.old.nu)
        return update_moment(nu, self._clipped(), self.b2, 2)

    def _clipped(self) -> Leaves:
        return [self.scale.astype(g.dtype) * g for g in self.grads]

    def _along(self, mu: Leaves, nu: Leaves, count: jax.Array) -> list[jax.Array]:
        means = debias(mu, self.b1, count)
        roots = inverse_root(debias(nu, self.b2, count), self.eps)
        return [-m * p for m, p in zip(means, roots, strict=True)]


class GivenDirections(NamedTuple):
    """Directions that came in as updates, used instead of `AdamDirections`.

    There are no moments of the gradient, so nothing is clipped and `gradient_size`
    stays. ``mu`` holds the direction of the last step.
    """

    grouping: Grouping
    old: optax.ScaleByAdamState
    updates: list[jax.Array]
    gradient_size: jax.Array

    @property
    def scale(self) -> float:
        return 1.0

    @property
    def num_good(self) -> jax.Array:
        return increment(self.old.count)

    def this_step(self) -> list[jax.Array]:
        return self.updates

    def last_step(self) -> list[jax.Array]:
        """The direction of the last step."""
        return self.grouping.trainable(self.old.mu)

    def settled(self, is_good: jax.Array) -> optax.ScaleByAdamState:
        """Counts a good batch, and remembers its direction."""
        count = jnp.where(is_good, self.num_good, self.old.count)
        along = tree_where(is_good, self.updates, self.last_step())
        return self.old._replace(count=count, mu=self.grouping.masked(along))
