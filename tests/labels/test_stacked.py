"""Layers stacked in one leaf are searched as if each had leaves of its own."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import one_step, run

from optax_armijo import (
    FROZEN,
    Stacked,
    armijo_adam,
    armijo_adamw,
    armijo_info,
    by_stacked_layer,
    plasls,
)

NUM_LAYERS = 3
RNG = np.random.default_rng(0)
WEIGHTS = {
    "embed": 0.5 * RNG.normal(size=(8, 8)),
    "layers": {
        "w": 0.5 * RNG.normal(size=(NUM_LAYERS, 8, 8)),
        "b": np.zeros((NUM_LAYERS, 8)),
    },
    "head": 0.5 * RNG.normal(size=(8, 3)),
}
X = RNG.normal(size=(64, 8))
Y = np.argmax(X[:, :3] + X[:, 3:6] ** 2, axis=1)


def loss_of(params, layers, step):
    """Mean cross entropy of a residual network on 16 of 64 rows."""
    rows = (16 * jnp.asarray(step) + jnp.arange(16)) % 64
    h = jnp.asarray(X, jnp.float32)[rows] @ params["embed"]
    for w, b in layers:
        h = h + jnp.tanh(h @ w + b)
    targets = jnp.asarray(Y)[rows]
    return optax.softmax_cross_entropy_with_integer_labels(
        h @ params["head"], targets
    ).mean()


def stacked_params(axis):
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), WEIGHTS)
    params["layers"] = jax.tree.map(
        lambda x: jnp.moveaxis(x, 0, axis), params["layers"]
    )
    return params


def stacked_loss(axis):
    def loss_fn(params, step):
        layers = jax.tree.map(lambda x: jnp.moveaxis(x, axis, 0), params["layers"])
        pairs = [(layers["w"][i], layers["b"][i]) for i in range(NUM_LAYERS)]
        return loss_of(params, pairs, step)

    return loss_fn


def split_params():
    params = stacked_params(0)
    layers = params["layers"]
    params["layers"] = [
        jax.tree.map(lambda x, i=i: x[i], layers) for i in range(NUM_LAYERS)
    ]
    return params


def split_loss(params, step):
    return loss_of(params, [(x["w"], x["b"]) for x in params["layers"]], step)


def labels(layers):
    return {"embed": "embed", "layers": layers, "head": "head"}


@pytest.mark.parametrize(
    ("make", "options", "axis"),
    [
        (armijo_adamw, {"weight_decay": 0.1}, 0),
        (armijo_adamw, {"weight_decay": 0.1}, 1),
        (plasls, {"init_step_size": 10.0, "num_joint_steps": 0}, 1),
    ],
)
def test_a_stack_is_searched_as_its_layers_would_be(make, options, axis):
    stacked = make(labels(Stacked("layer", axis)), **options)
    apart = make(labels([f"layer_{i}" for i in range(NUM_LAYERS)]), **options)
    history = run(stacked, stacked_params(axis), stacked_loss(axis), num_steps=12)
    expected = run(apart, split_params(), split_loss, num_steps=12)
    for mine, theirs in zip(history, expected, strict=True):
        info, other = armijo_info(mine.state), armijo_info(theirs.state)
        assert info.labels == other.labels
        np.testing.assert_array_equal(info.num_trials, other.num_trials)
        np.testing.assert_allclose(info.step_size, other.step_size, rtol=1e-4)
        np.testing.assert_allclose(mine.value, theirs.value, rtol=1e-4)
    sizes = armijo_info(history[-1].state).step_size[2:]
    assert len(set(sizes.tolist())) > 1


def test_each_layer_of_a_stack_moves_by_its_own_step_size():
    tx = armijo_adam(labels(Stacked()))
    params = stacked_params(0)
    updates, state = one_step(tx, params, lambda p: stacked_loss(0)(p, 0))
    info = armijo_info(state)
    for i in range(NUM_LAYERS):
        # The first step of Adam without momentum is the gradient's sign.
        eta = info.applied_step_size[info.labels.index(f"layer_{i}")]
        size = jnp.abs(updates["layers"]["w"][i])
        np.testing.assert_allclose(size, jnp.full_like(size, eta), rtol=1e-3)


def test_label_function_for_scanned_layers():
    label = by_stacked_layer()(WEIGHTS)
    assert label == {
        "embed": "embeddings",
        "layers": {"w": Stacked(), "b": Stacked()},
        "head": "output",
    }
    with pytest.raises(ValueError, match="pattern must match .* got 'decoder'.*embed"):
        armijo_adam(by_stacked_layer("decoder")).init(WEIGHTS)
    with pytest.raises(ValueError, match="regular expression; got '\\('"):
        by_stacked_layer("(")


def test_labels_that_do_not_fit_a_stack_raise():
    with pytest.raises(ValueError, match=r"axis must be an integer in \[0, .* got -1"):
        Stacked(axis=-1)
    with pytest.raises(ValueError, match=r"axis 2 of leaf 'layers/b' .* \(3, 8\)"):
        armijo_adam(labels(Stacked(axis=2))).init(WEIGHTS)
    params = {"a": jnp.ones((3, 2)), "b": jnp.ones((4, 2))}
    with pytest.raises(ValueError, match="'a' with 3 layers and to leaf 'b' with 4"):
        armijo_adam({"a": Stacked(), "b": Stacked()}).init(params)


def test_what_is_frozen_beside_a_stack_stays():
    tx = armijo_adamw({"embed": FROZEN, "layers": Stacked(), "head": "head"})
    history = run(tx, stacked_params(0), stacked_loss(0), num_steps=3)
    assert armijo_info(history[-1].state).labels[0] == "head"
    chex.assert_trees_all_equal(history[-1].params["embed"], stacked_params(0)["embed"])


def test_a_scan_over_layers_in_flax():
    nn = pytest.importorskip("flax.linen")

    class Block(nn.Module):
        @nn.compact
        def __call__(self, h, _):
            return h + nn.tanh(nn.Dense(8)(h)), None

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            blocks = nn.scan(
                Block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=NUM_LAYERS,
            )
            h, _ = blocks(name="layers")(nn.Dense(8, name="embed")(x), None)
            return nn.Dense(3, name="head")(h)

    model, x = Network(), jnp.asarray(X[:16], jnp.float32)
    params = model.init(jax.random.key(0), x)["params"]

    def loss_fn(params, step):
        logits = model.apply({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, jnp.asarray(Y[:16])
        ).mean()

    history = run(armijo_adam(by_stacked_layer()), params, loss_fn, num_steps=20)
    expected = ("embeddings", *(f"layer_{i}" for i in range(NUM_LAYERS)), "output")
    assert armijo_info(history[-1].state).labels == expected
    assert history[-1].value < 0.5 * history[0].value
