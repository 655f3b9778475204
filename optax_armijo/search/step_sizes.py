r"""How step sizes change: the next mini-batch tells what a step was worth.

A step :math:`u` from :math:`w` promises the decrease :math:`p = -\langle g, u \rangle`
on its own mini-batch. The next mini-batch, with loss :math:`f'` and gradient
:math:`g'`, tells what the step was worth on other examples. On a quadratic with slope S
and curvature C along the step,

.. math::
  \delta = f'(w) - f'(w + u) = S - C / 2, \qquad
  s = \langle g'(w + u), u \rangle = C - S

so that S = 2 delta + s and C = 2 (delta + s). The signal fraction phi = sum S / sum p
is the fraction of what steps promise that holds on other examples. Step sizes aim at
C = kappa S, and z is by how much a step misses that. A step that the factor tau has
shortened promises p, and C / tau is compared with it. Shapes: G groups.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_armijo._numerics import divide, search_dtype
from optax_armijo._state import FAST, SLOW, Move, SignalStatistics, StepSizeErrors
from optax_armijo.labels.grouping import Grouping
from optax_armijo.search.directions import Leaves
from optax_armijo.search.problem import Problem

KAPPA_NOISE, KAPPA_EXACT = 0.5, 1.6  # kappa at phi = 0 and at phi = 1
# Lower bound of phi in the aim, in kept promises and in the bound of the noise, until
# there are LEAST_UP_TO measurements. From then on it fades with their number. Without
# it, steps would shrink permanently. If it stayed, steps that make other examples worse
# would never shrink.
LEAST_AIMED_AT, LEAST_UP_TO = 0.03, 20
# Largest growth and shrinkage of the logarithm of all step sizes together, each at most
# FADING / k.
UP, DOWN, FADING = 0.1, 0.25, 6.0
OWN = 0.2  # over sqrt(k), the largest change of one group relative to the others
FAR_TOO_SHORT, LEAP = 0.05, 0.7  # below this C / S, step sizes leap by e^LEAP
# Below this C / S, step sizes shrink less while the loss falls. They do so only after
# the step HELD_AFTER, since shorter runs tend to memorise few examples.
HELD_BELOW, HELD_AFTER = 6.0, 50
# If the mean phi of steps up to HELD_AFTER is above this, step sizes together only grow
# in the first half of a decay.
CLEAR = 0.5
# Steps in which averages are unreliable: none leaps, no loss is far, and runs of known
# length test their steps, too.
FIRST_STEPS = 10
WARM_UP_STEPS = 20  # the first full step
LARGEST_LIFT = 3.0  # of a first step size that promises less than the median
EARLY_STEPS = 40  # later leaps only make up for steps that were rolled back
# Largest noise that a step may promise, relative to the loss, and the same after
# EARLY_STEPS steps of a run of known length.
LARGEST_NOISE, LARGEST_NOISE_LATER = 0.05, 0.2
# Step sizes shrink, too, where this bound shortens a step to a smaller fraction.
LEAST_APPLIED = 1 / 8


def with_unit(
    old: SignalStatistics, counts: jax.Array, predicted: jax.Array
) -> SignalStatistics:
    """Adds a step to the average of |p|, the unit of the other averages."""

    def towards(x: jax.Array, new: Any) -> jax.Array:
        return jnp.where(counts, x + (1 - SLOW) * (new - x), x)

    return old._replace(
        unit=towards(old.unit, jnp.abs(predicted)), weight=towards(old.weight, 1)
    )


def with_measurement(
    old: SignalStatistics,
    counts: jax.Array,
    *,
    signal: jax.Array,
    curvature: jax.Array,
    predicted: jax.Array,
    k: jax.Array,
) -> SignalStatistics:
    """Adds a measurement to the averages; until there are many, all weigh the same."""
    unit = old.average_promise
    counts &= jnp.isfinite(signal)
    number = old.number + counts.astype(old.number.dtype)
    fading = 1 / jnp.maximum(number, 1).astype(signal.dtype)
    slow = jnp.where(counts, jnp.maximum(1 - SLOW, fading), 0)
    quick = jnp.where(counts, jnp.maximum(1 - FAST, fading), 0)

    def towards(x: jax.Array, new: jax.Array, weight: jax.Array) -> jax.Array:
        return x + weight * (jnp.where(counts, divide(new, unit, 0), 0) - x)

    return old._replace(
        number=number,
        signal=towards(old.signal, signal, slow),
        predicted=towards(old.predicted, predicted, slow),
        curvature=towards(old.curvature, curvature, quick),
        recent_signal=towards(old.recent_signal, signal, quick),
        recently_predicted=towards(old.recently_predicted, predicted, quick),
        measured_at=jnp.where(counts, k, old.measured_at),
    )


def with_early_fraction(
    old: SignalStatistics, counts: jax.Array, k: jax.Array
) -> SignalStatistics:
    """Adds phi to its mean from the end of the warm-up to step `HELD_AFTER`."""
    number = k - WARM_UP_STEPS
    adds = counts & (number > 0) & (k <= HELD_AFTER)
    weight = jnp.where(adds, 1 / jnp.maximum(number, 1).astype(old.signal.dtype), 0)
    mean = old.early_fraction + weight * (old.fraction - old.early_fraction)
    return old._replace(early_fraction=mean)


def likely_fraction(signal: SignalStatistics) -> jax.Array:
    r"""Phi, but at least what few measurements leave open, f[].

    With n measurements it is :math:`\max(\varphi, 0.03 \min(1, 20 / n))`.
    """
    count = jnp.maximum(signal.number, LEAST_UP_TO).astype(signal.signal.dtype)
    return jnp.maximum(signal.fraction, LEAST_AIMED_AT * LEAST_UP_TO / count)


def aim(signal: SignalStatistics) -> jax.Array:
    r"""What C / p should be, f[]: kappa times `likely_fraction`."""
    kappa = KAPPA_NOISE + (KAPPA_EXACT - KAPPA_NOISE) * signal.fraction
    return kappa * likely_fraction(signal)


def kept_promise(signal: SignalStatistics) -> jax.Array:
    """The part of recent promises that holds on other examples, f[].

    It is `likely_fraction` times p, in units of `average_promise`.
    """
    return likely_fraction(signal) * signal.recently_predicted


def error_of(
    move: Move, signal: SignalStatistics, end_slope: jax.Array, multiple: jax.Array
) -> jax.Array:
    r"""z of the last step, [G]: positive where it was too short.

    .. math:: z = a\, p - (\varphi p + s) / \tau

    with a the `aim`. Phi is as measured: it may be below zero.

    Args:
      move: the last step.
      signal: averages of the measurements before this mini-batch.
      end_slope: s, the slope along the step at its end.  # f[G]
      multiple: tau, the factor that shortened the step; z is for the step without it.
        # f[]
    """
    curvature = signal.raw_fraction * move.predicted + end_slope  # C = S + s
    return aim(signal) * move.predicted - curvature / multiple


def with_error(
    old: StepSizeErrors, counts: jax.Array, error_of_all: jax.Array, error: jax.Array
) -> StepSizeErrors:
    """Adds z of another step to the averages."""
    error = jnp.concatenate([error_of_all[None], error])
    # An infinite square would stay in its average.
    error = jnp.where(counts & jnp.isfinite(jnp.square(error)), error, 0)

    def towards(x: jax.Array, new: jax.Array, decay: float) -> jax.Array:
        return x + jnp.where(counts, 1 - decay, 0) * (new - x)

    return StepSizeErrors(
        number=old.number + counts.astype(old.number.dtype),
        mean=towards(old.mean, error, FAST),
        square=towards(old.square, jnp.square(error), SLOW),
    )


def change_of(
    errors: StepSizeErrors,
    signal: SignalStatistics,
    k: jax.Array,
    *,
    multiple: jax.Array | float = 1.0,
    power: jax.Array | float = 0.0,
    only_grows: jax.Array | bool = False,
) -> jax.Array:
    """The change of the logarithms of the step sizes, [G].

    All step sizes grow or shrink together by the t-statistic of the sum of z, from -1
    to 1, and each relative to their mean by that of its own z. phi p + s is a noisy
    curvature; the measured one is hardly noisy. So nothing shrinks together while it
    finds steps too short, and nothing grows together in the warm-up or while it finds
    that they raise the loss.

    Where steps oscillate around a valley, C is 2 S at any step size, and step sizes
    would shrink permanently although the loss falls along the valley. This is the
    short-horizon bias (Wu et al., 2018, arXiv 1803.02021). So the faster the loss
    falls, the less step sizes shrink, unless C is above 6 S.

    Args:
      errors: averages of z.
      signal: averages of the measurements.
      k: the number of the step.  # i32[]
      multiple: tau of the last step, 1 in the warm-up.  # f[]
      power: nu, if the losses fall like k^-nu; from 1 on nothing shrinks together.
        # f[]
      only_grows: whether nothing shrinks together.  # bool[]
    """
    dtype = errors.mean.dtype
    count = jnp.maximum(errors.number, 1).astype(dtype)
    mean = errors.mean / (1 - jnp.asarray(FAST, dtype) ** count)
    square = errors.square / (1 - jnp.asarray(SLOW, dtype) ** count)
    # The mean is over about this many errors.
    num_averaged = jnp.minimum(count, (1 + FAST) / (1 - FAST))
    t = jnp.clip(divide(mean, jnp.sqrt(square / num_averaged), 0), -1, 1)

    kept = kept_promise(signal)
    # Both are false before the first measurement.
    is_short = signal.curvature < aim(signal) * signal.recently_predicted
    raises_loss = signal.curvature > 2 * kept
    steps = k.astype(dtype)
    grows, shrinks = (k > WARM_UP_STEPS) & ~raises_loss, ~(is_short | only_grows)
    up = jnp.where(grows, jnp.minimum(UP, FADING / steps), 0)
    holds = (k > HELD_AFTER) & (multiple * signal.curvature < HELD_BELOW * kept)
    share = jnp.where(holds, jnp.clip(1 - power, 0, 1), 1)
    down = jnp.where(shrinks, share * jnp.minimum(DOWN, FADING / steps), 0)
    of_all = t[0] * jnp.where(t[0] > 0, up, down)
    own = t[1:] * OWN / jnp.sqrt(steps)
    return of_all + own - jnp.mean(own)


def is_far_too_short(
    signal: SignalStatistics,
    k: jax.Array,
    num_halved: jax.Array,
    falls_slowly: jax.Array,
) -> jax.Array:
    """Whether the last update measured a step that was far too short, bool[].

    Early steps without curvature are too short only if the loss falls slowly, too.
    After `EARLY_STEPS` steps only steps that rollbacks have shortened are: between its
    kinks a hinge has no curvature at any step size, and would run away.

    Args:
      signal: averages of the measurements.
      k: the number of the step.  # i32[]
      num_halved: rolled-back steps that no leap has made up for.  # i32[]
      falls_slowly: whether k steps promise less than half of the loss.  # bool[]
    """
    # A curvature far below zero is noise, as in a network that has memorised its
    # examples. On a mini-batch whose loss vanishes, the curvature vanishes, but so does
    # the slope.
    is_flat = jnp.abs(signal.curvature) < FAR_TOO_SHORT * signal.recent_signal
    may_leap = ((k <= EARLY_STEPS) & falls_slowly) | (num_halved > 0)
    return _is_just_measured(signal, k) & may_leap & is_flat


def may_double(signal: SignalStatistics, k: jax.Array) -> jax.Array:
    """Whether the last update found that twice the step decreases the loss, bool[]."""
    # At twice the step, C is four times as large, and S twice.
    decreases = signal.curvature < kept_promise(signal)
    return _is_just_measured(signal, k) & (k <= EARLY_STEPS) & decreases


def _is_just_measured(signal: SignalStatistics, k: jax.Array) -> jax.Array:
    """Whether the last update measured the step before it, bool[].

    In the very first steps a curvature near 0 is noise.
    """
    return (k > FIRST_STEPS) & (signal.measured_at == k - 1)


def with_leap(old: SignalStatistics, leaps: jax.Array) -> SignalStatistics:
    """Averages as if all steps in them had leapt; C grows like the square of a step.

    Otherwise step sizes that are far too short would leap several times before new
    measurements count.
    """
    factor = jnp.where(leaps, math.exp(LEAP), 1).astype(old.curvature.dtype)
    return old._replace(
        curvature=jnp.square(factor) * old.curvature,
        recent_signal=factor * old.recent_signal,
        recently_predicted=factor * old.recently_predicted,
    )


def shortening(
    promised: jax.Array,
    fraction: jax.Array,
    value: jax.Array,
    largest: jax.Array | float,
) -> jax.Array:
    """The factor on a step, f[], that makes phi (1 - phi) |p| <= largest * f.

    A single mini-batch may promise several times its loss, and steps that large ruin a
    pretrained network. Steps without noise are not shortened, nor steps at a loss of
    zero or below. Phi is the `likely_fraction`, or there would be no bound where it is
    measured as 0. Uphill steps are shortened alike, or they would be the longest.
    """
    noise = fraction * (1 - fraction) * jnp.abs(promised)
    most = largest * value
    return jnp.where((noise > most) & (value > 0), divide(most, noise, 1), 1)


def with_new_groups(
    problem: Problem, sizes: jax.Array, slope: jax.Array, is_first: jax.Array
) -> jax.Array:
    """Gives step sizes to all groups at first, and later to new ones, [G].

    At first they are proportional to the root mean squares of the params. A group that
    would promise less than the median group is lifted to the same predicted decrease,
    but by at most a factor of `LARGEST_LIFT`. Otherwise a new head with small params
    would hold up the layers below it. The scale of the params still does not matter.

    A group waits while its direction ascends. A group that has no step size yet,
    because its params or gradients were zero, gets the step size that promises as much
    as the median group, but at most the largest step size, unless this is the first
    step and the squares of its params overflow. If no other group descends, it gets the
    largest; if no group has a step size, it gets one that promises the whole loss, or a
    decrease of 1 if the loss is zero.
    """
    root = jax.lax.cond(
        is_first,
        lambda: root_mean_squares(problem.grouping, problem.params, sizes.dtype),
        lambda: jnp.zeros_like(sizes),
    )
    overflows = ~jnp.isfinite(root)
    root = jnp.where(overflows, 0, root)
    sizes = jnp.where(is_first, jnp.where(slope >= 0, root, 0), sizes)
    sizes = sizes.astype(slope.dtype)
    knows, wants = (sizes > 0) & (slope > 0), (sizes <= 0) & (slope > 0)
    num_known = jnp.sum(knows)
    ordered = jnp.sort(jnp.where(knows, sizes * slope, jnp.inf))
    median = ordered[jnp.maximum(num_known - 1, 0) // 2]
    loss = jnp.abs(problem.value)
    promise = jnp.where(num_known > 0, median, jnp.where(loss > 0, loss, 1))
    largest = jnp.max(sizes)
    promising = (num_known > 0) | (largest <= 0)
    new = jnp.where(promising, divide(promise, slope, 0), largest)
    most = jnp.where(largest > 0, largest, jnp.finfo(sizes.dtype).max)
    new = jnp.where(overflows, new, jnp.minimum(new, most))
    lift = jnp.clip(divide(promise, sizes * slope, 1), 1, LARGEST_LIFT)
    sizes = jnp.where(is_first & knows, lift * sizes, sizes)
    return jnp.where(wants, new, sizes).astype(sizes.dtype)


def root_mean_squares(grouping: Grouping, params: Any, dtype: Any) -> jax.Array:
    """The groups' root mean squares, dtype[G]; infinite where squares overflow."""
    leaves = grouping.trainable(params)
    common = search_dtype(leaves)
    squares = [jnp.square(x.astype(common)) for x in leaves]
    number = jnp.asarray(_num_params(grouping, squares), dtype)
    return jnp.sqrt(grouping.sum(squares).astype(dtype) / number)


def _num_params(grouping: Grouping, leaves: Leaves) -> np.ndarray:
    """Counts the params of each group, float[G]."""
    number = np.zeros(grouping.num_groups)
    for member, leaf in zip(grouping.moving, leaves, strict=True):
        for group in member.groups:
            number[group] += leaf.size / len(member.groups)
    return np.maximum(number, 1)
