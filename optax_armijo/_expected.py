"""At which step size does a search begin? Where the mean over batches says."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo._checks import check_range
from optax_armijo._means import (
    Mean,
    faded,
    no_mean,
    root_mean_square,
    standard_error,
    value_of,
)
from optax_armijo._numerics import safe_divide
from optax_armijo._policies import Opening, Outcome, Start

FURTHER = 2.0  # no step goes so many times as far as was tried
SURE = 3.0  # standard errors between a mean slope and what it is surely above
CHANGED = 4.0  # standard errors between past losses and those of late
LONGER = 10  # times as many batches in the mean of the losses that are past


class ExpectedState(NamedTuple):
    """Means over batches, and what they say.

    Attributes:
      slope: of slopes.  # f[G] each
      curvature: of curvatures, from the batches with a trial.  # f[G] each
      value: of losses.  # f[] each
      past_value: of losses, over more batches.  # f[] each
      num_batches: how many there were since a search bracketed.  # f[G]
      tried: the step size of the last trial.  # f[G]
      longest: the largest step size since a search bracketed or refused one.  # f[G]
      target: the step size to move towards; NaN while nothing is known.  # f[G]
      sure_target: one that the target is surely above.  # f[G]
    """

    slope: Mean
    curvature: Mean
    value: Mean
    past_value: Mean
    num_batches: jax.Array
    tried: jax.Array
    longest: jax.Array
    target: jax.Array
    sure_target: jax.Array


def expected(
    decay: float = 0.9,
    *,
    lowest: float = 0.8,
    highest: float = 1.25,
    pace: float = 1.0,
    floor: float = 0.01,
    bracketed_part: float = 0.25,
    caution: float = 1.0,
) -> Start:
    r"""Moves towards the step size that passes Armijo's test in the mean over batches.

    A batch gives the slope :math:`s = -\langle g, d \rangle` of a direction at params;
    a trial there gives its curvature, :math:`h = 2 (f(w + \eta d) - f(w) + \eta s) /
    \eta^2`. Of both, averages over the batches are kept, and on the quadratic that
    these make Armijo's test passes up to

    .. math:: \eta^* = 2 (1 - c)\,\bar s / \bar h, \qquad
      \eta \leftarrow \eta\,\mathrm{clip}(\eta^* / \eta, low, high)

    The slope is known in every step without a trial. Where :math:`\bar s \le 0`, the
    direction no longer descends in the mean and :math:`\eta^*` is 0. It is never more
    than twice the last trial's step size. It is that where :math:`\bar h \le 0`, the
    loss having not bent up as far as was tried, if :math:`\bar s` is above three of its
    standard errors; else nothing says how long a step may be, and :math:`\eta` stays as
    it is. A group that moves with others goes by what all of them do together.

    This looks one step ahead, and from there a shorter step nearly always looks better:
    it takes out the noise that earlier steps left behind, at once, while what the long
    ones would have brought in time is not seen (Wu et al., 2018). So while the loss
    falls, and the direction is the one along which params came by :math:`\eta_0` in the
    last step, :math:`\bar s` is taken for what it is, the descent that is left at the
    end of such a step, and steps grow as long as there is any:

    .. math:: \eta^* = \eta_0 + 2 (1 - c)\,(\bar s - \sigma) / \bar h

    With :math:`\sigma` the standard error of :math:`\bar s`, so that where nothing is
    measured but noise, step sizes fall. The loss falls if its mean over the last
    batches is four standard errors below that over ten times as many.

    Each batch says something else, so what they say of the step size is let in ever
    more slowly, with k the batches since a search bracketed, p the `pace`, and q a half
    while the loss falls and 1 while it does not:

    .. math:: \left(\frac{k}{k + 1}\right)^{p q} \le \frac{\eta_{k + 1}}{\eta_k}
      \le \left(\frac{k + 1}{k}\right)^p

    At its fastest it falls like :math:`1 / k` where noise is all there is (Robbins and
    Monro, 1951), and on the way there like :math:`1 / \sqrt k`, which leaves every step
    a part in the average of the iterates (Polyak and Juditsky, 1992). Neither needs a
    number of steps known ahead. Not held back are shrinking while the loss rises,
    surely so by the same standard errors, and growth up to the first :math:`\eta^*` of
    a slope three standard errors below the mean and of the root of the mean square of
    the curvatures.

    And :math:`\eta^*` is never below `floor` of the largest step size since a search
    bracketed or refused a trial. On batches of few rows, measurements at short steps
    are nothing but noise, and would lead nowhere but down.

    On one batch alone this says how far that batch can be fitted. It is meant for
    directions that the batch had no part in (``momentum="held_out"``): for those,
    slope and trial are unbiased measurements of what a step does to all rows.

    Args:
      decay: of the averages, a batch, in [0, 1).
      lowest: of the factor by which a step size changes in a step, in (0, 1].
      highest: of that factor, at least 1.
      pace: above 0; 1e6 holds back nothing.
      floor: of the longest step size, below which no target lies, in [0, 1).
      bracketed_part: how much is taken of the step size that the first search found,
        in (0, 1]: it was tested on the rows that its direction came from.
      caution: how many :math:`\sigma` are taken off while the loss falls, at least 0.

    Raises:
      ValueError: an argument outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> start = expected(lowest=0.1, highest=10.0, pace=1e6)
      >>> no, yes = jnp.array([False]), jnp.array([True])
      >>> outcome = Outcome(searched=yes, accepted=yes, step_size=jnp.array([0.5]),
      ...     slopes=jnp.array([1.0]), num_trials=1, predicted_decrease=0.5,
      ...     actual_decrease=0.25, share=1.0, c=0.5, promised_decrease=0.5)
      >>> state = start.update(start.init(1, jnp.float32), outcome)
      >>> opening = Opening(jnp.array([0.5]), 1.0, 2.0, 1.0, jnp.array([1.0]))
      >>> start.first(state, opening).tolist()  # s = 1, h = 2: the minimum
      [0.5]
      >>> uphill = outcome._replace(searched=no, accepted=no, promised_decrease=-0.1)
      >>> start.first(start.update(state, uphill), opening).tolist()  # (.9 - .2) / 2
      [0.1842...]

    References:
      H. Robbins and S. Monro, *A Stochastic Approximation Method*, Annals of
      Mathematical Statistics 22, 1951.
      B. Polyak and A. Juditsky, *Acceleration of Stochastic Approximation by
      Averaging*, SIAM Journal on Control and Optimization 30, 1992.
      Y. Wu et al., *Understanding Short-Horizon Bias in Stochastic Meta-Optimization*,
      2018, `arXiv 1803.02021 <https://arxiv.org/abs/1803.02021>`_.
    """
    check_range("decay", decay, at_least=0, below=1)
    check_range("lowest", lowest, above=0, at_most=1)
    check_range("highest", highest, at_least=1)
    check_range("pace", pace, above=0)
    check_range("floor", floor, at_least=0, below=1)
    check_range("bracketed_part", bracketed_part, above=0, at_most=1)
    check_range("caution", caution, at_least=0)

    def init(num_groups: int, dtype: jnp.dtype) -> ExpectedState:
        return ExpectedState(
            slope=no_mean((num_groups,), dtype),
            curvature=no_mean((num_groups,), dtype),
            value=no_mean((), dtype),
            past_value=no_mean((), dtype),
            num_batches=jnp.zeros(num_groups, dtype),
            tried=jnp.zeros(num_groups, dtype),
            longest=jnp.zeros(num_groups, dtype),
            target=jnp.full(num_groups, jnp.nan, dtype),
            sure_target=jnp.zeros(num_groups, dtype),
        )

    def first(state: ExpectedState, opening: Opening) -> jax.Array:
        step_size = opening.step_size
        fall = _fall(state, decay)
        limit = (1 + 1 / jnp.maximum(state.num_batches, 1)) ** pace
        least = jnp.where(fall > CHANGED, limit**-0.5, 1 / limit)
        low, high = jnp.maximum(least, lowest), jnp.minimum(limit, highest)
        low = jnp.where(fall < -CHANGED, lowest, low)
        factor = jnp.clip(state.target / step_size, low, high)
        surely = jnp.minimum(state.sure_target / step_size, highest)
        factor = jnp.fmax(factor, surely)
        return jnp.where(jnp.isnan(state.target), 1, factor) * step_size

    def rest(state: ExpectedState, opening: Opening) -> tuple[jax.Array, jax.Array]:
        step_size = first(state, opening)
        return step_size, step_size

    def update(state: ExpectedState, outcome: Outcome) -> ExpectedState:
        new = _taken_in(state, outcome, decay)
        new = _aimed(new, outcome, decay=decay, floor=floor, caution=caution)
        # A search that brackets sees rows that its direction came from; what it finds
        # is a new beginning.
        is_fresh = jnp.asarray(outcome.was_bracketed)
        is_any_fresh = jnp.any(is_fresh)
        new = jax.tree.map(
            lambda x, y: jnp.where(is_fresh if x.ndim else is_any_fresh, x, y),
            new,
            state,
        )
        return new._replace(
            num_batches=jnp.where(is_fresh, new.num_batches, 0),
            longest=jnp.where(is_fresh, new.longest, outcome.step_size),
        )

    return Start(init, first, rest, update, bracketed_part=bracketed_part, is_mean=True)


def _taken_in(state: ExpectedState, outcome: Outcome, decay: float) -> ExpectedState:
    """Returns the state with what a batch measured, its targets as they were."""
    length = outcome.step_size
    slope = outcome.promised_decrease / length
    curvature = 2 * (outcome.predicted_decrease - outcome.actual_decrease) / length**2
    measured = outcome.accepted & outcome.is_visible
    past_decay = 1 - (1 - decay) / LONGER
    was_refused = outcome.searched & (outcome.num_trials > 1)
    return state._replace(
        slope=faded(state.slope, decay, slope),
        curvature=faded(state.curvature, decay, curvature, measured),
        value=faded(state.value, decay, outcome.value),
        past_value=faded(state.past_value, past_decay, outcome.value),
        num_batches=state.num_batches + 1,
        tried=jnp.where(measured, length, state.tried),
        longest=jnp.where(was_refused, length, jnp.maximum(state.longest, length)),
    )


def _aimed(
    state: ExpectedState,
    outcome: Outcome,
    *,
    decay: float,
    floor: float,
    caution: float,
) -> ExpectedState:
    """Returns the state with the targets that its means give."""
    error = standard_error(state.slope, decay)
    mean_slope, bend = value_of(state.slope), value_of(state.curvature)
    sure_slope = jnp.where(error > 0, mean_slope - SURE * error, 0)
    furthest = FURTHER * state.tried
    unbent = jnp.where(sure_slope > 0, furthest, jnp.nan)

    def target(
        slope: jax.Array, curvature: jax.Array, begin: jax.Array | float = 0.0
    ) -> jax.Array:
        passes = begin + safe_divide(2 * (1 - outcome.c) * slope, curvature)
        straight = jnp.where(slope > 0, unbent, 0)
        target = jnp.where(bend > 0, jnp.minimum(passes, furthest), straight)
        target = jnp.maximum(target, floor * state.longest)
        return jnp.where(state.curvature.weight > 0, target, jnp.nan)

    return state._replace(
        target=jnp.where(
            _fall(state, decay) > CHANGED,
            target(mean_slope - caution * error, bend, outcome.walked),
            target(mean_slope, bend),
        ),
        sure_target=target(sure_slope, root_mean_square(state.curvature)),
    )


def _fall(state: ExpectedState, decay: float) -> jax.Array:
    """Returns by how many standard errors the mean loss is below what it was."""
    fall = value_of(state.past_value) - value_of(state.value)
    error = standard_error(state.value, decay)
    is_known = error > 0  # one loss says nothing
    return jnp.where(is_known, fall / jnp.where(is_known, error, 1), 0)
