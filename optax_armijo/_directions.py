"""Where to search and where to go: what a direction is, and the plain gradient's."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import optax

from optax_armijo._grouping import Grouping

IsGoodAlong: TypeAlias = Callable[[Sequence[jax.Array]], jax.Array]
"""From a direction to whether the loss and the slope along it are finite, bool[]."""


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
      update: ``(grouping, state, grads, is_good_along) -> (Directions, state)``, with
        one gradient a trainable leaf, and the state as it was unless the batch
        ``is_good_along`` the direction that is searched.
    """

    init: Callable[[Grouping, Any], Any]
    update: Callable[..., tuple[Directions, Any]]


def steepest_descent() -> Direction:
    r"""The direction :math:`-g`, of stochastic gradient descent."""

    def init(grouping: Grouping, params: Any) -> optax.EmptyState:
        del grouping, params
        return optax.EmptyState()

    def update(
        grouping: Grouping,
        state: Any,
        grads: Sequence[jax.Array],
        is_good_along: IsGoodAlong,
    ) -> tuple[Directions, Any]:
        del grouping, is_good_along
        direction = [-g for g in grads]
        return Directions(kept=direction, searched=direction), state

    return Direction(init, update)
