"""It never breaks a run: bad batches, bad trials, bad directions, flat losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal
from toys import LABELS, network_loss, network_params, run

from optax_armijo import Backtracking, armijo_adam, armijo_info, scale_by_armijo

BAD = 12


POISONS = {
    BAD: "nan loss",
    BAD + 2: "inf loss",
    BAD + 4: "nan gradient",
    BAD + 6: "inf gradient",
}


def poisoned_loss(params, step):
    """The network's loss, spoilt at the steps of POISONS."""
    at = {how: step == bad_step for bad_step, how in POISONS.items()}
    loss = network_loss(params, step)
    loss = jnp.where(at["nan loss"], jnp.nan, loss)
    loss = jnp.where(at["inf loss"], jnp.inf, loss)
    gradient = jnp.where(at["nan gradient"], jnp.nan, 0.0)
    gradient = jnp.where(at["inf gradient"], jnp.inf, gradient)
    return loss + _zero_with_gradient(params["embed"]["w"][0, 0], gradient)


@jax.custom_jvp
def _zero_with_gradient(x, gradient):
    del gradient
    return jnp.zeros_like(x)


@_zero_with_gradient.defjvp
def _zero_with_gradient_jvp(primals, tangents):
    x, gradient = primals
    return _zero_with_gradient(x, gradient), gradient * tangents[0]


