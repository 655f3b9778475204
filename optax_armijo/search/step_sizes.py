r"""How step sizes change from step to step: what the next mini-batch says about a step.

A step :math:`u` from :math:`w` promises the decrease :math:`p = -\langle g, u \rangle`
on its own mini-batch. The next one, with loss :math:`f'` and gradient :math:`g'`, says
what it was worth on other examples. On a quadratic with slope S and curvature C along
the step,

.. math::
  d = f'(w) - f'(w + u) = S - C / 2, \qquad
  s = \langle g'(w + u), u \rangle = C - S

so that S = 2 d + s and C = 2 (d + s). The signal fraction phi = sum S / sum p is how
much of what steps promise is true. Shapes: G groups.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_armijo._numerics import divide, search_dtype
from optax_armijo._state import Move, SignalStatistics, StepSizeErrors
from optax_armijo.labels.grouping import Grouping
from optax_armijo.search.directions import Leaves
from optax_armijo.search.problem import Problem

KAPPA_NOISE, KAPPA_EXACT = 0.5, 1.6  # of C / S, without signal and without noise
LEAST_AIMED_AT = 0.03  # phi in the aim: one near 0 would shorten steps for good
UP, DOWN = 0.1, 0.25  # most that their logarithm changes by,
FADING = 6.0  # and not more than this over k
OWN, OWN_FADING = 0.25, 1.0  # the same of one group relative to the others
FAR_TOO_SHORT, LEAP = 0.05, 0.7  # C / S, below which step sizes leap by e^LEAP
HELD_BELOW = 6.0  # C / S, below which step sizes shrink less while the loss falls,
HELD_AFTER = 50  # and this step: shorter runs rather learn few rows by heart
FIRST_STEPS = 10  # in which averages say little: none leaps, and none is suspected
KNOWN, KNOWN_WELL = 2, 4  # measurements, from which C counts, or a leap is due
WARM_UP_STEPS = 20  # the first full step
LARGEST_LIFT = 3.0  # of a first step size that promises less than the median
Z_DECAY, Z_SPREAD_DECAY = 0.5, 0.9
CURVATURE_DECAY, SIGNAL_DECAY, UNIT_DECAY = 0.5, 0.9, 0.9
FALL_DECAY = 0.9
FALL_ERRORS = 2.5  # mean deviations of the loss, that its average fall may be off by
OUTLIER = 3.0  # times the spread of z, to which z is limited
LARGEST_NOISE = 0.05  # of the loss, that a step may promise,
LARGEST_NOISE_LATER, EARLY_STEPS = 0.2, 40  # and after this many, if steps will fall
LEAST_BOUNDED = 0.1  # phi in this bound, or one of 0 would be none


def with_unit(
    old: SignalStatistics, counts: jax.Array, predicted: jax.Array
) -> SignalStatistics:
    """The averages, in whose unit another step is."""

    def towards(x: jax.Array, new: Any) -> jax.Array:
        return jnp.where(counts, x + (1 - UNIT_DECAY) * (new - x), x)

    return old._replace(
        unit=towards(old.unit, jnp.abs(predicted)), weight=towards(old.weight, 1)
    )


def with_fall(
    old: SignalStatistics,
    counts: jax.Array,
    *,
    fall: jax.Array,
    end_slope: jax.Array,
    predicted: jax.Array,
    deviation: jax.Array,
) -> SignalStatistics:
    r"""The sums of all steps, and what phi can be at most in view of them.

    Measurements are few, and those of the largest steps rule. But over all steps d adds
    up to the fall of the loss, which costs no evaluation:
    :math:`\sum S = 2 \sum d + \sum s`. The noise of single losses cancels, but for that
    of the first and the last, so that where steps promise more than this noise, a loss
    that does not fall gives them away.
    """

    def towards(x: jax.Array, new: Any) -> jax.Array:
        return jnp.where(counts, x + (1 - FALL_DECAY) * (new - x), x)

    new = old._replace(
        fall=towards(old.fall, fall),
        end_slope=towards(old.end_slope, end_slope),
        promised=towards(old.promised, predicted),
    )
    error = FALL_ERRORS * (1 - FALL_DECAY) * 2 * deviation
    most = 2 * new.fall + new.end_slope + error
    most = jnp.where(new.promised > 0, divide(most, new.promised, 1), 1)
    return new._replace(most=jnp.where(counts, jnp.clip(most, 0, 1), old.most))


def with_measurement(
    old: SignalStatistics,
    counts: jax.Array,
    *,
    signal: jax.Array,
    curvature: jax.Array,
    predicted: jax.Array,
    k: jax.Array,
) -> SignalStatistics:
    """The averages with a measurement: all weigh the same until there are many."""
    unit = old.average_promise
    counts &= jnp.isfinite(signal)
    count = old.number + counts.astype(old.number.dtype)
    fading = 1 / jnp.maximum(count, 1).astype(signal.dtype)
    slow = jnp.where(counts, jnp.maximum(1 - SIGNAL_DECAY, fading), 0)
    quick = jnp.where(counts, jnp.maximum(1 - CURVATURE_DECAY, fading), 0)

    def towards(x: jax.Array, new: jax.Array, weight: jax.Array) -> jax.Array:
        return x + weight * (jnp.where(counts, divide(new, unit, 0), 0) - x)

    return old._replace(
        number=count,
        signal=towards(old.signal, signal, slow),
        predicted=towards(old.predicted, predicted, slow),
        curvature=towards(old.curvature, curvature, quick),
        recent_signal=towards(old.recent_signal, signal, quick),
        recently_predicted=towards(old.recently_predicted, predicted, quick),
        measured_at=jnp.where(counts, k, old.measured_at),
    )


def aim(signal: SignalStatistics) -> jax.Array:
    r"""What C / p should be, f[]: :math:`\kappa(\varphi)\, \varphi`."""
    fraction = signal.fraction
    kappa = KAPPA_NOISE + (KAPPA_EXACT - KAPPA_NOISE) * fraction
    return kappa * jnp.maximum(fraction, LEAST_AIMED_AT)


def error_of(
    move: Move, signal: SignalStatistics, end_slope: jax.Array, multiple: jax.Array
) -> jax.Array:
    """z of the last step, [G]: positive where it was too short.

    Args:
      move: the last step.
      signal: what is known of phi.
      end_slope: s, the slope along the step at its end.  # f[G]
      multiple: what shortened the step: z is that of the step without.  # f[]
    """
    curvature = signal.raw_fraction * move.predicted + end_slope  # C = S + s
    return aim(signal) * move.predicted - curvature / multiple


def with_error(
    old: StepSizeErrors, counts: jax.Array, error_of_all: jax.Array, error: jax.Array
) -> StepSizeErrors:
    """The averages with z of another step, which is limited if it is an outlier."""
    error = jnp.concatenate([error_of_all[None], error])
    dtype = error.dtype
    count = jnp.maximum(old.number, 1).astype(dtype)
    bias = 1 - jnp.asarray(Z_SPREAD_DECAY, dtype) ** count
    limit = OUTLIER * jnp.sqrt(old.square / bias)
    limited = jnp.where(old.number > 2, jnp.clip(error, -limit, limit), error)
    limited = jnp.where(counts & jnp.isfinite(error), limited, 0)

    def towards(x: jax.Array, new: jax.Array, decay: float) -> jax.Array:
        return x + jnp.where(counts, 1 - decay, 0) * (new - x)

    return StepSizeErrors(
        number=old.number + counts.astype(old.number.dtype),
        mean=towards(old.mean, limited, Z_DECAY),
        square=towards(old.square, jnp.square(limited), Z_SPREAD_DECAY),
    )


def change_of(
    errors: StepSizeErrors,
    signal: SignalStatistics,
    k: jax.Array,
    *,
    multiple: jax.Array | float = 1.0,
    power: jax.Array | float = 0.0,
) -> jax.Array:
    """The change of the logarithms of the step sizes, [G].

    All grow or shrink by the t-statistic of the sum of z, and each one relative to
    their mean by that of its own. phi p + s is a noisy curvature, the measured one
    hardly: no step is shortened that it finds too short, none lengthened that it finds
    to raise the loss, and one that it finds far too short grows at once.

    Where steps oscillate around a valley, C is 2 S at any step size, and step sizes
    would shrink for good although the loss falls along the valley: short-horizon bias
    (Wu et al., 2018, arXiv 1803.02021). So they shrink less, the faster it falls.

    Args:
      errors: averages of z.
      signal: averages of the measurements.
      k: of the step.  # i32[]
      multiple: of the schedule, which the last step was multiplied by.  # f[]
      power: a, if the losses fall like k^-a: from 1 on nothing shrinks.  # f[]
    """
    dtype = errors.mean.dtype
    count = jnp.maximum(errors.number, 1).astype(dtype)
    mean = errors.mean / (1 - jnp.asarray(Z_DECAY, dtype) ** count)
    square = errors.square / (1 - jnp.asarray(Z_SPREAD_DECAY, dtype) ** count)
    num_averaged = jnp.minimum(count, (1 + Z_DECAY) / (1 - Z_DECAY))
    t = jnp.clip(divide(mean, jnp.sqrt(square / num_averaged), 0), -1, 1)

    slope = jnp.maximum(signal.fraction, LEAST_AIMED_AT) * signal.recently_predicted
    is_known = signal.number >= KNOWN
    is_short = signal.curvature < aim(signal) * signal.recently_predicted
    is_short &= is_known
    raises_loss = is_known & (signal.curvature > 2 * slope)
    # Far below zero it is noise, as that of a network that knows its rows by heart. A
    # mini-batch of a vanishing loss has no curvature, but no slope either.
    is_far_too_short = signal.number >= KNOWN_WELL
    is_far_too_short &= jnp.abs(signal.curvature) < FAR_TOO_SHORT * signal.recent_signal
    steps = k.astype(dtype)
    grows = (k > WARM_UP_STEPS) & ~raises_loss
    up = jnp.where(grows, jnp.minimum(UP, FADING / steps), 0)
    holds = (k > HELD_AFTER) & (multiple * signal.curvature < HELD_BELOW * slope)
    share = jnp.where(holds, jnp.clip(1 - power, 0, 1), 1)
    down = jnp.where(is_short, 0, jnp.minimum(DOWN, share * FADING / steps))
    of_all = t[0] * jnp.where(t[0] > 0, up, down)
    own = t[1:] * jnp.minimum(OWN, OWN_FADING / steps)
    change = of_all + own - jnp.mean(own)
    # In the very first steps a curvature near 0 is noise.
    leaps = is_far_too_short & (k > FIRST_STEPS) & (signal.measured_at == k)
    return jnp.where(leaps, LEAP, change)


def shortening(
    promised: jax.Array,
    fraction: jax.Array,
    value: jax.Array,
    largest: jax.Array | float,
) -> jax.Array:
    """What a step is multiplied by, f[], so that phi (1 - phi) |p| <= largest * f.

    A single mini-batch may promise several times its loss, where large steps ruin a
    pretrained network. Without noise nothing is shortened, nor a loss below zero. Phi
    is at least `LEAST_BOUNDED`, or where hardly any promise is true there would be no
    bound. Steps uphill are shortened alike, or they would be the longest.
    """
    fraction = jnp.maximum(fraction, LEAST_BOUNDED)
    noise = fraction * (1 - fraction) * jnp.abs(promised)
    most = largest * value
    return jnp.where((noise > most) & (value > 0), divide(most, noise, 1), 1)


def with_new_groups(
    problem: Problem, sizes: jax.Array, slope: jax.Array, is_first: jax.Array
) -> jax.Array:
    """Step sizes in proportion to the params at first, [G].

    One that would promise less than the median group is lifted to the same predicted
    decrease, by `LARGEST_LIFT` at most: so is a new head of small params, which would
    hold up what lies below it, and the scale of its params still does not matter.

    A group waits while its direction ascends. One without a step size since its params
    or its gradients were zero gets that with the predicted decrease of the median
    group, but no more than the largest, unless, at first, the squares of its params
    overflow; the largest where no other descends. Where there is no other at all, that
    decrease is all of the loss, or 1 where it is zero.
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
    median = jnp.where(num_known > 0, median, jnp.where(loss > 0, loss, 1))
    largest = jnp.max(sizes)
    new = jnp.where((num_known > 0) | (largest <= 0), divide(median, slope, 0), largest)
    largest = jnp.where(largest > 0, largest, jnp.finfo(sizes.dtype).max)
    new = jnp.where(overflows, new, jnp.minimum(new, largest))
    lift = jnp.clip(divide(median, sizes * slope, 1), 1, LARGEST_LIFT)
    sizes = jnp.where(is_first & knows, lift * sizes, sizes)
    return jnp.where(wants, new, sizes).astype(sizes.dtype)


def root_mean_squares(grouping: Grouping, params: Any, dtype: Any) -> jax.Array:
    """The groups' root mean squares, dtype[G]; infinity where squares overflow."""
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
