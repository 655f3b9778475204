"""A batch in parts: the same step as the batch at once, at one part's memory."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import LABELS, batch, mean_loss, network_params, row_losses, trained

from optax_armijo import FROZEN, armijo_adam, make_train_step


def compare(step, other, tx, batches, **tolerances):
    params, history = trained(step, tx, batches)
    expected, others = trained(other, tx, batches)
    for mine, theirs in zip(history, others, strict=True):
        np.testing.assert_allclose(mine.loss, theirs.loss, rtol=1e-5)
        np.testing.assert_array_equal(mine.info.num_trials, theirs.info.num_trials)
        np.testing.assert_allclose(
            mine.info.step_size, theirs.info.step_size, rtol=1e-4
        )
    chex.assert_trees_all_close(params, expected, **tolerances)


@pytest.mark.parametrize("num_microbatches", [2, 8])
def test_parts_make_the_step_of_the_whole(num_microbatches):
    tx = armijo_adam(LABELS)
    compare(
        make_train_step(mean_loss, tx, num_microbatches=num_microbatches),
        make_train_step(mean_loss, tx),
        tx,
        [batch(16, seed) for seed in range(10)],
        rtol=1e-3,
        atol=1e-5,
    )


def test_without_padding_the_mean_is_over_rows_that_count():
    """Parts have other numbers of rows that count: a mean of means would be wrong."""

    def masked_mean(params, x, y, mask):
        return jnp.sum(mask * row_losses(params, x, y)) / jnp.sum(mask)

    def with_mask(seed):
        mask = jnp.asarray([1, 1, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0], jnp.float32)
        return (*batch(12, seed), mask)

    tx = armijo_adam(LABELS)
    compare(
        make_train_step(
            masked_mean,
            tx,
            num_microbatches=2,
            weight_fn=lambda x, y, mask: mask.sum(),
        ),
        make_train_step(masked_mean, tx),
        tx,
        [with_mask(seed) for seed in range(6)],
        rtol=1e-3,
        atol=1e-5,
    )


def test_what_has_no_rows_goes_whole_and_keys_differ_by_part():
    def loss_fn(params, scale, key, x, y):
        noise = jax.random.normal(key, ())
        aux = {"noise": noise, "count": jnp.asarray(x.shape[0]), "scale": scale.mean()}
        return scale.mean() * mean_loss(params, x, y), aux

    tx = armijo_adam(LABELS)
    step = make_train_step(
        loss_fn, tx, has_aux=True, num_microbatches=2, microbatch_argnums=(2, 3)
    )
    key = jax.random.key(0)
    arguments = (jnp.full(7, 2.0), key, *batch())
    _, (metrics,) = trained(step, tx, [arguments])
    draws = [jax.random.normal(jax.random.fold_in(key, i), ()) for i in range(2)]
    np.testing.assert_allclose(metrics.aux["noise"], np.mean(draws), rtol=1e-5)
    assert int(metrics.aux["count"]) == 8  # the last part's: it is no float
    assert float(metrics.aux["scale"]) == 2.0
    whole = 2.0 * mean_loss(network_params(), *batch())
    np.testing.assert_allclose(metrics.loss, whole, rtol=1e-5)


def test_rows_that_cannot_be_split_raise():
    tx = armijo_adam(LABELS)
    step = make_train_step(mean_loss, tx, num_microbatches=3)
    with pytest.raises(ValueError, match=r"num_microbatches=3 and shape \(16, 8\)"):
        step(network_params(), tx.init(network_params()), *batch())


@pytest.mark.parametrize(
    ("argnums", "more", "message"),
    [
        ((0, -1), (), r"must be in \[0, 2\), since .* got -1"),
        ((1, 2), (), r"must be in \[0, 2\), since .* got 2"),
        (
            None,
            (jnp.ones(4),),
            r"shape \(16, 8\) in argument 0 .* \(4,\) in argument 2",
        ),
    ],
)
def test_what_would_be_split_wrongly_raises(argnums, more, message):
    def loss_fn(params, x, y, *others):
        return mean_loss(params, x, y)

    tx = armijo_adam(LABELS)
    step = make_train_step(loss_fn, tx, num_microbatches=4, microbatch_argnums=argnums)
    with pytest.raises(ValueError, match=message):
        step(network_params(), tx.init(network_params()), *batch(), *more)


@pytest.mark.parametrize("others", [(), (jax.random.key(0),)], ids=["", "and a key"])
def test_a_batch_of_which_nothing_would_be_split_raises(others):
    """A scalar among the leaves: each part would get all rows."""

    def loss_fn(params, batch, *others):
        return mean_loss(params, batch["x"], batch["y"])

    tx = armijo_adam(LABELS)
    step = make_train_step(loss_fn, tx, num_microbatches=4)
    x, y = batch()
    with pytest.raises(ValueError, match="num_microbatches=4 needs an argument"):
        arguments = {"x": x, "y": y, "temperature": jnp.array(1.0)}
        step(network_params(), tx.init(network_params()), arguments, *others)


def test_a_loss_of_random_keys_alone_has_nothing_to_split():
    def loss_fn(params, key):
        return jnp.mean((params - jax.random.normal(key, (8,))) ** 2)

    tx, params = armijo_adam(), jnp.zeros(8)
    two: Any = 2.0  # as a number from a file of settings
    step = make_train_step(loss_fn, tx, num_microbatches=two, donate=False)
    key = jax.random.key(0)
    _, _, metrics = step(params, tx.init(params), key)
    keys = [jax.random.fold_in(key, i) for i in range(2)]
    mean = np.mean([loss_fn(params, key) for key in keys])
    np.testing.assert_allclose(metrics.loss, mean, rtol=1e-6)


def test_bad_options_of_microbatches_are_named():
    zero: Any = 0
    with pytest.raises(TypeError, match=r"microbatch_argnums must be a list .* got 0"):
        make_train_step(mean_loss, armijo_adam(), microbatch_argnums=zero)
    tx, params = armijo_adam(LABELS), network_params()
    step = make_train_step(
        mean_loss, tx, num_microbatches=2, weight_fn=lambda x, y: jnp.ones(len(y))
    )
    with pytest.raises(ValueError, match=r"weight_fn must give one number .* \(8,\)"):
        step(params, tx.init(params), *batch())


def test_an_argument_with_and_without_rows_is_refused():
    """It went whole to each part beside the rows of another: the loss was another."""

    def scaled_loss(params, batch, y):
        return mean_loss(params, batch["scale"] * batch["x"], y)

    tx, params = armijo_adam(LABELS), network_params()
    (x, y), scale = batch(), jnp.ones(())
    arguments = {"x": x, "scale": scale}, y
    step = make_train_step(scaled_loss, tx, num_microbatches=4)
    with pytest.raises(ValueError, match="all leaves of argument 0 must have rows"):
        step(params, tx.init(params), *arguments)
    make_train_step(scaled_loss, tx)(params, tx.init(params), *arguments)


def test_a_weight_that_is_no_number_is_refused_on_mapped_devices_too():
    """The gradient was multiplied by it entry by entry."""
    step = make_train_step(
        mean_loss, optax.sgd(0.1), weight_fn=lambda x, y: y, axis_name="rows"
    )
    one = jax.devices()[:1]
    mapped = jax.pmap(step, "rows", in_axes=(None, None, 0, 0), devices=one)
    x, y = batch()
    params = network_params()
    with pytest.raises(ValueError, match="weight_fn must give one number"):
        mapped(params, optax.sgd(0.1).init(params), x[None], y[None])


def test_a_random_key_beside_the_rows_of_an_argument_is_folded():
    """It has no axis, and yet the rows beside it are split."""
    seen = []

    def loss_fn(params, batch):
        seen.append(batch["x"].shape)
        noise = jax.random.normal(batch["key"], ())
        return mean_loss(params, batch["x"], batch["y"]), noise

    tx = armijo_adam(LABELS)
    step = make_train_step(loss_fn, tx, has_aux=True, num_microbatches=4)
    x, y = batch()
    key = jax.random.key(0)
    _, (metrics,) = trained(step, tx, [({"x": x, "y": y, "key": key},)])
    draws = [jax.random.normal(jax.random.fold_in(key, i), ()) for i in range(4)]
    np.testing.assert_allclose(metrics.aux, np.mean(draws), rtol=1e-5)
    assert {*seen} == {(4, 8)}


def test_a_part_without_weight_does_not_spoil_the_batch():
    """A part of padding alone has a mean over no rows, which is NaN."""

    def masked_mean(params, x, y, mask):
        return jnp.sum(mask * row_losses(params, x, y)) / jnp.sum(mask)

    tx = armijo_adam(LABELS)
    # Part i has the rows i, i + 2, ...
    mask = jnp.tile(jnp.asarray([1.0, 0.0]), 8)
    compare(
        make_train_step(
            masked_mean, tx, num_microbatches=2, weight_fn=lambda x, y, mask: mask.sum()
        ),
        make_train_step(masked_mean, tx),
        tx,
        [(*batch(16, seed), mask) for seed in range(4)],
        rtol=1e-3,
        atol=1e-5,
    )


@pytest.mark.parametrize("num_microbatches", [1, 4])
def test_frozen_leaves_may_be_integers(num_microbatches):
    def loss_fn(params, x, y):
        return mean_loss(params["network"], x[:, params["order"]], y)

    tx = armijo_adam({"network": "network", "order": FROZEN})
    order = jnp.arange(8)
    params = {"network": network_params(), "order": order}
    step = make_train_step(loss_fn, tx, num_microbatches=num_microbatches, donate=False)
    state, losses = tx.init(params), []
    for _ in range(10):
        params, state, metrics = step(params, state, *batch())
        losses.append(metrics.loss)
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(params["order"], order)
    assert params["order"].dtype == order.dtype


def test_low_precision_gradients_are_added_up_in_float32():
    """256 equal parts in bfloat16: their sum would stand still at 256 times one."""
    params = {"w": jnp.ones(4, jnp.bfloat16)}

    def loss_fn(params, x):
        return jnp.mean(params["w"].astype(jnp.float32) * x)

    tx = optax.sgd(1.0)
    x = jnp.full((1024, 1), 1.5)
    step = make_train_step(loss_fn, tx, num_microbatches=1024, donate=False)
    new, _, _ = step(params, tx.init(params), x)
    whole, _, _ = make_train_step(loss_fn, tx)(params, tx.init(params), x)
    chex.assert_trees_all_equal(new, whole)


def test_trials_need_the_memory_of_one_part():
    """Activations, [B, 4096], are what this program's memory is of."""

    def loss_fn(params, x):
        h = jnp.tanh(x @ params["in"])
        return jnp.mean(jnp.tanh(h @ params["mid"]) @ params["out"])

    params = {
        "in": jnp.ones((4, 4096)),
        "mid": jnp.ones((4096, 16)),
        "out": jnp.ones((16, 1)),
    }
    tx = armijo_adam({"in": "a", "mid": "b", "out": "b"})

    def temporaries(num_microbatches):
        step = make_train_step(loss_fn, tx, num_microbatches=num_microbatches)
        x = jnp.ones((512, 4))
        compiled: Any = step.lower(params, tx.init(params), x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    activations = 512 * 4096 * 4
    assert temporaries(1) > activations
    assert temporaries(1) - temporaries(8) > 0.7 * (7 / 8) * activations
