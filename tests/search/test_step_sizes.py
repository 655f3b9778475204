"""What a step was worth on the next mini-batch, and what its step sizes become."""

import itertools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import init

from optax_armijo import armijo_adam, make_train_step
from optax_armijo._state import LONG as LONG_WEIGHT
from optax_armijo._state import SHORT as SHORT_WEIGHT
from optax_armijo._state import (
    SLOW,
    ArmijoState,
    LossStatistics,
    Move,
    SignalStatistics,
    StepSizeErrors,
)
from optax_armijo.search import step_sizes
from optax_armijo.search.step import (
    LEAST_POWER,
    LITTLE,
    MEASURED_EVERY,
    _is_due,
    _is_test_due,
    _largest_noise,
    _only_grows,
    _promise_little,
    _schedule,
    _steps_left_promise_little,
    with_loss,
)
from optax_armijo.search.step_sizes import (
    CLEAR,
    DOWN,
    EARLY_STEPS,
    FADING,
    FAR_TOO_SHORT,
    HELD_AFTER,
    HELD_BELOW,
    KAPPA_EXACT,
    KAPPA_NOISE,
    LARGEST_NOISE,
    LARGEST_NOISE_LATER,
    LEAP,
    LEAST_AIMED_AT,
    LEAST_UP_TO,
    OWN,
    UP,
    WARM_UP_STEPS,
    aim,
    change_of,
    error_of,
    is_far_too_short,
    kept_promise,
    may_double,
    shortening,
    with_early_fraction,
    with_error,
    with_leap,
    with_measurement,
    with_unit,
)
from optax_armijo.search.trials import HALF

CURVATURE = np.array([1.0, 4.0, 0.25, 2.0, 0.5, 1.5], np.float32)
LABELS = {"first": "first", "second": "second"}
YES, NO, NEVER = jnp.asarray(True), jnp.asarray(False), jnp.asarray(0)


def params_like(x: Any) -> dict[str, jax.Array]:
    return {"first": jnp.asarray(x[:2]), "second": jnp.asarray(x[2:])}


def quadratic(params: dict[str, jax.Array], noise: jax.Array) -> jax.Array:
    """0.5 <w, H w> + <noise, w>, a quadratic whose slope alone differs by batch."""
    w = jnp.concatenate([params["first"], params["second"]])
    return 0.5 * jnp.sum(CURVATURE * w * w) + jnp.sum(noise * w)


def kink(params: dict[str, jax.Array], _: Any) -> jax.Array:
    """<H, |w|>, whose slope changes its sign where a step is too long."""
    w = jnp.concatenate([params["first"], params["second"]])
    return jnp.sum(CURVATURE * jnp.abs(w))


def run(
    batches: Any, num_steps: int | None = None, loss_fn: Any = quadratic
) -> tuple[list[np.ndarray], list[ArmijoState]]:
    """The points before each step and after the last, and the states after each."""
    tx = armijo_adam(LABELS, num_steps)
    step = make_train_step(loss_fn, tx)
    params = params_like(np.array([2.0, -1.0, 3.0, 1.0, -2.0, 1.0], np.float32))
    state, points, states = tx.init(params), [], []
    for batch in batches:
        points.append(np.concatenate([params["first"], params["second"]]))
        params, state, _ = step(params, state, jnp.asarray(batch))
        states.append(jax.tree.map(np.asarray, state))
    points.append(np.concatenate([params["first"], params["second"]]))
    return points, states


def statistics(number: int = 0, **averages: float) -> SignalStatistics:
    """Statistics with these averages, in a unit of 1."""
    state: ArmijoState = init(armijo_adam(LABELS), params_like(np.ones(6)))
    numbers = {name: jnp.float32(x) for name, x in averages.items()}
    one = {"unit": jnp.ones(()), "weight": jnp.ones(()), "number": jnp.asarray(number)}
    return state.signal._replace(**one, **numbers)


def errors_of(mean: Any, number: int = 20) -> StepSizeErrors:
    """Averages of z, of all and of each group, whose squares are all 1."""
    mean = jnp.asarray(mean, jnp.float32)
    return StepSizeErrors(jnp.asarray(number), mean, jnp.ones_like(mean))


# Without noise: a step that is too long, and yet decreases the loss.
LONG = {"curvature": 1.8, "recently_predicted": 1.0, "signal": 1.0, "predicted": 1.0}


