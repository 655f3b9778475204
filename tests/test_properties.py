"""What holds of every step, whatever the problem and the settings."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import LABELS, init, network_loss, network_params, run

import optax_armijo
from optax_armijo import armijo_adam, armijo_info

SEARCHES = ("cycle", "joint", "each")
MOMENTA = ("none", "kept", "searched")


def total_decrease(history):
    return float(
        history[0].value - jnp.mean(jnp.stack([x.value for x in history[-4:]]))
    )


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("momentum", MOMENTA)
def test_it_trains_by_steps_that_satisfy_the_inequality(search, momentum):
    c = 0.3
    tx = armijo_adam(LABELS, search=search, momentum=momentum, c=c)
    history = run(tx, network_params(), num_steps=60)
    assert total_decrease(history) > 0.6
    for entry in history:
        info = armijo_info(entry.state)
        # Four ulps of tolerance, and one more for this sum itself.
        rounding = 5 * np.finfo(np.float32).eps * entry.value
        required = c * info.predicted_decrease[info.accepted] - rounding
        assert np.all(info.actual_decrease[info.accepted] >= required * (1 - 1e-5))
        assert np.all(info.accepted <= info.searched)
        assert np.all((info.num_trials > 0) == info.searched)


def test_the_tested_point_is_the_kept_point():
    """In a joint step the loss after the step is the one that the trial saw."""
    history = run(
        armijo_adam(momentum="none", search="joint"), network_params(), num_steps=15
    )
    for step, entry in enumerate(history):
        moved = jax.tree.map(jnp.add, entry.params, entry.updates)
        info = armijo_info(entry.state)
        decrease = entry.value - network_loss(moved, step)
        np.testing.assert_allclose(decrease, info.actual_decrease[0], atol=1e-6)


def coupled_loss(params, step):
    """Each leaf alone can bring the sum to its target; all at once overshoot."""
    total = params["a"] + params["b"] + params["c"]
    return jnp.sum((total - jnp.cos(step)) ** 2)


@pytest.mark.parametrize("net", ["no_rise", "average"])
@pytest.mark.parametrize("momentum", MOMENTA)
def test_the_net_keeps_the_whole_step_from_raising_the_loss(net, momentum):
    params = {"a": jnp.zeros(2), "b": jnp.zeros(2), "c": jnp.zeros(2)}
    labels = {"a": "a", "b": "b", "c": "c"}
    tx = armijo_adam(labels, search="each", net=net, momentum=momentum, c=0.1)
    history = run(tx, params, coupled_loss, num_steps=40)
    average = float(history[0].value)
    for step, entry in enumerate(history):
        value = float(entry.value)
        average = 0.9 * average + 0.1 * value
        highest = max(value, average) if net == "average" else value
        moved = jax.tree.map(jnp.add, entry.params, entry.updates)
        assert coupled_loss(moved, step) <= highest * (1 + 1e-5) + 1e-7
    factors = [float(armijo_info(x.state).net_factor) for x in history]
    assert min(factors) < 1, "the net was never needed: the test shows nothing"


@pytest.fixture(scope="module", params=SEARCHES)
def twelve_steps(request):
    """Twelve steps in one compiled scan, hyper-parameters traced."""

    @jax.jit
    def run_scan(c, init_step_size, params):
        tx = armijo_adam(
            LABELS,
            search=request.param,
            init_step_size=init_step_size,
            c=c,
            max_step_size=1e3,
        )

        def body(carry, step):
            params, state = carry

            def f(params):
                return network_loss(params, step)

            value, grads = jax.value_and_grad(f)(params)
            updates, state = tx.update(grads, state, params, value=value, value_fn=f)
            params = optax.apply_updates(params, updates)
            return (params, state), (updates, armijo_info(state))

        return jax.lax.scan(body, (params, tx.init(params)), jnp.arange(12))[1]

    return run_scan


@settings(deadline=None, max_examples=40)
@given(
    init_step_size=st.floats(-8, 3).map(lambda x: 10.0**x),
    c=st.floats(0.01, 0.9),
    seed=st.integers(0, 99),
)
def test_step_sizes_are_positive_finite_and_bounded(
    twelve_steps, init_step_size, c, seed
):
    updates, info = twelve_steps(c, init_step_size, network_params(seed=seed))
    assert info.num_evaluations[0] < 12
    assert bool(info.accepted[0].all())
    assert np.all(np.isfinite(info.step_size))
    assert np.all((info.step_size >= 1e-10) & (info.step_size <= 1e3))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(updates))


@pytest.mark.parametrize("search", SEARCHES)
def test_permuting_labels_permutes_results(search):
    """New names in the same order change nothing but the names."""
    renamed = {"embed": "c", "layers": "b", "head": "a"}
    orders = [("embed", "head", "layers"), ("c", "a", "b")]
    # All groups are searched at the same steps in joint and each; in cycle the order
    # of turns is that of the names, so the renamed groups get the same order here.
    if search == "cycle":
        renamed = {"embed": "a", "head": "b", "layers": "c"}
        orders[1] = ("a", "b", "c")
    histories = [
        run(
            armijo_adam(labels, search=search, num_joint_steps=2),
            network_params(),
            num_steps=15,
        )
        for labels in (LABELS, renamed)
    ]
    infos = [armijo_info(history[-1].state) for history in histories]
    assert infos[0].labels == orders[0]
    assert infos[1].labels == tuple(sorted(orders[1]))
    order = [infos[1].labels.index(name) for name in orders[1]]
    # Sums over groups are taken in another order: equal to rounding.
    assert_trees_all_close(
        histories[0][-1].params, histories[1][-1].params, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        infos[0].step_size, infos[1].step_size[np.array(order)], rtol=1e-4
    )


def test_one_group_searched_in_any_way_is_the_same():
    results = [
        run(
            armijo_adam(optax_armijo.one_group, search=search),
            network_params(),
            num_steps=10,
        )[-1].params
        for search in SEARCHES
    ]
    assert_trees_all_equal(results[0], results[1], results[2])


def test_cycle_takes_groups_in_turn_after_joint_steps():
    tx = armijo_adam(LABELS, momentum="none", num_joint_steps=2)
    history = run(tx, network_params(), num_steps=6)
    searched = [armijo_info(x.state).searched.tolist() for x in history]
    assert searched == [[True] * 3] * 2 + [
        [True, False, False],
        [False, True, False],
        [False, False, True],
        [True, False, False],
    ]


def test_groups_not_searched_move_with_the_step_size_they_have():
    tx = armijo_adam(LABELS, momentum="none", num_joint_steps=1, net="off")
    history = run(tx, network_params(), num_steps=4)
    for before, after in zip(history[:-1], history[1:], strict=True):
        info = armijo_info(after.state)
        waiting = ~info.searched
        np.testing.assert_array_equal(
            info.applied_step_size[waiting],
            armijo_info(before.state).step_size[waiting],
        )


def test_frozen_leaves_never_move_and_cost_no_state():
    labels = LABELS | {"embed": optax_armijo.FROZEN}
    tx = armijo_adam(labels, momentum="kept")
    params = network_params()
    history = run(tx, params, num_steps=10)
    assert_trees_all_equal(history[-1].params["embed"], params["embed"])
    assert total_decrease(history) > 0.1
    moments, _ = init(tx, params)
    assert jax.tree.leaves(moments.nu["embed"]) == []
    assert jax.tree.leaves(moments.mu["embed"]) == []


def test_frozen_leaves_may_be_of_any_dtype_and_lack_a_gradient():
    params = {"w": jnp.ones(3), "table": jnp.arange(3), "z": jnp.ones(2, jnp.complex64)}
    labels = {"w": "w", "table": optax_armijo.FROZEN, "z": optax_armijo.FROZEN}
    tx: Any = armijo_adam(labels)

    def f(params):
        return jnp.sum((params["w"] - params["table"]) ** 2)

    value, grad = jax.value_and_grad(lambda w: f(params | {"w": w}))(params["w"])
    grads = {"w": grad, "table": None, "z": None}
    updates, _ = tx.update(grads, tx.init(params), params, value=value, value_fn=f)
    assert_trees_all_equal(
        jax.tree.map(jnp.zeros_like, params) | {"w": updates["w"]}, updates
    )
    assert jnp.any(updates["w"] != 0)


@pytest.mark.parametrize("floor", [0.01, 0.2])
def test_no_group_falls_far_behind_the_median(floor):
    def loss_fn(params, step):
        del step
        a, b, c = params["a"], params["b"], params["c"]
        return jnp.sum(a**2) + jnp.sum(b**2) + 1e8 * jnp.sum((c - 1e-3) ** 4) ** 0.5

    params = {"a": jnp.ones(3), "b": jnp.ones(3), "c": jnp.ones(3)}
    labels = {"a": "a", "b": "b", "c": "c"}
    tx = armijo_adam(labels, search="each", relative_floor=floor, num_joint_steps=0)
    for entry in run(tx, params, loss_fn, num_steps=20):
        step_size = armijo_info(entry.state).step_size
        assert np.min(step_size) >= 0.999 * floor * np.min(np.sort(step_size)[1])


def test_a_group_does_not_move_before_its_first_search():
    """Without joint steps, groups wait for their turn: 1e3 is never stepped by."""
    tx = armijo_adam(
        LABELS,
        momentum="none",
        num_joint_steps=0,
        net="off",
        init_step_size=1e3,
        max_step_size=1e3,
    )
    history = run(tx, network_params(), num_steps=3)
    moved = [armijo_info(x.state).applied_step_size > 0 for x in history]
    assert np.stack(moved).tolist() == np.tri(3, dtype=bool).tolist()
    assert history[-1].value < 2 * history[0].value
