r"""A candidate for the default: step sizes that follow from the next mini-batch.

A step u from w promises the decrease p = -<g, u> on the mini-batch that it comes from.
The next mini-batch, whose loss is f' and whose gradient g' is there anyway, says what
the step was worth on other examples. On a quadratic with slope S and curvature C along
the step,

    d = f'(w) - f'(w + u) = S - C / 2,    s = <g'(w + u), u> = C - S,

so that S = 2 d + s. The *signal fraction* phi = sum S / sum p is how much of what steps
promise is true; C = S is the step that decreases f' most. The slope s costs nothing;
f'(w) takes an evaluation, which is made ever more rarely, since phi changes slowly. In
between, the slope of group l is taken to be S_l = phi p_l.

**Step sizes** grow while z_l = kappa S_l - C_l is above zero, and shrink while it is
below, with C_l = S_l + s_l and

    kappa = KAPPA_NOISE + (KAPPA_EXACT - KAPPA_NOISE) phi.

In kappa S_l, phi is `LEAST_FRACTION` at least, and step sizes do not shrink while the
measured curvature C = 2 (d + s), in which noise cancels, is below kappa S: otherwise a
phi near zero would end a run.

Without noise (phi = 1) Adam is fastest close to where a step stops decreasing the loss,
C = 2 S. In noise half of the best step is better than the best step: its noise stays in
the params. Each step changes the logarithm of all step sizes by at most `UP` or `DOWN`,
in proportion to the t-statistic of the sum of z, and that of one group relative to
their mean by at most `OWN`, in proportion to that of its own z. Steps uphill, where
momentum overshoots, count as well: a group that swings has as many of them as others.

**A single mini-batch** may promise far more than others, up to several times its loss,
where large steps once ruined a pretrained network. So a step is shortened until

    phi (1 - phi) p <= LARGEST_NOISE f(w).

Without noise nothing is shortened, nor where hardly any promise is true. As with the
schedule, z is that of the step without it.

**Armijo's test** on the step's own mini-batch keeps out what goes wrong at once: a step
must decrease its loss by `C_LATER` times what it promises, or is halved until it does.
It is made ever more rarely, too. The first step is bracketed with `C_FIRST`.

**num_steps**, where it is known: step sizes are multiplied by x ** (1 - phi), where x
falls from 1 after the warm-up of ten steps to 0 after the last step, since noise makes
a decay necessary. z is that of the step without this factor.

Gradients are clipped as in `optax_armijo.armijo_adam`. A step is undone as there if the
loss is not finite or far above its average, here by `FAR` deviations. Step sizes are
multiplied by `SHORTENED` after it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_armijo import by_layer
from optax_armijo._numerics import divide, increment, search_dtype
from optax_armijo._state import LossStatistics, encode_labels
from optax_armijo._types import ParamLabels
from optax_armijo.labels.grouping import Grouping
from optax_armijo.search.directions import AdamDirections
from optax_armijo.search.groups import root_mean_squares
from optax_armijo.search.linesearch import Backtracking
from optax_armijo.search.problem import Problem
from optax_armijo.search.step import with_loss
from optax_armijo.search.transformation import (
    Batch,
    adam_directions,
    make_problem,
    transformation,
)

KAPPA_NOISE, KAPPA_EXACT = 0.5, 1.8  # of C / S, without signal and without noise
LEAST_FRACTION = 0.1  # in the aim: a phi near 0 would shorten steps for good
UP, DOWN = 0.15, 0.25  # most that a step changes the logarithm of all step sizes by,
FADING = 6.0  # and not more than this over k
OWN, OWN_FADING = 0.25, 1.0  # the same of one group relative to the others
FAR_TOO_SHORT, LEAP = 0.02, 0.7  # below this C / p, step sizes grow by exp(LEAP)
KNOWN = 4  # measurements, from which step sizes may leap
Z_DECAY, Z_SPREAD_DECAY, LEAP_DECAY = 0.5, 0.9, 0.5
SIGNAL_DECAY, UNIT_DECAY = 0.9, 0.9
LEAST_PREDICTED = 0.1  # in units of the average |p|, that S is divided by
LARGEST_NOISE = 0.1  # of the loss, that a step may promise
OUTLIER = 3.0  # times the spread of z, to which z is limited
C_FIRST, C_LATER = 0.8, 0.1
TESTED_EVERY = MEASURED_EVERY = 1.2  # growth of k between two tests, or measurements
HALF, MOST_HALVINGS = 0.5, 10
WARM_UP = 10  # steps, in which no step size grows by z either
FAR, SHORTENED = 6.0, 0.7  # of undoing a step
FIRST_TRIAL, UP_LADDER, DOWN_LADDER, NARROW, MOST_TRIALS = 0.01, 4.0, 16.0, 2.0, 20


class Move(NamedTuple):
    """The last step.

    Attributes:
      step_size: of the groups.  # f[G]
      predicted: decrease on its own mini-batch, by group.  # f[G]
      multiple: of the schedule, which the step sizes were multiplied by.  # f[]
    """

    step_size: jax.Array
    predicted: jax.Array
    multiple: jax.Array


class Measured(NamedTuple):
    """Averages over the steps whose loss was evaluated on the next mini-batch.

    S, p and C are in units of what steps promised at the time. In a run p falls by
    orders of magnitude, so that the first measurements would rule for good.

    Attributes:
      unit: average of |p| over all steps, divided by `weight`.  # f[]
      weight: 1 once there were many steps.  # f[]
      number: of the measurements.  # i32[]
      signal: S.  # f[]
      predicted: p.  # f[]
      curvature: C of a step without the schedule, over fewer steps.  # f[]
      recently_predicted: p, over as few.  # f[]
      at: k at the last measurement.  # i32[]
    """

    unit: jax.Array
    weight: jax.Array
    number: jax.Array
    signal: jax.Array
    predicted: jax.Array
    curvature: jax.Array
    recently_predicted: jax.Array
    at: jax.Array

    @property
    def raw_fraction(self) -> jax.Array:
        """phi as measured, within -1 and 1; 1 as long as nothing is known.  # f[]

        p may be small or negative, where steps go uphill as often as down.
        """
        ratio = self.signal / jnp.maximum(self.predicted, LEAST_PREDICTED)
        return jnp.where(self.number > 0, jnp.clip(ratio, -1, 1), 1)

    @property
    def fraction(self) -> jax.Array:
        """phi: not below 0.  # f[]"""
        return jnp.maximum(self.raw_fraction, 0)


