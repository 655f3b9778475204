"""Adam's moments and the directions that they give, guarded against bad batches."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_armijo._grouping import Grouping
from optax_armijo._numerics import search_dtype
from optax_armijo._steps import slopes
from optax_armijo._types import Momentum


class Directions(NamedTuple):
    """Where to search and where to go, to be added to params.

    Attributes:
      kept: along which the step goes; structured like params.
      searched: along which trials are made; None for along `kept`.
    """

    kept: Any
    searched: Any = None


def init_moments(
    grouping: Grouping, params: Any, momentum: Momentum
) -> optax.ScaleByAdamState:
    """Returns zero moments, in float32 or wider, for the leaves that move."""
    leaves = grouping.trainable(params)

    def zeros() -> Any:
        return grouping.masked([jnp.zeros_like(x, _moment_dtype(x)) for x in leaves])

    return optax.ScaleByAdamState(
        count=jnp.zeros([], jnp.int32),
        mu=optax.EmptyState() if momentum == "none" else zeros(),
        nu=zeros(),
    )


def is_good_batch(value: jax.Array, grads: Sequence[jax.Array]) -> jax.Array:
    """Tells whether the loss and the squares of all gradients are finite, bool[]."""
    squares = [jnp.sum(jnp.square(g.astype(_moment_dtype(g)))) for g in grads]
    finite = [jnp.isfinite(x) for x in (value, *squares)]
    return jnp.all(jnp.stack(finite))


def update_moments(
    grouping: Grouping,
    moments: optax.ScaleByAdamState,
    grads: Sequence[jax.Array],
    is_good: jax.Array,
    *,
    b1: Any,
    b2: Any,
) -> optax.ScaleByAdamState:
    r"""Takes a gradient into the moments; leaves them as they are on a bad batch.

    .. math::
      m \leftarrow b_1 m + (1 - b_1) g, \quad v \leftarrow b_2 v + (1 - b_2) g^2
    """

    def decayed(decay: Any, order: int, old_tree: Any) -> Any:
        leaves = []
        for old, grad in zip(grouping.trainable(old_tree), grads, strict=True):
            rate = jnp.asarray(decay, old.dtype)
            mixed = rate * old + (1 - rate) * grad.astype(old.dtype) ** order
            leaves.append(jnp.where(is_good, mixed, old))
        return grouping.masked(leaves)

    has_momentum = not isinstance(moments.mu, optax.EmptyState)
    return optax.ScaleByAdamState(
        count=jnp.where(is_good, optax.safe_increment(moments.count), moments.count),
        mu=decayed(b1, 1, moments.mu) if has_momentum else moments.mu,
        nu=decayed(b2, 2, moments.nu),
    )


def directions(
    grouping: Grouping,
    moments: optax.ScaleByAdamState,
    grads: Sequence[jax.Array],
    *,
    momentum: Momentum,
    b1: Any,
    b2: Any,
    eps: Any,
) -> Directions:
    r"""Returns the directions of a step.

    With :math:`P = 1 / (\sqrt{v / (1 - b_2^k)} + \epsilon)`, the plain direction is
    :math:`-P g` and that of momentum :math:`-P m / (1 - b_1^k)` (arXiv 2403.18506,
    section 2; k counts the good batches).
    """
    count = jnp.asarray(moments.count)
    scales = [
        1 / (jnp.sqrt(_debias(nu, b2, count)) + jnp.asarray(eps, nu.dtype))
        for nu in grouping.trainable(moments.nu)
    ]
    plain = [-g.astype(p.dtype) * p for g, p in zip(grads, scales, strict=True)]
    if momentum == "none":
        return Directions(kept=grouping.masked(plain))
    with_momentum = [
        -_debias(mu, b1, count) * p
        for mu, p in zip(grouping.trainable(moments.mu), scales, strict=True)
    ]
    if momentum == "kept":
        return Directions(
            kept=grouping.masked(with_momentum), searched=grouping.masked(plain)
        )
    safe = _descending(grouping, grads, with_momentum, otherwise=plain)
    return Directions(kept=grouping.masked(safe))


def _descending(
    grouping: Grouping,
    grads: Sequence[jax.Array],
    preferred: Sequence[jax.Array],
    *,
    otherwise: Sequence[jax.Array],
) -> list[jax.Array]:
    """Takes `preferred` in the groups in which it descends, else `otherwise`."""
    descends = slopes(grouping, grads, preferred) > 0
    return [
        jnp.where(descends[i], x, y)
        for i, x, y in zip(grouping.trainable_ids, preferred, otherwise, strict=True)
    ]


def _debias(moment: jax.Array, decay: Any, count: jax.Array) -> jax.Array:
    rate = jnp.asarray(decay, moment.dtype)
    # Before the first good batch there is nothing to correct, and nothing moves.
    correction = 1 - rate ** count.astype(moment.dtype)
    return moment / jnp.where(count > 0, correction, 1)


def _moment_dtype(leaf: jax.Array):
    return search_dtype([leaf])
