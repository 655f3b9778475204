"""Where to search and where to go: what a direction is, and the plain gradient's."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from optax_armijo._numerics import on_its_own
from optax_armijo.labels.grouping import Grouping
from optax_armijo.search.slopes import Leaves, slopes


class Descent(NamedTuple):
    """What loss and gradient say of a direction.

    Attributes:
      slopes: decrease of the loss a unit of step size, by group.  # f[G]
      is_finite: whether loss, gradient and direction all are.  # bool[]
    """

    slopes: jax.Array
    is_finite: jax.Array


Along: TypeAlias = Callable[[Leaves], Descent]
"""From a direction to what the batch says of it."""


def descent(
    grouping: Grouping, value: jax.Array, grads: Leaves, direction: Leaves
) -> Descent:
    """Returns slopes; any NaN or infinity in gradient or direction makes its slope one.

    They are summed once a step, which is all that the search adds to what devices send.
    """
    fall = slopes(grouping, grads, direction)
    is_finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(fall))
    return Descent(fall, on_its_own(is_finite))


class Directions(NamedTuple):
    """Steps a unit of step size, to be added to params; one entry a trainable leaf.

    Attributes:
      kept: along which params move.
      searched: along which trials are made; may be `kept` itself.
      descent: what the batch says of `searched`.
      keeps_trial: whether groups that are searched in a step move along `searched`
        after all, to the very point that was tested.
      is_held_out: whether params came along `searched` in the last step.
    """

    kept: Leaves
    searched: Leaves
    descent: Descent
    keeps_trial: bool = False
    is_held_out: bool = False


class Direction(NamedTuple):
    """How gradients become directions.

    Attributes:
      init: ``(grouping, params) -> state``.
      update: ``(grouping, state, grads, along) -> (Directions, state)``, with one
        gradient a trainable leaf, and the state as it was unless all is finite
        ``along`` the direction that is searched.
    """

    init: Callable[[Grouping, Any], Any]
    update: Callable[..., tuple[Directions, Any]]


def steepest_descent() -> Direction:
    r"""The direction :math:`-g`, of stochastic gradient descent."""

    def init(grouping: Grouping, params: Any) -> optax.EmptyState:
        del grouping, params
        return optax.EmptyState()

    def update(
        grouping: Grouping, state: Any, grads: Leaves, along: Along
    ) -> tuple[Directions, Any]:
        del grouping
        direction = [-g for g in grads]
        return Directions(direction, direction, along(direction)), state

    return Direction(init, update)
