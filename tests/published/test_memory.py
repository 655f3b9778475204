"""Which groups are searched: turns, weights, and what is searched as one."""

import jax.numpy as jnp
import numpy as np
import pytest
from toys import LABELS, network_params, run

from optax_armijo import armijo_info, plasls
from optax_armijo.published.memory import Weights, combine


def turns(num_steps, impact):
    """The groups that the weights chose, step by step."""
    weights = Weights.init(len(impact), jnp.float32)
    weights = weights._replace(impact=jnp.asarray(impact, jnp.float32))
    chosen_groups = []
    for _ in range(num_steps):
        group, weights = weights.next(jnp.ones(len(impact), bool))
        chosen_groups.append(int(group))
    return chosen_groups


@pytest.mark.parametrize("impact", [(1.0, 1e-9, 1e-9), (1e-30, 1.0, 1e-30)])
def test_no_group_waits_for_ever_under_weights(impact):
    seen = turns(90, impact)
    for group in range(3):
        waits = np.diff(np.r_[-1, np.flatnonzero(np.array(seen) == group), 90])
        assert max(waits) <= 15
    best = int(np.argmax(impact))
    counts = np.bincount(seen, minlength=3)
    assert counts[best] > 1.3 * max(np.delete(counts, best))


def test_weights_follow_what_searches_brought_and_stay_above_zero():
    both = jnp.array([True, True])
    decrease = jnp.array([0.4, 0.4])
    weights = Weights.init(2, jnp.float32)
    weights = weights.after(both, jnp.array([True, False]), decrease)
    np.testing.assert_allclose(weights.impact, [0.9e-4 + 0.04, 0.9e-4], rtol=1e-5)
    weights = weights._replace(impact=jnp.full(2, jnp.finfo(jnp.float32).tiny))
    assert jnp.all(weights.after(both, ~both, decrease).impact > 0)


def test_a_weighted_run_searches_one_group_a_step_and_learns():
    tx = plasls(LABELS, search="weighted", form="paper", num_joint_steps=2)
    history = run(tx, network_params(), num_steps=25)
    for entry in history[2:]:
        assert int(np.sum(armijo_info(entry.state).searched)) == 1
    assert float(history[-1].value) < 0.7 * float(history[0].value)


def test_groups_that_collapse_are_merged_one_pair_at_a_time():
    merged = jnp.arange(4, dtype=jnp.int32)
    step_size = jnp.array([1e-4, 1.0, 2e-4, 3e-4])
    merged, step_size = combine(merged, step_size, 1e-3)
    assert merged.tolist() == [0, 1, 0, 3]
    np.testing.assert_allclose(step_size, [1.5e-4, 1.0, 1.5e-4, 3e-4], rtol=1e-6)
    merged, step_size = combine(merged, step_size, 1e-3)
    assert merged.tolist() == [0, 1, 0, 0]
    np.testing.assert_allclose(step_size[jnp.array([0, 2, 3])], 2.25e-4, rtol=1e-6)
    merged, step_size = combine(merged, step_size, 1e-3)
    assert merged.tolist() == [0, 0, 0, 0]
    again, same = combine(merged, step_size * 1e-9, 1e-3)
    assert again.tolist() == [0, 0, 0, 0]
    np.testing.assert_array_equal(same, step_size * 1e-9)


def test_merged_groups_share_their_search_without_another_compilation():
    """After the first step the two groups with the smallest step sizes are one."""
    num_traces = []

    def f(params, step):
        num_traces.append(1)
        steep = 1e6 * jnp.sum(params["a"] ** 2 + params["b"] ** 2)
        return steep + jnp.sum((params["c"] - 3) ** 2 + (params["d"] - 3) ** 2)

    tx = plasls(
        {name: name for name in "abcd"},
        form="paper",
        num_joint_steps=0,
        merge_below=1e-3,
    )
    params = {name: jnp.ones(2) for name in "abcd"}
    params = params | {"a": 1e-4 * jnp.ones(2), "b": 2e-4 * jnp.ones(2)}
    history = run(tx, params, f, num_steps=8)
    assert len(num_traces) == 2
    infos = [armijo_info(entry.state) for entry in history]
    for entry in history:
        assert entry.state[1].merged.tolist() == [0, 0, 2, 3]
    for info in infos[1:]:
        assert info.searched[0] == info.searched[1]
        assert info.num_trials[0] == info.num_trials[1]
        assert info.step_size[0] == info.step_size[1]
    searched = [np.flatnonzero(info.searched).tolist() for info in infos]
    assert searched[:5] == [[0], [2], [3], [0, 1], [2]]
