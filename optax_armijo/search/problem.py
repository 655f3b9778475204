"""The inputs of a step of the search: groups, params, the loss and its gradient.

A slope is the predicted decrease of the loss per unit step, so it is positive where the
direction descends. Shapes: G groups.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo._numerics import nonfinite_to_inf, rounding_error
from optax_armijo._state import encode_labels
from optax_armijo.labels.grouping import Grouping
from optax_armijo.labels.paths import paths_and_leaves
from optax_armijo.search.directions import Leaves, products

ROUNDING_ULPS = 4.0  # allowed error of a difference of losses, in ulps of the loss


class Problem(NamedTuple):
    """The inputs of a step; `loss_grads` is the gradient of the loss."""

    grouping: Grouping
    params: Any
    loss_fn: Callable[[Any], jax.Array]
    loss_dtype: Any
    value: jax.Array
    loss_grads: Leaves

    def updates(self, step_size: jax.Array, direction: Leaves) -> list[jax.Array]:
        """``step_size * direction`` in the dtypes of params; 0 for a step size of 0."""
        return self.grouping.scaled(step_size, direction, self.params)

    def loss_after(self, step_size: jax.Array, direction: Leaves) -> jax.Array:
        """The loss where ``optax.apply_updates`` leads; +inf if it is non-finite."""
        updates = self.updates(step_size, direction)
        loss = self.loss_fn(self.grouping.moved(self.params, updates))
        return nonfinite_to_inf(loss.astype(self.value.dtype))

    def products(self, direction: Leaves) -> list[jax.Array]:
        """The products of gradient and direction, by leaf."""
        return products(self.grouping, self.loss_grads, direction)

    def slopes(self, products: Sequence[jax.Array]) -> jax.Array:
        """The predicted decrease of a unit step, by group, [G]."""
        return -self.grouping.by_group(products).astype(self.value.dtype)

    def code_of_bad_leaf(self, products: Sequence[jax.Array]) -> jax.Array:
        """The path of the first leaf with a bad gradient, u8[P]."""
        return code_of_bad_leaf(self.grouping, self.params, self.value, products)

    @property
    def tolerance(self) -> jax.Array:
        """How far rounding may shift a difference of losses."""
        dtypes = self.loss_dtype, self.value.dtype
        return rounding_error(self.value, ROUNDING_ULPS, *dtypes)


def code_of_bad_leaf(
    grouping: Grouping, params: Any, value: jax.Array, products: Sequence[jax.Array]
) -> jax.Array:
    """The path of the first leaf with a bad gradient under a finite loss, u8[P].

    It is zeros if there is none.
    """
    sums = [x if x.size == 1 else jnp.sum(x, keepdims=True) for x in products]
    is_bad = jnp.isfinite(value) & ~jnp.isfinite(jnp.concatenate(sums))
    # A nameless leaf at the end is bad, so that it is the first one if no other is.
    codes = jnp.asarray(encode_labels([*names_of_leaves(grouping, params), ""]))
    return codes[jnp.argmax(jnp.append(is_bad, True))]


def names_of_leaves(grouping: Grouping, params: Any) -> list[str]:
    """The paths of the trainable leaves, such as ``layer/kernel``.

    A single array has no path, and no name would stand for no leaf.
    """
    pairs = zip(paths_and_leaves(params), grouping.members, strict=True)
    names = ["/".join(path) for (path, _), member in pairs if member is not None]
    return [name or "params" for name in names]
