"""`make_train_step`: the loop everyone writes, for any params and any optimizer."""

from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import (
    LABELS,
    batch,
    mean_loss,
    network_loss,
    network_params,
    row_losses,
    run,
    trained,
)

from optax_armijo import (
    FROZEN,
    armijo_adam,
    armijo_adamw,
    armijo_info,
    average_iterates,
    dynamic_loss_scale,
    make_train_step,
    scale_by_armijo,
)


@pytest.mark.parametrize(
    "tx",
    [
        optax.chain(optax.sgd(1.0, momentum=0.9), scale_by_armijo(LABELS)),
        optax.chain(optax.clip_by_global_norm(1.0), armijo_adam(LABELS)),
    ],
    ids=["behind momentum", "behind clipping"],
)
def test_it_does_what_the_loop_by_hand_does(tx):
    step = make_train_step(network_loss, tx)
    params, history = trained(step, tx, [(jnp.asarray(i),) for i in range(6)])
    expected = run(tx, network_params(), num_steps=6)
    for metrics, entry in zip(history, expected, strict=True):
        np.testing.assert_allclose(metrics.loss, entry.value, rtol=1e-5)
    last = optax.apply_updates(expected[-1].params, expected[-1].updates)
    chex.assert_trees_all_close(params, last, rtol=1e-4, atol=1e-6)


def test_metrics_outlive_the_states_that_are_donated():
    tx = armijo_adam(LABELS)
    step = make_train_step(mean_loss, tx)
    params = network_params()
    kept = jax.tree.map(jnp.copy, params)
    opt_state = tx.init(params)
    first_state = opt_state
    params, opt_state, first = step(params, opt_state, *batch())
    params, opt_state, _ = step(params, opt_state, *batch())
    assert first.info is not None
    assert first.info.labels == ("embed", "head", "layers")
    assert first.info.num_trials.shape == (3,)
    assert cast(Any, first_state).adam.nu["head"]["w"].is_deleted()
    unharmed = make_train_step(mean_loss, tx, donate=False)
    unharmed(kept, tx.init(kept), *batch())
    assert not kept["head"]["w"].is_deleted()


def test_optimizers_without_a_search_work_too():
    tx = optax.adam(1e-2)
    params, history = trained(make_train_step(mean_loss, tx), tx, [batch()] * 30)
    assert history[-1].loss < 0.7 * history[0].loss
    assert history[0].info is None and history[0].aux is None


