"""ScheduleFree+ for the comparison, against the published code's trajectories."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from schedule_free_plus import schedule_free_plus, schedule_free_plus_eval_params

import optax_armijo

PATH = Path(__file__).parents[1] / "data" / "schedule_free_plus.json"
REFERENCE = json.loads(PATH.read_text())
START = {k: jnp.asarray(x, jnp.float32) for k, x in REFERENCE["start"].items()}
TARGETS = [
    {k: jnp.asarray(x, jnp.float32) for k, x in target.items()}
    for target in REFERENCE["targets"]
]


def loss_fn(params, target):
    return sum(
        scale / 2 * jnp.sum((params[name] - target[name]) ** 2)
        for name, scale in REFERENCE["scales"].items()
    )


def make(run):
    """The transformation with a run's settings; the defaults' rate has no warm-up."""
    settings = REFERENCE["runs"][run]["settings"]
    if not settings:
        return schedule_free_plus()
    warmup = REFERENCE["warmup"]
    return schedule_free_plus(
        lambda count: jnp.minimum(1.0, (count + 1) / warmup), **settings
    )


def types(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


@pytest.mark.parametrize("run", REFERENCE["runs"])
def test_the_published_trajectory_is_reproduced(run):
    tx = make(run)

    @jax.jit
    def step(params, state, target):
        value, grads = jax.value_and_grad(loss_fn)(params, target)
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    params, state, points = START, tx.init(START), REFERENCE["runs"][run]
    found = params
    for target, train, average in zip(
        TARGETS, points["train"], points["eval"], strict=True
    ):
        params, state = step(params, state, target)
        found = schedule_free_plus_eval_params(state, params)
        for name in START:
            np.testing.assert_allclose(params[name], train[name], rtol=0, atol=2e-6)
            np.testing.assert_allclose(found[name], average[name], rtol=0, atol=2e-6)
    assert float(optax.tree.norm(optax.tree.sub(params, found))) > 1e-3


@pytest.mark.parametrize("run", REFERENCE["runs"])
def test_the_state_keeps_its_types_and_the_step_is_traced_once(run):
    tx = make(run)
    traced = []

    @jax.jit
    def step(params, state, target):
        traced.append(1)
        value, grads = jax.value_and_grad(loss_fn)(params, target)
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    params, state = START, tx.init(START)
    before = types(state)
    assert not any(x.weak_type for x in jax.tree.leaves(state))
    for target in TARGETS[:3]:
        params, state = step(params, state, target)
    assert types(state) == before
    assert len(traced) == 1


def test_it_trains_inside_the_average_of_iterates():
    tx = optax_armijo.average_iterates(schedule_free_plus())
    step = optax_armijo.make_train_step(loss_fn, tx)
    params = jax.tree.map(jnp.copy, START)
    state: Any = tx.init(params)
    for target in TARGETS:
        params, state, _ = step(params, state, target)
    expected = REFERENCE["runs"]["defaults"]["eval"][-1]
    found = schedule_free_plus_eval_params(state.inner, params)
    for name in START:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=2e-6)
    average = optax_armijo.averaged_params(state, params)
    for point in (params, average):
        assert float(loss_fn(point, TARGETS[-1])) < float(loss_fn(START, TARGETS[-1]))


def test_a_gradient_of_zero_makes_no_step():
    tx, params = schedule_free_plus(), jnp.ones(3)
    grads, value = jnp.zeros(3), jnp.asarray(1.0)
    updates, state = tx.update(grads, tx.init(params), params, value=value)
    np.testing.assert_array_equal(updates, grads)
    found = schedule_free_plus_eval_params(state, params)
    np.testing.assert_array_equal(found, params)


@pytest.mark.parametrize("given", [{"params": jnp.ones(2)}, {"value": jnp.ones([])}])
def test_it_needs_params_and_the_loss(given):
    tx = schedule_free_plus()
    with pytest.raises(ValueError, match="params and value"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), **given)