def test_signal_and_curvature_are_exact_on_a_quadratic() -> None:
    """S = 2 d + s is the slope, and C = 2 (d + s) is <u, H u>, whatever the batch."""
    rng = np.random.default_rng(0)
    noises = rng.normal(0, 0.3, (5, 6)).astype(np.float32)
    points, states = run(noises)
    signals, promises, curvatures, unit = [], [], [], 0.0
    for k in range(1, 5):
        update = (points[k] - points[k - 1]).astype(float)
        slope = CURVATURE * points[k - 1] + noises[k]
        own = CURVATURE * points[k - 1] + noises[k - 1]
        # In units of the average promise: exponential, without a bias.
        unit = SLOW * unit + (1 - SLOW) * abs(own @ update)
        scale = unit / (1 - SLOW**k)
        signals.append(-slope @ update / scale)
        promises.append(-own @ update / scale)
        multiple = float(states[k - 1].move.multiple)
        curvatures.append(update @ (CURVATURE * update) / multiple / scale)
        signal = states[k].signal
        # The first measurements weigh the same.
        assert signal.number == k and signal.measured_at == k + 1
        assert signal.signal == pytest.approx(np.mean(signals), rel=1e-3)
        assert signal.predicted == pytest.approx(np.mean(promises), rel=1e-3)
    assert SLOW > 1 - 1 / 5
    # Of curvatures the last two, and then by half.
    expected = np.mean(curvatures[:2])
    for curvature in curvatures[2:]:
        expected = (expected + curvature) / 2
    assert states[-1].signal.curvature == pytest.approx(expected, rel=1e-3)


def test_signal_fraction_of_a_known_noise() -> None:
    """Without noise it is 1; where noise is nearly all of the gradient, near 0."""
    _, exact = run(np.zeros((12, 6), np.float32))
    assert exact[-1].signal.fraction == pytest.approx(1, abs=1e-3)
    rng = np.random.default_rng(1)
    _, noisy = run(rng.normal(0, 30, (60, 6)).astype(np.float32))
    assert noisy[-1].signal.fraction < 0.3


def test_signal_fraction_tells_at_which_batch_size_half_of_a_promise_is_noise() -> None:
    """phi = 1 / (1 + c / B): c of one batch size predicts phi of larger ones."""

    def fraction(batch_size: int) -> float:
        # In a long run steps are short at first: the gradient hardly changes.
        tx = armijo_adam(num_steps=3_000)
        step = make_train_step(lambda w, n: jnp.sum(0.5 * w * w + n * w), tx)
        params, rng = jnp.ones(2_000), np.random.default_rng(0)
        state: ArmijoState = init(tx, params)
        for _ in range(10):
            noise = rng.normal(0, 2 / batch_size**0.5, 2_000).astype(np.float32)
            params, state, _ = step(params, state, jnp.asarray(noise))
        return float(state.signal.fraction)

    # The noise scale is 4 at first and 11 at last. Its part in a promise is smaller,
    # because a direction is an average of gradients.
    phi = fraction(1)
    size = (1 - phi) / phi
    assert 1 < size < 2
    for larger in (4, 16):
        expected = 1 / (1 + size / larger)
        assert fraction(larger) == pytest.approx(expected, abs=0.08)


def test_first_measurements_do_not_rule_for_good() -> None:
    """What a step promises falls by orders of magnitude, and phi follows the noise."""
    state: ArmijoState = init(armijo_adam(LABELS), params_like(np.ones(6)))
    signal = state.signal
    for k in range(1, 301):
        promised, at = jnp.float32(np.exp(-k / 20)), jnp.asarray(k)
        signal = with_unit(signal, YES, promised)
        if _is_due(at, signal.measured_at, MEASURED_EVERY):
            found = jnp.where(k <= 20, 0, promised)  # until then all is noise
            numbers = {"signal": found, "curvature": found, "predicted": promised}
            signal = with_measurement(signal, YES, **numbers, k=at)
        assert k > 20 or signal.fraction == 0
    assert signal.fraction > 0.5


def test_what_is_not_finite_is_no_measurement() -> None:
    before = statistics(3, signal=0.5, predicted=1.0, curvature=0.3)
    numbers = {"curvature": jnp.inf, "predicted": jnp.ones(())}
    for found in (jnp.nan, jnp.inf):
        signal = jnp.asarray(found)
        after = with_measurement(before, YES, signal=signal, **numbers, k=jnp.array(9))
        chex.assert_trees_all_equal(after, before)


def test_fraction_lies_between_zero_and_one() -> None:
    """Also where steps promised hardly anything, or went uphill."""
    assert statistics(0).fraction == statistics(0).raw_fraction == 1
    for signal, predicted, raw in [
        (0.3, 1.0, 0.3),
        (2.0, 1.0, 1.0),
        (-0.5, 1.0, -0.5),
        (0.05, 0.01, 0.5),
        (0.05, -1.0, 0.5),
    ]:
        found = statistics(5, signal=signal, predicted=predicted)
        assert found.raw_fraction == pytest.approx(raw)
        assert found.fraction == pytest.approx(max(raw, 0))