FORMS = {
    "armijo_adam": armijo_adam(LABELS),
    "scale_by_armijo": optax.chain(optax.sgd(1.0), scale_by_armijo(LABELS)),
    "take_back=False": optax.chain(
        optax.sgd(1.0), scale_by_armijo(LABELS, take_back=False)
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_bad_batch_costs_one_step(name):
    """Nothing moves; where the last step may be to blame, it is taken back."""
    history = run(FORMS[name], network_params(), poisoned_loss, num_steps=BAD + 15)
    for bad_step, how in POISONS.items():
        before, bad, after = history[bad_step - 1 : bad_step + 2]
        info, old = armijo_info(bad.state), armijo_info(before.state)
        if name != "take_back=False" and "gradient" in how:
            # The loss is finite before the last step, and so it is not followed.
            back = jax.tree.map(jnp.negative, before.updates)
            assert_trees_all_close(bad.updates, back, rtol=1e-4, atol=1e-7)
            np.testing.assert_array_less(info.step_size, old.step_size)
        else:
            for update in jax.tree.leaves(bad.updates):
                np.testing.assert_array_equal(update, 0)
            np.testing.assert_array_equal(info.step_size, old.step_size)
        if name == "armijo_adam":
            assert_trees_all_equal(before.state.adam, bad.state.adam)
        assert int(info.num_evaluations) <= (name != "take_back=False")
        assert np.any(after.updates["head"]["w"] != 0)
    for entry in history:
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(entry.updates))
    values = [float(entry.value) for entry in history]
    assert np.mean(values[-4:]) < 0.9 * np.mean(values[:4])


def test_a_bad_first_batch_costs_one_step():
    def loss_fn(params, step):
        return jnp.where(step == 0, jnp.nan, network_loss(params, step))

    history = run(armijo_adam(), network_params(), loss_fn, num_steps=30)
    assert np.all(history[0].updates["head"]["w"] == 0)
    assert history[-1].value < 0.8 * history[1].value


# Where groups are compared in these steps, one of them comes out five times smaller.
@pytest.mark.parametrize(("bad", "part"), [(17, 0.3), (12, 0.15)])
@pytest.mark.parametrize("name", ["armijo_adam", "scale_by_armijo"])
def test_trap_1_a_search_that_finds_nothing_comes_back(name, bad, part):
    """Neither the step nor the step size is lost: the trap of a rate stuck at 0.

    Every trial is infinite at some steps, the loss and its gradient are not.
    """
    unbound = Backtracking(loss_fraction=None)  # the bound would slow the descent
    search = scale_by_armijo(LABELS, linesearch=unbound)
    tx = {
        "armijo_adam": armijo_adam(LABELS, linesearch=unbound),
        "scale_by_armijo": optax.chain(optax.sgd(1.0), search),
    }[name]

    @jax.jit
    def step_fn(params, state, step, is_spoilt):
        fails = is_spoilt & (step >= bad) & (step < bad + 4)

        def value_fn(moved):
            is_moved = jnp.any(moved["head"]["b"] != params["head"]["b"])
            return jnp.where(fails & is_moved, jnp.inf, network_loss(moved, step))

        value, grads = jax.value_and_grad(network_loss)(params, step)
        updates, state = tx.update(
            grads, state, params, value=value, grad=grads, value_fn=value_fn
        )
        return optax.apply_updates(params, updates), updates, state

    def step_sizes(is_spoilt):
        params = network_params()
        state, info, num_failed = tx.init(params), None, 0
        for step in range(bad + 30):
            params, updates, state = step_fn(params, state, step, is_spoilt)
            info = armijo_info(state)
            assert np.all(info.step_size > 0) and np.all(np.isfinite(info.step_size))
            whole_step_failed = float(info.step_factor) == 0
            if bad <= step < bad + 4 and is_spoilt and whole_step_failed:
                num_failed += 1
                np.testing.assert_array_equal(updates["head"]["b"], 0)
        assert num_failed or not is_spoilt
        assert network_loss(params, 0) < 0.5 * network_loss(network_params(), 0)
        assert info is not None
        return info.step_size

    assert np.all(step_sizes(True) > part * step_sizes(False))


@pytest.mark.parametrize("direction", [1.0, 0.0])
def test_trap_2_a_direction_that_does_not_descend_is_not_followed(direction):
    """An ascent direction (or none) costs no trial and no step."""
    tx = optax.chain(optax.scale(direction), scale_by_armijo(LABELS))
    history = run(tx, network_params(), num_steps=3)
    for entry in history:
        assert int(armijo_info(entry.state).num_evaluations) == 0
        for update in jax.tree.leaves(entry.updates):
            np.testing.assert_array_equal(update, 0)


def test_one_ascending_group_does_not_hold_up_the_others():
    def signs(updates):
        return {k: jax.tree.map(lambda x: -x, v) for k, v in updates.items()} | {
            "head": updates["head"]
        }

    tx = optax.chain(
        optax.stateless(lambda updates, params: signs(updates)),
        scale_by_armijo(LABELS),
    )
    history = run(tx, network_params(), num_steps=10)
    info = armijo_info(history[-1].state)
    head = info.labels.index("head")
    assert not info.searched[head]
    assert np.all(history[-1].updates["head"]["w"] == 0)
    assert history[-1].value < history[0].value


def test_momentum_that_ascends_is_outlived():
    """The target jumps to the other side: the momentum then points away from it."""

    def loss_fn(params, step):
        target = jnp.where(step < 10, 10.0, -10.0)
        return jnp.sum((params - target) ** 2)

    history = run(armijo_adam(), jnp.zeros(3), loss_fn, num_steps=80)
    assert history[-1].value < 0.1 * history[10].value
    values = np.array([entry.value for entry in history[10:]])
    assert values.max() < 2 * values[0]


def test_step_sizes_do_not_grow_on_a_loss_that_has_come_to_zero():
    def loss_fn(params, step):
        del step
        return jnp.sum(jnp.maximum(params - 1.0, 0.0) ** 2)

    tx = armijo_adam()
    history = run(tx, jnp.array([1.5, 1.2]), loss_fn, num_steps=400)
    assert history[-1].value < 1e-10
    assert armijo_info(history[-1].state).step_size < 1.0


def test_equal_losses_are_no_failure():
    """Where a decrease drowns in rounding, the search passes at its first trial."""

    def loss_fn(params, step):
        del step
        return 1000.0 + 1e-6 * jnp.sum(jnp.sin(params))

    history = run(armijo_adam(), jnp.ones(4), loss_fn, num_steps=40)
    for entry in history[1:]:
        assert float(armijo_info(entry.state).step_factor) == 1
        # Two of the group's own test, one of the whole step's.
        assert int(armijo_info(entry.state).num_evaluations) <= 3
    assert history[-1].value < 1000.1


def test_where_no_step_descends_params_stay_where_they_are():
    """Groups that each descend alone, and together never."""

    def loss_fn(params, step):
        del step
        a, b = params["a"], params["b"]
        both = (a != 1.0) & (b != 1.0)
        return jnp.where(both, jnp.inf, a**2 + b**2)

    params = {"a": jnp.array(1.0), "b": jnp.array(1.0)}
    for entry in run(armijo_adam({"a": "a", "b": "b"}), params, loss_fn, num_steps=3):
        info = armijo_info(entry.state)
        moved = jax.tree.map(jnp.add, entry.params, entry.updates)
        assert_trees_all_equal(moved, params)
        assert int(info.num_evaluations) <= 13
        assert np.all(np.isfinite(info.step_size))
