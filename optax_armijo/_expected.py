"""At which step size does a search begin? Where the mean over batches says."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo._checks import check_range
from optax_armijo._numerics import safe_divide
from optax_armijo._policies import Opening, Outcome, Start

FURTHER = 2.0  # than what was tried, where the loss has not bent up until there ...
SURE = 2.0  # ... and its slope is so many standard errors


class ExpectedState(NamedTuple):
    """Sums over batches, older ones counting less; by group.

    Attributes:
      slope: of slopes.  # f[G]
      curvature: of curvatures, from the batches with a trial.  # f[G]
      slope_weight: how much went into `slope`.  # f[G]
      curvature_weight: how much went into `curvature`.  # f[G]
      square: of squared slopes.  # f[G]
      target: the step size to move towards; NaN while nothing is known.  # f[G]
    """

    slope: jax.Array
    curvature: jax.Array
    slope_weight: jax.Array
    curvature_weight: jax.Array
    square: jax.Array
    target: jax.Array


def expected(
    decay: float = 0.9,
    *,
    curvature_decay: float = 0.8,
    lowest: float = 0.8,
    highest: float = 1.25,
    bracketed_part: float = 0.25,
    caution: float = 0.0,
) -> Start:
    r"""Moves towards the largest step size that passes Armijo's test in the mean.

    A batch gives the slope :math:`s = -\langle g, d \rangle` of a direction at params;
    a trial there gives its curvature, :math:`h = 2 (f(w + \eta d) - f(w) + \eta s) /
    \eta^2`. Of both, averages over the batches are kept, and on the quadratic that
    these make Armijo's test passes up to

    .. math:: \eta^* = 2 (1 - c)\,\bar s / \bar h, \qquad
      \eta \leftarrow \eta\,\mathrm{clip}(\eta^* / \eta, low, high)

    The slope is known in every step without a trial. Where :math:`\bar s \le 0`, the
    direction no longer descends in the mean and :math:`\eta^*` is 0. Where only
    :math:`\bar h \le 0`, the loss has not bent up as far as was tried, and
    :math:`\eta^*` is twice the last trial's step size if :math:`\bar s` is above two of
    its standard errors; else nothing says how long a step may be, and :math:`\eta`
    stays as it is. A group that moves with others goes by what all of them do together.

    On one batch alone this says how far that batch can be fitted. It is meant for
    directions that the batch had no part in (``momentum="held_out"``): for those,
    slope and trial are unbiased measurements of what a step does to all rows.

    Args:
      decay: of the average of slopes, a step, in [0, 1).
      curvature_decay: of the average of curvatures, a trial, in [0, 1).
      lowest: of the factor by which a step size changes in a step, in (0, 1].
      highest: of that factor, at least 1.
      bracketed_part: how much is taken of the step size that the first search found,
        in (0, 1]: it was tested on the rows that its direction came from.
      caution: how many standard errors of the mean slope are taken off it, at least 0.
        For batches of few rows, with which the mean is uncertain.

    Raises:
      ValueError: an argument outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> start = expected(lowest=0.1, highest=10.0)
      >>> no, yes = jnp.array([False]), jnp.array([True])
      >>> outcome = Outcome(searched=yes, accepted=yes, step_size=jnp.array([0.5]),
      ...     slopes=jnp.array([1.0]), num_trials=1, predicted_decrease=0.5,
      ...     actual_decrease=0.25, share=1.0, c=0.5, promised_decrease=0.5)
      >>> state = start.update(start.init(1, jnp.float32), outcome)
      >>> opening = Opening(jnp.array([0.5]), 1.0, 2.0, 1.0, jnp.array([1.0]))
      >>> start.first(state, opening).tolist()  # s = 1, h = 2: the minimum
      [0.5]
      >>> uphill = outcome._replace(searched=no, promised_decrease=-0.1)
      >>> start.first(start.update(state, uphill), opening).tolist()  # (.9 - .2) / 2
      [0.1842...]
    """
    check_range("decay", decay, at_least=0, below=1)
    check_range("curvature_decay", curvature_decay, at_least=0, below=1)
    check_range("lowest", lowest, above=0, at_most=1)
    check_range("highest", highest, at_least=1)
    check_range("bracketed_part", bracketed_part, above=0, at_most=1)
    check_range("caution", caution, at_least=0)

    def init(num_groups: int, dtype: jnp.dtype) -> ExpectedState:
        # Each an array of its own: the state may be donated.
        fields = {name: jnp.zeros(num_groups, dtype) for name in ExpectedState._fields}
        return ExpectedState(
            **fields | {"target": jnp.full(num_groups, jnp.nan, dtype)}
        )

    def first(state: ExpectedState, opening: Opening) -> jax.Array:
        factor = jnp.clip(state.target / opening.step_size, lowest, highest)
        return jnp.where(jnp.isnan(state.target), 1, factor) * opening.step_size

    def rest(state: ExpectedState, opening: Opening) -> tuple[jax.Array, jax.Array]:
        step_size = first(state, opening)
        return step_size, step_size

    def update(state: ExpectedState, outcome: Outcome) -> ExpectedState:
        # The first search sees rows that its direction came from.
        is_fresh = jnp.asarray(outcome.was_bracketed)
        measured = is_fresh & outcome.accepted & outcome.is_visible
        length = outcome.step_size
        slope = outcome.promised_decrease / length
        bend = 2 * (outcome.predicted_decrease - outcome.actual_decrease) / length**2
        curvature = _faded(curvature_decay, state.curvature, bend, measured)
        curvature_weight = _faded(curvature_decay, state.curvature_weight, 1, measured)
        mean_curvature = safe_divide(curvature, curvature_weight)
        new = ExpectedState(
            slope=_faded(decay, state.slope, slope, is_fresh),
            square=_faded(decay, state.square, slope**2, is_fresh),
            slope_weight=_faded(decay, state.slope_weight, 1, is_fresh),
            curvature=curvature,
            curvature_weight=curvature_weight,
            target=state.target,
        )
        mean_slope = safe_divide(new.slope, new.slope_weight)
        error = _standard_error(decay, new)
        further = jnp.where(measured, FURTHER * length, state.target)
        is_sure = (error > 0) & (mean_slope > SURE * error)
        further = jnp.where(is_sure, further, jnp.nan)
        mean_slope -= caution * error
        target = _target(mean_slope, mean_curvature, outcome.c, further)
        is_known = new.curvature_weight > 0
        return new._replace(target=jnp.where(is_known, target, jnp.nan))

    return Start(init, first, rest, update, bracketed_part=bracketed_part, is_mean=True)


def _faded(decay: float, total: jax.Array, new: Any, counts: jax.Array) -> jax.Array:
    """Takes something new into a sum in which the old counts less, where it counts."""
    return jnp.where(counts, decay * total + (1 - decay) * new, total)


def _standard_error(decay: float, state: ExpectedState) -> jax.Array:
    """Returns that of the mean slope; 0 of a single measurement.

    A mean with weights ``(1 - decay) * decay**age`` varies as a plain one over
    ``1 / share`` measurements does, `share` being the sum of the squared weights over
    the square of their sum.
    """
    weight = jnp.where(state.slope_weight > 0, state.slope_weight, 1)
    squared_weights = (1 - decay) / (1 + decay) * (1 - (1 - weight) ** 2)
    share = squared_weights / weight**2
    spread = jnp.maximum(state.square / weight - (state.slope / weight) ** 2, 0)
    share = jnp.where(share < 0.99, share, 0)
    return jnp.sqrt(spread * share / (1 - share))


def _target(
    slope: jax.Array, curvature: jax.Array, c: Any, further: jax.Array
) -> jax.Array:
    """Where Armijo's test ends on the mean quadratic; `further` if it has no end."""
    largest = safe_divide(2 * (1 - c) * slope, curvature)
    target = jnp.where(curvature > 0, largest, further)
    return jnp.where(slope > 0, target, 0)
