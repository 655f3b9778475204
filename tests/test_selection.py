"""Which groups are searched: turns, weights, and what is searched as one."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import LABELS, network_params, run

from optax_armijo import armijo_adam, armijo_info, policies

quick = settings(max_examples=30, deadline=None)


def turns(selection, eligible, num_steps, state=None):
    """The groups that were chosen, step by step."""
    eligible = jnp.asarray(eligible)
    if state is None:
        state = selection.init(len(eligible), jnp.float32)
    chosen_groups = []
    for _ in range(num_steps):
        chosen, state = selection.choose(state, eligible)
        chosen_groups.append(np.flatnonzero(chosen).tolist())
    return chosen_groups


@quick
@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_cycle_takes_the_eligible_in_their_order(eligible):
    allowed = np.flatnonzero(eligible).tolist()
    seen = turns(policies.cycle(), eligible, 2 * len(eligible))
    expected = [
        [allowed[i % len(allowed)]] if allowed else [] for i in range(len(seen))
    ]
    assert seen == expected


def test_each_and_joint_take_all_that_are_eligible():
    eligible = [True, False, True]
    assert turns(policies.each(), eligible, 1) == [[0, 2]]
    assert policies.joint().is_joint


@quick
@given(
    st.lists(st.floats(1e-3, 1.0), min_size=2, max_size=5),
    st.floats(0.01, 1.0),
)
def test_weighted_turns_come_as_often_as_their_weights_say(impact, base):
    selection = policies.weighted(base=base, growth=0.0)
    state = selection.init(len(impact), jnp.float32)
    state = state._replace(impact=jnp.asarray(impact, jnp.float32))
    num_steps = 60
    seen = [
        group for (group,) in turns(selection, [True] * len(impact), num_steps, state)
    ]
    weights = base + np.asarray(impact) / np.sum(impact)
    expected = num_steps * weights / np.sum(weights)
    counts = np.bincount(seen, minlength=len(impact))
    assert np.all(np.abs(counts - expected) <= len(impact))


@pytest.mark.parametrize("impact", [(1.0, 1e-9, 1e-9), (1e-30, 1.0, 1e-30)])
def test_no_group_waits_for_ever_under_weights(impact):
    selection = policies.weighted()
    state = selection.init(3, jnp.float32)._replace(impact=jnp.asarray(impact))
    seen = [group for (group,) in turns(selection, [True] * 3, 90, state)]
    for group in range(3):
        waits = np.diff(np.r_[-1, np.flatnonzero(np.array(seen) == group), 90])
        assert max(waits) <= 15
    best = int(np.argmax(impact))
    counts = np.bincount(seen, minlength=3)
    assert counts[best] > 1.3 * max(np.delete(counts, best))


def test_weights_follow_what_searches_brought():
    selection = policies.weighted(decay=0.5)
    state = selection.init(2, jnp.float32)
    outcome = policies.Outcome(
        searched=jnp.array([True, True]),
        accepted=jnp.array([True, False]),
        step_size=jnp.ones(2),
        slopes=jnp.ones(2),
        num_trials=jnp.ones(2, jnp.int32),
        predicted_decrease=jnp.ones(2),
        actual_decrease=jnp.array([0.8, 0.8]),
        share=jnp.array([0.5, 0.5]),
        c=jnp.float32(0.5),
    )
    state = selection.update(state, outcome)
    np.testing.assert_allclose(state.impact, [0.5e-4 + 0.2, 0.5e-4], rtol=1e-5)


def test_weights_stay_finite_when_nothing_is_ever_gained():
    selection = policies.weighted(decay=0.1)
    state = selection.init(2, jnp.float32)
    nothing = policies.Outcome(*(jnp.zeros(2) for _ in range(8)), c=jnp.float32(0.5))
    nothing = nothing._replace(searched=jnp.ones(2, bool), accepted=jnp.zeros(2, bool))
    for _ in range(200):
        state = selection.update(state, nothing)
    seen = [group for (group,) in turns(selection, [True, True], 10, state)]
    assert sorted(set(seen)) == [0, 1]


def test_a_weighted_run_searches_one_group_a_step_and_learns():
    tx = armijo_adam(LABELS, momentum="none", search="weighted", num_joint_steps=2)
    history = run(tx, network_params(), num_steps=25)
    for entry in history[2:]:
        assert int(np.sum(armijo_info(entry.state).searched)) == 1
    assert float(history[-1].value) < 0.7 * float(history[0].value)


def test_groups_that_collapse_are_merged_one_pair_at_a_time():
    merging = policies.combine(1e-3)
    merged = merging.init(4)
    step_size = jnp.array([1e-4, 1.0, 2e-4, 3e-4])
    merged, step_size = merging.update(merged, step_size)
    assert merged.tolist() == [0, 1, 0, 3]
    np.testing.assert_allclose(step_size, [1.5e-4, 1.0, 1.5e-4, 3e-4], rtol=1e-6)
    merged, step_size = merging.update(merged, step_size)
    assert merged.tolist() == [0, 1, 0, 0]
    np.testing.assert_allclose(step_size[jnp.array([0, 2, 3])], 2.25e-4, rtol=1e-6)
    merged, step_size = merging.update(merged, step_size)
    assert merged.tolist() == [0, 0, 0, 0]
    again, same = merging.update(merged, step_size * 1e-9)
    assert again.tolist() == [0, 0, 0, 0]
    np.testing.assert_array_equal(same, step_size * 1e-9)


def test_nothing_is_merged_above_the_threshold():
    merging = policies.combine(1e-12, relative_threshold=0.1)
    step_size = jnp.array([0.2, 1.0, 1.0])
    merged, same = merging.update(merging.init(3), step_size)
    assert merged.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(same, step_size)
    merged, _ = merging.update(merging.init(3), jnp.array([0.05, 1.0, 1.0]))
    assert merged.tolist() == [0, 0, 2]


def test_merged_groups_part_when_their_step_size_has_grown():
    merging = policies.combine(1e-6, split_above=1e-3)
    merged = jnp.array([0, 1, 0], jnp.int32)
    kept, _ = merging.update(merged, jnp.array([1e-3, 1.0, 1e-3]))
    assert kept.tolist() == [0, 1, 0]
    split, step_size = merging.update(merged, jnp.array([2e-3, 1.0, 2e-3]))
    assert split.tolist() == [0, 1, 2]
    np.testing.assert_allclose(step_size, [2e-3, 1.0, 2e-3])


def test_merged_groups_share_their_search_without_another_compilation():
    """Two leaves on a wall a thousand times steeper than the rest's valley."""
    num_traces = []

    def f(params, step):
        num_traces.append(1)
        steep = 1e6 * jnp.sum(params["a"] ** 2 + params["b"] ** 2)
        return steep + jnp.sum((params["c"] - 3) ** 2 + (params["d"] - 3) ** 2)

    tx = armijo_adam(
        {name: name for name in "abcd"},
        search="each",
        num_joint_steps=0,
        net="off",
        relative_floor=0,
        merging=policies.combine(0.0, relative_threshold=0.05),
    )
    params = {name: jnp.ones(2) for name in "abcd"}
    params = params | {"a": 1e-4 * jnp.ones(2), "b": 2e-4 * jnp.ones(2)}
    history = run(tx, params, f, num_steps=6)
    assert len(num_traces) == 2
    merged = [entry.state[1].memory.merged.tolist() for entry in history]
    assert merged[0] == [0, 0, 2, 3]
    together = history[1].state
    info = armijo_info(together)
    assert info.num_trials[0] == info.num_trials[1]
    assert info.step_size[0] == info.step_size[1]
    trials = np.asarray(info.num_trials)
    assert int(info.num_evaluations) == trials[0] + trials[2] + trials[3]
