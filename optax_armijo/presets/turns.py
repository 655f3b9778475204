"""Whose turn is it? Which group is searched, how often, and which as one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


def next_in_cycle(turn: jax.Array, eligible: jax.Array) -> jax.Array:
    """Returns the first eligible group from `turn` on (arXiv 2403.18506), i32[].

    Example:
      >>> import jax.numpy as jnp
      >>> eligible = jnp.array([True, False, True])
      >>> [int(next_in_cycle(turn, eligible)) for turn in range(3)]
      [0, 2, 2]
    """
    num_groups = eligible.shape[0]
    groups = jnp.arange(num_groups, dtype=jnp.int32)
    distance = jnp.where(eligible, (groups - turn) % num_groups, num_groups)
    return jnp.argmin(distance).astype(jnp.int32)


IMPACT_DECAY = 0.9
"""Of the average of the decrease that a group's searches brought."""

INIT_IMPACT = 1e-4
"""That average before the first search of a group."""

BASE, GROWTH = 0.2, 0.05
"""How much of a group's weight comes from waiting: b and r in `Weights`."""


class Weights(NamedTuple):
    r"""By which groups are searched oftener whose searches lowered the loss.

    .. math:: p_l = b\, 2^{r n_l} + \frac{i_l}{\sum_k i_k}

    with :math:`n_l` the choices since group l was chosen last and :math:`i_l` the
    running average of the decrease that its searches brought (``impact_mag`` in the
    code of arXiv 2403.18506, which its released version never runs). There groups are
    drawn with these weights; here each collects its share as credit, the one with most
    is chosen and pays one, so that turns come as often as in the mean of the draws, the
    same in every run, and no group waits for ever.

    Attributes:
      impact: running average of the decrease that its searches brought.  # f[G]
      waited: choices since it was chosen last.  # i32[G]
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
        """Returns the eligible group with most credit, i32[], and what is left then.

        Example:
          >>> import jax.numpy as jnp
          >>> weights = Weights.init(2, jnp.float32)
          >>> weights = weights._replace(impact=jnp.array([0.9, 0.1]))
          >>> turns = []
          >>> for _ in range(8):
          ...   turn, weights = weights.next(jnp.array([True, True]))
          ...   turns.append(int(turn))
          >>> turns.count(0), turns.count(1)
          (6, 2)
        """
        groups = jnp.arange(eligible.shape[0], dtype=jnp.int32)
        # From 2^64 on one group has all the weight anyway.
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
        """Takes in what the searches of a step brought; all are of shape [G]."""
        # A search that failed brought nothing; an average of zeros keeps its weight.
        gain = jnp.where(accepted, jnp.maximum(decrease, 0), 0)
        impact = IMPACT_DECAY * self.impact + (1 - IMPACT_DECAY) * gain
        impact = jnp.maximum(impact, jnp.finfo(impact.dtype).tiny)
        return self._replace(impact=jnp.where(searched, impact, self.impact))


WARMUP_STEPS, MAX_INTERVAL = 9, 10
"""So many first steps are due; later ones after so many steps at the latest."""

FAST_DECAY, SLOW_DECAY = 0.9, 0.99
"""Of the averages of step sizes."""

INIT_AVERAGE = 1e-8
"""Where both averages begin: far below any step size, so that they differ at first."""


class Changes(NamedTuple):
    r"""How much step sizes change, and so how often they are searched.

    With :math:`r = \max(fast / slow, slow / fast)` a search is due in the first steps,
    and when at least

    .. math:: \min\left(n_{max}, \frac{1}{r - 1}\right)

    steps have passed since the last one (arXiv 2407.20650, section III). All numbers
    are those of the released code.

    Attributes:
      fast: average of the step sizes found, quick to forget.  # f[G]
      slow: the same, slow to forget.  # f[G]
      waited: steps since the last search.  # i32[]
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
        """Tells whether a search is due at the step after `num_steps`, bool[].

        Example:
          >>> import jax.numpy as jnp
          >>> steady = Changes(jnp.array([0.1]), jnp.array([0.1]), jnp.array(5))
          >>> changing = steady._replace(fast=jnp.array([0.15]))  # every 2 steps
          >>> [bool(x.is_due(jnp.array(99))) for x in (steady, changing)]
          [False, True]
        """
        ratio = self.fast / self.slow
        change = jnp.max(jnp.maximum(ratio, 1 / ratio)) - 1
        # `waited * change >= 1`, rather than a division by a change of zero.
        waited = self.waited + 1
        is_late = (waited >= MAX_INTERVAL) | (waited * change >= 1)
        return is_late | (num_steps < WARMUP_STEPS)

    def after(self, searched: jax.Array, step_size: jax.Array) -> "Changes":
        """Takes in the step sizes of the groups that were searched, both [G]."""

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
    ones are one from then on: they share their turn, are searched by a common factor,
    and step by the mean of their step sizes (arXiv 2403.18506, section IV, ``combine``
    in its code). At most one pair is merged in a step. Which groups are one is state:
    nothing is compiled anew.

    Args:
      merged: the group under whose number each is searched, the lowest of those that
        are one, i32[G].
      step_size: f[G].
      threshold: at least 0.

    Returns:
      Both as they are from then on.

    Example:
      >>> import jax.numpy as jnp
      >>> merged, step_size = combine(
      ...     jnp.arange(3), jnp.array([2e-7, 1e-3, 4e-7]), 1e-6)
      >>> merged.tolist(), [f"{x:.0e}" for x in step_size.tolist()]
      ([0, 1, 0], ['3e-07', '1e-03', '3e-07'])
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
