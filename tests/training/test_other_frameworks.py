"""`make_train_step` on the params of frameworks that have no helper of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_armijo import armijo_adam, by_layer, make_train_step

X = jnp.asarray(np.random.default_rng(0).normal(size=(32, 4)), jnp.float32)
Y = jnp.sin(X[:, :1]) + X[:, 1:2] ** 2


def losses(step, tx, params, num_steps=40):
    opt_state, history, metrics = tx.init(params), [], None
    for _ in range(num_steps):
        params, opt_state, metrics = step(params, opt_state, X, Y)
        history.append(float(metrics.loss))
    assert metrics is not None
    return history, metrics.info.labels


def test_a_plain_function_of_a_tuple():
    def loss_fn(params, x, y):
        w, b = params
        return jnp.mean((x @ w + b - y) ** 2)

    tx = armijo_adam()
    step = make_train_step(loss_fn, tx)
    history, _ = losses(step, tx, (jnp.zeros((4, 1)), jnp.zeros(1)))
    assert history[-1] < 0.7 * history[0]


def test_a_dict_of_modules_as_haiku_has():
    rng = np.random.default_rng(0)
    params = {
        f"mlp/~/linear_{i}": {
            "w": jnp.asarray(0.5 * rng.normal(size=shape), jnp.float32),
            "b": jnp.zeros(shape[1]),
        }
        for i, shape in enumerate([(4, 16), (16, 1)])
    }

    def loss_fn(params, x, y):
        first, second = (params[f"mlp/~/linear_{i}"] for i in range(2))
        h = jnp.tanh(x @ first["w"] + first["b"])
        return jnp.mean((h @ second["w"] + second["b"] - y) ** 2)

    tx = armijo_adam(by_layer)
    history, labels = losses(make_train_step(loss_fn, tx), tx, params)
    assert labels == ("layer_0", "layer_1")
    assert history[-1] < 0.5 * history[0]


def test_an_equinox_module():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(4, 1, 16, depth=2, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss_fn(params, x, y):
        model = eqx.combine(params, static)
        return jnp.mean((jax.vmap(model)(x) - y) ** 2)

    tx = armijo_adam()
    history, labels = losses(make_train_step(loss_fn, tx), tx, params)
    assert labels == ("layer_0", "layer_1", "layer_2")
    assert history[-1] < 0.5 * history[0]