class Errors(NamedTuple):
    """Averages of z: first that of all groups together, then of each one.

    Attributes:
      number: how many there were.  # i32[]
      mean: of z.  # f[1 + G]
      square: of z^2, over more steps.  # f[1 + G]
    """

    number: jax.Array
    mean: jax.Array
    square: jax.Array


class NextBatchState(NamedTuple):
    """State of `next_batch`; beside Adam's moments O(G) numbers.

    Attributes:
      label_codes: the groups' labels.  # u8[G, W]
      num_steps: updates so far.  # i32[]
      adam: moments of the good mini-batches.
      gradient_size: for clipping.  # f[]
      step_size: of the groups, without the schedule; 0 before the first.  # f[G]
      move: the last step.
      measured: what the next mini-batches said.
      errors: of the step sizes.
      losses: of the mini-batches so far.
      tested_at: k at the last test on a step's own mini-batch.  # i32[]
      num_evaluations: of the loss in the last step.  # i32[]
    """

    label_codes: jax.Array
    num_steps: jax.Array
    adam: optax.ScaleByAdamState
    gradient_size: jax.Array
    step_size: jax.Array
    move: Move
    measured: Measured
    errors: Errors
    losses: LossStatistics
    tested_at: jax.Array
    num_evaluations: jax.Array


