"""One step of the search, from top to bottom: `take_step`.

``docs/armijo_adam.md`` has the same steps in pseudocode. Here k counts the good
mini-batches, this one included, and g is the gradient of the loss on this one; p, S, C,
phi, kappa and z are defined in `optax_armijo.search.step_sizes`. Shapes: G groups.
"""

from typing import Any

import jax
import jax.numpy as jnp
from optax.tree_utils import tree_where

from optax_armijo._numerics import increment
from optax_armijo._state import (
    LONG,
    SHORT,
    SLOW,
    ArmijoState,
    LastStep,
    LossStatistics,
    Move,
    SignalStatistics,
)
from optax_armijo._types import Scalar
from optax_armijo.search.directions import AdamDirections, GivenDirections
from optax_armijo.search.problem import Problem
from optax_armijo.search.step_sizes import (
    CLEAR,
    EARLY_STEPS,
    FIRST_STEPS,
    HELD_AFTER,
    LARGEST_NOISE,
    LARGEST_NOISE_LATER,
    LEAP,
    LEAST_APPLIED,
    WARM_UP_STEPS,
    change_of,
    error_of,
    is_far_too_short,
    kept_promise,
    likely_fraction,
    may_double,
    shortening,
    with_early_fraction,
    with_error,
    with_leap,
    with_measurement,
    with_new_groups,
    with_unit,
)
from optax_armijo.search.trials import HALF, Step, evaluated

# Growth of k between two tests, and between two measurements.
TESTED_EVERY, MEASURED_EVERY = 1.2, 1.05
# The part of a step size that one update keeps at least, if it rolls nothing back.
LEAST_KEPT = 0.5
# The last step is suspect if the loss is more than this many mean deviations above its
# average.
FAR = 30.0
# Early in a run of known length, step sizes do not shrink together if losses fall at
# least like k^-LEAST_POWER.
LEAST_POWER = 0.25
# Early step sizes leap only if the steps that are left, or as many steps as were made,
# promise less than this fraction of the loss.
LITTLE = 0.5


