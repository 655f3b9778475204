"""ScheduleFree+: Adam without a learning rate or a schedule, by Polyak's step size.

After A. Defazio, *ScheduleFree+: Scaling Learning-Rate-Free & Schedule-Free Learning to
Large Language Models*, 2026, `arXiv 2605.19095 <https://arxiv.org/abs/2605.19095>`_,
with the defaults of the code published with it.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class ScheduleFreePlusState(NamedTuple):
    """State of `schedule_free_plus`.

    Attributes:
      adam: moments of the gradient, and the number of steps.
      z: the point that Adam moves, structured like params.
      x: the average of z, structured like params.
      grad_norm: the average of the gradients' norms, before bias correction.  # f32[]
      largest_rate: the largest step size so far.  # f32[]
      weight_sum: of the weights in the average.  # f32[]
    """

    adam: Any
    z: Any
    x: Any
    grad_norm: jax.Array
    largest_rate: jax.Array
    weight_sum: jax.Array


def schedule_free_plus(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    b1: float = 0.9,
    b2: float = 0.95,
    *,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    sf_beta1: float = 0.9,
    sf_beta1_max: float = 0.965,
    sf_beta1_anneal_steps: int = 0,
    c_warmup: int = 0,
    r: float = 0.0,
    polyak_beta: float = 0.0,
    weight_lr_power: float = 2.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Schedule-free Adam with Polyak's step size and AdamC's weight decay.

    With f and g the loss and the gradient of a batch at the params y, d Adam's
    direction, and t the step, from 1,

    .. math::
       \alpha_t &= \gamma_t \max(0, f + \beta_t \langle g, z - x \rangle) / n_t \\
       z &\leftarrow z - \alpha_t^2 \lambda y - \alpha_t d \\
       x &\leftarrow (1 - c_t) x + c_t z, \quad
       c_t = w_t / \sum_{s \le t} w_s, \quad w_t = t^r \max_{s \le t} \alpha_s^p \\
       y &= \beta_t x + (1 - \beta_t) z

    where n is the exponential average of :math:`\sqrt{\pi / 2}\, \|g\|_1`, corrected
    for its start at 0. (The published code feeds the corrected average back into the
    average: another n, unless `polyak_beta` is 0.) The least loss is taken to be 0. No
    default depends on the length of the run; `sf_beta1_anneal_steps`, `c_warmup`, `r`
    and a warm-up may be fitted to it.

    Args:
      learning_rate: :math:`\gamma`, a factor of Polyak's step size; 1 at the end of a
        warm-up, which is recommended for large models.
      b1: decay of Adam's first moment.
      b2: decay of Adam's second moment.
      eps: of Adam, and the least `learning_rate`.
      weight_decay: :math:`\lambda`; 20 or 50 rather than 0.1, since the step size is
        squared.
      sf_beta1: :math:`\beta`, the part of the average in y.
      sf_beta1_max: its final value, if it grows.
      sf_beta1_anneal_steps: over which :math:`\log(1 - \beta)` goes there linearly; 0
        for a constant.
      c_warmup: the steps at the start that are not averaged, so that x = z; one or two
        times those of the warm-up.
      r: power of the step's number in the weights; 1 or 2 for long runs.
      polyak_beta: decay of n; 0 for the norm of the last gradient alone.
      weight_lr_power: p.

    Returns:
      A transformation whose update needs params, y, and the loss there, ``value``. A
      gradient of 0 has a step size of 0. State: `ScheduleFreePlusState`.
    """
    adam = optax.scale_by_adam(b1, b2, eps)

    def init_fn(params: Any) -> ScheduleFreePlusState:
        z, x = (jax.tree.map(jnp.array, params) for _ in range(2))
        scalars = (jnp.full([], value, jnp.float32) for value in (0.0, eps, 0.0))
        return ScheduleFreePlusState(adam.init(params), z, x, *scalars)

    def update_fn(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        value: Any = None,
        **extra_args: Any,
    ) -> tuple[Any, ScheduleFreePlusState]:
        del extra_args
        if params is None or value is None:
            raise ValueError("schedule_free_plus needs params and value in update")
        count = state.adam.count
        step = count.astype(jnp.float32) + 1
        beta = sf_beta1
        if sf_beta1_anneal_steps:
            progress = jnp.minimum((step - 1) / sf_beta1_anneal_steps, 1)
            beta = 1 - (1 - sf_beta1) ** (1 - progress) * (1 - sf_beta1_max) ** progress

        norm = math.sqrt(math.pi / 2) * optax.tree.norm(updates, ord=1)
        norm = polyak_beta * state.grad_norm + (1 - polyak_beta) * norm
        ahead = optax.tree.vdot(updates, optax.tree.sub(state.z, state.x))
        gap = jnp.maximum(value + beta * ahead, 0)
        rate = gap / norm * (1 - polyak_beta**step)
        gamma = learning_rate(count) if callable(learning_rate) else learning_rate
        rate = jnp.maximum(gamma, eps) * jnp.where(norm == 0, 0, rate)
        largest = jnp.maximum(rate, state.largest_rate)

        averages = count >= c_warmup
        weight = jnp.where(averages, step**r * largest**weight_lr_power, 0)
        weight_sum = state.weight_sum + weight
        c = jnp.where(averages, weight / weight_sum, 1)

        direction, adam_state = adam.update(updates, state.adam, params)
        z = jax.tree.map(
            lambda z, y, d: z - rate**2 * weight_decay * y - rate * d,
            state.z,
            params,
            direction,
        )
        x = jax.tree.map(lambda x, z: (1 - c) * x + c * z, state.x, z)
        updates = jax.tree.map(
            lambda x, z, y: beta * x + (1 - beta) * z - y, x, z, params
        )
        return updates, ScheduleFreePlusState(
            adam_state, z, x, norm, largest, weight_sum
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def schedule_free_plus_eval_params(state: Any, params: Any) -> Any:
    """Returns the average x, to validate; `params` are y and are not needed."""
    del params
    return state.x
