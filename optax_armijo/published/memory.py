"""State between steps: averages for the test of sufficient decrease, and turns.

Shapes: G groups.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo._numerics import divide

IMPACT_DECAY = 0.9  # decay of the average decrease that a group's searches brought
INIT_IMPACT = 1e-4  # that average before the first search of a group
BASE, GROWTH = 0.2, 0.05  # what waiting adds to a group's weight: b and r in `Weights`
# Number of first steps that all have a search, and the longest wait after them.
WARMUP_STEPS, MAX_INTERVAL = 9, 10
FAST_DECAY, SLOW_DECAY = 0.9, 0.99  # decays of the averages of step sizes
INIT_AVERAGE = 1e-8  # of both: far below any step size, so that they differ at first


class LossAverage(NamedTuple):
    r"""Zhang and Hager's average of the losses, for a non-monotone test.

    .. math::
      Q_k = \xi Q_{k-1} + 1, \qquad C_k = (\xi Q_{k-1} C_{k-1} + f_k(w_k)) / Q_k

    Armijo's test then uses :math:`\max(C_k, f_k(w_k))` as the loss at params (Zhang and
    Hager 2004; for stochastic losses arXiv 2306.12747, equation 4).

    Attributes:
      average: the average of the losses so far, C.  # f[]
      weight: the sum of their weights, Q.  # f[]
    """

    average: jax.Array
    weight: jax.Array

    def after(self, decay: float, loss: jax.Array) -> "LossAverage":
        r"""Returns the average with another loss in it; `decay` is :math:`\xi`."""
        weight = decay * self.weight + 1
        total = decay * self.weight * self.average + loss
        return LossAverage(total / weight, weight)


class Smoothing(NamedTuple):
    r"""Armijo's test with both of its sides averaged over the searches of a group.

    .. math::
      h_l &\leftarrow \beta h_l + (1 - \beta)\,\rho_l (f(w) - f(w + u)), \qquad
      \bar s_l \leftarrow \beta \bar s_l + (1 - \beta) s_l \\
      & \sum_l h_l \ge c \sum_l \eta_l \bar s_l

    The sums run over the groups that move. The decrease of a joint trial is divided
    among them in proportion to what was predicted, :math:`\rho_l = \eta_l s_l / \sum_k
    \eta_k s_k`. Averages start from zero, and only an accepted trial enters them (arXiv
    2407.20650, equations 8 to 10). One noisy batch moves the step size less.

    Attributes:
      decay: :math:`\beta`, in [0, 1).
      debias: whether averages are divided by :math:`1 - \beta^k`, with k the number of
        searches in them.
      allows_ascent: whether directions that ascend on this batch are searched too, as
        long as the averages allow; where the averaged slope is negative, c becomes
        1 / c (released code of arXiv 2403.18519).
    """

    decay: float
    debias: bool = False
    allows_ascent: bool = False


class SmoothedSides(NamedTuple):
    """The averages of both sides.

    Attributes:
      decrease: average of the group's share in the decrease of the loss.  # f[G]
      slopes: average slopes of the direction.  # f[G]
      num_searches: number of searches in the averages.  # i32[G]
    """

    decrease: jax.Array
    slopes: jax.Array
    num_searches: jax.Array

    def after(
        self,
        smoothing: Smoothing,
        decrease: jax.Array,
        step_size: jax.Array,
        slopes: jax.Array,
    ) -> "SmoothedSides":
        """Adds a trial to the averages, with its decrease divided among the groups.

        Args:
          smoothing: how to average.
          decrease: the decrease of the loss by the trial, shape [].
          step_size: step sizes of the groups that it moves, 0 for others, shape [G].
          slopes: shape [G].
        """
        decay = smoothing.decay
        shared = shares(step_size, slopes) * decrease
        return SmoothedSides(
            decrease=decay * self.decrease + (1 - decay) * shared,
            slopes=decay * self.slopes + (1 - decay) * slopes,
            num_searches=self.num_searches + 1,
        )

    def passes(
        self, smoothing: Smoothing, step_size: jax.Array, c: jax.Array
    ) -> jax.Array:
        """Tells whether a trial that is already in the averages passes, bool[]."""
        weight = jnp.ones_like(step_size)
        if smoothing.debias:
            count = self.num_searches.astype(step_size.dtype)
            weight = 1 / (1 - smoothing.decay**count)
        weight = jnp.where(step_size > 0, weight, 0)
        required = jnp.sum(weight * step_size * self.slopes)
        if smoothing.allows_ascent:
            c = jnp.where(required > 0, c, 1 / c)
        return jnp.sum(weight * self.decrease) >= c * required


def shares(step_size: jax.Array, slopes: jax.Array) -> jax.Array:
    """Returns each group's share in the predicted decrease, [G]; 0 if that is 0."""
    parts = jnp.where(step_size > 0, jnp.abs(step_size * slopes), 0)
    total = jnp.sum(parts)
    return divide(parts, total, 0)


def next_in_cycle(turn: jax.Array, eligible: jax.Array) -> jax.Array:
    """Returns the first eligible group from `turn` on (arXiv 2403.18506), i32[]."""
    num_groups = eligible.shape[0]
    groups = jnp.arange(num_groups, dtype=jnp.int32)
    distance = jnp.where(eligible, (groups - turn) % num_groups, num_groups)
    return jnp.argmin(distance).astype(jnp.int32)


