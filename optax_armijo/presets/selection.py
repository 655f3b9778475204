"""Whose turn is it? Which groups are searched, how often, and which as one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo._checks import check_range
from optax_armijo.presets.method import (
    Frequency,
    Merging,
    Outcome,
    Selection,
    no_state,
    unchanged,
)


def cycle() -> Selection:
    """One group in turn (arXiv 2403.18506): the next one that is due.

    Example:
      >>> import jax.numpy as jnp
      >>> selection = cycle()
      >>> state = selection.init(3, jnp.float32)
      >>> eligible = jnp.array([True, False, True])
      >>> for _ in range(3):
      ...   chosen, state = selection.choose(state, eligible)
      ...   print(chosen.tolist())
      [True, False, False]
      [False, False, True]
      [True, False, False]
    """

    def init(_num_groups: int, _dtype: jnp.dtype) -> jax.Array:
        return jnp.zeros([], jnp.int32)

    def choose(turn: jax.Array, eligible: jax.Array) -> tuple[jax.Array, jax.Array]:
        num_groups = eligible.shape[0]
        groups = jnp.arange(num_groups, dtype=jnp.int32)
        distance = jnp.where(eligible, (groups - turn) % num_groups, num_groups)
        chosen = jnp.argmin(distance).astype(jnp.int32)
        next_turn = (chosen + 1) % num_groups
        return (
            eligible & (groups == chosen),
            jnp.where(jnp.any(eligible), next_turn, turn),
        )

    return Selection(init, choose, unchanged)


def joint() -> Selection:
    """All groups by a common factor: one search a step (arXiv 2403.18506, section 2).

    Example:
      >>> import jax.numpy as jnp, optax_armijo
      >>> f = lambda p: p["a"] ** 2 + p["b"] ** 2
      >>> params, grads = {"a": 3.0, "b": 4.0}, {"a": 6.0, "b": 8.0}
      >>> tx = optax_armijo.adamsls({"a": "a", "b": "b"})  # searches so
      >>> _, state = tx.update(
      ...     grads, tx.init(params), params, value=f(params), value_fn=f)
      >>> info = optax_armijo.armijo_info(state)
      >>> bool(info.num_evaluations == info.num_trials[0] == info.num_trials[1])
      True
    """

    def choose(state: Any, eligible: jax.Array) -> tuple[jax.Array, Any]:
        return eligible, state

    return Selection(no_state, choose, unchanged, is_joint=True)


class WeightedState(NamedTuple):
    """What `weighted` remembers, by group.

    Attributes:
      impact: running average of the decrease that its searches brought.  # f[G]
      waited: choices since it was chosen last.  # i32[G]
      credit: how far it is behind its due number of turns.  # f[G]
    """

    impact: jax.Array
    waited: jax.Array
    credit: jax.Array


IMPACT_DECAY = 0.9
"""Of the average of the decrease that a group's searches brought."""

INIT_IMPACT = 1e-4
"""That average before the first search of a group."""

BASE, GROWTH = 0.2, 0.05
"""How much of a group's weight comes from waiting: b and r in `weighted`."""


def weighted() -> Selection:
    r"""One group a step, oftener the ones whose searches lowered the loss.

    .. math:: p_l = b\, 2^{r n_l} + \frac{i_l}{\sum_k i_k}

    with :math:`n_l` the choices since group l was chosen last and :math:`i_l` the
    running average of the decrease that its searches brought (``impact_mag`` in the
    code of arXiv 2403.18506, which its released version never runs). There groups are
    drawn with these weights; here each collects its share as credit, the one with most
    is chosen and pays one, so that turns come as often as in the mean of the draws, the
    same in every run, and no group waits for ever.

    Example:
      >>> import jax.numpy as jnp
      >>> selection = weighted()
      >>> state = selection.init(2, jnp.float32)._replace(impact=jnp.array([0.9, 0.1]))
      >>> turns = []
      >>> for _ in range(8):
      ...   chosen, state = selection.choose(state, jnp.array([True, True]))
      ...   turns.append(int(chosen.argmax()))
      >>> turns.count(0), turns.count(1)
      (6, 2)
    """

    def init(num_groups: int, dtype: jnp.dtype) -> WeightedState:
        return WeightedState(
            impact=jnp.full((num_groups,), INIT_IMPACT, dtype),
            waited=jnp.zeros(num_groups, jnp.int32),
            credit=jnp.zeros(num_groups, dtype),
        )

    def choose(
        state: WeightedState, eligible: jax.Array
    ) -> tuple[jax.Array, WeightedState]:
        groups = jnp.arange(eligible.shape[0], dtype=jnp.int32)
        # From 2^64 on one group has all the weight anyway.
        urgency = jnp.minimum(GROWTH * state.waited.astype(state.credit.dtype), 64)
        weight = BASE * 2**urgency + state.impact / jnp.sum(state.impact)
        credit = state.credit + weight / jnp.sum(weight)
        best = jnp.argmax(jnp.where(eligible, credit, -jnp.inf)).astype(jnp.int32)
        chosen = eligible & (groups == best)
        new = WeightedState(
            impact=state.impact,
            waited=jnp.where(chosen, 0, state.waited + 1),
            credit=credit - chosen,
        )
        is_any = jnp.any(eligible)
        kept = (jnp.where(is_any, x, old) for x, old in zip(new, state, strict=True))
        return chosen, WeightedState(*kept)

    def update(state: WeightedState, outcome: Outcome) -> WeightedState:
        decrease = outcome.share * outcome.actual_decrease
        # A search that failed brought nothing; an average of zeros keeps its weight.
        gain = jnp.where(outcome.accepted, jnp.maximum(decrease, 0), 0)
        impact = IMPACT_DECAY * state.impact + (1 - IMPACT_DECAY) * gain
        smallest = jnp.finfo(impact.dtype).tiny
        impact = jnp.where(
            outcome.searched, jnp.maximum(impact, smallest), state.impact
        )
        return WeightedState(impact, state.waited, state.credit)

    return Selection(init, choose, update)


