"""Any floating dtype, alone or mixed: in each leaf's dtype, searched in float32."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import LABELS, init, network_loss, network_params, run

from optax_armijo import armijo_adam, armijo_adamw, armijo_info
from optax_armijo._numerics import rounded

DTYPES = {"bf16": jnp.bfloat16, "f16": jnp.float16, "f32": jnp.float32}


def check_dtypes(entry, params, scalar_dtype):
    for update, param in zip(
        jax.tree.leaves(entry.updates), jax.tree.leaves(params), strict=True
    ):
        assert update.dtype == param.dtype
    info = armijo_info(entry.state)
    floats = (info.step_size, info.predicted_decrease, info.step_factor)
    assert all(x.dtype == scalar_dtype for x in floats)
    for moment in jax.tree.leaves((entry.state.adam.mu, entry.state.adam.nu)):
        assert moment.dtype in (jnp.float32, scalar_dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_dtype(dtype):
    params = network_params(DTYPES[dtype])
    history = run(armijo_adamw(LABELS), params, num_steps=60)
    check_dtypes(history[-1], params, jnp.float32)
    last = [float(entry.value) for entry in history[-4:]]
    assert np.mean(last) < 0.6 * float(history[0].value)


def test_what_is_rounded_is_what_the_dtype_holds():
    """`jax.lax.reduce_precision` makes zero of the subnormal numbers of float16."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=10_000) * 10.0 ** rng.uniform(-9, 4, size=10_000)
    x = np.array([*x, 3e-5, 6.5e-8, 2e-8, 6.1e-5, 0.0, np.inf, -np.inf], np.float32)
    for dtype in (jnp.float16, jnp.bfloat16):
        expected = jnp.asarray(x).astype(dtype)
        found = jax.jit(lambda x, dtype=dtype: rounded(x, dtype))(x)
        np.testing.assert_array_equal(found, expected)


def test_small_steps_move_params_in_float16():
    """By 3e-5, below the smallest normal number; the params can hold that."""
    params = {"w": jnp.full(4, 0.02, jnp.float16)}
    tx = armijo_adam()

    def capped(updates, state: Any, params=None, **more):
        sizes = jnp.minimum(state.step_size, 3e-5)
        return tx.update(updates, state._replace(step_size=sizes), params, **more)

    def start(params):
        return init(tx, params)._replace(step_size=jnp.array([3e-5]))

    small = optax.GradientTransformationExtraArgs(start, capped)
    history = run(small, params, lambda p, _: jnp.mean(p["w"].astype(float) ** 2), 40)
    assert bool(jnp.all(history[-1].params["w"] < 0.0195))


def test_a_tree_of_mixed_dtypes():
    params = network_params()
    params["embed"] = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params["embed"])
    params["head"] = jax.tree.map(lambda x: x.astype(jnp.float16), params["head"])

    def loss_fn(params, step):
        del step
        losses = [
            jnp.mean((leaf.astype(jnp.float32) - 0.5) ** 2)
            for leaf in jax.tree.leaves(params)
        ]
        return jnp.sum(jnp.stack(losses))

    history = run(armijo_adam(LABELS), params, loss_fn, num_steps=40)
    check_dtypes(history[-1], params, jnp.float32)
    assert history[-1].value < 0.1 * history[0].value


def test_bfloat16_compute_trains():
    """The loss is float32, and as noisy as the bfloat16 that it is reduced from."""

    def loss_fn(params, step):
        half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
        return network_loss(half, step).astype(jnp.float32)

    history = run(armijo_adam(LABELS), network_params(), loss_fn, num_steps=200)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(history[-1].updates))
    last = [float(entry.value) for entry in history[-4:]]
    assert np.mean(last) < 0.1 * float(history[0].value)


def test_float64(x64):
    params = network_params(jnp.float64)
    history = run(armijo_adam(LABELS), params, num_steps=60)
    check_dtypes(history[-1], params, jnp.float64)
    assert history[-1].value < 0.6 * history[0].value


def test_float64_among_float32(x64):
    params = {"a": jnp.ones(2, jnp.float32), "b": jnp.ones(2, jnp.float64)}

    def loss_fn(params, step):
        del step
        return jnp.sum(params["a"] ** 2) + jnp.sum(params["b"] ** 2)

    history = run(armijo_adam({"a": "a", "b": "b"}), params, loss_fn, num_steps=3)
    check_dtypes(history[-1], params, jnp.float64)


def test_a_float16_gradient_with_a_square_beyond_float16_is_no_bad_batch():
    """Its square is taken in float32, in which it is finite."""

    def loss(w: jax.Array) -> jax.Array:
        return 1e3 + 1e3 * jnp.sum(w.astype(jnp.float32))

    w = jnp.ones(3, jnp.float16)
    tx = armijo_adam()
    value, grad = jax.value_and_grad(loss)(w)
    assert not jnp.isfinite(jnp.square(grad)).any()
    update = jax.jit(tx.update, static_argnames="value_fn")
    updates, _ = update(grad, tx.init(w), w, value=value, value_fn=loss)
    assert np.all(np.asarray(updates) < 0)
