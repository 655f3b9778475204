"""Decoupled weight decay: by the step size a group moved by, where the mask allows."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import LABELS, CallableLayer, init, network_params, one_step, run

from optax_armijo import FROZEN, armijo_adam, armijo_adamw, armijo_info, one_group


@pytest.mark.parametrize(
    "mask",
    [
        None,
        {"embed": True, "layers": False, "head": True},
        lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
    ],
    ids=["none", "prefix", "function"],
)
def test_decay_is_step_size_times_weight_decay_times_params(mask):
    params = jax.tree.map(lambda leaf: leaf + 0.1, network_params())
    plain, _ = one_step(armijo_adam(LABELS), params)
    decayed, state = one_step(armijo_adamw(LABELS, weight_decay=0.3, mask=mask), params)
    info = armijo_info(state)
    for name in params:
        eta = info.applied_step_size[info.labels.index(name)]
        for leaf in ("w", "b"):
            on = {
                "none": True,
                "prefix": name != "layers",
                "function": leaf == "w",
            }[_kind(mask)]
            expected = plain[name][leaf] - on * 0.3 * eta * params[name][leaf]
            np.testing.assert_allclose(decayed[name][leaf], expected, rtol=1e-5)


def test_a_mask_that_is_a_callable_pytree_is_not_called():
    params: Any = CallableLayer(jnp.array(2.0), jnp.array(2.0))
    mask = CallableLayer(True, False)
    tx = armijo_adamw(weight_decay=1e9, mask=mask)
    grads: Any = CallableLayer(jnp.array(8.0), jnp.array(8.0))
    loss = jnp.array(16.0)
    update = jax.jit(tx.update, static_argnames="value_fn")
    more = {"value": loss, "grad": grads, "value_fn": lambda p: jnp.square(p.w + p.b)}
    updates, _ = update(grads, tx.init(params), params, **more)
    assert updates.w < -2 < updates.b < 0


def _kind(mask):
    if mask is None:
        return "none"
    return "function" if callable(mask) else "prefix"


def test_no_decay_is_armijo_adam():
    params = network_params()
    plain, _ = one_step(armijo_adam(LABELS), params)
    decayed, _ = one_step(armijo_adamw(LABELS, weight_decay=0.0), params)
    chex.assert_trees_all_equal(plain, decayed)


@pytest.mark.parametrize("labels", [one_group, {"w": "w", "mask": "mask"}])
def test_what_is_infinite_does_not_decay(labels):
    """As a mask that stands among the params."""
    params = {"w": jnp.full(4, 3.0), "mask": jnp.full(2, -jnp.inf)}
    tx = armijo_adamw(labels, weight_decay=0.1)
    history = run(tx, params, lambda p, _: jnp.sum((p["w"] - 1.0) ** 2), 10)
    np.testing.assert_array_equal(history[-1].params["mask"], params["mask"])
    assert history[-1].value < 0.5 * history[0].value


def test_a_mask_function_that_inject_hyperparams_took_for_a_schedule():
    def mask(params):
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    params = network_params()
    with pytest.raises(ValueError, match="mask must be .*named in static_args"):
        optax.inject_hyperparams(armijo_adamw)(mask=mask).init(params)
    injected = optax.inject_hyperparams(armijo_adamw, static_args="mask")
    state = init(injected(weight_decay=0.5, mask=mask), params)
    assert float(state.hyperparams["weight_decay"]) == 0.5


def test_decay_never_turns_a_weight_round():
    params = network_params()
    tx = armijo_adamw(LABELS, weight_decay=1e9)
    plain, _ = one_step(armijo_adam(LABELS), params)
    decayed, _ = one_step(tx, params)
    chex.assert_trees_all_close(
        decayed, jax.tree.map(lambda u, p: u - p, plain, params), rtol=1e-5
    )


def test_frozen_leaves_and_unmoved_groups_do_not_decay():
    params = network_params()
    labels = LABELS | {"embed": FROZEN}
    updates, _ = one_step(armijo_adamw(labels, weight_decay=0.5), params)
    assert jnp.all(updates["embed"]["w"] == 0)

    tx = armijo_adamw(LABELS, weight_decay=0.5)
    updates, _ = one_step(tx, params, value=jnp.nan)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, params))


def test_nothing_decays_on_a_bad_batch_between_good_ones():
    def loss_fn(params, step):
        root = jnp.sqrt(jnp.where(step == 5, 0.0, 1.0) * jnp.sum(params["w"] ** 2))
        return jnp.sum((params["w"] - 1) ** 2) + 0.1 * root

    tx = armijo_adamw(one_group, weight_decay=0.5)
    history = run(tx, {"w": jnp.full(4, 3.0)}, loss_fn, 8)
    moves = [bool(jnp.any(x.updates["w"] != 0)) for x in history]
    # The gradient of the sixth batch is not finite, and its loss is.
    assert moves == [True] * 5 + [False] + [True] * 2
    assert all(jnp.isfinite(x.value) for x in history)
