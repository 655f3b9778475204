"""Adam's and AMSGrad's moments, and the directions that they give."""

import functools
from collections.abc import Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_armijo._checks import check_choice, check_range
from optax_armijo._numerics import search_dtype
from optax_armijo._types import Momentum, Scalar
from optax_armijo.labels.grouping import Grouping
from optax_armijo.presets.directions import Along, Direction, Directions
from optax_armijo.search.placement import build_beside
from optax_armijo.search.slopes import choose, slopes

AdamState = optax.ScaleByAdamState | optax.ScaleByAmsgradState


def adam(
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    momentum: Momentum = "none",
    amsgrad: bool = False,
    falls_back: bool = True,
    count_ahead: int = 0,
) -> Direction:
    r"""Adam's direction, without momentum or with it.

    .. math::
      m \leftarrow b_1 m + (1 - b_1) g, \quad v \leftarrow b_2 v + (1 - b_2) g^2, \quad
      P = \frac{1}{\sqrt{v / (1 - b_2^k)} + \epsilon}

    With k the number of good batches so far. The plain direction is :math:`-P g`, that
    of momentum :math:`-P m / (1 - b_1^k)` (arXiv 2403.18506, section 2). The held-out
    direction is that of momentum before this batch's gradient entered m, and the plain
    one in the first step.

    Args:
      b1: in [0, 1).
      b2: in [0, 1).
      eps: above 0.
      momentum: `armijo_adam` documents it.
      amsgrad: whether P takes the largest v so far instead of v (arXiv 2006.06835);
        ``"held_out"`` does not know of it.
      falls_back: whether under ``"searched"`` a group in which the momentum direction
        does not descend goes along the plain one.
      count_ahead: added to k (the released code of arXiv 2407.20650 is ahead by one).
    """
    check_range("b1", b1, at_least=0, below=1)
    check_range("b2", b2, at_least=0, below=1)
    check_range("eps", eps, above=0)
    check_choice("momentum", momentum, get_args(Momentum))

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

    def update(
        grouping: Grouping,
        state: AdamState,
        grads: Sequence[jax.Array],
        along: Along,
    ) -> tuple[Directions, AdamState]:
        mixed = _mix_in(grouping, state, grads, b1=b1, b2=b2)
        count = jnp.asarray(mixed.count) + count_ahead
        if momentum == "held_out":
            searched = _unseen(grouping, state, grads, b1=b1, b2=b2, eps=eps)
        else:
            scales = _scales(grouping, mixed, b2=b2, eps=eps, count=count)
            searched = [
                -g.astype(p.dtype) * p for g, p in zip(grads, scales, strict=True)
            ]
            if momentum == "searched":
                heavy = _debiased(grouping.trainable(mixed.mu), b1, count)
                heavy = [-m * p for m, p in zip(heavy, scales, strict=True)]
                if falls_back:
                    descends = slopes(grouping, grads, heavy) > 0
                    heavy = choose(grouping, descends, heavy, searched)
                searched = heavy
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
        heavy = _debiased(grouping.trainable(state.mu), b1, count)
        kept = [-m * p for m, p in zip(heavy, scales, strict=True)]
        directions = Directions(
            kept,
            searched,
            descent,
            keeps_trial=momentum == "unsearched",
            is_held_out=momentum == "held_out",
        )
        return directions, state

    return Direction(init, update)


def _unseen(
    grouping: Grouping,
    state: AdamState,
    grads: Sequence[jax.Array],
    *,
    b1: Scalar,
    b2: Scalar,
    eps: Scalar,
) -> list[jax.Array]:
    """Returns the direction of the momentum before this batch; at first the plain one.

    The second moment is mixed here once more and not taken from where it is kept: one
    kernel a leaf does all, where what two kernels share would be stored between them.
    """
    count = jnp.asarray(state.count)
    momentum = _debiased(grouping.trainable(state.mu), b1, count)
    direction = []
    for g, m, v in zip(grads, momentum, grouping.trainable(state.nu), strict=True):
        g, rate = g.astype(m.dtype), jnp.asarray(b2, v.dtype)
        bias = 1 - rate ** (count + 1).astype(v.dtype)
        v = rate / bias * v + (1 - rate) / bias * jnp.square(g)
        m = jnp.where(count > 0, m, g)
        direction.append(-m / (jnp.sqrt(v) + jnp.asarray(eps, v.dtype)))
    return direction


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
