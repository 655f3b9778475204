"""The search of a step, alone: how it brackets and how it backtracks."""

import math

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optax_armijo.published import search

C = 0.5


def begin(largest, *, brackets=True):
    return search.start(jnp.float32(0), jnp.float32(largest), jnp.asarray(brackets))


def drive(at, passes, max_trials=10):
    """Makes a search; returns its end and its trials as (factor, passed)."""
    advance = jax.jit(search.advance)
    trials, decrease_factor = [], jnp.float32(0.8)
    while not search.is_settled(at) and at.num_trials < max_trials:
        factor = float(at.factor)
        trials.append((factor, bool(passes(factor))))
        at = advance(at, jnp.float32(0), jnp.asarray(trials[-1][1]), decrease_factor)
    return at, trials


@settings(deadline=None, max_examples=60)
@given(
    start=st.floats(-8, 3).map(lambda x: 10.0**x),
    depth=st.floats(0, 5).map(lambda x: 10.0**-x),
)
def test_bracketing_takes_few_trials_from_any_start(start, depth):
    """Fewer than 12 evaluations, and within a factor of 2.1 of the right size."""
    largest = 1.0 / C
    edge = largest * depth  # trials up to the edge pass
    found = begin(largest / start)
    found, trials = drive(found, lambda t: t * start <= edge)
    assert len(trials) < 12
    assert float(found.passed) * start <= edge
    assert float(found.passed) * start >= edge / 4.1
    if search.is_settled(found):
        assert float(found.passed) * start * 2.2 >= edge


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
    found = begin(largest / start)
    found, trials = drive(found, passes)
    accepted = float(found.passed)
    if trials[0][0] * start < wall:
        assert accepted * start < wall
    assert all(passed for factor, passed in trials if factor <= accepted)


def test_bracketing_accepts_the_end_of_an_unbroken_row():
    outcomes = iter([True, True, False, True])
    found = begin(256.0 * 16)
    found, trials = drive(found, lambda _: next(outcomes))
    assert [factor for factor, _ in trials] == [1.0, 4.0, 16.0, 8.0]
    assert float(found.passed) == 8.0


def test_bracketing_falls_by_growing_strides():
    found = begin(256.0)
    found, trials = drive(found, lambda _: False)
    exponents = [round(math.log(factor, 4)) for factor, _ in trials]
    assert exponents == [0, -1, -3, -6, -10, -15, -21, -28, -36, -45]
    assert float(found.passed) == 0
    assert not search.is_settled(found)


@pytest.mark.parametrize(("edge", "num_trials"), [(2.0, 1), (0.9, 2), (0.5, 5)])
def test_backtracking_shrinks_until_a_trial_passes(edge, num_trials):
    found, trials = drive(begin(3.0, brackets=False), lambda t: t * 1.05 <= edge)
    assert len(trials) == num_trials == found.num_trials
    assert trials[-1] == (pytest.approx(0.8 ** (num_trials - 1)), True)
    assert float(found.passed) == trials[-1][0]


def test_backtracking_begins_no_higher_than_it_may():
    found, _ = drive(begin(0.25, brackets=False), lambda _: True)
    assert float(found.passed) == 0.25


@pytest.mark.parametrize("brackets", [True, False])
@pytest.mark.parametrize("max_trials", [1, 2, 7])
def test_max_trials_is_exact(max_trials, brackets):
    calls = []

    def trial(factor):
        jax.debug.callback(lambda: calls.append(1))
        return factor, jnp.zeros([], jnp.bool_)

    def run(is_due):
        found = search.run(
            begin(3.0, brackets=brackets),
            trial,
            is_due=jnp.asarray(is_due),
            decrease_factor=jnp.float32(0.8),
            max_trials=jnp.int32(max_trials),
        )
        jax.effects_barrier()
        return found

    assert run(True).num_trials == len(calls) == max_trials
    assert run(False).num_trials == 0 and len(calls) == max_trials
