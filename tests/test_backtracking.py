"""The search along one ray, alone: how it brackets and how it backtracks."""

import math

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optax_armijo.presets import search

C = 0.5


def drive(ray, passes, max_trials=10, decrease_factor=0.8):
    """Runs a ray to its end; returns it and its trials as (factor, passed)."""
    advance = jax.jit(search.advance)
    trials = []
    while not search.is_settled(ray) and ray.num_trials < max_trials:
        factor = float(ray.factor)
        trials.append((factor, bool(passes(factor))))
        ray = advance(ray, jnp.asarray(trials[-1][1]), jnp.float32(decrease_factor))
    return ray, trials


@settings(deadline=None, max_examples=60)
@given(
    start=st.floats(-8, 3).map(lambda x: 10.0**x),
    depth=st.floats(0, 5).map(lambda x: 10.0**-x),
)
def test_bracketing_takes_few_trials_from_any_start(start, depth):
    """Fewer than 12 evaluations, and within a factor of 2.1 of the right size."""
    largest = 1.0 / C
    edge = largest * depth  # trials up to the edge pass
    ray = search.start_bracketing(jnp.float32(1), jnp.float32(largest / start))
    ray, trials = drive(ray, lambda t: t * start <= edge)
    assert len(trials) < 12
    assert float(ray.passed) * start <= edge
    assert float(ray.passed) * start >= edge / 4.1
    if search.is_settled(ray):
        assert float(ray.passed) * start * 2.2 >= edge


@settings(deadline=None, max_examples=60)
@given(
    wall=st.floats(-4.5, -0.5).map(lambda x: 10.0**x),
    width=st.floats(0.61, 3).map(lambda x: 10.0**x),
    start=st.floats(-8, 3).map(lambda x: 10.0**x),
)
def test_bracketing_does_not_jump_over_a_wall(wall, width, start):
    """A dip beyond a wall wider than the ladder's rungs is not accepted."""

    def passes(t):
        t = t * start
        return t < wall or t > wall * width

    largest = 2.0
    ray = search.start_bracketing(jnp.float32(1), jnp.float32(largest / start))
    ray, trials = drive(ray, passes)
    accepted = float(ray.passed)
    if trials[0][0] * start < wall:
        assert accepted * start < wall
    assert all(passed for factor, passed in trials if factor <= accepted)


def test_bracketing_accepts_the_end_of_an_unbroken_row():
    outcomes = iter([True, True, False, True])
    ray = search.start_bracketing(jnp.float32(1), jnp.float32(256.0 * 16))
    ray, trials = drive(ray, lambda _: next(outcomes))
    assert [factor for factor, _ in trials] == [1.0, 4.0, 16.0, 8.0]
    assert float(ray.passed) == 8.0


def test_bracketing_falls_by_growing_strides():
    ray = search.start_bracketing(jnp.float32(1), jnp.float32(256.0))
    ray, trials = drive(ray, lambda _: False)
    exponents = [round(math.log(factor, 4)) for factor, _ in trials]
    assert exponents == [0, -1, -3, -6, -10, -15, -21, -28, -36, -45]
    assert float(ray.passed) == 0
    assert not search.is_settled(ray)


@pytest.mark.parametrize(("edge", "num_trials"), [(2.0, 1), (0.9, 2), (0.5, 5)])
def test_backtracking_shrinks_until_a_trial_passes(edge, num_trials):
    ray, trials = drive(
        search.start_backtracking(jnp.float32(1.05)), lambda t: t <= edge
    )
    assert len(trials) == num_trials == ray.num_trials
    assert trials[-1] == (pytest.approx(1.05 * 0.8 ** (num_trials - 1)), True)
    assert float(ray.passed) == trials[-1][0]


@pytest.mark.parametrize("max_trials", [1, 2, 7])
def test_max_trials_is_exact(max_trials):
    ray = search.start_backtracking(jnp.float32(1))
    ray, trials = drive(ray, lambda _: False, max_trials=max_trials)
    assert len(trials) == max_trials
