"""Decoupled weight decay: by the step size a group moved by, where the mask allows."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import LABELS, network_loss, network_params, one_step, run

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


def _kind(mask):
    if mask is None:
        return "none"
    return "function" if callable(mask) else "prefix"


def test_no_decay_is_armijo_adam():
    params = network_params()
    plain, _ = one_step(armijo_adam(LABELS), params)
    decayed, _ = one_step(armijo_adamw(LABELS, weight_decay=0.0), params)
    chex.assert_trees_all_equal(plain, decayed)


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
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(
        grads, tx.init(params), params, value=jnp.nan, value_fn=network_loss
    )
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, params))


@pytest.mark.parametrize("labels", [one_group, LABELS], ids=["one group", "joint"])
def test_a_trial_that_sees_the_decay_is_the_step_that_is_made(labels):
    """What the search tested is, decay included, where params are afterwards."""
    options = {"search": "joint", "weight_decay": 0.3}

    def surprises(decay_in_trial):
        tx = armijo_adamw(
            labels, momentum="none", decay_in_trial=decay_in_trial, **options
        )
        differences = []
        for step, entry in enumerate(run(tx, network_params(), num_steps=8)):
            after = network_loss(optax.apply_updates(entry.params, entry.updates), step)
            promised = armijo_info(entry.state).actual_decrease[0]
            differences.append(abs(float(entry.value - after - promised)))
        return differences

    assert max(surprises(decay_in_trial=True)) < 1e-6
    assert max(surprises(decay_in_trial=False)) > 1e-4


def test_in_trials_params_decay_by_the_step_sizes_of_the_step_before():
    tx = armijo_adamw(LABELS, momentum="none", weight_decay=0.5, decay_in_trial=True)
    first, second = run(tx, network_params(), num_steps=2)
    plain, _ = one_step(armijo_adam(LABELS, momentum="none"), first.params)
    # Before the first search there is no step size to decay by.
    chex.assert_trees_all_close(first.updates, plain, rtol=1e-6)
    info = armijo_info(second.state)
    moments, _ = second.state
    for name in LABELS:
        before = armijo_info(first.state).step_size[info.labels.index(name)]
        eta = info.applied_step_size[info.labels.index(name)]
        grads = jax.grad(network_loss)(second.params, 1)[name]["w"]
        scale = jnp.sqrt(moments.nu[name]["w"] / (1 - 0.999**2)) + 1e-8
        expected = -0.5 * before * second.params[name]["w"] - eta * grads / scale
        np.testing.assert_allclose(
            second.updates[name]["w"], expected, rtol=1e-3, atol=1e-6
        )


def test_what_is_frozen_does_not_decay_in_trials_either():
    tx = armijo_adamw(
        {"embed": "embed", "layers": FROZEN, "head": "head"},
        weight_decay=0.5,
        decay_in_trial=True,
        mask={"embed": False, "layers": True, "head": True},
    )

    _, second = run(tx, network_params(), num_steps=2)
    assert float(optax.tree.norm(second.updates["layers"])) == 0
    assert float(optax.tree.norm(second.updates["head"])) > 0