def take_step(
    problem: Problem,
    state: ArmijoState,
    directions: AdamDirections | GivenDirections,
    num_steps: Scalar | None,
) -> tuple[Any, ArmijoState]:
    """Adapts step sizes, measures the last step or rolls it back, tests and moves.

    Args:
      problem: the params, and the loss and its gradient on this mini-batch.
      state: the state after the last step.
      directions: of this step and of the last one.
      num_steps: the number of steps in the run, if it is known.

    Returns:
      The updates, a tree like params, and the new state.
    """
    value, k, move = problem.value, directions.num_good, state.move
    along, is_first = directions.this_step(), ~jnp.any(state.step_size > 0)
    products = problem.products(along)
    slope = problem.slopes(products)  # [G]
    is_finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(slope))

    # Were the step sizes too short or too long? The clipped gradient says so, if the
    # batch is clipped.
    last = directions.last_step()
    last_slope = problem.slopes(problem.products(last))
    end_slope = -directions.scale * move.step_size * last_slope  # s, [G]
    moved = jnp.any(move.step_size != 0)
    # Uphill steps count too: in an oscillation they are half of all.
    counts = is_finite & moved
    # A group's z is for a step without warm-up, schedule and noise bound. For the sum,
    # steps of the warm-up count as they are, because the noise of a twentieth of a step
    # says little about a whole one. (The last step was step k - 1.)
    multiple_of_all = jnp.where(k > WARM_UP_STEPS + 1, move.multiple, 1)
    error_of_all = jnp.sum(error_of(move, state.signal, end_slope, multiple_of_all))
    error = error_of(move, state.signal, end_slope, move.multiple)
    is_known = counts & (state.signal.number > 0)  # before, phi is not known
    errors = with_error(state.errors, is_known, error_of_all, error)
    change = change_of(
        errors,
        state.signal,
        k,
        multiple=multiple_of_all,
        power=state.losses.power,
        only_grows=_only_grows(state.signal, state.losses, k, num_steps),
    )
    falls_slowly = _promise_little(value, state, k)  # k more steps
    far_too_short = is_far_too_short(state.signal, k, state.num_halved, falls_slowly)
    left_little = _steps_left_promise_little(value, state, k, num_steps)
    leaps = far_too_short | (left_little & may_double(state.signal, k))
    change = jnp.where(leaps, LEAP, change)
    sizes = state.step_size * jnp.exp(jnp.where(counts, change, 0))
    sizes = with_new_groups(problem, sizes, slope, is_first)
    fraction = likely_fraction(state.signal)
    multiple = _schedule(k, num_steps, fraction.dtype)
    promised = multiple * jnp.sum(sizes * slope)
    is_good = is_finite & jnp.isfinite(promised)  # their sum may overflow
    bound = shortening(promised, fraction, value, _largest_noise(k, num_steps))
    multiple *= bound

    # Did the last step cause a loss that is not finite, or far above those before? A
    # finite loss with a non-finite gradient may be this batch's fault alone, but not
    # twice in a row.
    excess = value - state.losses.average
    far = FAR * state.losses.deviation + problem.tolerance
    is_far = (k > FIRST_STEPS) & (excess > far)
    was_still = state.num_still > 0
    is_broken = ~jnp.isfinite(value) | (~is_good & was_still)
    is_suspect = moved & (is_far | is_broken)
    # A spoilt measurement would dominate until the next one, which may be many steps
    # away, so clipped batches do not measure.
    may_measure = counts & (directions.scale >= 1)
    is_measured = may_measure & _is_due(k, state.signal.measured_at, MEASURED_EVERY)
    looks_back = is_measured | is_suspect
    # The first step is bracketed, later ones are tested on their own mini-batch. If no
    # group's direction descends, no first step is made. While the last step is suspect,
    # the next one is not tested.
    is_due = _is_test_due(k, state.tested_at, num_steps) & ~is_suspect
    tests = is_good & jnp.where(is_first, promised > 0, is_due & (promised != 0))
    searched = tests & (sizes > 0)
    evaluations = evaluated(
        problem,
        back=Step(-move.step_size, last),
        looks_back=looks_back,
        step=Step(jnp.where(is_first, 1, multiple) * sizes, along),
        slope=slope,
        tests=tests,
        is_first=is_first,
        input_errors=state.input_errors,
    )

    # What was the last step worth on this mini-batch?
    before = evaluations.before
    raised = value - before
    undoes = is_suspect & jnp.isfinite(before) & (is_broken | (raised > excess / 2))
    # Always true, but it makes the new moments depend on the trials. So XLA does not
    # overwrite the old moments while the trials still read them.
    is_over = evaluations.num_trials >= 0
    # `is_good` says that the slopes are finite. They are here only for a reduction over
    # groups: XLA repeats cheap operations in each leaf's kernel, but no reduction, so
    # kernels read this flag instead of computing it.
    goes_on = jnp.all(jnp.isfinite(slope) & is_good & ~undoes & is_over)
    predicted = jnp.sum(move.predicted)
    signal = with_measurement(
        with_unit(state.signal, counts, predicted),
        may_measure & looks_back & jnp.isfinite(before),
        signal=jnp.sum(end_slope) - 2 * raised,
        curvature=2 * (jnp.sum(end_slope) - raised) / move.multiple,
        predicted=predicted,
        k=k,
    )
    signal = with_early_fraction(signal, counts, k)
    has_leapt = far_too_short & counts & goes_on
    signal = with_leap(signal, has_leapt)
    num_halved = state.num_halved + undoes.astype(jnp.int32)
    num_halved = jnp.maximum(num_halved - has_leapt.astype(jnp.int32), 0)

    passed = evaluations.passed
    sizes = jnp.where(is_first, passed, 1) * sizes
    factor = jnp.where(is_first, 1, passed)
    # Step sizes may be NaN on a bad batch.
    applied = jnp.where(goes_on, factor * multiple * sizes, 0)

    # One mini-batch may shorten its own step at will, but step sizes by at most half.
    # If momentum ascends, the test says nothing about them. If the noise bound leaves
    # little of a step, they shrink, too. Otherwise they would grow behind it, and be
    # applied at once when a mini-batch promises little by chance.
    by_test = jnp.where(promised > 0, factor, 1)
    kept = jnp.maximum(by_test * jnp.minimum(bound / LEAST_APPLIED, 1), LEAST_KEPT)
    sizes = jnp.where(goes_on, kept * sizes, state.step_size)
    # The next update makes step k again. The warm-up's rise from k - 1 to k is taken
    # out, so that it is half as long as the step that is rolled back.
    shortened = HALF * _warm_up(k - 1, sizes.dtype) / _warm_up(k, sizes.dtype)
    sizes = jnp.where(undoes, shortened, 1) * sizes
    by_group = jnp.where(applied != 0, applied * slope, 0)  # no NaN from a bad batch
    made = Move(applied, directions.scale * by_group, multiple)
    old_move = move._replace(step_size=jnp.where(undoes, 0, move.step_size))
    moved_by = jnp.where(undoes, -move.step_size, applied)
    updates = problem.updates(moved_by, tree_where(goes_on, along, last))
    num_evaluations = evaluations.num_trials + looks_back.astype(jnp.int32)
    num_trials = jnp.where(searched, evaluations.num_trials, 0)
    passes = tests & (passed > 0)
    return problem.grouping.whole(updates, problem.params), ArmijoState(
        label_codes=state.label_codes,
        checksum=state.checksum,
        num_updates=increment(state.num_updates),
        adam=directions.settled(goes_on),
        gradient_size=jnp.where(goes_on, directions.gradient_size, state.gradient_size),
        step_size=sizes,
        move=tree_where(goes_on, made, old_move),
        signal=signal,
        errors=errors,
        losses=tree_where(goes_on, with_loss(state.losses, value, k), state.losses),
        # The step after a rolled-back one is tested.
        tested_at=jnp.where(undoes, 0, jnp.where(tests, k, state.tested_at)),
        num_halved=num_halved,
        num_still=jnp.where(jnp.any(moved_by != 0), 0, increment(state.num_still)),
        input_errors=evaluations.errors._replace(
            labels=state.checksum != problem.grouping.checksum
        ),
        total_trials=state.total_trials + num_trials,
        total_evaluations=state.total_evaluations + num_evaluations,
        last=LastStep(
            applied_step_size=moved_by,
            searched=searched,
            accepted=searched & passes,
            num_trials=num_trials,
            predicted_decrease=by_group,
            actual_decrease=jnp.where(
                passes & ~is_first, _shares(by_group, value - evaluations.loss), 0
            ),
            step_factor=factor,
            is_finite=jnp.isfinite(value) & jnp.isfinite(slope),
            num_evaluations=num_evaluations,
            bad_leaf_code=problem.code_of_bad_leaf(products),
        ),
    )


