"""Training a small part: state and memory are of what moves."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from optax_armijo import FROZEN, armijo_adam, armijo_adamw, make_train_step

WIDTH, RANK = 512, 4
BASE_BYTES = 4 * WIDTH * WIDTH


def adapted_params():
    """A large matrix with a low-rank adapter beside it, and a head."""
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "base": jax.random.normal(keys[0], (WIDTH, WIDTH)) / WIDTH**0.5,
        "lora": {
            "a": jax.random.normal(keys[1], (WIDTH, RANK)) / WIDTH**0.5,
            "b": jnp.zeros((RANK, WIDTH)),
        },
        "head": jax.random.normal(keys[2], (WIDTH, 3)) / WIDTH**0.5,
    }


LABELS = {"base": FROZEN, "lora": "lora", "head": "head"}


def loss_fn(params, x, y):
    lora = params["lora"]
    h = jnp.tanh(x @ params["base"] + (x @ lora["a"]) @ lora["b"])
    logits = h @ params["head"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def batch():
    keys = jax.random.split(jax.random.key(1))
    return jax.random.normal(keys[0], (8, WIDTH)), jax.random.randint(
        keys[1], (8,), 0, 3
    )


def size_in_bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def test_the_state_is_of_what_moves():
    params = adapted_params()
    state = armijo_adam(LABELS).init(params)
    moving = size_in_bytes((params["lora"], params["head"]))
    assert size_in_bytes(state) < 2 * moving + 500


@pytest.mark.parametrize(
    "wrap", [lambda tx: tx, lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx)]
)
def test_a_step_needs_no_memory_for_what_is_frozen(wrap):
    """Neither gradient, nor direction, nor trial of the frozen matrix is held."""
    params = adapted_params()
    temporaries = {}
    for name, labels in (("frozen", LABELS), ("all", {**LABELS, "base": "base"})):
        tx = wrap(armijo_adamw(labels))
        step = make_train_step(loss_fn, tx)
        compiled: Any = step.lower(params, tx.init(params), *batch()).compile()
        temporaries[name] = compiled.memory_analysis().temp_size_in_bytes
    assert temporaries["frozen"] < BASE_BYTES
    assert temporaries["all"] > 2 * BASE_BYTES


def test_what_is_frozen_stays_and_the_rest_trains():
    tx = armijo_adamw(LABELS, weight_decay=0.1)
    step = make_train_step(loss_fn, tx, donate=False)
    params = adapted_params()
    opt_state, losses = tx.init(params), []
    for _ in range(15):
        params, opt_state, metrics = step(params, opt_state, *batch())
        losses.append(float(metrics.loss))
    assert losses[-1] < 0.5 * losses[0]
    chex.assert_trees_all_equal(params["base"], adapted_params()["base"])
    assert bool(jnp.any(params["lora"]["b"] != 0))


def test_the_frozen_part_may_be_an_argument_instead_and_of_integers():
    """Quantized weights have no gradient: they are passed along, not trained."""
    params = adapted_params()
    base = jnp.round(params.pop("base") * 100).astype(jnp.int8)

    def with_base(params, base, x, y):
        return loss_fn({"base": base.astype(jnp.float32) / 100, **params}, x, y)

    tx = armijo_adam({"lora": "lora", "head": "head"})
    step = make_train_step(with_base, tx)
    opt_state, losses = tx.init(params), []
    for _ in range(15):
        params, opt_state, metrics = step(params, opt_state, base, *batch())
        losses.append(float(metrics.loss))
    assert losses[-1] < 0.5 * losses[0]


def test_what_is_in_front_of_the_search_gets_no_gradient_of_what_is_frozen():
    """Clipping counted it in the norm, and spread its NaN over all leaves."""

    def with_base(params, x, y):
        moving = {name: params[name] for name in ("lora", "head")}
        value = loss_fn({"base": base, **moving}, x, y)
        never_finite = jnp.linalg.norm(params.get("base", jnp.ones(())) * 0)
        return value + never_finite

    params = adapted_params()
    base = params["base"]
    runs = []
    for labels in (LABELS, {"lora": "lora", "head": "head"}):
        mine = {name: params[name] for name in labels}
        tx = optax.chain(optax.clip_by_global_norm(1e-3), armijo_adam(labels))
        step = make_train_step(with_base, tx, donate=False)
        state, losses = tx.init(mine), []
        for _ in range(4):
            mine, state, metrics = step(mine, state, *batch())
            losses.append(metrics.loss)
        mine.pop("base", None)
        runs.append((mine, losses))
        assert losses[-1] < losses[0]
    chex.assert_trees_all_close(*runs, rtol=1e-5)


@pytest.mark.parametrize("num_microbatches", [1, 2])
def test_what_is_in_front_of_the_search_takes_integers_and_keys_that_are_frozen(
    num_microbatches,
):
    """JAX gives their gradients a dtype that optax cannot add up."""

    def noisy(params, x, y):
        noise = jax.random.normal(params["key"], x.shape)
        moving = {name: params[name] for name in ("base", "lora", "head")}
        return loss_fn(moving, x[:, params["order"]] + 1e-3 * noise, y)

    params = adapted_params() | {"order": jnp.arange(WIDTH), "key": jax.random.key(5)}
    labels = LABELS | {"order": FROZEN, "key": FROZEN}
    tx = optax.chain(optax.clip_by_global_norm(1.0), armijo_adam(labels))
    step = make_train_step(noisy, tx, num_microbatches=num_microbatches, donate=False)
    state, losses = tx.init(params), []
    for _ in range(10):
        params, state, metrics = step(params, state, *batch())
        losses.append(float(metrics.loss))
    assert losses[-1] < 0.5 * losses[0]
    assert params["order"].dtype == jnp.int32 and params["key"] == jax.random.key(5)
