"""When is a trial good enough? On the average of the last searches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo._checks import check_range
from optax_armijo.presets.policies import Acceptance, Outcome, Trial, unchanged


class SmoothedState(NamedTuple):
    """Running averages over the searches of a group that accepted a trial.

    Attributes:
      decrease: of the loss, by the group's share in it.  # f[G]
      slopes: of the direction.  # f[G]
      num_searches: how many went into the averages.  # i32[G]
    """

    decrease: jax.Array
    slopes: jax.Array
    num_searches: jax.Array


def smoothed(
    decay: float = 0.9, *, debias: bool = False, allow_ascent: bool = False
) -> Acceptance:
    r"""Armijo's test with both of its sides averaged over the searches of a group.

    .. math::
      h_l &\leftarrow \beta h_l + (1 - \beta)\,\rho_l (f(w) - f(w + u)), \qquad
      \bar s_l \leftarrow \beta \bar s_l + (1 - \beta) s_l \\
      & \sum_l h_l \ge c \sum_l \eta_l \bar s_l

    The sums run over the groups that move; the decrease of a joint trial is shared out
    in proportion to what was predicted, :math:`\rho_l = \eta_l s_l / \sum_k \eta_k
    s_k`. Averages start from zero, and only an accepted trial enters them (arXiv
    2407.20650, equations 8 to 10). One noisy batch moves the step size less.

    Args:
      decay: :math:`\beta`, in [0, 1): 0.9 in SaLSA, 0.999 in PLASLS, 0.99 in KenSLS.
      debias: whether averages are divided by :math:`1 - \beta^k`, k the number of
        searches in them.
      allow_ascent: whether directions that ascend on this batch are searched too, as
        long as the averages allow; where the averaged slope is negative, c becomes
        1 / c (released code of arXiv 2403.18519).

    Raises:
      ValueError: `decay` outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> test = smoothed(0.5)
      >>> trial = Trial(value=1.0, trial_value=0.9, step_size=jnp.array([1.0]),
      ...     slopes=jnp.array([1.0]), c=0.5, tolerance=0.0)
      >>> state = test.init(1, jnp.float32)
      >>> bool(test.accept(state, trial))  # 0.5 * 0.1 < 0.5 * 0.5 * 1
      False
      >>> state = state._replace(decrease=jnp.array([0.5]))  # searches went well before
      >>> bool(test.accept(state, trial))
      True
    """
    check_range("decay", decay, at_least=0, below=1)

    def init(num_groups: int, dtype: jnp.dtype) -> SmoothedState:
        return SmoothedState(
            decrease=jnp.zeros(num_groups, dtype),
            slopes=jnp.zeros(num_groups, dtype),
            num_searches=jnp.zeros(num_groups, jnp.int32),
        )

    def mixed(
        state: SmoothedState, decrease: jax.Array, slopes: jax.Array
    ) -> SmoothedState:
        return SmoothedState(
            decrease=decay * state.decrease + (1 - decay) * decrease,
            slopes=decay * state.slopes + (1 - decay) * slopes,
            num_searches=state.num_searches + 1,
        )

    def correction(state: SmoothedState) -> jax.Array:
        if not debias:
            return jnp.ones_like(state.decrease)
        return 1 - decay ** state.num_searches.astype(state.decrease.dtype)

    def accept(state: SmoothedState, trial: Trial) -> jax.Array:
        is_moved = trial.step_size > 0
        decrease = jnp.where(
            jnp.isfinite(trial.trial_value), trial.value - trial.trial_value, 0
        )
        share = shares(jnp.where(is_moved, trial.step_size * trial.slopes, 0))
        new = mixed(state, share * decrease, trial.slopes)
        weight = jnp.where(is_moved, 1 / correction(new), 0)
        required = jnp.sum(weight * trial.step_size * new.slopes)
        c = trial.c
        if allow_ascent:
            c = jnp.where(required > 0, c, 1 / c)
        tolerance = (1 - decay) * jnp.max(weight) * trial.tolerance
        is_enough = jnp.sum(weight * new.decrease) >= c * required - tolerance
        return jnp.isfinite(trial.trial_value) & is_enough

    def update(state: SmoothedState, outcome: Outcome) -> SmoothedState:
        new = mixed(state, outcome.share * outcome.actual_decrease, outcome.slopes)
        return SmoothedState(
            *(
                jnp.where(outcome.accepted, x, old)
                for x, old in zip(new, state, strict=True)
            )
        )

    return Acceptance(init, unchanged, accept, update, needs_descent=not allow_ascent)


def shares(parts: jax.Array) -> jax.Array:
    """Returns each part's size relative to the sum of sizes; 0 where all are 0."""
    sizes = jnp.abs(parts)
    total = jnp.sum(sizes)
    return jnp.where(total > 0, sizes / jnp.where(total > 0, total, 1), 0)
