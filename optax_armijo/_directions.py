"""Where to search and where to go: what a direction is, and the plain gradient's."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_armijo._grouping import Grouping
from optax_armijo._numerics import search_dtype


class Directions(NamedTuple):
    """Steps a unit of step size, to be added to params; one entry a trainable leaf.

    Attributes:
      kept: along which params move.
      searched: along which trials are made; may be `kept` itself.
      keeps_trial: whether groups that are searched in a step move along `searched`
        after all, to the very point that was tested.
    """

    kept: Sequence[jax.Array]
    searched: Sequence[jax.Array]
    keeps_trial: bool = False


class Direction(NamedTuple):
    """How gradients become directions.

    Attributes:
      init: ``(grouping, params) -> state``.
      update: ``(grouping, state, grads, is_good) -> (Directions, state)``, with one
        gradient a trainable leaf, and the state as it was unless `is_good`.
    """

    init: Callable[[Grouping, Any], Any]
    update: Callable[..., tuple[Directions, Any]]


def steepest_descent() -> Direction:
    r"""The direction :math:`-g`, of stochastic gradient descent."""

    def init(grouping: Grouping, params: Any) -> optax.EmptyState:
        del grouping, params
        return optax.EmptyState()

    def update(
        grouping: Grouping, state: Any, grads: Sequence[jax.Array], is_good: jax.Array
    ) -> tuple[Directions, Any]:
        del grouping, is_good
        direction = [-g for g in grads]
        return Directions(kept=direction, searched=direction), state

    return Direction(init, update)


def is_good_batch(value: jax.Array, grads: Sequence[jax.Array]) -> jax.Array:
    """Tells whether the loss and the squares of all gradients are finite, bool[]."""
    squares = [jnp.sum(jnp.square(g.astype(search_dtype([g])))) for g in grads]
    finite = [jnp.isfinite(x) for x in (value, *squares)]
    return jnp.all(jnp.stack(finite))
