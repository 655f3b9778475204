"""When is a trial good enough? By this step alone, or by averages over steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class LossAverage(NamedTuple):
    r"""Zhang and Hager's average of the losses, for a test that is not monotone.

    .. math::
      Q_k = \xi Q_{k-1} + 1, \qquad C_k = (\xi Q_{k-1} C_{k-1} + f_k(w_k)) / Q_k

    Armijo's test then takes :math:`\max(C_k, f_k(w_k))` for the loss at params (Zhang
    and Hager 2004; for stochastic losses arXiv 2306.12747, equation 4).

    Attributes:
      average: of the losses so far, C.  # f[]
      weight: the sum of their weights, Q.  # f[]
    """

    average: jax.Array
    weight: jax.Array

    def after(self, decay: float, loss: jax.Array) -> "LossAverage":
        r"""Returns the average with another loss in it; `decay` is :math:`\xi`.

        Example:
          >>> import jax.numpy as jnp
          >>> averages = LossAverage(jnp.array(0.0), jnp.array(0.0))
          >>> averages = averages.after(1.0, 3.0).after(1.0, 1.0)
          >>> float(averages.average), float(averages.weight)
          (2.0, 2.0)
        """
        weight = decay * self.weight + 1
        total = decay * self.weight * self.average + loss
        return LossAverage(total / weight, weight)


class Smoothing(NamedTuple):
    r"""Armijo's test with both of its sides averaged over the searches of a group.

    .. math::
      h_l &\leftarrow \beta h_l + (1 - \beta)\,\rho_l (f(w) - f(w + u)), \qquad
      \bar s_l \leftarrow \beta \bar s_l + (1 - \beta) s_l \\
      & \sum_l h_l \ge c \sum_l \eta_l \bar s_l

    The sums run over the groups that move; the decrease of a joint trial is shared out
    in proportion to what was predicted, :math:`\rho_l = \eta_l s_l / \sum_k \eta_k
    s_k`. Averages start from zero, and only an accepted trial enters them (arXiv
    2407.20650, equations 8 to 10). One noisy batch moves the step size less.

    Attributes:
      decay: :math:`\beta`, in [0, 1).
      debias: whether averages are divided by :math:`1 - \beta^k`, k the number of
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
      decrease: of the loss, by the group's share in it.  # f[G]
      slopes: of the direction.  # f[G]
      num_searches: how many went into the averages.  # i32[G]
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
        """Takes a trial into the averages: the decrease of the loss, shared out.

        Args:
          smoothing: how.
          decrease: of the loss, by the trial, shape [].
          step_size: of the groups that it moves, 0 for the others, shape [G].
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
        """Tells whether a trial passes that is in the averages already, bool[].

        Example:
          >>> import jax.numpy as jnp
          >>> smoothing, step_size = Smoothing(0.5), jnp.array([1.0])
          >>> def passes(sides):
          ...   sides = sides.after(smoothing, 0.1, step_size, jnp.array([1.0]))
          ...   return bool(sides.passes(smoothing, step_size, c=0.5))
          >>> zeros = SmoothedSides(jnp.zeros(1), jnp.zeros(1), jnp.zeros(1))
          >>> passes(zeros)  # 0.5 * 0.1 < 0.5 * 0.5 * 1
          False
          >>> passes(zeros._replace(decrease=jnp.array([0.5])))  # went well before
          True
        """
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
    """Returns each group's part in the predicted decrease, [G]; 0 where that is 0."""
    parts = jnp.where(step_size > 0, jnp.abs(step_size * slopes), 0)
    total = jnp.sum(parts)
    return jnp.where(total > 0, parts / jnp.where(total > 0, total, 1), 0)