def test_the_aim_is_half_the_best_step_in_noise_and_almost_twice_it_without() -> None:
    for fraction, number, expected in [
        (1.0, 5, KAPPA_EXACT),
        (0.5, 5, 0.5 * (KAPPA_NOISE + KAPPA_EXACT) / 2),
        (0.0, 5, KAPPA_NOISE * LEAST_AIMED_AT),
        (0.0, LEAST_UP_TO, KAPPA_NOISE * LEAST_AIMED_AT),
        (-0.5, 4 * LEAST_UP_TO, KAPPA_NOISE * LEAST_AIMED_AT / 4),
    ]:
        found = aim(statistics(number, signal=fraction, predicted=1.0))
        assert found == pytest.approx(expected, rel=1e-5)


def test_error_is_that_of_the_step_without_the_schedule() -> None:
    """Where warm-up or schedule halve a step, its p is halved and its C quartered."""
    slopes, curvatures = jnp.array([1.0, 2.0]), jnp.array([0.5, 3.0])
    signal, found = statistics(5, signal=1.0, predicted=1.0), []
    for multiple in (1.0, 0.5):
        move = Move(jnp.ones(2), multiple * slopes, jnp.asarray(multiple))
        end_slope = multiple**2 * curvatures - multiple * slopes  # s = C - S
        found.append(error_of(move, signal, end_slope, move.multiple) / multiple)
    expected = KAPPA_EXACT * slopes - curvatures
    chex.assert_trees_all_close(found, [expected, expected], rtol=1e-5)


def test_an_error_whose_square_overflows_does_not_spoil_the_averages() -> None:
    errors = errors_of(jnp.zeros(3))
    for error in (jnp.nan, jnp.inf, -1e30):
        same = with_error(errors, YES, jnp.asarray(error), jnp.full(2, error))
        chex.assert_tree_all_finite(same)
    still = with_error(errors, ~YES, jnp.ones(()), jnp.ones(2))
    chex.assert_trees_all_equal(still, errors)


def test_step_sizes_grow_while_steps_are_too_short() -> None:
    k = jnp.asarray(WARM_UP_STEPS + 1)
    change = change_of(errors_of(jnp.ones(3)), statistics(5, **LONG), k)
    chex.assert_trees_all_close(change, jnp.full(2, UP), rtol=1e-5)
    too_long = errors_of(-jnp.ones(3))
    change = change_of(too_long, statistics(5, **LONG), k)
    chex.assert_trees_all_close(change, jnp.full(2, -DOWN), rtol=1e-5)
    # The measured curvature has the last word, once there is one.
    short = LONG | {"curvature": 0.03, "signal": 0.5, "predicted": 1.0}
    kept = change_of(too_long, statistics(1, **short), k)
    chex.assert_trees_all_close(kept, jnp.zeros(2), atol=1e-6)
    first = init(armijo_adam(LABELS), params_like(np.ones(6))).signal
    assert np.all(change_of(too_long, first, k) < 0)


def test_all_together_only_grow_before_the_middle_of_a_run_of_known_length() -> None:
    """Groups still move apart: it is their sum that does not shrink."""
    k, signal = jnp.asarray(30), statistics(5, **LONG)
    errors = errors_of(jnp.array([-1.0, -1.0, 0.5]))
    assert np.sum(change_of(errors, signal, k)) < 0
    change = change_of(errors, signal, k, only_grows=True)
    assert np.sum(change) == pytest.approx(0, abs=1e-6) and change[0] < 0 < change[1]
    grown = change_of(errors_of(jnp.ones(3)), signal, k, only_grows=True)
    chex.assert_trees_all_close(grown, jnp.full(2, UP), rtol=1e-5)


@pytest.mark.parametrize(
    ("at", "num_steps", "fraction", "power", "only_grows"),
    [
        (WARM_UP_STEPS, 200, 0.6, 0.5, False),
        (WARM_UP_STEPS + 1, 200, 0.6, 0.5, True),
        (111, 200, 0.6, 0.5, True),  # the middle of the run after the warm-up
        (112, 200, 0.6, 0.5, False),
        (30, 2 * HELD_AFTER, 0.6, 0.5, False),  # too short a run
        (30, 2 * HELD_AFTER + 1, 0.6, 0.5, True),
        (30, 200, CLEAR, 0.5, False),  # too much noise
        (30, 200, 0.6, 1.01 * LEAST_POWER, True),
        # Losses do not fall: steps that grew on lost two of 24 runs of a neural ODE.
        (30, 200, 0.6, 0.99 * LEAST_POWER, False),
        (30, None, 0.6, 0.5, False),
    ],
)
def test_all_together_only_grow_if_most_promises_hold_and_a_decay_is_to_come(
    at: int, num_steps: int | None, fraction: float, power: float, only_grows: bool
) -> None:
    signal = statistics(5, **LONG)._replace(early_fraction=jnp.asarray(fraction))
    log = jnp.asarray(power * (1 / LONG_WEIGHT - 1 / SHORT_WEIGHT))
    losses = LossStatistics(jnp.ones(()), jnp.zeros(()), log, jnp.zeros(()))
    assert _only_grows(signal, losses, jnp.asarray(at), num_steps) == only_grows


