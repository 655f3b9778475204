"""It never breaks a run: bad batches, bad trials, bad directions, flat losses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal
from toys import LABELS, init, network_loss, network_params, one_step, run

from optax_armijo import (
    FROZEN,
    armijo_adam,
    armijo_info,
    one_group,
    scale_by_armijo,
)
from optax_armijo.search.trials import HALF, MOST_FIRST_TRIALS

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
}


CLIPPED = {
    "armijo_adam": optax.chain(optax.clip(1.0), armijo_adam(one_group)),
    "scale_by_armijo": optax.chain(optax.sgd(1.0), scale_by_armijo(one_group)),
}


@pytest.mark.parametrize("name", CLIPPED)
@pytest.mark.parametrize("gradient", [np.inf, -np.inf, 1e25, 3e38])
def test_an_infinite_promise_in_the_first_batch_moves_nothing(name, gradient):
    """The direction is finite behind ``optax.clip``; the slope may be finite, too."""
    tx, params = CLIPPED[name], {"w": jnp.full(2, 2.0)}
    grads = {"w": jnp.array([gradient, 1.0])}
    updates, state = one_step(
        tx, params, lambda p: jnp.sum(p["w"] ** 2), value=jnp.array(2.0), grad=grads
    )
    assert np.all(np.isfinite(updates["w"]))
    assert np.all(armijo_info(state).step_size == 0)


@pytest.mark.parametrize("name", FORMS)
def test_a_bad_batch_costs_one_step(name):
    """Nothing moves, and step sizes stay."""
    history = run(FORMS[name], network_params(), poisoned_loss, num_steps=BAD + 15)
    for bad_step in POISONS:
        before, bad, after = history[bad_step - 1 : bad_step + 2]
        info, old = armijo_info(bad.state), armijo_info(before.state)
        for update in jax.tree.leaves(bad.updates):
            np.testing.assert_array_equal(update, 0)
        np.testing.assert_array_equal(info.step_size, old.step_size)
        if name == "armijo_adam":
            assert_trees_all_equal(before.state.adam, bad.state.adam)
            assert before.state.gradient_size == bad.state.gradient_size
        assert int(info.num_evaluations) <= 1
        assert np.any(after.updates["head"]["w"] != 0)
    for entry in history:
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(entry.updates))
    values = [float(entry.value) for entry in history]
    assert np.mean(values[-4:]) < 0.9 * np.mean(values[:4])


@pytest.mark.parametrize("name", ["armijo_adam", "scale_by_armijo"])
def test_a_second_bad_gradient_in_a_row_takes_the_last_step_back(name):
    """One alone may come of the batch; two, with a finite loss, of the step."""

    def loss_fn(params, step):
        is_bad = (step == BAD) | (step == BAD + 1)
        gradient = jnp.where(is_bad, jnp.nan, 0.0)
        zero = _zero_with_gradient(params["embed"]["w"][0, 0], gradient)
        return network_loss(params, step) + zero

    history = run(FORMS[name], network_params(), loss_fn, num_steps=BAD + 20)
    good, bad, again, after = history[BAD - 1 : BAD + 3]
    assert np.all(bad.updates["head"]["w"] == 0)
    back = jax.tree.map(jnp.negative, good.updates)
    assert_trees_all_close(again.updates, back, rtol=1e-4, atol=1e-7)
    old, new = armijo_info(bad.state).step_size, armijo_info(again.state).step_size
    warmed = BAD / (BAD + 1)  # the part that the warm-up applies does not grow
    np.testing.assert_allclose(new, HALF * warmed * old, rtol=1e-6)
    assert np.any(after.updates["head"]["w"] != 0)


def test_a_gradient_that_is_nan_now_and_then_does_not_stop_the_run():
    """A row of zeros, whose norm has no gradient, in one batch of ten."""
    rows = np.random.default_rng(0).normal(size=(10, 16, 4)) * [1.0, 3.0, 0.3, 2.0]
    rows[7, 3] = 0

    def loss_fn(params, step):
        x = jnp.asarray(rows, jnp.float32)[step % 10]
        return jnp.mean((jnp.linalg.norm(x * params, axis=1) - 1) ** 2)

    history = run(armijo_adam(), jnp.full(4, 20.0), loss_fn, num_steps=200)
    assert all(np.all(entry.updates == 0) for entry in history[7::10])
    assert np.mean([entry.value for entry in history[-10:]]) < 0.3  # of 1000
    assert armijo_info(history[-1].state).step_size[0] > 0.1


@pytest.mark.parametrize("num_good", [1, 2, 3, 4, 20])
def test_after_a_step_is_undone_the_next_is_shorter(num_good):
    """In the warm-up too, in which the applied part of a step grows."""

    def loss_fn(params, is_last):
        """Finite in the step `num_good` only where the last step began."""
        loss = jnp.sum((params["w"] - 3.0) ** 2)
        is_away = jnp.any(jnp.abs(params["w"] - params["start"]) > 1e-5)
        return jnp.where(is_last & is_away, jnp.nan, loss)

    tx = armijo_adam(lambda params: {"w": "w", "start": FROZEN})

    @jax.jit
    def step_fn(params, state, is_last):
        value_fn = lambda params: loss_fn(params, is_last)  # noqa: E731
        value, grads = jax.value_and_grad(value_fn)(params)
        more = {"value": value, "grad": grads, "value_fn": value_fn}
        updates, state = tx.update(grads, state, params, **more)
        return optax.apply_updates(params, updates), state

    params = {"w": jnp.ones(3), "start": jnp.ones(3)}
    state, applied, sizes = init(tx, params), [], []
    for step in range(num_good + 2):
        if step < num_good:
            params["start"] = params["w"]
        params, state = step_fn(params, state, jnp.array(step == num_good))
        applied.append(float(armijo_info(state).applied_step_size[0]))
        sizes.append(float(state.gradient_size))
    last, back, again = applied[num_good - 1 :]
    assert sizes[num_good] == sizes[num_good - 1]
    assert back == -last and last > 0
    np.testing.assert_allclose(again, HALF * last, rtol=1e-5)


def test_a_step_onto_a_plateau_is_undone():
    """Its loss is far above those before.

    Eight of 96 runs of a decay came to a lifetime of 0.0003 so, where no gradient is
    left.
    """

    tx = armijo_adam(one_group)

    @jax.jit
    def step_fn(params, state, last, noise, is_plateau):
        def value_fn(params):
            """On the plateau 1000, but where the last step began."""
            near = jnp.sum((params["w"] - 3.0) ** 2)
            is_away = jnp.any(jnp.abs(params["w"] - last) > 1e-6)
            return 200 + noise + jnp.where(is_plateau & is_away, 1000, near)

        value, grads = jax.value_and_grad(value_fn)(params)
        more = {"value": value, "grad": grads, "value_fn": value_fn}
        updates, state = tx.update(grads, state, params, **more)
        return optax.apply_updates(params, updates), state

    params = {"w": jnp.ones(3)}
    state, before = init(tx, params), params["w"]
    for noise in np.random.default_rng(0).choice([-1.0, 1.0], 15):
        last, before = before, params["w"]
        params, state = step_fn(params, state, last, noise, False)
    assert np.any(params["w"] != before)
    params, state = step_fn(params, state, before, -1.0, True)
    chex.assert_trees_all_close(params["w"], before, rtol=1e-6)
    assert armijo_info(state).applied_step_size[0] < 0


SPOILT = {
    "-inf": [-np.inf, 1.0],
    "the lowest float32": [float(np.finfo(np.float32).min)] * 2,
    "-1e20": [-1e20] * 2,
    "NaN": [np.nan] * 2,
}


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("labels", [one_group, {"w": "w", "mask": "mask"}])
def test_leaves_without_a_gradient_may_hold_anything(labels, name):
    """The square of 1e20 overflows, so that the root mean square would be infinite."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 4)), jnp.float32)

    def loss_fn(params, step):
        del step
        return jnp.mean((x @ params["w"] - x.sum(axis=1)) ** 2)

    params = {"w": jnp.full(4, 0.1), "mask": jnp.array(SPOILT[name])}
    history = run(armijo_adam(labels), params, loss_fn, num_steps=60)
    np.testing.assert_array_equal(history[-1].params["mask"], params["mask"])
    assert history[-1].value < 0.1 * history[0].value


