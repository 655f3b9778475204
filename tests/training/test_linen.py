"""Flax Linen: a TrainState that takes the loss along, and a network with BatchNorm."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_armijo import (
    FROZEN,
    armijo_adam,
    armijo_info,
    by_layer,
    make_train_step,
)

nn = pytest.importorskip("flax.linen")


class Network(nn.Module):
    """A convolution with batch statistics, dropout, and a dense layer."""

    @nn.compact
    def __call__(self, x, train=True):
        h = nn.Conv(4, (3, 3), name="conv")(x)
        h = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(h)
        h = nn.Dropout(0.2, deterministic=not train)(nn.relu(h))
        return nn.Dense(3, name="head")(h.reshape(h.shape[0], -1))


def batch(seed=0, size=16):
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=size)
    x = rng.normal(size=(size, 6, 6, 1)) + y[:, None, None, None]
    return jnp.asarray(x, jnp.float32), jnp.asarray(y)


MODEL = Network()
VARIABLES = MODEL.init(
    {"params": jax.random.key(0), "dropout": jax.random.key(1)}, batch()[0]
)


def loss_fn(params, batch_stats, key, x, y):
    """The loss, and the batch statistics that its pass leaves."""
    logits, updated = MODEL.apply(
        {"params": params, "batch_stats": batch_stats},
        x,
        rngs={"dropout": key},
        mutable=["batch_stats"],
    )
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return loss, updated["batch_stats"]


def test_train_state_takes_loss_and_loss_function():
    from optax_armijo.linen import TrainState as Base

    class TrainState(Base):
        batch_stats: dict

    state = TrainState.create(
        apply_fn=MODEL.apply,
        params=VARIABLES["params"],
        tx=armijo_adam(by_layer),
        batch_stats=VARIABLES["batch_stats"],
    )

    @jax.jit
    def step(state, key, x, y):
        def batch_loss(params):
            return loss_fn(params, state.batch_stats, key, x, y)

        (loss, stats), grads = jax.value_and_grad(batch_loss, has_aux=True)(
            state.params
        )
        state = state.apply_gradients(
            grads=grads,
            value=loss,
            value_fn=lambda params: batch_loss(params)[0],
            batch_stats=stats,
        )
        return state, loss

    losses = []
    for i in range(80):
        state, loss = step(state, jax.random.key(i), *batch(i))
        losses.append(float(loss))
    assert int(state.step) == 80
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    assert armijo_info(state.opt_state).labels == ("conv", "head", "norm")
    x, y = batch(99, 64)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = MODEL.apply(variables, x, train=False)
    assert (logits.argmax(-1) == y).mean() > 0.8


def test_statistics_go_round_make_train_step_as_aux():
    tx = armijo_adam()
    step = make_train_step(loss_fn, tx, has_aux=True)
    params = jax.tree.map(jnp.copy, VARIABLES["params"])
    stats = VARIABLES["batch_stats"]
    opt_state = tx.init(params)
    for i in range(3):
        _, expected = loss_fn(params, stats, jax.random.key(i), *batch(i))
        params, opt_state, metrics = step(
            params, opt_state, stats, jax.random.key(i), *batch(i)
        )
        stats = metrics.aux
        chex.assert_trees_all_close(stats, expected, rtol=1e-5, atol=1e-6)


def test_train_state_of_an_optimizer_without_a_search():
    from optax_armijo.linen import TrainState

    state = TrainState.create(
        apply_fn=MODEL.apply, params=VARIABLES["params"], tx=optax.sgd(0.1)
    )
    grads = jax.tree.map(jnp.ones_like, state.params)
    new = state.apply_gradients(grads=grads)
    expected = jax.tree.map(lambda p: p - 0.1, state.params)
    chex.assert_trees_all_close(new.params, expected, rtol=1e-6)


def test_train_state_without_the_loss_says_what_is_missing():
    from optax_armijo.linen import TrainState

    state = TrainState.create(
        apply_fn=MODEL.apply, params=VARIABLES["params"], tx=armijo_adam()
    )
    with pytest.raises(ValueError, match="needs value, value_fn"):
        state.apply_gradients(grads=state.params)


def test_flax_own_train_state_is_told_which_to_take():
    from flax.training import train_state

    state = train_state.TrainState.create(
        apply_fn=MODEL.apply, params=VARIABLES["params"], tx=armijo_adam()
    )
    for loss in ({}, {"value": 1.0, "value_fn": lambda params: 1.0}):
        message = "take optax_armijo.linen.TrainState, since the TrainState .* drops"
        with pytest.raises(ValueError, match=message):
            state.apply_gradients(grads=state.params, **loss)


def test_a_frozen_key_among_params_stays_as_it_is():
    from optax_armijo.linen import TrainState

    params = {"w": jnp.ones(3), "key": jax.random.key(0)}
    state = TrainState.create(
        apply_fn=None, params=params, tx=armijo_adam({"w": "w", "key": FROZEN})
    )

    @jax.jit
    def step(state):
        def loss_fn(params):
            return jnp.sum(params["w"] ** 2)

        loss, grads = jax.value_and_grad(loss_fn, allow_int=True)(state.params)
        return state.apply_gradients(grads=grads, value=loss, value_fn=loss_fn), loss

    state, before = step(state)
    state, after = step(state)
    assert after < before
    assert jnp.all(
        jax.random.key_data(state.params["key"]) == jax.random.key_data(params["key"])
    )
