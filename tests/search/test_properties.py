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
from optax_armijo import (
    armijo_adam,
    armijo_info,
    plasls,
    scale_by_armijo,
)
from optax_armijo.search.trials import C_LATER, MOST_FIRST_TRIALS, MOST_LATER_TRIALS

TRAINED = {
    "armijo_adam": armijo_adam(LABELS),
    "scale_by_armijo": optax.chain(
        optax.sgd(1.0, momentum=0.9), scale_by_armijo(LABELS)
    ),
}


def coupled_loss(params, step):
    """Each leaf alone can bring the sum to its target; all at once overshoot."""
    total = sum(leaf.sum() for leaf in jax.tree.leaves(params))
    return (total - 30.0) ** 2 + 0.1 * network_loss(params, step)


@pytest.mark.parametrize(
    "loss_fn", [network_loss, coupled_loss], ids=["toy", "coupled"]
)
@pytest.mark.parametrize("name", ["armijo_adam", "scale_by_armijo"])
def test_a_step_that_was_tested_satisfies_the_inequality_and_is_the_one_kept(
    name, loss_fn
):
    """By .8 of what the first step promises, and by a tenth of later ones."""
    num_accepted = 0
    history = run(TRAINED[name], network_params(), loss_fn, num_steps=40)
    for step, entry in enumerate(history):
        moved = jax.tree.map(jnp.add, entry.params, entry.updates)
        decrease = float(entry.value - loss_fn(moved, step))
        info = armijo_info(entry.state)
        predicted = float(info.predicted_decrease.sum())
        rounding = 1e-5 * max(float(entry.value), 1e-3)
        if bool(info.actual_decrease.any()) and predicted > 0:
            num_accepted += 1
            assert decrease >= C_LATER * predicted - rounding
            np.testing.assert_allclose(
                decrease, info.actual_decrease.sum(), atol=rounding
            )
        elif info.num_trials.any() and predicted > 0:
            assert decrease >= -rounding  # the last trial lowers the loss at least
        assert np.all(info.accepted <= (info.num_trials > 0))
    assert num_accepted >= 5
    assert np.mean([x.value for x in history[-4:]]) < 0.7 * history[0].value


@pytest.fixture(scope="module")
def twelve_steps():
    """Twelve steps in one compiled scan, hyper-parameters traced."""

    @jax.jit
    def run_scan(num_steps, b1, params):
        tx = armijo_adam(LABELS, num_steps, b1=b1)

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
    scale=st.floats(-3, 1).map(lambda x: 10.0**x),
    num_steps=st.integers(1, 1000),
    b1=st.floats(0.0, 0.99),
    seed=st.integers(0, 99),
)
def test_step_sizes_are_positive_and_finite(twelve_steps, scale, num_steps, b1, seed):
    params = jax.tree.map(lambda x: scale * x, network_params(seed=seed))
    updates, info = twelve_steps(num_steps, b1, params)
    assert info.num_evaluations[0] <= MOST_FIRST_TRIALS + MOST_LATER_TRIALS
    # All but groups without a gradient, under a tanh that is 1 throughout.
    assert np.all((info.step_size > 0) | (info.predicted_decrease == 0))
    assert np.all(np.isfinite(info.step_size))
    assert np.all(np.isfinite(info.applied_step_size))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(updates))


@pytest.mark.parametrize("name", ["armijo_adam", "plasls"])
def test_new_names_in_the_same_order_change_nothing_but_the_names(name):
    make = {"armijo_adam": armijo_adam, "plasls": plasls}[name]
    renamed = {"embed": "a", "head": "b", "layers": "c"}
    first, second = (
        run(make(labels), network_params(), num_steps=15)
        for labels in (LABELS, renamed)
    )
    infos = [armijo_info(history[-1].state) for history in (first, second)]
    assert infos[0].labels == ("embed", "head", "layers")
    assert infos[1].labels == ("a", "b", "c")
    assert_trees_all_close(first[-1].params, second[-1].params, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(infos[0].step_size, infos[1].step_size, rtol=1e-4)


def test_frozen_leaves_never_move_and_cost_no_state():
    tx = armijo_adam(LABELS | {"embed": optax_armijo.FROZEN})
    params = network_params()
    history = run(tx, params, num_steps=10)
    assert_trees_all_equal(history[-1].params["embed"], params["embed"])
    assert history[-1].value < history[0].value - 0.1
    moments = init(tx, params).adam
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
    update = jax.jit(tx.update, static_argnames="value_fn")
    updates, _ = update(grads, tx.init(params), params, value=value, value_fn=f)
    assert_trees_all_equal(
        jax.tree.map(jnp.zeros_like, params) | {"w": updates["w"]}, updates
    )
    assert jnp.any(updates["w"] != 0)