def next_batch(
    param_labels: ParamLabels = by_layer,
    num_steps: int | None = None,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    """Adam with a step size a group that follows from the next mini-batch.

    Args:
      param_labels: as in `armijo_adam`.
      num_steps: of the run, if that is known.
      b1: decay rate of the first moment.
      b2: decay rate of the second moment.
      eps: added to the root of the second moment.
    """

    def step(
        grouping: Grouping, batch: Batch, state: NextBatchState
    ) -> tuple[Any, NextBatchState]:
        adam = adam_directions(grouping, batch, state, b1, b2, eps)
        problem = make_problem(grouping, Backtracking(), batch)
        return take_step(problem, state, adam, num_steps)

    return transformation(param_labels, init_state, step, kind=NextBatchState)


def init_state(grouping: Grouping, params: Any) -> NextBatchState:
    """The state before the first step."""
    dtype = search_dtype(grouping.trainable(params))
    num_groups = grouping.num_groups

    def zeros(*shape: int) -> jax.Array:
        return jnp.zeros(shape, dtype)

    def count() -> jax.Array:
        return jnp.zeros((), jnp.int32)

    mu, nu = grouping.zeros_like(params), grouping.zeros_like(params)
    return NextBatchState(
        label_codes=jnp.array(encode_labels(grouping.labels)),
        num_steps=count(),
        adam=optax.ScaleByAdamState(count(), mu, nu),
        gradient_size=jnp.ones((), dtype),
        step_size=zeros(num_groups),
        move=Move(zeros(num_groups), zeros(num_groups), jnp.ones((), dtype)),
        measured=Measured(
            *(zeros(), zeros(), count(), zeros(), zeros(), zeros(), zeros(), count())
        ),
        errors=Errors(count(), zeros(1 + num_groups), zeros(1 + num_groups)),
        losses=LossStatistics(zeros(), zeros(), zeros()),
        tested_at=count(),
        num_evaluations=count(),
    )


def take_step(
    problem: Problem,
    state: NextBatchState,
    adam: AdamDirections,
    num_steps: int | None,
) -> tuple[Any, NextBatchState]:
    """Measure the last step, or undo it; adjust the step sizes; test; move."""
    value, k, move = problem.value, adam.num_good, state.move
    along, is_first = adam.direction(), adam.num_good <= 1
    slope = problem.slopes(along)  # [G]
    is_good = jnp.isfinite(value) & jnp.all(jnp.isfinite(slope))
    moved = jnp.any(move.step_size != 0)

    # What was the last step worth? A clipped mini-batch counts by its clipped gradient.
    last = adam.last_direction()
    end_slope = -adam.scale * move.step_size * problem.slopes(last)  # s, [G]
    predicted = jnp.sum(move.predicted)
    counts = is_good & moved  # steps uphill, too: an oscillation has as many
    excess = value - state.losses.average
    is_far = (k > WARM_UP) & (excess > FAR * state.losses.deviation)
    is_suspect = moved & (is_far | ~jnp.isfinite(value))
    # The next measurement may be far off, so that a spoilt one would rule until then.
    measures = counts & (adam.scale >= 1)
    is_due = measures & _is_due(k, state.measured.at, MEASURED_EVERY)
    before = jax.lax.cond(
        is_due | is_suspect,
        lambda: problem.loss_after(-move.step_size, last),
        lambda: value,
    )
    is_to_blame = ~jnp.isfinite(value) | (value - before > excess / 2)
    undoes = is_suspect & jnp.isfinite(before) & is_to_blame
    is_good &= ~undoes
    decrease = before - value
    measured = _with_measurement(
        _with_unit(state.measured, counts, predicted),
        measures & (is_due | is_suspect) & jnp.isfinite(before),
        signal=2 * decrease + jnp.sum(end_slope),
        curvature=2 * (decrease + jnp.sum(end_slope)) / move.multiple,
        predicted=predicted,
        k=k,
    )
    fraction = measured.fraction

    # Were the step sizes too short or too long?
    kappa = KAPPA_NOISE + (KAPPA_EXACT - KAPPA_NOISE) * fraction
    aim = kappa * jnp.maximum(fraction, LEAST_FRACTION) * move.predicted
    curvature = measured.raw_fraction * move.predicted + end_slope  # C = S + s, [G]
    # What the last step's error would be without the decay, but with the warm-up.
    multiple = jnp.where(k > WARM_UP + 1, move.multiple, 1)
    error = aim - curvature / multiple
    errors = _with_error(state.errors, counts, error)
    # phi p + s is a noisy curvature, the measured one hardly: no step is shortened that
    # it finds too short, and one that is far too short grows at once.
    recently = measured.recently_predicted
    limit = kappa * jnp.maximum(fraction, LEAST_FRACTION) * recently
    is_short = (measured.number >= 2) & (measured.curvature < limit)
    is_far_too_short = measured.curvature < FAR_TOO_SHORT * recently
    is_leap = (measured.number >= KNOWN) & is_far_too_short
    change = _change(errors, k, is_short)
    # In the warm-up steps are short on purpose, and a curvature near 0 is noise.
    is_leap &= (k > WARM_UP) & (measured.at == k)
    change = jnp.where(is_leap, LEAP, change)
    sizes = state.step_size * jnp.exp(jnp.where(counts, change, 0))
    sizes = _with_new_groups(problem, sizes, slope, is_first)

    # The first step is bracketed, later ones are tested on their own mini-batch.
    factor, num_bracketed = jax.lax.cond(
        is_first & is_good & jnp.any(sizes * slope > 0),
        lambda: _bracketed(problem, along, sizes, jnp.sum(sizes * slope)),
        lambda: (jnp.ones_like(value), jnp.zeros((), jnp.int32)),
    )
    sizes = factor * sizes
    multiple = _schedule(k, fraction, num_steps).astype(value.dtype)
    promised = multiple * jnp.sum(sizes * slope)
    shortening = _shortening(promised, fraction, value)
    multiple, promised = shortening * multiple, shortening * promised
    tests = is_good & _is_due(k, state.tested_at, TESTED_EVERY) & (promised != 0)
    factor, accepted, num_tests = jax.lax.cond(
        tests,
        lambda: _backtracked(problem, along, multiple * sizes, promised),
        lambda: (
            jnp.ones_like(value),
            jnp.ones((), jnp.bool_),
            jnp.zeros((), jnp.int32),
        ),
    )
    applied = jnp.where(is_good & accepted, factor, 0) * multiple * sizes

    # One mini-batch may shorten its own step at will, but step sizes by half at most.
    # Where momentum ascends, its test says nothing about them.
    kept = jnp.where(promised > 0, jnp.maximum(factor, HALF), 1)
    sizes = jnp.where(is_good, kept * sizes, state.step_size)
    sizes = jnp.where(undoes, SHORTENED * sizes, sizes)
    is_over = num_tests >= 0  # until then the test may read old moments
    moments, along = adam.settled(is_good & is_over)
    made = Move(applied, adam.scale * applied * slope, multiple)
    still = move._replace(step_size=jnp.where(undoes, 0, move.step_size))
    num_evaluations = (is_due | is_suspect) + num_bracketed + num_tests

    def if_good(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda x, y: jnp.where(is_good, x, y), new, old)

    updates = problem.updates(jnp.where(undoes, -move.step_size, applied), along)
    return problem.grouping.whole(updates, problem.params), NextBatchState(
        label_codes=state.label_codes,
        num_steps=increment(state.num_steps),
        adam=moments,
        gradient_size=if_good(adam.gradient_size, state.gradient_size),
        step_size=sizes,
        move=if_good(made, still),
        measured=measured,
        errors=errors,
        losses=if_good(with_loss(state.losses, value, k), state.losses),
        tested_at=jnp.where(tests, k, state.tested_at),
        num_evaluations=num_evaluations,
    )


def _is_due(k: jax.Array, at: jax.Array, growth: float) -> jax.Array:
    """Whether k has grown enough since the last time, bool[]."""
    return k.astype(jnp.float32) >= growth * at.astype(jnp.float32)


def _with_unit(old: Measured, counts: jax.Array, predicted: jax.Array) -> Measured:
    """The averages, in whose unit another step is."""

    def towards(x: jax.Array, new: Any) -> jax.Array:
        return jnp.where(counts, x + (1 - UNIT_DECAY) * (new - x), x)

    return old._replace(
        unit=towards(old.unit, jnp.abs(predicted)), weight=towards(old.weight, 1)
    )


def _with_measurement(
    old: Measured,
    counts: jax.Array,
    *,
    signal: jax.Array,
    curvature: jax.Array,
    predicted: jax.Array,
    k: jax.Array,
) -> Measured:
    """The averages with a measurement: all weigh the same until there are many."""
    unit = divide(old.unit, old.weight, 1)
    counts &= jnp.isfinite(signal)
    count = old.number + counts
    fading = 1 / jnp.maximum(count, 1).astype(signal.dtype)
    slow = jnp.where(counts, jnp.maximum(1 - SIGNAL_DECAY, fading), 0)
    quick = jnp.where(counts, jnp.maximum(1 - LEAP_DECAY, fading), 0)

    def towards(x: jax.Array, new: jax.Array, weight: jax.Array) -> jax.Array:
        return x + weight * (jnp.where(counts, divide(new, unit, 0), 0) - x)

    return old._replace(
        number=count,
        signal=towards(old.signal, signal, slow),
        predicted=towards(old.predicted, predicted, slow),
        curvature=towards(old.curvature, curvature, quick),
        recently_predicted=towards(old.recently_predicted, predicted, quick),
        at=jnp.where(counts, k, old.at),
    )


def _with_error(old: Errors, counts: jax.Array, error: jax.Array) -> Errors:
    """The averages with z of another step, which is limited if it is an outlier."""
    error = jnp.concatenate([jnp.sum(error)[None], error])
    dtype = error.dtype
    bias = 1 - jnp.asarray(Z_SPREAD_DECAY, dtype) ** jnp.maximum(old.number, 1)
    limit = OUTLIER * jnp.sqrt(old.square / bias)
    limited = jnp.where(old.number > 2, jnp.clip(error, -limit, limit), error)
    limited = jnp.where(counts & jnp.isfinite(error), limited, 0)

    def towards(x: jax.Array, new: jax.Array, decay: float) -> jax.Array:
        return x + jnp.where(counts, 1 - decay, 0) * (new - x)

    return Errors(
        number=old.number + counts,
        mean=towards(old.mean, limited, Z_DECAY),
        square=towards(old.square, jnp.square(limited), Z_SPREAD_DECAY),
    )


def _change(errors: Errors, k: jax.Array, is_short: jax.Array) -> jax.Array:
    """The change of the logarithms of the step sizes, [G]."""
    count, dtype = jnp.maximum(errors.number, 1), errors.mean.dtype
    k = k.astype(dtype)
    mean = errors.mean / (1 - jnp.asarray(Z_DECAY, dtype) ** count)
    square = errors.square / (1 - jnp.asarray(Z_SPREAD_DECAY, dtype) ** count)
    num_averaged = jnp.minimum(count.astype(dtype), (1 + Z_DECAY) / (1 - Z_DECAY))
    spread = jnp.sqrt(square / num_averaged)
    t = jnp.clip(divide(mean, spread, 0), -1, 1)
    up = jnp.where(k > WARM_UP, jnp.minimum(UP, FADING / k), 0)
    down = jnp.where(is_short, 0, jnp.minimum(DOWN, FADING / k))
    of_all = t[0] * jnp.where(t[0] > 0, up, down)
    own = t[1:] * jnp.minimum(OWN, OWN_FADING / k)
    return of_all + own - jnp.mean(own)


def _with_new_groups(
    problem: Problem, sizes: jax.Array, slope: jax.Array, is_first: jax.Array
) -> jax.Array:
    """Step sizes in proportion to the params at first.

    A group without one, since its params or gradients were zero, gets the step size
    with the predicted decrease of the median group, but no more than the largest.
    """
    grouping = problem.grouping
    leaves = grouping.trainable(problem.params)
    root = root_mean_squares(grouping, leaves, sizes.dtype)
    sizes = jnp.where(is_first, root, sizes).astype(sizes.dtype)
    knows, wants = (sizes > 0) & (slope > 0), (sizes <= 0) & (slope > 0)
    num_known = jnp.sum(knows)
    ordered = jnp.sort(jnp.where(knows, sizes * slope, jnp.inf))
    median = ordered[jnp.maximum(num_known - 1, 0) // 2]
    median = jnp.where(num_known > 0, median, jnp.abs(problem.value))
    largest = jnp.max(jnp.where(knows, sizes, 0))
    largest = jnp.where(num_known > 0, largest, jnp.inf)
    new = jnp.minimum(divide(median, slope, 0), largest)
    return jnp.where(wants, new, sizes).astype(sizes.dtype)


def _bracketed(
    problem: Problem, along: Any, sizes: jax.Array, predicted: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The largest factor that passes with `C_FIRST`, and how many were tried."""

    def body(at: tuple[Any, ...]) -> tuple[Any, ...]:
        trial, passed, failed, count = at
        loss = problem.loss_after(trial * sizes, along)
        required = C_FIRST * trial * predicted - problem.tolerance
        passes = problem.value - loss >= required
        passed = jnp.where(passes, jnp.maximum(passed, trial), passed)
        failed = jnp.where(passes, failed, jnp.minimum(failed, trial))
        middle = jnp.sqrt(passed) * jnp.sqrt(failed)
        up = jnp.where(failed < jnp.inf, middle, UP_LADDER * passed)
        return jnp.where(passed > 0, up, trial / DOWN_LADDER), passed, failed, count + 1

    def goes_on(at: tuple[Any, ...]) -> jax.Array:
        _, passed, failed, count = at
        is_narrow = (passed > 0) & (failed <= NARROW * passed)
        return ~is_narrow & (count < MOST_TRIALS)

    zero = jnp.zeros_like(predicted)
    start = (zero + FIRST_TRIAL, zero, zero + jnp.inf, jnp.zeros((), jnp.int32))
    _, passed, _, count = jax.lax.while_loop(goes_on, body, start)
    return passed, count


def _backtracked(
    problem: Problem, along: Any, sizes: jax.Array, predicted: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The factor that passes with `C_LATER`, whether one did, and evaluations."""
    required = predicted - (1 - C_LATER) * jnp.abs(predicted)

    def body(at: tuple[Any, ...]) -> tuple[Any, ...]:
        factor, _, count = at
        factor = jnp.where(count > 0, HALF * factor, factor)
        loss = problem.loss_after(factor * sizes, along)
        passes = problem.value - loss >= factor * required - problem.tolerance
        return factor, passes, count + 1

    def goes_on(at: tuple[Any, ...]) -> jax.Array:
        _, accepted, count = at
        return ~accepted & (count < MOST_HALVINGS)

    one = jnp.ones_like(predicted)
    start = (one, jnp.zeros((), jnp.bool_), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(goes_on, body, start)


def _shortening(
    promised: jax.Array, fraction: jax.Array, value: jax.Array
) -> jax.Array:
    """What a step is multiplied by for `LARGEST_NOISE`, f[]; 1 for a loss below 0."""
    noise, most = fraction * (1 - fraction) * promised, LARGEST_NOISE * value
    return jnp.where((noise > most) & (value > 0), divide(most, noise, 1), 1)


def _schedule(k: jax.Array, fraction: jax.Array, num_steps: int | None) -> jax.Array:
    """By what step k of the run is multiplied, f[]."""
    k = k.astype(jnp.float32)
    rising = k / WARM_UP
    if num_steps is None:
        return jnp.minimum(rising, 1)
    left = (num_steps - k + 1) / max(1, num_steps - WARM_UP)
    falling = jnp.clip(left, 0, 1) ** (1 - fraction)
    return jnp.minimum(rising, falling)