def test_the_early_fraction_is_the_mean_of_phi_after_the_warm_up() -> None:
    signal = statistics(5, **LONG)._replace(early_fraction=jnp.ones(()))
    seen = []
    for k in range(1, 2 * HELD_AFTER):
        phi = np.float32(k % 7) / 10
        signal = signal._replace(signal=signal.predicted * phi)
        counts = jnp.asarray(k != HELD_AFTER)
        signal = with_early_fraction(signal, counts, jnp.asarray(k))
        if WARM_UP_STEPS < k < HELD_AFTER:
            seen.append(signal.fraction)
        expected = np.mean(seen) if seen else 1
        assert signal.early_fraction == pytest.approx(expected, rel=1e-5), k


def test_changes_fade_and_nothing_grows_in_the_warm_up() -> None:
    signal = statistics(5, **LONG)
    grown = change_of(errors_of(jnp.ones(3)), signal, jnp.asarray(1000))
    chex.assert_trees_all_close(grown, jnp.full(2, FADING / 1000), rtol=1e-5)
    for k in (2, WARM_UP_STEPS):
        warm = change_of(errors_of(jnp.ones(3)), signal, jnp.asarray(k))
        chex.assert_trees_all_close(warm, jnp.zeros(2), atol=1e-6)


def test_a_step_that_is_far_too_short_leaps() -> None:
    """Only right after a measurement, and after the first steps."""
    too_short = {"curvature": FAR_TOO_SHORT / 2, "recent_signal": 1.0}
    k = jnp.asarray(30)
    known = statistics(4, **LONG | too_short)._replace(measured_at=k - 1)
    assert is_far_too_short(known, k, NEVER, YES)
    for other, at in [
        (known._replace(measured_at=k - 2), k),
        (known._replace(measured_at=jnp.asarray(9)), jnp.asarray(10)),
        (known._replace(measured_at=jnp.asarray(EARLY_STEPS)), jnp.asarray(41)),
        (known._replace(curvature=jnp.float32(1.5 * FAR_TOO_SHORT)), k),
        # Noise, where a network knows its rows by heart: it ruined a BERT.
        (known._replace(curvature=jnp.float32(-1.5 * FAR_TOO_SHORT)), k),
    ]:
        assert not is_far_too_short(other, at, NEVER, YES)
    # Later only to make up for steps that were rolled back.
    late = known._replace(measured_at=jnp.asarray(EARLY_STEPS))
    assert is_far_too_short(late, jnp.asarray(EARLY_STEPS + 1), jnp.asarray(1), NO)

    # Where the loss falls fast, leaps threw off runs of a neural ODE.
    assert not is_far_too_short(known, k, NEVER, NO)


def test_steps_that_promise_little_leap_if_twice_the_step_decreases_the_loss() -> None:
    """No run uses up a constant in the loss, which must not make steps run away."""
    k = jnp.asarray(30)
    for curvature, leaps in ((0.9, True), (1.1, False)):
        known = statistics(4, **LONG | {"curvature": curvature})
        known = known._replace(measured_at=k - 1)
        assert may_double(known, k) == leaps
        late = known._replace(measured_at=k - 2)  # what is known is of another step
        assert not may_double(late, k)
        known = known._replace(measured_at=jnp.asarray(EARLY_STEPS))
        assert not may_double(known, jnp.asarray(EARLY_STEPS + 1))


def test_a_hinge_does_not_run_away() -> None:
    """Between its kinks C is 0 at any step size; leaps made 238 of a loss of 1."""
    rows, start, chosen = map(jax.random.key, range(3, 6))
    x = jax.random.normal(rows, (256, 20))
    y = jnp.sign(x @ jnp.linspace(-10, 10, 20))
    batches = jax.random.randint(chosen, (400, 16), 0, 256)

    def hinge(params: Any, i: jax.Array) -> jax.Array:
        return jnp.mean(jnp.maximum(0, 1 - y[i] * (x[i] @ params)))

    params = 0.1 * jax.random.normal(start, (20,))
    after = losses_of(hinge, params, batches, evaluated_on=jnp.arange(256))
    assert jnp.max(after[50:]) < after[0] / 2


