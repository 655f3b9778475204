"""Directions of trials and of steps: along the gradient, or from Adam's moments.

All lists have one array per trainable leaf.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_armijo._numerics import increment, search_dtype
from optax_armijo._types import Scalar
from optax_armijo.labels.grouping import Grouping
from optax_armijo.search.directions import (
    Leaves,
    debias,
    inverse_root,
    products,
    update_moment,
)
from optax_armijo.search.placement import build_beside
from optax_armijo.search.transformation import Batch


class Adam(NamedTuple):
    r"""Adam's direction, without momentum or with it.

    .. math::
      m \leftarrow b_1 m + (1 - b_1) g, \quad v \leftarrow b_2 v + (1 - b_2) g^2, \quad
      P = \frac{1}{\sqrt{v / (1 - b_2^k)} + \epsilon}

    Here k is the number of good batches so far. The plain direction is :math:`-P g`,
    and that of momentum is :math:`-P m / (1 - b_1^k)` (arXiv 2403.18506, section 2).

    Attributes:
      b1: in [0, 1).
      b2: in [0, 1).
      eps: above 0.
      momentum: ``"none"``: trials and params go along the plain direction. ``"kept"``:
        trials go along the plain direction, params along that of momentum.
        ``"unsearched"``: the same, except that groups that are searched go to their
        trial. ``"searched"``: trials and params go along the direction of momentum.
      amsgrad: whether P uses the largest v so far instead of v (arXiv 2006.06835).
      count_ahead: added to k (the released code of arXiv 2407.20650 is ahead by one).
    """

    b1: Scalar
    b2: Scalar
    eps: Scalar
    momentum: Literal["none", "kept", "unsearched", "searched"]
    amsgrad: bool = False
    count_ahead: int = 0


def init_moments(grouping: Grouping, params: Any, adam: Adam | None) -> Any:
    """Returns optax's state of Adam or AMSGrad with zeros in float32 or wider.

    Without Adam it is a tree without arrays that tells which leaves are frozen.
    """
    if adam is None:
        return grouping.masked([()] * len(grouping.moving))

    count = build_beside(params, lambda: jnp.zeros([], jnp.int32))
    has_mu = adam.momentum != "none"
    mu = grouping.zeros_like(params) if has_mu else optax.EmptyState()
    nu = grouping.zeros_like(params)
    if adam.amsgrad:
        return optax.ScaleByAmsgradState(count, mu, nu, grouping.zeros_like(params))
    return optax.ScaleByAdamState(count, mu, nu)


def update_moments(
    grouping: Grouping, adam: Adam | None, moments: Any, grads: Leaves
) -> Any:
    """Adds a gradient to the moments."""
    if adam is None:
        return moments

    def updated(tree: Any, decay: Scalar, order: int) -> Any:
        old = grouping.trainable(tree)
        return grouping.masked(update_moment(old, grads, decay, order))

    mu = moments.mu
    if adam.momentum != "none":
        mu = updated(mu, adam.b1, 1)
    nu = updated(moments.nu, adam.b2, 2)
    moments = moments._replace(count=increment(moments.count), mu=mu, nu=nu)
    if adam.amsgrad:
        nu_max = jax.tree.map(jnp.maximum, moments.nu_max, nu)
        moments = moments._replace(nu_max=nu_max)
    return moments


def trial_direction(
    grouping: Grouping,
    adam: Adam | None,
    moments: Any,
    batch: Batch,
    *,
    needs_descent: bool,
) -> Leaves:
    """Returns the direction of trials, NaN where a gradient's square overflows.

    Args:
      grouping: the groups of the leaves.
      adam: None for the gradient alone.
      moments: the moments with this batch's gradient in them.
      batch: the batch that is searched on.
      needs_descent: whether a group in which the momentum does not descend goes along
        the plain direction.
    """
    grads = [g.astype(search_dtype([g])) for g in batch.updates]
    if adam is None:
        return [-g for g in grads]
    pairs = zip(grads, _scales(grouping, adam, moments), strict=True)
    direction = [-g * p for g, p in pairs]
    if adam.momentum == "searched":
        plain, direction = direction, _along_momentum(grouping, adam, moments)
        if needs_descent:
            slopes = grouping.by_group(products(grouping, batch.grads, direction))
            direction = choose(grouping, slopes < 0, direction, plain)
    pairs = zip(direction, grouping.trainable(moments.nu), strict=True)
    return [jnp.where(v < jnp.inf, d, jnp.nan) for d, v in pairs]


def step_direction(
    grouping: Grouping,
    adam: Adam | None,
    moments: Any,
    of_trials: Leaves,
    searched: jax.Array,
) -> Leaves:
    """Returns the direction along which params move.

    Args:
      grouping: the groups of the leaves.
      adam: None for the gradient alone.
      moments: the moments to continue with. Since the direction is made from these, and
        not from those before a bad batch is left out, the scales of the trials need not
        be kept meanwhile.
      of_trials: the direction of trials.
      searched: which groups were searched, bool[G].
    """
    if adam is None or adam.momentum in ("none", "searched"):
        return of_trials
    direction = _along_momentum(grouping, adam, moments)
    if adam.momentum == "unsearched":
        return choose(grouping, searched, of_trials, direction)
    return direction


def _along_momentum(grouping: Grouping, adam: Adam, moments: Any) -> list[jax.Array]:
    """Returns ``-P m / (1 - b1 ** k)``."""
    mu = grouping.trainable(moments.mu)
    means = debias(mu, adam.b1, _count(adam, moments))
    pairs = zip(means, _scales(grouping, adam, moments), strict=True)
    return [-m * p for m, p in pairs]


def _scales(grouping: Grouping, adam: Adam, moments: Any) -> list[jax.Array]:
    """Returns P."""
    squares = grouping.trainable(moments.nu_max if adam.amsgrad else moments.nu)
    return inverse_root(debias(squares, adam.b2, _count(adam, moments)), adam.eps)


def _count(adam: Adam, moments: Any) -> jax.Array:
    """Returns k; 1 before the first good batch, while moments are zero."""
    return jnp.maximum(moments.count + adam.count_ahead, 1)


def choose(
    grouping: Grouping, condition: jax.Array, if_true: Leaves, if_false: Leaves
) -> list[jax.Array]:
    """Takes the leaves of `if_true` in the groups where `condition`, bool[G], holds."""
    entries = zip(grouping.spread(condition), if_true, if_false, strict=True)
    return [jnp.where(is_true, x, y) for is_true, x, y in entries]