def with_loss(losses: LossStatistics, loss: jax.Array, k: jax.Array) -> LossStatistics:
    """Adds a loss to the statistics; the first loss replaces them."""
    excess = loss - losses.average
    spread = jnp.abs(excess) - losses.deviation
    average = losses.average + (1 - SLOW) * excess
    deviation = losses.deviation + (1 - SLOW) * spread
    log = jnp.log(jnp.maximum(loss, jnp.finfo(loss.dtype).tiny))

    def towards_log(x: jax.Array, weight: float) -> jax.Array:
        new = x + jnp.minimum(1, weight / k.astype(loss.dtype)) * (log - x)
        # After a loss of 0 both begin again, at the same log f. From 0 they would
        # approach it at different speeds, which would look like a power of k.
        return jnp.where(loss > 0, jnp.where(x == 0, log, new), 0)

    return LossStatistics(
        average=jnp.where(k <= 1, loss, average),
        deviation=jnp.where(k <= 1, 0, deviation),
        long_log=towards_log(losses.long_log, LONG),
        short_log=towards_log(losses.short_log, SHORT),
    )


def _is_due(k: jax.Array, at: jax.Array, growth: float) -> jax.Array:
    """Whether k has grown enough since the last time, bool[]."""
    return k.astype(jnp.float32) >= growth * at.astype(jnp.float32)


