"""Which groups are searched at a step?"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo._checks import check_range
from optax_armijo.presets.policies import Outcome, Selection, no_state, unchanged


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
    return Selection(no_state, _all, unchanged, is_joint=True)


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


def weighted(
    decay: float = 0.9,
    *,
    init_impact: float = 1e-4,
    base: float = 0.2,
    growth: float = 0.05,
) -> Selection:
    r"""One group a step, oftener the ones whose searches lowered the loss.

    .. math:: p_l = b\, 2^{r n_l} + \frac{i_l}{\sum_k i_k}

    with :math:`n_l` the choices since group l was chosen last and :math:`i_l` the
    running average of the decrease that its searches brought (``impact_mag`` in the
    code of arXiv 2403.18506, which its released version never runs). There groups are
    drawn with these weights; here each collects its share as credit, the one with most
    is chosen and pays one, so that turns come as often as in the mean of the draws, the
    same in every run, and no group waits for ever.

    Args:
      decay: of the average, in [0, 1).
      init_impact: before the first search of a group, above 0.
      base: b, above 0.
      growth: r, at least 0.

    Raises:
      ValueError: an argument outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> selection = weighted(base=1e-3)
      >>> state = selection.init(2, jnp.float32)._replace(impact=jnp.array([0.3, 0.1]))
      >>> turns = []
      >>> for _ in range(4):
      ...   chosen, state = selection.choose(state, jnp.array([True, True]))
      ...   turns.append(int(chosen.argmax()))
      >>> turns.count(0), turns.count(1)
      (3, 1)
    """
    check_range("decay", decay, at_least=0, below=1)
    check_range("init_impact", init_impact, above=0)
    check_range("base", base, above=0)
    check_range("growth", growth, at_least=0)

    def init(num_groups: int, dtype: jnp.dtype) -> WeightedState:
        return WeightedState(
            impact=jnp.full((num_groups,), init_impact, dtype),
            waited=jnp.zeros(num_groups, jnp.int32),
            credit=jnp.zeros(num_groups, dtype),
        )

    def choose(
        state: WeightedState, eligible: jax.Array
    ) -> tuple[jax.Array, WeightedState]:
        groups = jnp.arange(eligible.shape[0], dtype=jnp.int32)
        # From 2^64 on one group has all the weight anyway.
        urgency = jnp.minimum(growth * state.waited.astype(state.credit.dtype), 64)
        weight = base * 2**urgency + state.impact / jnp.sum(state.impact)
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
        impact = decay * state.impact + (1 - decay) * gain
        smallest = jnp.finfo(impact.dtype).tiny
        impact = jnp.where(
            outcome.searched, jnp.maximum(impact, smallest), state.impact
        )
        return WeightedState(impact, state.waited, state.credit)

    return Selection(init, choose, update)


def _all(state: tuple[()], eligible: jax.Array) -> tuple[jax.Array, tuple[()]]:
    return eligible, state