def losses_of(
    loss_fn: Callable[..., jax.Array], params: Any, batches: Any, evaluated_on: Any
) -> jax.Array:
    """The loss after each step without `num_steps`."""
    tx = armijo_adam()
    train_step = make_train_step(loss_fn, tx, donate=False)

    def step(carry: Any, batch: Any) -> tuple[Any, jax.Array]:
        params, state, _ = train_step(*carry, batch)
        return (params, state), loss_fn(params, evaluated_on)

    return jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), batches)[1])(params)


def test_step_sizes_do_not_grow_behind_the_noise_bound() -> None:
    """Applied at once, they brought a loss of 0.7 back to 9e4."""

    def distance(params: jax.Array, _: Any) -> jax.Array:
        return jnp.mean(jnp.abs(params - 1e5))

    params = jax.random.normal(jax.random.key(0), (20,))
    losses = losses_of(distance, params, jnp.zeros(300), evaluated_on=None)
    assert losses[-1] < 0.1
    assert jnp.max(losses[40:]) < 1e3 and jnp.max(losses[150:]) < 10


def test_step_sizes_shrink_where_steps_help_no_other_examples() -> None:
    """With a least phi that stays, the loss of sparse noise rose from 1.8 to 17."""

    def loss_fn(params: dict[str, jax.Array], batch: Any) -> jax.Array:
        rows, columns = batch
        rows, columns = params["rows"][rows], params["columns"][columns]
        scores = jnp.einsum("br,bcr->bc", rows, columns)
        return jnp.mean(jax.nn.logsumexp(scores, axis=1) - scores[:, 0])

    def pairs(key: jax.Array, *shape: int) -> tuple[jax.Array, jax.Array]:
        rows, columns = jax.random.split(key)
        return (
            jax.random.randint(rows, shape, 0, 200),
            jax.random.randint(columns, (*shape, 6), 0, 200),
        )

    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        name: 0.1 * jax.random.normal(key, (200, 8))
        for name, key in zip(("rows", "columns"), keys[:2], strict=True)
    }
    batches, others = pairs(keys[2], 400, 32), pairs(keys[3], 1000)
    losses = losses_of(loss_fn, params, batches, evaluated_on=others)
    assert losses[-1] < 2 * np.log(6)  # log 6 without information


def test_after_a_leap_the_averages_are_those_of_steps_that_are_as_long() -> None:
    """Three leaps at one measurement lost a neural ODE, where most batches are NaN."""

    def measured(size: float, leaps: bool) -> SignalStatistics:
        averages = statistics()._replace(unit=jnp.asarray(1.0))
        for slope, curvature in ((1.0, 0.02), (0.8, 0.04)):
            averages = with_measurement(
                averages,
                jnp.asarray(True),
                signal=jnp.float32(size * slope),
                curvature=jnp.float32(size**2 * curvature),
                predicted=jnp.float32(size),
                k=jnp.asarray(30),
            )
        return with_leap(averages, jnp.asarray(leaps))

    leapt, longer = measured(1.0, True), measured(float(np.exp(LEAP)), False)
    names = ("curvature", "recent_signal", "recently_predicted", "measured_at")
    for name in names:
        chex.assert_trees_all_close(
            getattr(leapt, name), getattr(longer, name), rtol=1e-5
        )
    # phi is of its own averages, and changes by measurements alone.
    chex.assert_trees_all_equal(leapt.fraction, measured(1.0, False).fraction)
    k = jnp.asarray(31)
    assert is_far_too_short(measured(1.0, False), k, NEVER, YES)
    assert not is_far_too_short(leapt, k, NEVER, YES)


def promising(promise: float) -> ArmijoState:
    """A state after a step of half the length, where a whole one promises so much."""
    multiple, unit, phi = 0.5, 4.0, 0.25
    averages = {"signal": phi, "predicted": 1.0}
    averages["recently_predicted"] = multiple * promise / (phi * unit)
    signal = statistics(5, **averages)._replace(unit=jnp.asarray(unit))
    assert unit * kept_promise(signal) == pytest.approx(multiple * promise)
    state: ArmijoState = init(armijo_adam(LABELS), params_like(np.ones(6)))
    move = state.move._replace(multiple=jnp.asarray(multiple))
    return state._replace(signal=signal, move=move)