def test_aux_is_the_gradient_passes_and_trials_see_the_arguments_as_they_are():
    """Running statistics go around the loop as an argument and come back as aux."""

    def loss_fn(params, mean, x, y):
        aux = {"mean": 0.9 * mean + 0.1 * x.mean(0), "loss": mean_loss(params, x, y)}
        return mean_loss(params, x, y), aux

    tx = armijo_adam(LABELS)
    step = make_train_step(loss_fn, tx, has_aux=True)
    plain = make_train_step(mean_loss, tx)
    batches = [batch(seed=seed) for seed in range(4)]
    _, expected = trained(plain, tx, batches)
    params, mean, by_hand = network_params(), jnp.zeros(8), np.zeros(8)
    opt_state = tx.init(params)
    for arguments, other in zip(batches, expected, strict=True):
        params, opt_state, metrics = step(params, opt_state, mean, *arguments)
        mean = metrics.aux["mean"]
        by_hand = 0.9 * by_hand + 0.1 * np.asarray(arguments[0]).mean(0)
        np.testing.assert_allclose(mean, by_hand, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(metrics.aux["loss"], metrics.loss)
        np.testing.assert_allclose(metrics.loss, other.loss, rtol=1e-5)


def test_a_loss_a_row_is_refused():
    tx = armijo_adam(LABELS)
    with pytest.raises(ValueError, match="loss_fn's result must be a scalar"):
        make_train_step(row_losses, tx)(
            network_params(), tx.init(network_params()), *batch()
        )


def noisy_loss(params, x, y):
    """A loss with a key among its params."""
    noise = jax.random.normal(params["key"], x.shape)
    return mean_loss(params, x + 0.1 * noise, y)


@pytest.mark.parametrize("num_microbatches", [1, 2])
@pytest.mark.parametrize("wrap", [lambda tx: tx, average_iterates, dynamic_loss_scale])
def test_a_frozen_key_among_params_stays_as_it_is(wrap, num_microbatches):
    tx = wrap(armijo_adamw(LABELS | {"key": FROZEN}))
    step = make_train_step(noisy_loss, tx, num_microbatches=num_microbatches)
    params = network_params() | {"key": jax.random.key(3)}
    params, history = trained(step, tx, [batch()] * 12, params)
    assert params["key"] == jax.random.key(3)
    assert history[-1].loss < 0.9 * history[0].loss


def test_a_bad_batch_under_a_loss_scale_leaves_a_frozen_key_as_it_is():
    tx = dynamic_loss_scale(armijo_adam(LABELS | {"key": FROZEN}))
    params = network_params() | {"key": jax.random.key(3)}
    x, y = batch()
    step = make_train_step(noisy_loss, tx)
    params, history = trained(step, tx, [(x, y), (x * jnp.nan, y), (x, y)], params)
    assert params["key"] == jax.random.key(3)
    assert jnp.isnan(history[1].loss) and jnp.isfinite(history[2].loss)


@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_bad_options_raise_at_construction(value):
    with pytest.raises(ValueError, match=r"num_microbatches .* \[1, inf\); got"):
        make_train_step(mean_loss, optax.sgd(1.0), num_microbatches=value)


@pytest.mark.parametrize("donate", [True, False])
def test_a_leaf_whose_gradient_is_never_finite_is_warned_of_once(donate):
    def loss_fn(params):
        return jnp.linalg.norm(params["zeros"]) + jnp.sum(params["ones"] ** 2)

    params = {"zeros": jnp.zeros(3), "ones": jnp.ones(3)}
    tx = armijo_adam()
    step, state = make_train_step(loss_fn, tx, donate=donate), tx.init(params)
    with pytest.warns(UserWarning) as said:
        for _ in range(40):
            params, state, _ = step(params, state)
    assert len(said) == 1 and "of leaf 'zeros'" in str(said[0].message)
    assert said[0].filename == __file__, "it points to the call of the step"


def test_a_single_array_whose_gradient_is_never_finite_is_warned_of():
    """It has no path, and its empty name said that no leaf was bad."""
    params, tx = jnp.zeros(3), armijo_adam()
    step, state = make_train_step(jnp.linalg.norm, tx, donate=False), tx.init(params)
    with pytest.warns(UserWarning, match="of leaf 'params'"):
        for _ in range(9):
            params, state, _ = step(params, state)
    info = armijo_info(state)
    assert info.bad_leaf == "params" and "the loss is not finite" not in str(info)


def test_a_run_that_stands_still_is_warned_of_once():
    def loss_fn(params):
        return 1e-30 * jnp.sum(params**2)  # below the range of its gradient's square

    params, tx = jnp.ones(3), armijo_adam()
    step, state = make_train_step(loss_fn, tx), tx.init(params)
    with pytest.warns(UserWarning) as said:
        for _ in range(200):
            params, state, _ = step(params, state)
    assert ["have not moved" in str(x.message) for x in said] == [True]


def test_a_state_of_other_labels_is_warned_of():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    one, other = ({"a": x, "b": y} for x, y in (("first", "last"), ("last", "first")))
    state = armijo_adam(one).init(params)
    step = make_train_step(
        lambda p: jnp.sum(p["a"] ** 2 + p["b"] ** 4), armijo_adam(other)
    )
    with pytest.warns(UserWarning, match="other labels than the state"):
        for _ in range(3):
            params, state, _ = step(params, state)


def test_a_step_does_not_warn_of_the_gradient_that_it_takes_itself():
    """In low precision rounding looks like a wrong one; the table says it still."""

    def straight_through(params):
        return jnp.sum((100 * params - jax.lax.stop_gradient(99 * params)) ** 2)

    tx, params = armijo_adam(), jnp.ones(3)
    step, state = make_train_step(straight_through, tx), tx.init(params)
    for _ in range(3):
        params, state, (_, _, info) = step(params, state)
        assert info.slope_error > 0.5 and "slope_error" in str(info)


def test_a_step_inside_another_jit_has_no_info_to_read():
    tx, params = armijo_adam(), jnp.ones(3)
    step = make_train_step(lambda params: jnp.sum(params**2), tx)
    params, _, metrics = jax.jit(step)(params, tx.init(params))
    assert int(metrics.info.total_evaluations) > 0
