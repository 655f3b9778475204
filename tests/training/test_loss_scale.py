"""Float16 with a loss scale: gradients are scaled, and nothing else."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import LABELS, batch, mean_loss, network_params, trained

from optax_armijo import (
    FROZEN,
    LossScaleState,
    armijo_adam,
    armijo_info,
    dynamic_loss_scale,
    loss_scale,
    make_train_step,
    sls,
)

SMALL = 2.0**-19
"""Makes gradients of order 1e-2 vanish in float16, whose smallest number is 6e-8."""


def half_loss(params, x, y):
    """The network in float16, its small loss in float32."""
    half = jax.tree.map(lambda p: p.astype(jnp.float16), params)
    h = x.astype(jnp.float16)
    for name in ("embed", "layers", "head"):
        h = h @ half[name]["w"] + half[name]["b"]
        h = h if name == "head" else jnp.tanh(h)
    losses = optax.softmax_cross_entropy_with_integer_labels(
        (h * jnp.float16(SMALL)).astype(jnp.float32) / SMALL, y
    )
    return SMALL * losses.mean()


def test_gradients_that_vanish_without_a_scale_train_with_one():
    batches = [batch(64)] * 30
    whole = armijo_adam(LABELS)
    _, expected = trained(make_train_step(mean_loss, whole), whole, batches)
    scaled = dynamic_loss_scale(armijo_adam(LABELS, eps=1e-14))
    step = make_train_step(half_loss, scaled, num_microbatches=2)
    _, history = trained(step, scaled, batches)
    first, last = (float(history[i].loss) / SMALL for i in (0, -1))
    np.testing.assert_allclose(first, expected[0].loss, rtol=1e-2)
    assert last < 0.5 * first
    assert last < 1.5 * float(expected[-1].loss)
    grads = jax.jit(jax.grad(half_loss))(network_params(), *batch(64))
    lost = np.mean([float((g == 0).mean()) for g in jax.tree.leaves(grads)])
    assert lost > 0.3


def test_the_search_works_in_the_losss_own_unit():
    """Both sides of its test are unscaled, whatever the scale."""
    runs = []
    for scale in (1.0, 2.0**10):
        tx = dynamic_loss_scale(armijo_adam(LABELS), init_scale=scale)
        step = make_train_step(mean_loss, tx, num_microbatches=2)
        runs.append(trained(step, tx, [batch(seed=i) for i in range(5)]))
    (params, history), (others, other_history) = runs
    chex.assert_trees_all_close(params, others, rtol=1e-5, atol=1e-7)
    for mine, theirs in zip(history, other_history, strict=True):
        np.testing.assert_allclose(mine.loss, theirs.loss, rtol=1e-6)
        for name in ("predicted_decrease", "actual_decrease", "step_size"):
            a, b = getattr(mine.info, name), getattr(theirs.info, name)
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [1e-8, 1e8])
@pytest.mark.parametrize("name", ["armijo_adam", "sgd"])
def test_float16_params_train_on_losses_whose_gradients_float16_cannot_hold(name, size):
    """Neither the scale nor the unscaled gradient stops at what float16 holds."""
    inner = {"armijo_adam": armijo_adam(eps=1e-14), "sgd": optax.sgd(0.1 / size)}
    tx = dynamic_loss_scale(inner[name])

    def loss_fn(params):
        return size * jnp.mean((params["w"].astype(jnp.float32) - 1.0) ** 2)

    step = make_train_step(loss_fn, tx)
    params = {"w": jnp.full(2, 2.0, jnp.float16)}
    state = jax.jit(tx.init)(params)
    for _ in range(200):
        params, state, _ = step(params, state)
    assert params["w"].dtype == jnp.float16
    np.testing.assert_allclose(params["w"], 1.0, atol=0.02)


def test_a_gradient_that_overflows_changes_the_scale_alone():
    tx = dynamic_loss_scale(armijo_adam(LABELS), init_scale=1024.0)
    params = network_params()
    state = tx.init(params)
    grads = jax.tree.map(lambda p: jnp.full_like(p, jnp.inf), params)

    @jax.jit
    def update(state):
        return tx.update(
            grads, state, params, value=jnp.ones(()), value_fn=lambda p: jnp.ones(())
        )

    updates, after = update(state)
    assert isinstance(state, LossScaleState) and isinstance(after, LossScaleState)
    assert float(after.scale) == 512.0
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, params))
    chex.assert_trees_all_equal(after.inner, state.inner)
    # The info is the state's: this step left it as it was.
    assert int(armijo_info(after).total_evaluations) == 0


def test_a_step_out_of_the_losss_domain_is_undone_under_a_scale():
    """No smaller scale would help: the search inside gets the bad batch."""

    def loss_fn(params, low):
        return params["w"] ** 2 - 0.01 * jnp.log(params["w"] - low)

    tx = dynamic_loss_scale(armijo_adam())
    step = make_train_step(loss_fn, tx)
    batches = [(-1.0,), *[(0.99,)] * 40]  # the first lets w through
    params, history = trained(step, tx, batches, {"w": jnp.array(1.0)})
    losses = np.array([metrics.loss for metrics in history])
    assert not np.isfinite(losses[1])
    assert np.sum(~np.isfinite(losses)) <= 3 and losses[-1] < losses[2]


def test_a_gradient_that_is_never_finite_lowers_the_scale_and_then_is_the_searchs():
    """The root of a distance has no gradient at the point itself."""
    tx = dynamic_loss_scale(armijo_adam(), init_scale=4.0, min_scale=1.0)
    params = {"w": jnp.array(1.0)}
    state = tx.init(params)

    @jax.jit
    def update(params, state, grad):
        loss_fn = lambda params: params["w"] ** 2 + 1  # noqa: E731
        updates, state = tx.update(
            {"w": grad}, state, params, value=loss_fn(params), value_fn=loss_fn
        )
        return optax.apply_updates(params, updates), state

    params, state = update(params, state, 8.0 * params["w"])
    before = params["w"]
    assert before < 1
    for scale in (2.0, 1.0):
        params, state = update(params, state, jnp.nan)
        assert params["w"] == before and float(loss_scale(state)) == scale
    params, state = update(params, state, jnp.nan)
    assert params["w"] == before  # at the smallest scale the search sees the gradient
    params, state = update(params, state, jnp.nan)
    np.testing.assert_allclose(params["w"], 1.0, rtol=1e-6)  # undone


@pytest.mark.parametrize("inner", [optax.adam(1e-2), optax.lion(1e-2)])
def test_optimizers_without_a_search_never_see_a_bad_batch(inner):
    tx = dynamic_loss_scale(inner, min_scale=1.0, init_scale=1.0)
    params = {"w": jnp.ones(2)}
    state: Any = tx.init(params)
    arguments = {"value": jnp.inf, "value_fn": lambda params: jnp.inf}
    update: Any = tx.update
    updates, after = update({"w": jnp.full(2, jnp.inf)}, state, params, **arguments)
    np.testing.assert_array_equal(updates["w"], 0.0)
    chex.assert_trees_all_equal(after.inner, state.inner)


def test_the_scale_follows_its_rule():
    rng = np.random.default_rng(0)
    good = rng.random(60) > 0.2
    tx = dynamic_loss_scale(
        optax.sgd(1.0),
        init_scale=8.0,
        factor=4.0,
        growth_interval=3,
        min_scale=0.5,
        max_scale=64.0,
    )
    state = tx.init(jnp.zeros(2))
    scale, streak = 8.0, 0
    for is_good in good:
        grad = jnp.full(2, 1.0 if is_good else jnp.nan)
        _, state = tx.update(grad, state, jnp.zeros(2))
        streak = streak + 1 if is_good else 0
        scale = scale if is_good else scale / 4
        if streak == 3:
            scale, streak = scale * 4, 0
        scale = min(max(scale, 0.5), 64.0)
        assert float(loss_scale(state)) == scale


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("init_scale", 0.0, r"init_scale .* \[5.96046e-08, 1.67772e\+07\]; got 0.0"),
        ("factor", 1.0, r"factor .* \(1, inf\); got 1.0"),
        ("growth_interval", 0, r"growth_interval .* got 0"),
        ("min_scale", 0.0, r"min_scale .* got 0.0"),
        ("max_scale", 1e-9, r"max_scale .* got 1e-09"),
        # What float32 makes 0, infinity and 1 of.
        ("min_scale", 1e-50, r"min_scale .* \(0, inf\); got 1e-50"),
        ("max_scale", 1e300, r"max_scale .* \[5.96046e-08, inf\); got 1e\+300"),
        ("factor", 1.00000001, r"factor .* got 1.00000001"),
    ],
)
def test_bad_options_raise_at_construction(name, value, message):
    with pytest.raises(ValueError, match=message):
        dynamic_loss_scale(optax.sgd(1.0), **{name: value})


@pytest.mark.parametrize("make", [armijo_adam, sls])
def test_gradients_of_frozen_leaves_do_not_lower_the_scale(make):
    """A norm at zero has none: the scale fell to where gradients in float16 are 0."""

    def loss_fn(params, x, y):
        half = x.astype(jnp.float16) @ params["w"].astype(jnp.float16)
        residuals = half - y.astype(jnp.float16)
        norm = jnp.linalg.norm(params["base"])
        return jnp.mean(residuals.astype(jnp.float32) ** 2) + norm

    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(64, 16)), jnp.float32)
    y = 1e-2 * x @ jnp.asarray(rng.normal(size=(16, 1)), jnp.float32)
    params = {"w": jnp.zeros((16, 1)), "base": jnp.zeros(3)}
    tx = dynamic_loss_scale(make({"w": "w", "base": FROZEN}))

    @jax.jit
    def step(params, state):
        def scaled(params):
            loss = loss_fn(params, x, y)
            return loss * loss_scale(state), loss

        grads, value = jax.grad(scaled, has_aux=True)(params)
        updates, state = tx.update(
            grads, state, params, value=value, value_fn=lambda p: loss_fn(p, x, y)
        )
        return optax.apply_updates(params, updates), state, value

    state, losses = tx.init(params), []
    for _ in range(60):
        params, state, value = step(params, state)
        losses.append(float(value))
    assert losses[-1] < 0.1 * losses[0]
    assert float(loss_scale(state)) == 2.0**15


@pytest.mark.usefixtures("x64")
def test_numbers_of_numpy_leave_the_scale_in_float32():
    tx = dynamic_loss_scale(
        optax.sgd(1.0), factor=np.float64(2), min_scale=np.float64(2.0**-24)
    )
    params = jnp.zeros((), jnp.float32)
    for gradient in (1.0, np.inf):
        gradient = jnp.asarray(gradient, jnp.float32)
        _, state = tx.update(gradient, tx.init(params), params)
        assert loss_scale(state).dtype == jnp.float32
