"""When is a group due for a search?

In a step in which no group is due, the loop over trials makes no turn: groups move by
the step sizes that they have, and the loss is not evaluated. A group that was never
searched, or whose last search failed, is due whatever these say.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo._checks import check_range
from optax_armijo.presets.policies import Frequency, Outcome, unchanged


def every(k: int = 1, *, per_group: bool = False) -> Frequency:
    """Searches at every k-th step.

    Args:
      k: at least 1.
      per_group: whether groups are due in different steps, group i at steps i, i + k,
        i + 2 k, ..., instead of all at steps 0, k, 2 k, ...

    Raises:
      ValueError: `k` outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> frequency = every(2, per_group=True)
      >>> state = frequency.init(2, jnp.float32)
      >>> [frequency.due(state, jnp.array(step)).tolist() for step in range(2)]
      [[True, False], [False, True]]
    """
    check_range("k", k, at_least=1)

    def init(num_groups: int, _: jnp.dtype) -> jax.Array:
        groups = jnp.arange(num_groups, dtype=jnp.int32)
        return groups % k if per_group else jnp.zeros_like(groups)

    def due(offset: jax.Array, num_steps: jax.Array) -> jax.Array:
        return num_steps % k == offset

    return Frequency(init, due, unchanged)


class AdaptiveState(NamedTuple):
    """What `adaptive` remembers, by group.

    Attributes:
      fast: average of the step sizes found, quick to forget.  # f[G]
      slow: the same, slow to forget.  # f[G]
      waited: steps since the last search.  # i32[G]
    """

    fast: jax.Array
    slow: jax.Array
    waited: jax.Array


def adaptive(
    max_interval: int = 10,
    *,
    warmup_steps: int = 9,
    fast_decay: float = 0.9,
    slow_decay: float = 0.99,
    init_average: float = 1e-8,
    per_group: bool = False,
) -> Frequency:
    r"""Searches as often as the step sizes change (arXiv 2407.20650, section III).

    Of the step sizes found, a fast and a slow average are kept. With
    :math:`r = \max(fast / slow, slow / fast)`, a group is due in the first steps, and
    when at least

    .. math:: \min\left(n_{max}, \frac{1}{r - 1}\right)

    steps have passed since its last search.

    Args:
      max_interval: :math:`n_{max}`, at least 1.
      warmup_steps: that many first steps are due; the released code searches in the
        first nine, at least 0.
      fast_decay: in [0, 1).
      slow_decay: in [0, 1).
      init_average: where both averages begin, above 0. It is far below any step size,
        so that the averages differ and searches are frequent at first, as released.
      per_group: whether each group goes by its own averages and its own last search,
        or all are due when one is.

    Raises:
      ValueError: an argument outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> frequency = adaptive(warmup_steps=0)
      >>> steady = AdaptiveState(jnp.array([0.1]), jnp.array([0.1]), jnp.array([5]))
      >>> changing = steady._replace(fast=jnp.array([0.15]))  # every 2 steps
      >>> [frequency.due(x, jnp.array(99)).tolist() for x in (steady, changing)]
      [[False], [True]]
    """
    check_range("max_interval", max_interval, at_least=1)
    check_range("warmup_steps", warmup_steps, at_least=0)
    check_range("fast_decay", fast_decay, at_least=0, below=1)
    check_range("slow_decay", slow_decay, at_least=0, below=1)
    check_range("init_average", init_average, above=0)

    def init(num_groups: int, dtype: jnp.dtype) -> AdaptiveState:
        return AdaptiveState(
            fast=jnp.full((num_groups,), init_average, dtype),
            slow=jnp.full((num_groups,), init_average, dtype),
            waited=jnp.zeros(num_groups, jnp.int32),
        )

    def due(state: AdaptiveState, num_steps: jax.Array) -> jax.Array:
        ratio = state.fast / state.slow
        change = jnp.maximum(ratio, 1 / ratio) - 1
        # `waited * change >= 1`, rather than a division by a change of zero.
        waited = state.waited + 1
        is_due = (waited >= max_interval) | (waited * change >= 1)
        is_due |= num_steps < warmup_steps
        return is_due if per_group else jnp.broadcast_to(jnp.any(is_due), is_due.shape)

    def update(state: AdaptiveState, outcome: Outcome) -> AdaptiveState:
        def mixed(decay: float, average: jax.Array) -> jax.Array:
            new = decay * average + (1 - decay) * outcome.step_size
            return jnp.where(outcome.searched, new, average)

        is_reset = outcome.searched if per_group else jnp.any(outcome.searched)
        return AdaptiveState(
            fast=mixed(fast_decay, state.fast),
            slow=mixed(slow_decay, state.slow),
            waited=jnp.where(is_reset, 0, state.waited + 1),
        )

    return Frequency(init, due, update)