def _is_test_due(
    k: jax.Array, tested_at: jax.Array, num_steps: Scalar | None
) -> jax.Array:
    """Whether the step is tested on its own mini-batch, bool[].

    Tests are made whenever k has grown by a fifth, and after each step that was rolled
    back. In the first half of a run of known length, only the first steps are tested
    so, since step sizes are hardly known yet. Later steps there that raise the loss of
    their own mini-batch may be right for the run.
    """
    waits = (tested_at > 0) & (k > FIRST_STEPS) & _is_first_half(k, num_steps)
    return _is_due(k, tested_at, TESTED_EVERY) & ~waits


def _schedule(k: jax.Array, num_steps: Scalar | None, dtype: Any) -> jax.Array:
    """The factor of step k of the run, dtype[].

    If the length of the run is known, it falls linearly to zero after the warm-up,
    because a decay removes noise.
    """
    rising = _warm_up(k, dtype)
    if num_steps is None:
        return rising
    return jnp.minimum(rising, _left(k, num_steps, dtype))


def _warm_up(k: jax.Array, dtype: Any) -> jax.Array:
    """A linear warm-up, dtype[].

    Adam's first directions are little more than the signs of one gradient.
    """
    return jnp.minimum(k.astype(dtype) / WARM_UP_STEPS, 1)


def _left(k: jax.Array, num_steps: Scalar, dtype: Any) -> jax.Array:
    """The fraction of the run after the warm-up that remains, dtype[]."""
    steps, length = k.astype(dtype), jnp.asarray(num_steps, dtype)
    left = (length - steps + 1) / jnp.maximum(1, length - WARM_UP_STEPS)
    return jnp.clip(left, 0, 1)


def _only_grows(
    signal: SignalStatistics,
    losses: LossStatistics,
    k: jax.Array,
    num_steps: Scalar | None,
) -> jax.Array | bool:
    """Whether the step sizes together do not shrink, bool[].

    The aim suits a step that is the last one. Longer steps pay in the first half of a
    decay, but only while losses fall, where most of what steps promise holds on other
    examples, and not in a short run, which tends to memorise few examples.
    """
    if num_steps is None:
        return False
    is_long = jnp.asarray(num_steps) > 2 * HELD_AFTER
    is_clear = signal.early_fraction > CLEAR
    may_grow = (k > WARM_UP_STEPS) & _is_first_half(k, num_steps) & is_long
    return may_grow & is_clear & (losses.power >= LEAST_POWER)


def _steps_left_promise_little(
    loss: jax.Array, state: ArmijoState, k: jax.Array, num_steps: Scalar | None
) -> jax.Array | bool:
    """Whether all steps that are left promise less than half of the loss, bool[].

    Then early steps of a run of known length are too short for it, although their
    curvature may be right for a last step. Later the rest of the loss may be noise, and
    at the end of any run hardly a step is left.
    """
    if num_steps is None:
        return False
    num_left = jnp.asarray(num_steps) - k
    return _is_first_half(k, num_steps) & _promise_little(loss, state, num_left)


def _promise_little(
    loss: jax.Array, state: ArmijoState, number: jax.Array
) -> jax.Array:
    """Whether ``number`` steps promise less than half of the loss, bool[]."""
    promise = kept_promise(state.signal) * state.signal.average_promise
    # Whole steps, without the last one's warm-up, schedule and bound, promise this over
    # the multiple.
    most = LITTLE * state.move.multiple * loss
    return (promise > 0) & (number.astype(promise.dtype) * promise < most)


def _is_first_half(k: jax.Array, num_steps: Scalar | None) -> jax.Array | bool:
    """Whether half of the decay of a run of known length is still to come, bool[].

    The decay takes out the noise of long steps.
    """
    if num_steps is None:
        return False
    return _left(k, num_steps, jnp.float32) >= 0.5


def _largest_noise(k: jax.Array, num_steps: Scalar | None) -> jax.Array | float:
    """How much noise a step's promise may contain, relative to the loss, f[]."""
    if num_steps is None:
        return LARGEST_NOISE
    return jnp.where(k > EARLY_STEPS, LARGEST_NOISE_LATER, LARGEST_NOISE)


def _shares(predicted: jax.Array, decrease: jax.Array) -> jax.Array:
    """Splits a decrease among the groups in proportion to the predicted ones, [G]."""
    total = jnp.sum(predicted)
    share = jnp.where(total != 0, predicted / jnp.where(total != 0, total, 1), 0)
    return share * decrease
