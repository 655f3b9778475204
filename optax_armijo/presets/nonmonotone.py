"""When is a trial good enough? Measured against more than this step's own loss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo._checks import check_range
from optax_armijo.presets.acceptance import below_line
from optax_armijo.presets.policies import Acceptance, Trial, unchanged


class AverageState(NamedTuple):
    """Zhang and Hager's average.

    Attributes:
      average: of the losses so far.  # f[]
      weight: the sum of their weights.  # f[]
    """

    average: jax.Array
    weight: jax.Array


def zhang_hager(decay: float = 1.0) -> Acceptance:
    r"""Armijo's test against an average of the losses so far, when that is higher.

    .. math::
      Q_k = \xi Q_{k-1} + 1, \qquad C_k = (\xi Q_{k-1} C_{k-1} + f_k(w_k)) / Q_k \\
      f_k(w_k + u) \le \max(C_k, f_k(w_k)) - c \sum_l \eta_l s_l + \tau

    (Zhang and Hager 2004; for stochastic losses arXiv 2306.12747, equation 4).

    Args:
      decay: :math:`\xi`, in [0, 1]: 0 is Armijo's own test, 1 the mean of all losses.

    Raises:
      ValueError: `decay` outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> test = zhang_hager()
      >>> state = test.observe(test.init(1, jnp.float32), jnp.array(3.0))
      >>> state = test.observe(state, jnp.array(1.0))  # the average is 2
      >>> trial = Trial(value=1.0, trial_value=1.5, step_size=jnp.array([1.0]),
      ...     slopes=jnp.array([0.8]), c=0.5, tolerance=0.0)
      >>> bool(test.accept(state, trial))
      True
    """
    check_range("decay", decay, at_least=0, at_most=1)

    def init(_: int, dtype: jnp.dtype) -> AverageState:
        return AverageState(jnp.zeros((), dtype), jnp.zeros((), dtype))

    def observe(state: AverageState, value: jax.Array) -> AverageState:
        weight = decay * state.weight + 1
        total = decay * state.weight * state.average + value
        return AverageState(total / weight, weight)

    def accept(state: AverageState, trial: Trial) -> jax.Array:
        return below_line(trial, jnp.maximum(state.average, trial.value))

    return Acceptance(init, observe, accept, unchanged)