def test_no_step_is_undone_for_the_rounding_of_a_loss():
    """Here of one in bfloat16, whose deviations are zero once it no longer falls."""
    tx = armijo_adam(one_group)

    def loss_fn(params):
        return 1 + jnp.sum((params["w"] - 1.0) ** 2).astype(jnp.bfloat16)

    def body(carry, rounding):
        params, state = carry
        value, grads = jax.value_and_grad(loss_fn)(params)
        value += rounding.astype(value.dtype)
        updates, state = tx.update(grads, state, params, value=value, value_fn=loss_fn)
        applied = armijo_info(state).applied_step_size
        return (optax.apply_updates(params, updates), state), applied[0]

    params = {"w": jnp.zeros(3)}
    roundings = jnp.zeros(200).at[150::5].set(2.0**-7)
    _, applied = jax.lax.scan(body, (params, tx.init(params)), roundings)
    assert applied[150:].max() > 0 and applied.min() >= 0


def test_step_sizes_that_came_to_zero_are_found_again():
    """All of them, or those of one group."""
    tx, params = armijo_adam(LABELS), network_params()
    value, grads = jax.value_and_grad(network_loss)(params)
    smallest, start = jnp.finfo(jnp.float32).tiny, run(tx, params, num_steps=20)[-1]

    @jax.jit
    def update(state, added):
        value_fn = lambda params: network_loss(params) + added  # noqa: E731
        return tx.update(grads, state, params, value=value, value_fn=value_fn)

    for sizes in (jnp.full(3, smallest), jnp.array([1e-3, smallest, 1e-3])):
        state = start.state._replace(step_size=sizes, tested_at=jnp.array(1))
        for _ in range(3):  # all trials fail
            state = state._replace(tested_at=jnp.array(1))
            updates, state = update(state, jnp.inf)
            assert all(np.all(x == 0) for x in jax.tree.leaves(updates))
        for _ in range(2):
            _, state = update(state, 0.0)
        updates, state = update(state, 0.0)
        assert np.all(state.step_size > 1e-6) and np.all(np.isfinite(state.step_size))
        assert all(np.any(x != 0) for x in jax.tree.leaves(updates))