@pytest.mark.parametrize(
    ("at", "num_steps", "promise", "loss", "is_little"),
    [
        (20, 100, 0.1, 7.9, False),  # 80 steps of 0.1
        (20, 100, 0.1, 8.1, True),
        (20, 180, 0.1, 8.1, False),
        (EARLY_STEPS, 100, 0.1, 8.1, True),
        (30, 40, 0.1, 8.1, True),  # the middle of a short run after the warm-up
        (32, 40, 0.1, 8.1, False),
        (20, 100, -0.1, 8.1, False),  # momentum ascends
        (20, 100, 0.1, -1.0, False),
        (20, 100, 0.1, np.nan, False),
        (20, None, 0.1, 8.1, False),
    ],
)
def test_early_steps_promise_little_if_all_left_promise_less_than_half_the_loss(
    at: int, num_steps: int | None, promise: float, loss: float, is_little: bool
) -> None:
    state = promising(promise)
    k, value = jnp.asarray(at), jnp.asarray(loss / LITTLE)
    assert _steps_left_promise_little(value, state, k, num_steps) == is_little


def test_the_loss_falls_slowly_if_as_many_steps_again_promise_less_than_half() -> None:
    for promise, loss, is_slow in (
        (0.1, 2.1, True),  # 20 steps of 0.1
        (0.1, 1.9, False),
        (-0.1, 2.1, False),
        (0.1, -1.0, False),
        (0.1, np.nan, False),
    ):
        state, value = promising(promise), jnp.asarray(loss / LITTLE)
        assert _promise_little(value, state, jnp.asarray(20)) == is_slow, loss


def test_a_constant_in_the_loss_does_not_make_steps_run_away() -> None:
    """Steps never promise to use it up, and leapt until they raised the loss."""
    offset = 1e3
    rng = np.random.default_rng(0)
    noise = 0.3 * rng.standard_normal((80, 6)).astype(np.float32)

    def raised(params: dict[str, jax.Array], batch: jax.Array) -> jax.Array:
        return quadratic(params, batch) + offset

    excess = [
        np.sum(CURVATURE * run(noise, 80, loss_fn)[0][-1] ** 2)
        for loss_fn in (quadratic, raised)
    ]
    assert excess[1] < 2 * excess[0] < 0.2


def test_a_batch_without_loss_makes_no_step_leap() -> None:
    """Its slope vanishes, too: leaps at such batches made a loss of 57 of a table."""
    k = jnp.asarray(30)
    batch = statistics(4, **LONG | {"curvature": 1e-4})._replace(measured_at=k - 1)
    for signal, leaps in ((1e-2, True), (1e-4, False), (0.0, False), (-1e-2, False)):
        found = batch._replace(recent_signal=jnp.float32(signal))
        assert is_far_too_short(found, k, NEVER, YES) == leaps


def test_nothing_grows_where_a_measured_step_raises_the_loss() -> None:
    k, errors = jnp.asarray(WARM_UP_STEPS + 1), errors_of(jnp.ones(3))
    for curvature, growth in ((1.9, UP), (2.1, 0.0)):
        signal = statistics(2, **LONG | {"curvature": curvature})
        change = change_of(errors, signal, k)
        chex.assert_trees_all_close(change, jnp.full(2, growth), atol=1e-6)
    unknown = init(armijo_adam(LABELS), params_like(np.ones(6))).signal
    assert np.all(change_of(errors, unknown, k) > 0)


def test_step_sizes_shrink_less_the_faster_the_loss_falls() -> None:
    """But not where the steps as they are raise the loss much, nor at first."""
    errors = errors_of(-jnp.ones(3))

    def shrinks(k: int, curvature: float, multiple: float, power: float) -> float:
        signal = statistics(5, **LONG | {"curvature": curvature})
        change = change_of(
            errors, signal, jnp.asarray(k), multiple=multiple, power=power
        )
        return float(-change[0] * k / FADING)

    for power, share in ((-0.5, 1.0), (0.0, 1.0), (0.25, 0.75), (1.0, 0.0), (2.0, 0.0)):
        assert shrinks(1000, 2.0, 1.0, power) == pytest.approx(share, abs=1e-5)
    above = HELD_BELOW + 1
    assert shrinks(1000, above, 1.0, 2.0) == pytest.approx(1, rel=1e-5)
    assert shrinks(1000, above, 0.5, 2.0) == pytest.approx(0, abs=1e-5)
    for k, share in ((HELD_AFTER, 1.0), (HELD_AFTER + 1, 0.0)):
        assert shrinks(k, 2.0, 1.0, 2.0) == pytest.approx(share, abs=1e-5)


def test_groups_part_around_their_mean() -> None:
    errors = errors_of([0.0, 1.0, -1.0], number=1000)
    for k in (4, 400):
        change = change_of(errors, statistics(5, **LONG), jnp.asarray(k))
        assert change[0] - change[1] == pytest.approx(2 * OWN / k**0.5, rel=1e-5)
        assert change[0] + change[1] == pytest.approx(0, abs=1e-6)


