"""It never breaks a run: bad batches, bad trials, bad directions, flat losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chex import assert_trees_all_equal
from toys import LABELS, network_loss, network_params, run

from optax_armijo import armijo_adam, armijo_info, scale_by_armijo

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


@pytest.mark.parametrize(
    ("search", "momentum"),
    [
        ("cycle", "none"),
        ("joint", "none"),
        ("each", "none"),
        ("cycle", "kept"),
        ("cycle", "searched"),
    ],
)
def test_a_bad_batch_costs_one_step(search, momentum):
    tx = armijo_adam(LABELS, search=search, momentum=momentum)
    history = run(tx, network_params(), poisoned_loss, num_steps=BAD + 15)
    for bad_step in POISONS:
        before, bad, after = history[bad_step - 1 : bad_step + 2]
        for update in jax.tree.leaves(bad.updates):
            np.testing.assert_array_equal(update, 0)
        assert_trees_all_equal(before.state[0], bad.state[0])  # the moments
        info = armijo_info(bad.state)
        assert int(info.num_evaluations) == 0
        np.testing.assert_array_equal(
            info.step_size, armijo_info(before.state).step_size
        )
        assert np.any(after.updates["head"]["w"] != 0)
    values = [float(entry.value) for entry in history]
    assert np.mean(values[-4:]) < 0.9 * np.mean(values[:4])


def test_a_bad_first_batch_costs_one_step():
    def loss_fn(params, step):
        return jnp.where(step == 0, jnp.nan, network_loss(params, step))

    history = run(armijo_adam(), network_params(), loss_fn, num_steps=30)
    assert np.all(history[0].updates["head"]["w"] == 0)
    assert history[-1].value < 0.8 * history[1].value


def trials_fail_at(step_of_failure):
    """A loss whose every trial is infinite at one step, its value and gradient not."""

    def loss_fn(params, step, at):
        loss = network_loss(params, step)
        moved = jnp.any(params["head"]["b"] != at["head"]["b"])
        return jnp.where((step == step_of_failure) & moved, jnp.inf, loss)

    return loss_fn


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": "none", "search": "cycle"},
        {"momentum": "none", "search": "joint"},
        {"momentum": "none", "search": "each"},
    ],
    ids=["default", "cycle", "joint", "each"],
)
def test_a_search_that_finds_nothing_comes_back_within_ten_steps(options):
    """Neither the step nor the step size is lost: the trap of a rate stuck at 0."""
    loss_fn = trials_fail_at(BAD)
    tx = armijo_adam(LABELS, num_joint_steps=0, **options)
    params = network_params()
    state = tx.init(params)

    @jax.jit
    def step_fn(params, state, step):
        def f(p):
            return loss_fn(p, step, params)

        value, grads = jax.value_and_grad(f)(params)
        updates, state = tx.update(grads, state, params, value=value, value_fn=f)
        return optax.apply_updates(params, updates), updates, state

    step_sizes = []
    for step in range(BAD + 11):
        params, updates, state = step_fn(params, state, step)
        info = armijo_info(state)
        step_sizes.append(np.asarray(info.step_size))
        assert np.all(step_sizes[-1] > 0) and np.all(np.isfinite(step_sizes[-1]))
        if step == BAD:
            head = info.labels.index("head")
            failed = np.asarray(info.searched & ~info.accepted)
            if options.get("search") != "cycle":
                assert failed[head]
            assert np.all(np.asarray(info.applied_step_size)[failed] == 0)
            np.testing.assert_array_equal(updates["head"]["b"], 0)
    recovered = np.max(step_sizes[BAD + 1 :], axis=0)
    assert np.all(recovered > 0.3 * step_sizes[BAD - 1])


@pytest.mark.parametrize("direction", [1.0, 0.0])
def test_a_direction_that_does_not_descend_is_not_followed(direction):
    """An ascent direction (or none) costs no trial, no step and no step size."""
    tx = optax.chain(optax.scale(direction), scale_by_armijo(LABELS))
    history = run(tx, network_params(), num_steps=3)
    for entry in history:
        info = armijo_info(entry.state)
        assert int(info.num_evaluations) == 0
        np.testing.assert_allclose(info.step_size, 1e-3)
        for update in jax.tree.leaves(entry.updates):
            np.testing.assert_array_equal(update, 0)


def test_one_ascending_group_does_not_hold_up_the_others():
    def signs(updates):
        return {k: jax.tree.map(lambda x: -x, v) for k, v in updates.items()} | {
            "head": updates["head"]
        }

    tx = optax.chain(
        optax.stateless(lambda updates, params: signs(updates)),
        scale_by_armijo(LABELS, search="each"),
    )
    history = run(tx, network_params(), num_steps=10)
    info = armijo_info(history[-1].state)
    head = info.labels.index("head")
    assert not info.searched[head]
    assert np.all(history[-1].updates["head"]["w"] == 0)
    assert history[-1].value < history[0].value


def test_momentum_that_ascends_falls_back_on_the_gradient():
    """With momentum searched, an overshoot turns the momentum against the gradient."""

    def loss_fn(params, step):
        target = jnp.where(step < 5, 10.0, -10.0)
        return jnp.sum((params - target) ** 2)

    tx = armijo_adam(momentum="searched", num_joint_steps=0)
    history = run(tx, jnp.zeros(3), loss_fn, num_steps=8)
    turned = history[5]
    assert bool(armijo_info(turned.state).accepted.all())
    assert np.all(turned.updates < 0)


def test_step_sizes_do_not_grow_on_a_loss_that_has_come_to_zero():
    def loss_fn(params, step):
        del step
        return jnp.sum(jnp.maximum(params - 1.0, 0.0) ** 2)

    tx = armijo_adam()
    history = run(tx, jnp.array([1.5, 1.2]), loss_fn, num_steps=300)
    assert history[-1].value < 1e-10
    assert armijo_info(history[-1].state).step_size < 1.0


def test_equal_losses_are_no_failure():
    """Where a decrease drowns in rounding, the search passes at its first trial."""

    def loss_fn(params, step):
        del step
        return 1000.0 + 1e-6 * jnp.sum(params**2)

    tx = armijo_adam(momentum="none")
    history = run(tx, jnp.ones(4), loss_fn, num_steps=40)
    for entry in history[1:]:
        info = armijo_info(entry.state)
        assert int(info.num_evaluations) == 1
        assert bool(info.accepted[0])
    first, last = (armijo_info(history[i].state).step_size for i in (0, -1))
    np.testing.assert_array_equal(first, last)


def test_a_net_that_nothing_passes_leaves_params_where_they_are():
    """Groups that each descend alone, and together never."""

    def loss_fn(params, step):
        del step
        a, b = params["a"], params["b"]
        both = (a != 1.0) & (b != 1.0)
        return jnp.where(both, jnp.inf, a**2 + b**2)

    params = {"a": jnp.array(1.0), "b": jnp.array(1.0)}
    tx = armijo_adam(
        {"a": "a", "b": "b"}, momentum="none", search="each", num_joint_steps=0
    )
    (entry,) = run(tx, params, loss_fn, num_steps=1)
    info = armijo_info(entry.state)
    assert bool(info.accepted.all())
    assert float(info.net_factor) == 0
    assert_trees_all_equal(entry.updates, {"a": jnp.array(0.0), "b": jnp.array(0.0)})
    assert np.all(info.step_size > 0)


def test_a_negative_loss_is_searched_without_the_bound():
    def loss_fn(params, step):
        del step
        return jnp.sum((params - 3.0) ** 2) - 50.0

    history = run(armijo_adam(), jnp.zeros(2), loss_fn, num_steps=60)
    assert history[-1].value < -49.9


@pytest.mark.parametrize("labels", [None, LABELS], ids=["one group", "by layer"])
def test_after_a_failed_search_steps_are_no_longer_than_before(labels):
    """Bracketing from nothing takes what one batch allows: here a far longer step."""
    tx = optax.chain(
        optax.sgd(1.0), scale_by_armijo(labels, c=0.1, search="joint", net="off")
    )

    @jax.jit
    def step_fn(params, state, step, all_trials_fail):
        def loss_fn(params):
            return network_loss(params, step)

        def value_fn(params):
            return jnp.where(all_trials_fail, jnp.inf, loss_fn(params))

        value, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = tx.update(
            grads, state, params, value=value, grad=grads, value_fn=value_fn
        )
        return optax.apply_updates(params, updates), state

    params = network_params()
    state = tx.init(params)
    largest = []
    for step in range(14):
        fails = step in (8, 9)
        params, state = step_fn(params, state, jnp.asarray(step), jnp.asarray(fails))
        info = armijo_info(state)
        assert bool(jnp.all(info.accepted)) != fails
        largest.append(float(jnp.max(info.step_size)))
    assert largest[10] <= largest[7] * (1 + 1e-6)
    assert largest[10] >= 0.2 * largest[7]