class Weights(NamedTuple):
    r"""Weights by which groups are searched more often if that lowered the loss.

    .. math:: p_l = b\, 2^{r n_l} + \frac{i_l}{\sum_k i_k}

    with :math:`n_l` the number of choices since group l was last chosen and :math:`i_l`
    the running average of the decrease that its searches brought (``impact_mag`` in the
    code of arXiv 2403.18506, which its released version never runs). That code draws
    groups with these weights. Here each group collects its share as credit; the one
    with most credit is chosen and pays one. So turns come as often as in the mean of
    the draws, every run is the same, and no group waits for ever.

    Attributes:
      impact: running average of the decrease that its searches brought.  # f[G]
      waited: number of choices since it was last chosen.  # i32[G]
      credit: how far it is behind its due number of turns.  # f[G]
    """

    impact: jax.Array
    waited: jax.Array
    credit: jax.Array

    @classmethod
    def init(cls, num_groups: int, dtype: Any) -> "Weights":
        """Returns equal weights."""
        return cls(
            impact=jnp.full((num_groups,), INIT_IMPACT, dtype),
            waited=jnp.zeros(num_groups, jnp.int32),
            credit=jnp.zeros(num_groups, dtype),
        )

    def next(self, eligible: jax.Array) -> tuple[jax.Array, "Weights"]:
        """Returns the eligible group with most credit, i32[], and the new weights."""
        groups = jnp.arange(eligible.shape[0], dtype=jnp.int32)
        # Above 2^64 one group has all the weight anyway.
        urgency = jnp.minimum(GROWTH * self.waited.astype(self.credit.dtype), 64)
        weight = BASE * 2**urgency + self.impact / jnp.sum(self.impact)
        credit = self.credit + weight / jnp.sum(weight)
        turn = jnp.argmax(jnp.where(eligible, credit, -jnp.inf)).astype(jnp.int32)
        is_chosen = groups == turn
        waited = jnp.where(is_chosen, 0, self.waited + 1)
        return turn, Weights(self.impact, waited, credit - is_chosen)

    def after(
        self, searched: jax.Array, accepted: jax.Array, decrease: jax.Array
    ) -> "Weights":
        """Adds what the searches of a step brought; all are of shape [G]."""
        # A failed search brought nothing. An average of zeros keeps a tiny weight.
        gain = jnp.where(accepted, jnp.maximum(decrease, 0), 0)
        impact = IMPACT_DECAY * self.impact + (1 - IMPACT_DECAY) * gain
        impact = jnp.maximum(impact, jnp.finfo(impact.dtype).tiny)
        return self._replace(impact=jnp.where(searched, impact, self.impact))


class Changes(NamedTuple):
    r"""How much step sizes change, and so how often they are searched.

    Let :math:`r = \max(fast / slow, slow / fast)`. A search is due in the first steps,
    and when at least

    .. math:: \min\left(n_{max}, \frac{1}{r - 1}\right)

    steps have passed since the last one (arXiv 2407.20650, section III). All constants
    are those of the released code.

    Attributes:
      fast: average of the step sizes found, with a fast decay.  # f[G]
      slow: the same with a slow decay.  # f[G]
      waited: number of steps since the last search.  # i32[]
    """

    fast: jax.Array
    slow: jax.Array
    waited: jax.Array

    @classmethod
    def init(cls, num_groups: int, dtype: Any) -> "Changes":
        """Returns averages that are far from any step size."""
        return cls(
            fast=jnp.full((num_groups,), INIT_AVERAGE, dtype),
            slow=jnp.full((num_groups,), INIT_AVERAGE, dtype),
            waited=jnp.zeros([], jnp.int32),
        )

    def is_due(self, num_steps: jax.Array) -> jax.Array:
        """Tells whether a search is due at the step after `num_steps`, bool[]."""
        ratio = self.fast / self.slow
        change = jnp.max(jnp.maximum(ratio, 1 / ratio)) - 1
        # `waited * change >= 1` avoids a division by a change of zero.
        waited = self.waited + 1
        is_late = (waited >= MAX_INTERVAL) | (waited * change >= 1)
        return is_late | (num_steps < WARMUP_STEPS)

    def after(self, searched: jax.Array, step_size: jax.Array) -> "Changes":
        """Adds the step sizes of the groups that were searched, both [G]."""

        def mixed(decay: float, average: jax.Array) -> jax.Array:
            new = decay * average + (1 - decay) * step_size
            return jnp.where(searched, new, average)

        return Changes(
            fast=mixed(FAST_DECAY, self.fast),
            slow=mixed(SLOW_DECAY, self.slow),
            waited=jnp.where(jnp.any(searched), 0, self.waited + 1),
        )


def combine(
    merged: jax.Array, step_size: jax.Array, threshold: float
) -> tuple[jax.Array, jax.Array]:
    r"""Merges the two groups with the smallest step sizes once the smallest collapses.

    When the smallest step size is below the threshold, the two groups with the smallest
    step sizes become one: they share their turn, are searched by a common factor, and
    step by the mean of their step sizes (arXiv 2403.18506, section IV, ``combine`` in
    its code). At most one pair is merged per step. The state holds which groups are
    merged, so that nothing is recompiled.

    Args:
      merged: the number under which each group is searched, which is the lowest of the
        groups merged with it, i32[G].
      step_size: f[G].
      threshold: at least 0.

    Returns:
      The new `merged` and `step_size`.
    """
    groups = jnp.arange(merged.shape[0], dtype=jnp.int32)
    sizes = jnp.where(merged == groups, step_size, jnp.inf)
    smallest = jnp.argmin(sizes).astype(jnp.int32)
    others = jnp.where(groups == smallest, jnp.inf, sizes)
    second = jnp.argmin(others).astype(jnp.int32)
    collapses = (sizes[smallest] < threshold) & jnp.isfinite(others[second])
    is_part = collapses & ((merged == smallest) | (merged == second))
    mean = (sizes[smallest] + sizes[second]) / 2
    return (
        jnp.where(is_part, jnp.minimum(smallest, second), merged),
        jnp.where(is_part, mean, step_size),
    )
