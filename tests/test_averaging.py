"""The average of the last iterates."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import LABELS, init, network_loss, network_params, run

from optax_armijo import (
    armijo_adam,
    armijo_info,
    average_iterates,
    averaged_params,
)


def test_it_is_the_weighted_mean_of_the_iterates():
    part, w, weights, iterates = 0.5, 0.0, [], []
    tx = average_iterates(optax.sgd(1.0), part)
    params: Any = jnp.array(w)
    state = tx.init(params)
    for n, grad in enumerate(np.random.default_rng(0).normal(size=7)):
        updates, state = tx.update(jnp.float32(grad), state, params)
        params = optax.apply_updates(params, updates)
        rate = 1 / (1 + part * n)
        weights = [(1 - rate) * x for x in weights] + [rate]
        iterates.append(float(params))
    np.testing.assert_allclose(sum(weights), 1.0)
    assert weights[0] < weights[3] < weights[-1]
    np.testing.assert_allclose(
        averaged_params(state, params), np.dot(weights, iterates), rtol=1e-5
    )


def test_training_is_as_it_is_without():
    plain = run(armijo_adam(LABELS), network_params(), num_steps=20)
    averaged = run(
        average_iterates(armijo_adam(LABELS)), network_params(), num_steps=20
    )
    for x, y in zip(plain, averaged, strict=True):
        np.testing.assert_allclose(x.value, y.value, rtol=1e-5)
    info = armijo_info(averaged[-1].state)
    assert float(info.step_size[0]) > 0
    last = averaged_params(averaged[-1].state, averaged[-1].params)
    assert network_loss(last) < network_loss(network_params())


def test_a_noisy_bowl_ends_nearer_to_its_centre():
    noise = np.random.default_rng(0).normal(size=(400, 10)).astype(np.float32)
    tx = average_iterates(optax.sgd(0.1))

    @jax.jit
    def train(params: Any) -> Any:
        def step(carry, shift):
            params, state = carry
            updates, state = tx.update(params - shift, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(step, (params, tx.init(params)), noise)
        return params, averaged_params(state, params)

    params, average = train(jnp.full(10, 5.0))
    assert jnp.sum(average**2) < 0.25 * jnp.sum(params**2)


def test_half_precision_is_averaged_in_float32():
    params = {"a": jnp.ones(3, jnp.bfloat16), "n": jnp.array(1, jnp.int32)}
    tx = average_iterates(optax.set_to_zero())
    state = init(tx, params)
    assert state.average["a"].dtype == jnp.float32
    _, state = tx.update(params, state, params)
    average = averaged_params(state, params)
    assert average["a"].dtype == jnp.bfloat16
    assert average["n"].dtype == jnp.int32 and int(average["n"]) == 1


def test_bad_use_is_told():
    with pytest.raises(ValueError, match=r"part .* \(0, 1\]; got 0"):
        average_iterates(optax.sgd(1.0), 0)
    tx = average_iterates(optax.sgd(1.0))
    state = tx.init(jnp.ones(2))
    with pytest.raises(ValueError, match="needs params in update"):
        tx.update(jnp.ones(2), state)
    with pytest.raises(ValueError, match="this one holds 0"):
        averaged_params(optax.sgd(1.0).init(jnp.ones(2)), jnp.ones(2))
    with pytest.raises(ValueError, match="this one holds 2"):
        averaged_params((state, state), jnp.ones(2))
