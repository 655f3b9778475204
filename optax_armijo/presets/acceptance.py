"""When is a trial good enough? By this step alone, or by an average over steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo._checks import check_range
from optax_armijo.presets.method import Acceptance, Outcome, Trial, no_state, unchanged


def armijo() -> Acceptance:
    r"""The test of sufficient decrease.

    .. math:: f(w + u) \le f(w) - c \sum_l \eta_l s_l

    with :math:`u` the step of the groups that move, :math:`\eta_l` their step sizes and
    :math:`s_l = -\langle \nabla f(w), d_l \rangle` their slopes (Armijo 1966; equation
    2 of arXiv 2403.18506).

    Example:
      >>> import jax.numpy as jnp
      >>> trial = Trial(value=1.0, trial_value=0.8, step_size=jnp.array([0.5]),
      ...     slopes=jnp.array([0.75]), c=0.5)
      >>> bool(armijo().accept((), trial))
      True
      >>> bool(armijo().accept((), trial._replace(c=0.6)))
      False
    """

    def accept(_: Any, trial: Trial) -> jax.Array:
        return _is_below_line(trial, trial.value)

    return Acceptance(no_state, unchanged, accept, unchanged)


class AverageState(NamedTuple):
    """Zhang and Hager's average.

    Attributes:
      average: of the losses so far.  # f[]
      weight: the sum of their weights.  # f[]
    """

    average: jax.Array
    weight: jax.Array


def zhang_hager(decay: float) -> Acceptance:
    r"""Armijo's test against an average of the losses so far, when that is higher.

    .. math::
      Q_k = \xi Q_{k-1} + 1, \qquad C_k = (\xi Q_{k-1} C_{k-1} + f_k(w_k)) / Q_k \\
      f_k(w_k + u) \le \max(C_k, f_k(w_k)) - c \sum_l \eta_l s_l

    (Zhang and Hager 2004; for stochastic losses arXiv 2306.12747, equation 4).

    Args:
      decay: :math:`\xi`, in [0, 1]: 0 is Armijo's own test, 1 the mean of all losses.

    Raises:
      ValueError: `decay` outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> test = zhang_hager(1.0)
      >>> state = test.observe(test.init(1, jnp.float32), jnp.array(3.0))
      >>> state = test.observe(state, jnp.array(1.0))  # the average is 2
      >>> trial = Trial(value=1.0, trial_value=1.5, step_size=jnp.array([1.0]),
      ...     slopes=jnp.array([0.8]), c=0.5)
      >>> bool(test.accept(state, trial))
      True
    """
    check_range("averaging", decay, at_least=0, at_most=1)

    def init(_: int, dtype: jnp.dtype) -> AverageState:
        return AverageState(jnp.zeros((), dtype), jnp.zeros((), dtype))

    def observe(state: AverageState, value: jax.Array) -> AverageState:
        weight = decay * state.weight + 1
        total = decay * state.weight * state.average + value
        return AverageState(total / weight, weight)

    def accept(state: AverageState, trial: Trial) -> jax.Array:
        return _is_below_line(trial, jnp.maximum(state.average, trial.value))

    return Acceptance(init, observe, accept, unchanged)


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
    decay: float, *, debias: bool = False, allow_ascent: bool = False
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
      decay: :math:`\beta`, in [0, 1).
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
      ...     slopes=jnp.array([1.0]), c=0.5)
      >>> state = test.init(1, jnp.float32)
      >>> bool(test.accept(state, trial))  # 0.5 * 0.1 < 0.5 * 0.5 * 1
      False
      >>> state = state._replace(decrease=jnp.array([0.5]))  # searches went well before
      >>> bool(test.accept(state, trial))
      True
    """
    check_range("smoothing", decay, at_least=0, below=1)

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
        is_finite = jnp.isfinite(trial.trial_value)
        decrease = jnp.where(is_finite, trial.value - trial.trial_value, 0)
        parts = jnp.where(is_moved, jnp.abs(trial.step_size * trial.slopes), 0)
        new = mixed(state, shares(parts, jnp.sum(parts)) * decrease, trial.slopes)
        weight = jnp.where(is_moved, 1 / correction(new), 0)
        required = jnp.sum(weight * trial.step_size * new.slopes)
        c = trial.c
        if allow_ascent:
            c = jnp.where(required > 0, c, 1 / c)
        return is_finite & (jnp.sum(weight * new.decrease) >= c * required)

    def update(state: SmoothedState, outcome: Outcome) -> SmoothedState:
        new = mixed(state, outcome.share * outcome.actual_decrease, outcome.slopes)
        return SmoothedState(
            *(
                jnp.where(outcome.accepted, x, old)
                for x, old in zip(new, state, strict=True)
            )
        )

    return Acceptance(init, unchanged, accept, update, needs_descent=not allow_ascent)


def shares(parts: jax.Array, total: jax.Array) -> jax.Array:
    """Returns ``parts / total``, and 0 where the total is 0."""
    return jnp.where(total > 0, parts / jnp.where(total > 0, total, 1), 0)


def _is_below_line(trial: Trial, reference: jax.Array) -> jax.Array:
    """Tells whether a trial lies sufficiently below `reference`, bool[]."""
    required = trial.c * jnp.sum(trial.step_size * trial.slopes)
    return trial.trial_value <= reference - required
