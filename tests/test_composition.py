"""Inside optax's wrappers and JAX's control flow, on any good direction."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import LABELS, network_loss, network_params, run

from optax_armijo import (
    armijo_adam,
    armijo_adamw,
    armijo_info,
    plasls,
    scale_by_armijo,
)

OPTIMIZERS = {
    "armijo_adam": armijo_adam,
    "armijo_adamw": armijo_adamw,
    "scale_by_armijo": lambda labels: optax.chain(
        optax.sgd(1.0), scale_by_armijo(labels)
    ),
}


@pytest.fixture(scope="module")
def plain_runs():
    return {
        name: run(make(LABELS), network_params(), num_steps=10)
        for name, make in OPTIMIZERS.items()
    }


@pytest.mark.parametrize("make", [armijo_adam, armijo_adamw])
def test_inject_hyperparams_takes_schedules(make):
    options = {"num_steps": 100}
    schedule = optax.linear_schedule(0.8, 0.95, 3)
    injected = optax.inject_hyperparams(make)(LABELS, b1=schedule, **options)
    history = run(injected, network_params(), num_steps=6)
    expected = run(make(LABELS, b1=0.8, **options), network_params(), num_steps=1)
    # Injected numbers are arrays, with which XLA rounds some products otherwise.
    chex.assert_trees_all_close(
        history[0].updates, expected[0].updates, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(history[-1].state.hyperparams["b1"], 0.95, rtol=1e-6)


def test_inject_hyperparams_with_a_label_function_named_static():
    def param_labels(params):
        return {name: name for name in params}

    make = optax.inject_hyperparams(armijo_adam, static_args="param_labels")
    for tx, labels in (
        (make(param_labels), ("embed", "head", "layers")),
        (make(), ("embed", "head", "layers")),
    ):
        state = run(tx, network_params(), num_steps=2)[-1].state
        assert armijo_info(state).labels == labels


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_scan(optimizer, plain_runs):
    tx = OPTIMIZERS[optimizer](LABELS)
    params = network_params()

    def body(carry, step):
        params, state = carry

        def f(params):
            return network_loss(params, step)

        value, grads = jax.value_and_grad(f)(params)
        updates, state = tx.update(
            grads, state, params, value=value, grad=grads, value_fn=f
        )
        return (optax.apply_updates(params, updates), state), value

    _, values = jax.lax.scan(body, (params, tx.init(params)), jnp.arange(10))
    expected = [entry.value for entry in plain_runs[optimizer]]
    np.testing.assert_allclose(values, np.stack(expected), rtol=1e-4)


@pytest.mark.parametrize("make", [armijo_adam, plasls])
def test_vmap_is_one_run_after_the_other(make):
    tx = make(LABELS)
    runs = [network_params(seed=seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)
    states = jax.vmap(tx.init)(stacked)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0, None))
    def step_fn(params, state, step):
        def f(params):
            return network_loss(params, step)

        value, grads = jax.value_and_grad(f)(params)
        updates, state = tx.update(grads, state, params, value=value, value_fn=f)
        return optax.apply_updates(params, updates), state

    for step in range(5):
        stacked, states = step_fn(stacked, states, jnp.asarray(step))
    infos = armijo_info(states)
    for i, params in enumerate(runs):
        history = run(tx, params, num_steps=5)
        last = jax.tree.map(jnp.add, history[-1].params, history[-1].updates)
        together = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
        chex.assert_trees_all_close(together, last, rtol=1e-3, atol=1e-5)
        info = armijo_info(history[-1].state)
        assert infos.total_evaluations[i] == info.total_evaluations
        np.testing.assert_allclose(infos.step_size[i], info.step_size, rtol=1e-3)


def test_grad_is_what_the_search_tests_and_updates_what_adam_takes():
    """After a clip that scales by 1000 the slope is that of the true gradient."""
    params = network_params()
    value, grads = jax.value_and_grad(network_loss)(params)
    scaled = jax.tree.map(lambda g: g / 1000, grads)
    tx = armijo_adam(eps=1e-12)

    @jax.jit
    def info_after_a_step(grad):
        _, state = tx.update(
            scaled,
            tx.init(params),
            params,
            value=value,
            grad=grad,
            value_fn=network_loss,
        )
        return armijo_info(state)

    infos = [info_after_a_step(grad) for grad in (grads, None)]
    ratios = [info.predicted_decrease / info.applied_step_size for info in infos]
    np.testing.assert_allclose(ratios[0], 1000 * ratios[1], rtol=1e-3)


@pytest.mark.parametrize(
    "direction",
    [
        optax.lion(1.0),
        optax.adabelief(1.0),
    ],
    ids=["lion", "adabelief"],
)
def test_any_direction(direction):
    tx = optax.chain(direction, scale_by_armijo(LABELS))
    history = run(tx, network_params(), num_steps=40)
    assert np.mean([x.value for x in history[-4:]]) < 0.8 * history[0].value