def every_step() -> Frequency:
    """Groups are due in every step."""

    def due(_: Any, num_steps: jax.Array) -> jax.Array:
        return jnp.ones_like(num_steps, jnp.bool_)

    return Frequency(no_state, due, unchanged)


class AdaptiveState(NamedTuple):
    """What `adaptive` remembers.

    Attributes:
      fast: average of the step sizes found, quick to forget.  # f[G]
      slow: the same, slow to forget.  # f[G]
      waited: steps since the last search.  # i32[]
    """

    fast: jax.Array
    slow: jax.Array
    waited: jax.Array


WARMUP_STEPS, MAX_INTERVAL = 9, 10
"""So many first steps are due; later ones after so many steps at the latest."""

FAST_DECAY, SLOW_DECAY = 0.9, 0.99
"""Of the averages of step sizes."""

INIT_AVERAGE = 1e-8
"""Where both averages begin: far below any step size, so that they differ at first."""


def adaptive() -> Frequency:
    r"""Searches as often as the step sizes change (arXiv 2407.20650, section III).

    Of the step sizes found, a fast and a slow average are kept. With
    :math:`r = \max(fast / slow, slow / fast)`, groups are due in the first steps, and
    when at least

    .. math:: \min\left(n_{max}, \frac{1}{r - 1}\right)

    steps have passed since the last search. All numbers are those of the released code.

    Example:
      >>> import jax.numpy as jnp
      >>> steady = AdaptiveState(jnp.array([0.1]), jnp.array([0.1]), jnp.array(5))
      >>> changing = steady._replace(fast=jnp.array([0.15]))  # every 2 steps
      >>> [bool(adaptive().due(x, jnp.array(99))) for x in (steady, changing)]
      [False, True]
    """

    def init(num_groups: int, dtype: jnp.dtype) -> AdaptiveState:
        return AdaptiveState(
            fast=jnp.full((num_groups,), INIT_AVERAGE, dtype),
            slow=jnp.full((num_groups,), INIT_AVERAGE, dtype),
            waited=jnp.zeros([], jnp.int32),
        )

    def due(state: AdaptiveState, num_steps: jax.Array) -> jax.Array:
        ratio = state.fast / state.slow
        change = jnp.max(jnp.maximum(ratio, 1 / ratio)) - 1
        # `waited * change >= 1`, rather than a division by a change of zero.
        waited = state.waited + 1
        is_due = (waited >= MAX_INTERVAL) | (waited * change >= 1)
        return is_due | (num_steps < WARMUP_STEPS)

    def update(state: AdaptiveState, outcome: Outcome) -> AdaptiveState:
        def mixed(decay: float, average: jax.Array) -> jax.Array:
            new = decay * average + (1 - decay) * outcome.step_size
            return jnp.where(outcome.searched, new, average)

        return AdaptiveState(
            fast=mixed(FAST_DECAY, state.fast),
            slow=mixed(SLOW_DECAY, state.slow),
            waited=jnp.where(jnp.any(outcome.searched), 0, state.waited + 1),
        )

    return Frequency(init, due, update)


def separate() -> Merging:
    """Merges nothing: every group keeps its own turn and step size."""

    def merge(merged: jax.Array, step_size: jax.Array) -> tuple[jax.Array, jax.Array]:
        return merged, step_size

    return merge


def combine(threshold: float) -> Merging:
    r"""Merges the two groups with the smallest step sizes once the smallest collapses.

    When the smallest step size is below the threshold, the two groups with the smallest
    ones are one from then on: they share their turn, are searched by a common factor,
    and step by the mean of their step sizes (arXiv 2403.18506, section IV, ``combine``
    in its code). At most one pair is merged in a step. Which groups are one is state:
    nothing is compiled anew.

    Raises:
      ValueError: the threshold is below 0.

    Example:
      >>> import jax.numpy as jnp
      >>> merged, step_size = combine(1e-6)(
      ...     jnp.arange(3), jnp.array([2e-7, 1e-3, 4e-7]))
      >>> merged.tolist(), [f"{x:.0e}" for x in step_size.tolist()]
      ([0, 1, 0], ['3e-07', '1e-03', '3e-07'])
    """
    check_range("merge_below", threshold, at_least=0)

    def merge(merged: jax.Array, step_size: jax.Array) -> tuple[jax.Array, jax.Array]:
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

    return merge