def test_the_schedule_warms_up_and_falls_linearly_to_zero() -> None:
    length = WARM_UP_STEPS + 100
    for k, num_steps, expected in [
        (1, length, 1 / WARM_UP_STEPS),
        (WARM_UP_STEPS, length, 1.0),
        (WARM_UP_STEPS + 51, length, 0.5),
        (length, length, 0.01),
        (length + 1, length, 0.0),  # beyond the end nothing moves
        (length, None, 1.0),
        (5, 5, 0.25),  # a short run is all warm-up
    ]:
        found = _schedule(jnp.asarray(k), num_steps, jnp.float32)
        assert found == pytest.approx(expected), (k, num_steps)


def test_shortening_bounds_the_noise_that_a_step_promises() -> None:
    """phi (1 - phi) |p| is a part of the loss at most, where that is positive."""
    for promised, fraction, value in [
        (40.0, 0.5, 1.0),
        (-40.0, 0.5, 1.0),
        (3.0, 0.2, 2.0),
        (99.0, LEAST_AIMED_AT, 3.0),
    ]:
        args = tuple(map(jnp.asarray, (promised, fraction, value)))
        for largest in (LARGEST_NOISE, 0.1):
            shorter = float(shortening(*args, largest=largest))
            kept = fraction * (1 - fraction) * shorter * abs(promised)
            assert kept == pytest.approx(largest * value)
    for promised, fraction, value in [
        (40.0, 1.0, 1.0),
        (40.0, 0.5, -1.0),
        (40.0, 0.5, 0.0),
        (0.15, 0.5, 1.0),
    ]:
        args = tuple(map(jnp.asarray, (promised, fraction, value)))
        assert shortening(*args, largest=LARGEST_NOISE) == 1


def test_the_bound_of_noise_loosens_where_the_length_is_known() -> None:
    for k, num_steps, largest in [
        (EARLY_STEPS, 100, LARGEST_NOISE),
        (EARLY_STEPS + 1, 100, LARGEST_NOISE_LATER),
        (EARLY_STEPS + 1, None, LARGEST_NOISE),
    ]:
        assert _largest_noise(jnp.asarray(k), num_steps) == pytest.approx(largest)


def test_runs_of_known_length_test_steps_at_first_and_after_the_middle() -> None:
    """As often as others do; between, only the step after one that is rolled back."""
    tested = {}
    for num_steps in (None, 200):
        points, states = run(np.zeros(200), num_steps, kink)
        tested[num_steps] = []
        for k, state in enumerate(states[1:], 2):
            if not np.any(state.last.searched):
                continue
            tested[num_steps].append(k)
            before, after = (
                float(kink(params_like(x), None)) for x in points[k - 1 : k + 1]
            )
            predicted = np.sum(state.last.predicted_decrease)
            if np.any(state.last.accepted):
                assert before - after >= predicted - 0.9 * abs(predicted) - 1e-5
    # A half of the 180 steps after the warm-up remains at step 111.
    assert tested[200][:8] == [2, 3, 4, 5, 6, 8, 10, 112]
    assert tested[None][:8] == [2, 3, 4, 5, 6, 8, 10, 12]
    assert all(later >= 1.2 * k for k, later in itertools.pairwise(tested[200]))
    assert tested[200][-1] > 160
    k, rolled_back, at_ten = map(jnp.asarray, (60, 0, 10))
    assert _is_test_due(k, rolled_back, 200) and _is_test_due(k, at_ten, None)
    assert not _is_test_due(k, at_ten, 200)


def test_losses_have_an_average_and_a_deviation() -> None:
    losses = init(armijo_adam(LABELS), params_like(np.ones(6))).losses
    average = deviation = 0.0
    for k, loss in enumerate([3.0, 2.0, 5.0, -1.0], 1):
        losses = with_loss(losses, jnp.float32(loss), jnp.asarray(k))
        excess = loss - average
        deviation = 0.9 * deviation + 0.1 * abs(excess) if k > 1 else 0.0
        average = average + 0.1 * excess if k > 1 else loss
        found = losses.average, losses.deviation
        np.testing.assert_allclose(found, (average, deviation), rtol=1e-5)