@pytest.mark.parametrize(("unit", "factor"), [(1e-12, 1.0), (1e20, 1e8), (1e25, 1e8)])
def test_a_constant_in_a_unit_of_its_own_moves(unit, factor):
    """Beside a weight of one. Its square overflows; that of its gradient must not."""

    def loss_fn(params, step):
        del step
        errors = params["c"] / params["unit"] - 3.0, params["w"] - 3.0
        return params["factor"] * (errors[0] ** 2 + errors[1] ** 2)

    params = {"c": unit, "w": 1.0, "unit": unit, "factor": factor}
    params = {name: jnp.array(x) for name, x in params.items()}
    tx = armijo_adam({"c": "c", "w": "w", "unit": FROZEN, "factor": FROZEN}, eps=1e-30)
    last = run(tx, params, loss_fn, num_steps=60)[-1].params
    assert last["c"] / unit > 2.5 and last["w"] > 2.5


def test_a_bias_before_a_normalization_does_not_run_away():
    """Its gradient is rounding alone, and a step of any size passes every test."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(64, 8)), jnp.float32)

    def loss_fn(params, step):
        del step
        h = x @ params["w1"] + params["b1"]
        h = (h - h.mean(axis=0)) / jnp.sqrt(h.var(axis=0) + 1e-5)
        return jnp.mean((jnp.tanh(h) @ params["w2"] - jnp.sin(2 * x[:, :1])) ** 2)

    params = {
        "w1": jnp.asarray(0.3 * rng.normal(size=(8, 16)), jnp.float32),
        "b1": jnp.zeros(16),
        "w2": jnp.asarray(0.2 * rng.normal(size=(16, 1)), jnp.float32),
    }
    tx = armijo_adam({name: name for name in params})
    last = run(tx, params, loss_fn, num_steps=60)[-1]
    assert np.max(np.abs(last.params["b1"])) < 1
    assert last.value < 0.2


def test_a_bad_first_batch_costs_one_step():
    def loss_fn(params, step):
        return jnp.where(step == 0, jnp.nan, network_loss(params, step))

    history = run(armijo_adam(), network_params(), loss_fn, num_steps=30)
    assert np.all(history[0].updates["head"]["w"] == 0)
    assert history[-1].value < 0.8 * history[1].value


# Where groups are compared in these steps, one of them comes out five times smaller.
@pytest.mark.parametrize(("bad", "part"), [(17, 0.3), (12, 0.15)])
@pytest.mark.parametrize("name", ["armijo_adam", "scale_by_armijo"])
def test_a_search_that_finds_nothing_comes_back(name, bad, part):
    """Neither the step nor the step size is lost: the trap of a rate stuck at 0.

    Every trial is infinite at some steps, the loss and its gradient are not.
    """
    tx = FORMS[name]

    @jax.jit
    def step_fn(params, state, step, fails):
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
            fails = is_spoilt and bad <= step < bad + 4
            params, updates, state = step_fn(params, state, step, jnp.array(fails))
            info = armijo_info(state)
            assert np.all(info.step_size > 0) and np.all(np.isfinite(info.step_size))
            if fails and info.searched.any() and not info.accepted.any():
                num_failed += 1
                np.testing.assert_array_equal(updates["head"]["b"], 0)
        assert num_failed or not is_spoilt
        assert network_loss(params, 0) < 0.6 * network_loss(network_params(), 0)
        assert info is not None
        return info.step_size

    assert np.all(step_sizes(True) > part * step_sizes(False))


@pytest.mark.parametrize("direction", [1.0, 0.0])
def test_a_direction_that_does_not_descend_is_not_followed(direction):
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
        # One on its own mini-batch, one on the next.
        assert int(armijo_info(entry.state).num_evaluations) <= 2
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
        assert int(info.num_evaluations) <= MOST_FIRST_TRIALS
        assert np.all(np.isfinite(info.step_size))


def test_a_first_step_without_a_trial_that_passes_says_so():
    _, state = one_step(
        armijo_adam(LABELS), network_params(), value_fn=lambda params: jnp.inf
    )
    info = armijo_info(state)
    assert info.searched.all() and not info.accepted.any()
    assert np.all(info.step_size == 0)
    np.testing.assert_array_equal(info.num_trials, 3 * [info.num_evaluations])
    np.testing.assert_array_equal(info.total_trials, info.num_trials)
    assert "no trial passed" in str(info)
    assert "value_fn(params) differs from value" in str(info)
    assert "no trial decreased the loss enough" not in str(info)  # no reason besides
