"""Where to search and where to go: along the gradient, or by Adam's moments."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_armijo._checks import check_range
from optax_armijo._numerics import on_its_own, search_dtype
from optax_armijo._types import Scalar
from optax_armijo.labels.grouping import Grouping
from optax_armijo.search.directions import Leaves, slopes
from optax_armijo.search.placement import build_beside


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
    """

    kept: Leaves
    searched: Leaves
    descent: Descent
    keeps_trial: bool = False


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


AdamState = optax.ScaleByAdamState | optax.ScaleByAmsgradState


def adam(
    *,
    b1: Scalar,
    b2: Scalar,
    eps: Scalar,
    momentum: Literal["none", "kept", "unsearched", "searched"],
    amsgrad: bool = False,
    falls_back: bool = True,
    count_ahead: int = 0,
) -> Direction:
    r"""Adam's direction, without momentum or with it.

    .. math::
      m \leftarrow b_1 m + (1 - b_1) g, \quad v \leftarrow b_2 v + (1 - b_2) g^2, \quad
      P = \frac{1}{\sqrt{v / (1 - b_2^k)} + \epsilon}

    With k the number of good batches so far. The plain direction is :math:`-P g`, that
    of momentum :math:`-P m / (1 - b_1^k)` (arXiv 2403.18506, section 2).

    Args:
      b1: in [0, 1).
      b2: in [0, 1).
      eps: above 0.
      momentum: ``"none"``: all goes along the plain direction. ``"kept"``: trials go
        along the plain one, params along that of momentum. ``"unsearched"``: so too,
        but a group that is searched goes to its trial. ``"searched"``: all goes along
        that of momentum.
      amsgrad: whether P takes the largest v so far instead of v (arXiv 2006.06835).
      falls_back: whether under ``"searched"`` a group in which the momentum direction
        does not descend goes along the plain one.
      count_ahead: added to k (the released code of arXiv 2407.20650 is ahead by one).

    Raises:
      ValueError: a number outside its range.
    """
    check_range("b1", b1, at_least=0, below=1)
    check_range("b2", b2, at_least=0, below=1)
    check_range("eps", eps, above=0)

    def init(grouping: Grouping, params: Any) -> AdamState:
        leaves = grouping.trainable(params)

        def zeros() -> Any:
            return grouping.masked(
                [jnp.zeros_like(x, search_dtype([x])) for x in leaves]
            )

        count = build_beside(params, lambda: jnp.zeros([], jnp.int32))
        mu = optax.EmptyState() if momentum == "none" else zeros()
        if amsgrad:
            return optax.ScaleByAmsgradState(count, mu, zeros(), zeros())
        return optax.ScaleByAdamState(count, mu, zeros())

    def heavy(
        grouping: Grouping, state: AdamState, scales: Leaves, count: jax.Array
    ) -> list[jax.Array]:
        means = _debiased(grouping.trainable(state.mu), b1, count)
        return [-m * p for m, p in zip(means, scales, strict=True)]

    def update(
        grouping: Grouping, state: AdamState, grads: Leaves, along: Along
    ) -> tuple[Directions, AdamState]:
        mixed = _mix_in(grouping, state, grads, b1=b1, b2=b2)
        count = jnp.asarray(mixed.count) + count_ahead
        scales = _scales(grouping, mixed, b2=b2, eps=eps, count=count)
        searched = [-g.astype(p.dtype) * p for g, p in zip(grads, scales, strict=True)]
        if momentum == "searched":
            plain, searched = searched, heavy(grouping, mixed, scales, count)
            if falls_back:
                descends = slopes(grouping, grads, searched) > 0
                searched = choose(grouping, descends, searched, plain)
        # A gradient whose square overflows makes a bad batch too.
        searched = [
            jnp.where(jnp.square(g.astype(d.dtype)) < jnp.inf, d, jnp.nan)
            for g, d in zip(grads, searched, strict=True)
        ]
        descent = along(searched)
        state = jax.tree.map(
            lambda new, old: jnp.where(descent.is_finite, new, old), mixed, state
        )
        if momentum in ("none", "searched"):
            return Directions(searched, searched, descent), state
        # From the moments as they are now, and not from those mixed: so the compiler
        # need not store the scales, or keep them while trials are made.
        count = jnp.asarray(state.count) + count_ahead
        scales = _scales(grouping, state, b2=b2, eps=eps, count=count)
        kept = heavy(grouping, state, scales, count)
        return Directions(kept, searched, descent, momentum == "unsearched"), state

    return Direction(init, update)


def _mix_in(
    grouping: Grouping,
    state: AdamState,
    grads: Sequence[jax.Array],
    *,
    b1: Scalar,
    b2: Scalar,
) -> AdamState:
    """Takes a gradient into the moments."""

    def decayed(decay: Scalar, order: int, old_tree: Any) -> Any:
        leaves = []
        for old, grad in zip(grouping.trainable(old_tree), grads, strict=True):
            rate = jnp.asarray(decay, old.dtype)
            leaves.append(rate * old + (1 - rate) * grad.astype(old.dtype) ** order)
        return grouping.masked(leaves)

    has_momentum = not isinstance(state.mu, optax.EmptyState)
    count = optax.safe_increment(state.count)
    mu = decayed(b1, 1, state.mu) if has_momentum else state.mu
    nu = decayed(b2, 2, state.nu)
    if isinstance(state, optax.ScaleByAmsgradState):
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu)
        return optax.ScaleByAmsgradState(count, mu, nu, nu_max)
    return optax.ScaleByAdamState(count, mu, nu)


def _scales(
    grouping: Grouping, state: AdamState, *, b2: Scalar, eps: Scalar, count: jax.Array
) -> list[jax.Array]:
    is_amsgrad = isinstance(state, optax.ScaleByAmsgradState)
    second = grouping.trainable(state.nu_max if is_amsgrad else state.nu)
    return [
        1 / (jnp.sqrt(nu) + jnp.asarray(eps, nu.dtype))
        for nu in _debiased(second, b2, count)
    ]


def _debiased(
    moments: Sequence[jax.Array], decay: Scalar, count: jax.Array
) -> list[jax.Array]:
    """Divides each moment by ``1 - decay ** count``."""

    @functools.cache
    def correction(dtype: np.dtype) -> jax.Array:
        rate = jnp.asarray(decay, dtype)
        # Before the first good batch there is nothing to correct, and nothing moves.
        return jnp.where(count > 0, 1 - rate ** count.astype(dtype), 1)

    return [moment / correction(moment.dtype) for moment in moments]


def choose(
    grouping: Grouping,
    condition: jax.Array,
    if_true: Leaves,
    if_false: Leaves,
) -> list[jax.Array]:
    """Takes the leaves of `if_true` in the groups where `condition`, [G], holds."""
    return [
        jnp.where(is_true, x, y)
        for is_true, x, y in zip(
            grouping.spread(condition), if_true, if_false, strict=True
        )
    ]