def test_the_power_by_which_losses_fall_has_no_unit() -> None:
    first = init(armijo_adam(LABELS), params_like(np.ones(6))).losses
    steps = jnp.arange(1, 501)
    for power in (0.0, 0.5, 1.5):
        for unit in (1e-8, 1.0, 1e8):
            losses, _ = jax.lax.scan(
                lambda losses, k: (with_loss(losses, unit * k**-power, k), None),  # noqa: B023
                first,
                steps.astype(jnp.float32),
            )
            assert losses.power == pytest.approx(power, abs=0.02)
    # A loss that may be negative has no power.
    assert with_loss(losses, jnp.float32(-1.0), jnp.asarray(501)).power == 0
    # A constant loss has no power, also after a batch whose loss is 0.
    for k, loss in ((501, 0.0), (502, 1e-3), (503, 1e-3), (600, 1e-3)):
        losses = with_loss(losses, jnp.float32(loss), jnp.asarray(k))
        assert losses.power == pytest.approx(0, abs=1e-5)


def test_step_sizes_do_not_shrink_for_good_along_a_valley(monkeypatch) -> None:
    """Short-horizon bias: linear regression without noise, narrow and wide features."""

    def end(seed: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.key(seed), 4)
        scale = jnp.logspace(0, -1.5, 32)
        rotation, _ = jnp.linalg.qr(jax.random.normal(keys[0], (32, 32)))
        x = (scale * jax.random.normal(keys[1], (512, 32))) @ rotation
        y = x @ jax.random.normal(keys[2], (32,))
        tx = armijo_adam(num_steps=600)

        def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
            params, state = carry
            rows = jax.random.choice(key, 512, (32,))
            loss_fn = lambda w: jnp.mean((x[rows] @ w - y[rows]) ** 2)  # noqa: E731
            value, grad = jax.value_and_grad(loss_fn)(params)
            updates, state = tx.update(
                grad, state, params, value=value, grad=grad, value_fn=loss_fn
            )
            return (optax.apply_updates(params, updates), state), None

        params = 0.01 * jax.random.normal(keys[3], (32,))
        batches = jax.random.split(keys[3], 600)
        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), batches)
        return jnp.mean((x @ params - y) ** 2)

    held = np.log(jax.jit(jax.vmap(end))(jnp.arange(16)))
    monkeypatch.setattr(step_sizes, "HELD_BELOW", 0.0)
    greedy = np.log(jax.jit(jax.vmap(lambda seed: end(seed)))(jnp.arange(16)))
    difference = held - greedy
    error = np.std(difference, ddof=1) / np.sqrt(len(difference))
    assert np.mean(difference) < -3 * error


def test_it_finds_the_minimum_of_a_quadratic() -> None:
    points, states = run(np.zeros((300, 6), np.float32), 300)
    assert np.sum(CURVATURE * np.square(points[-1])) < 1e-6
    assert np.all(np.isfinite(states[-1].step_size))


def test_a_batch_that_is_not_finite_costs_one_step() -> None:
    """It moves nothing, changes no moment, and step sizes stay within a half."""
    noises = np.zeros((30, 6), np.float32)
    noises[20, 0] = np.nan
    points, states = run(noises)
    assert np.all(np.isfinite(points[-1]))
    chex.assert_trees_all_equal(points[21], points[20])
    chex.assert_trees_all_equal(states[20].adam, states[19].adam)
    assert np.all(states[20].step_size >= HALF * states[19].step_size)


def test_a_step_into_overflow_is_undone() -> None:
    """A loss that was finite before the step, and is not after it."""

    def cliff(params: dict[str, jax.Array], edge: jax.Array) -> jax.Array:
        w = jnp.concatenate([params["first"], params["second"]])
        beyond = jnp.sum(jnp.square(w)) < edge
        return jnp.where(beyond, jnp.inf, 1) * jnp.sum(jnp.square(w))

    tx = armijo_adam(LABELS)
    step = make_train_step(cliff, tx)
    params = params_like(np.ones(6, np.float32))
    state, before = init(tx, params), params
    for _ in range(4):
        before = jax.tree.map(jnp.copy, params)
        params, state, _ = step(params, state, jnp.asarray(0.0))
    sizes = np.asarray(state.step_size)
    size = jnp.sum(jnp.square(jnp.concatenate([*params.values()])))
    params, state, _ = step(params, state, size * 1.001)
    chex.assert_trees_all_close(params, before, rtol=1e-5)
    # The warm-up would have multiplied the fifth step by 5 / 4.
    shorter = HALF * 4 / 5
    np.testing.assert_allclose(state.step_size, shorter * sizes, rtol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_it_takes_less_than_one_evaluation_a_step(noise: float) -> None:
    """Measurements and tests thin out: some 60 in the steps 30 to 400."""
    rng = np.random.default_rng(0)
    _, states = run(rng.normal(0, noise, (400, 6)).astype(np.float32))
    counts = np.diff([0, *(int(state.total_evaluations) for state in states)])
    assert counts[29:].sum() < 80 and optax.tree.norm(states[-1].step_size) > 0
