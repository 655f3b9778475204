"""When a trial is good enough: each acceptance test by itself, and one in a run."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import one_step

import optax_armijo
from optax_armijo import armijo_info, policies
from optax_armijo.policies import Outcome, Trial

quick = settings(max_examples=50, deadline=None)
numbers = st.floats(0.01, 10.0)
constants = st.floats(0.05, 0.95)


def trial(trial_value, *, value=1.0, step_size=(1.0,), slopes=(1.0,), c=0.5, **more):
    return Trial(
        value=jnp.float32(value),
        trial_value=jnp.float32(trial_value),
        step_size=jnp.asarray(step_size, jnp.float32),
        slopes=jnp.asarray(slopes, jnp.float32),
        c=jnp.float32(c),
        tolerance=jnp.float32(more.pop("tolerance", 0.0)),
        **more,
    )


def outcome(decrease, slopes, step_size=1.0):
    ones = jnp.ones(len(slopes))
    slopes = jnp.asarray(slopes)
    return Outcome(
        searched=ones > 0,
        accepted=ones > 0,
        step_size=step_size * ones,
        slopes=slopes,
        num_trials=ones.astype(jnp.int32),
        predicted_decrease=step_size * jnp.sum(slopes) * ones,
        actual_decrease=decrease * ones,
        share=slopes / jnp.sum(slopes),
        c=jnp.float32(0.5),
    )


@pytest.mark.parametrize(
    ("trial_value", "tolerance", "expected"),
    [
        (0.5, 0.0, True),
        (0.51, 0.0, False),
        (0.51, 0.02, True),
        (math.nan, 9.0, False),
        (math.inf, 9.0, False),
        (-math.inf, 0.0, True),
    ],
)
def test_armijo(trial_value, tolerance, expected):
    accepted = policies.armijo().accept((), trial(trial_value, tolerance=tolerance))
    assert bool(accepted) is expected


@pytest.mark.parametrize(
    "acceptance",
    [
        policies.armijo(),
        policies.smoothed(),
        policies.smoothed(0.999, debias=True),
        policies.zhang_hager(),
        policies.window_max(3),
        policies.approximate(),
    ],
    ids=["armijo", "smoothed", "debiased", "zhang_hager", "window_max", "approximate"],
)
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_no_test_accepts_a_trial_that_is_not_finite(acceptance, bad):
    state = acceptance.init(1, jnp.float32)
    state = acceptance.observe(state, jnp.float32(1e9))
    slope = jnp.float32(-1.0) if acceptance.needs_slope else None
    assert not acceptance.accept(state, trial(bad, slope=slope))


@quick
@given(st.floats(-1.0, 1.0), constants, st.floats(0.0, 0.99), st.integers(0, 5))
def test_smoothing_of_equal_searches_is_armijo(trial_value, c, decay, num_searches):
    """Both averages have the same weights, so they cancel."""
    test = policies.smoothed(decay)
    state = test.init(1, jnp.float32)
    for _ in range(num_searches):
        state = test.update(state, outcome(1 - trial_value, [1.0]))
    now = trial(trial_value, c=c)
    if abs((1 - trial_value) - c) > 1e-5:
        assert bool(test.accept(state, now)) == bool(policies.armijo().accept((), now))


@quick
@given(st.lists(numbers, min_size=3, max_size=3), numbers, constants)
def test_smoothing_shares_a_joint_decrease_out(slopes, decrease, decay):
    test = policies.smoothed(decay)
    state = test.update(test.init(3, jnp.float32), outcome(decrease, slopes))
    np.testing.assert_allclose(
        jnp.sum(state.decrease), (1 - decay) * decrease, rtol=1e-5
    )
    np.testing.assert_allclose(
        state.decrease / state.slopes, np.full(3, decrease / sum(slopes)), rtol=1e-4
    )


def test_smoothing_forgives_one_noisy_batch_but_not_many():
    test = policies.smoothed(0.9)
    state = test.init(1, jnp.float32)
    for _ in range(30):
        state = test.update(state, outcome(0.8, [1.0]))
    no_decrease = trial(1.0)
    assert test.accept(state, no_decrease)
    assert not policies.armijo().accept((), no_decrease)
    for _ in range(10):
        state = test.update(state, outcome(0.0, [1.0]))
    assert not test.accept(state, no_decrease)


def test_smoothing_forgets_only_by_accepted_trials():
    test = policies.smoothed(0.9)
    state = test.init(2, jnp.float32)
    failed = outcome(5.0, [1.0, 1.0])._replace(accepted=jnp.array([False, True]))
    state = test.update(state, failed)
    assert state.decrease[0] == 0
    assert state.decrease[1] > 0
    assert state.num_searches.tolist() == [0, 1]


def test_debiased_averages_of_groups_with_different_histories_count_alike():
    test = policies.smoothed(0.99, debias=True)
    state = test.init(2, jnp.float32)
    once = outcome(2.0, [1.0, 1.0])
    only_first = once._replace(accepted=jnp.array([True, False]))
    for _ in range(5):
        state = test.update(state, only_first)
    # Each group is owed 1.0 a step size of 1: both weigh the same in a joint test.
    both = (1.0, 1.0)
    assert test.accept(state, trial(-0.1, step_size=both, slopes=both))
    assert not test.accept(state, trial(2.9, step_size=both, slopes=both))


def test_smoothing_may_allow_ascent_as_far_as_the_averages_do():
    test = policies.smoothed(0.5, allow_ascent=True)
    assert not test.needs_descent
    state = test.init(1, jnp.float32)
    # Averaged slope -0.5, so c is 1 / 0.25: the loss may rise by 4 times the slope.
    assert test.accept(state, trial(4.9, slopes=(-1.0,), c=0.25))
    assert not test.accept(state, trial(5.1, slopes=(-1.0,), c=0.25))


@quick
@given(
    st.lists(numbers, min_size=1, max_size=12), st.floats(0.0, 10.0), st.floats(0, 1)
)
def test_zhang_hager_is_no_stricter_than_armijo_and_averages(losses, tried, decay):
    test = policies.zhang_hager(decay)
    state = test.init(1, jnp.float32)
    for value in losses:
        state = test.observe(state, jnp.float32(value))
    weights = decay ** np.arange(len(losses))[::-1]
    average = np.sum(weights * losses) / np.sum(weights)
    np.testing.assert_allclose(state.average, average, rtol=1e-4)
    now = trial(tried, value=losses[-1])
    bound = max(average, losses[-1]) - 0.5
    if abs(tried - bound) > 1e-3:
        assert bool(test.accept(state, now)) == (tried <= bound)


@quick
@given(
    st.lists(numbers, min_size=1, max_size=12),
    st.floats(0.0, 10.0),
    st.integers(1, 5),
)
def test_window_max_compares_with_the_largest_of_the_last(losses, tried, size):
    test = policies.window_max(size)
    state = test.init(1, jnp.float32)
    for value in losses:
        state = test.observe(state, jnp.float32(value))
    bound = max(losses[-size:]) - 0.5
    if abs(tried - bound) > 1e-4:
        now = trial(tried, value=losses[-1])
        assert bool(test.accept(state, now)) == (tried <= bound)


@quick
@given(st.floats(0.01, 3.0), constants)
def test_the_approximate_form_is_armijo_on_quadratics(step_size, c):
    """On f(w) = w^2 / 2 from w = 1, along -1: slope 1, and at the trial -(1 - t) t."""
    value, tried = 0.5, 0.5 * (1 - step_size) ** 2
    slope = -(1 - step_size) * step_size
    now = trial(tried, value=value, step_size=(step_size,), c=c)
    now = now._replace(slope=jnp.float32(slope))
    is_near = abs(step_size - 2 * (1 - c)) < 1e-4
    if tried <= value and not is_near:
        accepts = bool(policies.armijo().accept((), now))
        never_lower = policies.armijo().accept((), now._replace(c=jnp.float32(2)))
        assert not never_lower
        assert bool(policies.approximate().accept((), now)) == accepts


def test_the_approximate_form_sees_a_decrease_that_losses_do_not_show():
    """In float32 both losses are 1024, though the step goes almost to the minimum."""

    def f(w):
        return 1024.0 + 2e-5 * jnp.sum(w**2)

    def step_size(acceptance):
        tx = optax_armijo.armijo_adam(
            acceptance=acceptance,
            start=policies.keep(brackets_first=False),
            init_step_size=0.9,
            rounding_ulps=0,
        )
        _, state = one_step(tx, jnp.ones(3), f)
        return float(armijo_info(state).step_size[0])

    assert step_size("approximate") == pytest.approx(0.9)
    assert step_size("armijo") < 0.5
