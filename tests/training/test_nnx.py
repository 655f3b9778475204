"""Flax NNX: one line a step; state moves in the gradient's pass alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_armijo import armijo_adam, armijo_info, by_layer, one_group

nnx = pytest.importorskip("flax.nnx")


RNGS = nnx.Rngs(0)


class Network(nnx.Module):
    """A convolution with batch statistics, dropout, and a dense layer."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(4 * 6 * 6, 3, rngs=rngs)

    def __call__(self, x):
        h = nnx.relu(self.norm(self.conv(x)))
        return self.head(self.dropout(h.reshape(h.shape[0], -1)))


def loss_fn(model, x, y):
    logits = model(x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def loss_and_logits(model, x, y):
    logits = model(x)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return losses.mean(), (logits.argmax(-1) == y).mean()


def batch(seed=0, size=16):
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=size)
    x = rng.normal(size=(size, 6, 6, 1)) + y[:, None, None, None]
    return jnp.asarray(x, jnp.float32), jnp.asarray(y)


def make(labels=one_group, **options):
    from optax_armijo.nnx import make_train_step

    model = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, armijo_adam(labels), wrt=nnx.Param)
    function = loss_and_logits if options.get("has_aux") else loss_fn
    return model, optimizer, make_train_step(function, **options)


def frozen_copy(model):
    """A module's graph, params and other state, as they are now."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    return graphdef, jax.tree.map(jnp.copy, params), jax.tree.map(jnp.copy, rest)


def merged(graphdef, params, rest):
    """A module of its own: what it does to its state is not seen in `rest`."""
    return nnx.merge(graphdef, params, jax.tree.map(jnp.copy, rest))


def test_one_line_a_step_trains_with_batch_statistics_and_dropout():
    model, optimizer, step = make(by_layer)
    losses = [float(step(model, optimizer, *batch(i)).loss) for i in range(30)]
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    model.eval()
    x, y = batch(99, 64)
    assert (model(x).argmax(-1) == y).mean() > 0.8


def test_state_moves_in_the_gradients_pass_alone_and_trials_see_its_masks():
    model, optimizer, step = make()
    num_accepted = 0
    for i in range(4):
        graphdef, params, rest = frozen_copy(model)
        metrics = step(model, optimizer, *batch(i))
        # What the gradient's pass makes of the state, by hand.
        alone = merged(graphdef, params, rest)
        loss = loss_fn(alone, *batch(i))
        np.testing.assert_allclose(metrics.loss, loss, rtol=1e-5)
        _, new_params, new_rest = nnx.split(model, nnx.Param, ...)
        _, _, expected = nnx.split(alone, nnx.Param, ...)
        chex.assert_trees_all_close(
            nnx.to_pure_dict(_without_keys(new_rest)),
            nnx.to_pure_dict(_without_keys(expected)),
            rtol=1e-5,
            atol=1e-7,
        )
        # The accepted trial was under the old state: same masks.
        after = loss_fn(merged(graphdef, new_params, rest), *batch(i))
        assert metrics.info is not None
        predicted = metrics.info.actual_decrease[0]
        if predicted != 0:
            num_accepted += 1
            np.testing.assert_allclose(loss - after, predicted, rtol=1e-3, atol=1e-5)
    assert num_accepted >= 2


def _without_keys(state):
    return nnx.filter_state(state, lambda _, value: not isinstance(value, nnx.RngKey))


def test_masks_differ_from_step_to_step():
    model, optimizer, step = make()
    before = int(model.dropout.rngs.count[...])
    for i in range(3):
        step(model, optimizer, *batch(i))
    assert int(model.dropout.rngs.count[...]) == before + 3


@pytest.mark.parametrize("num_microbatches", [1, 2])
def test_random_keys_that_the_loss_changes_stay_changed(num_microbatches):
    """They were put back, so that all steps had the same noise."""
    from optax_armijo.nnx import make_train_step

    class Noisy(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(4, 1, rngs=rngs)
            self.dropout = nnx.Dropout(0.1, rngs=rngs)
            self.key = nnx.Variable(jax.random.key(0))

        def __call__(self, x):
            self.key[...], now = jax.random.split(self.key[...])
            return self.dropout(self.linear(x + jax.random.normal(now, x.shape)))

    model = Noisy(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, armijo_adam(), wrt=nnx.Param)
    step = make_train_step(
        lambda model, x: jnp.mean(model(x) ** 2), num_microbatches=num_microbatches
    )
    seen = {tuple(np.asarray(jax.random.key_data(model.key[...])))}
    stream = np.array(jax.random.key_data(model.dropout.rngs.key[...]))
    for _ in range(2):
        step(model, optimizer, jnp.ones((8, 4)))
        seen.add(tuple(np.asarray(jax.random.key_data(model.key[...]))))
    assert len(seen) == 3
    # The key of a stream, of which only the count moves, is the same.
    assert (stream == jax.random.key_data(model.dropout.rngs.key[...])).all()


def test_aux_and_metrics():
    model, optimizer, step = make(by_layer, has_aux=True)
    metrics = step(model, optimizer, *batch())
    assert 0 <= float(metrics.aux) <= 1
    assert metrics.info is not None
    assert metrics.info.labels == armijo_info(nnx.as_pure(optimizer.opt_state)).labels


def test_parts_of_a_batch_average_statistics_and_have_masks_of_their_own():
    model, optimizer, step = make(num_microbatches=2)
    x, y = batch()
    graphdef, params, rest = frozen_copy(model)
    metrics = step(model, optimizer, x, y)
    by_hand = []
    for i in range(2):
        part = merged(graphdef, params, rest)
        part(x[i::2])
        by_hand.append(part.norm.mean[...])
    np.testing.assert_allclose(
        model.norm.mean[...], np.mean(by_hand, axis=0), rtol=1e-4, atol=1e-6
    )
    _, new_params, _ = nnx.split(model, nnx.Param, ...)
    assert not np.allclose(new_params.conv.kernel[...], params.conv.kernel[...])
    assert metrics.info is not None and bool(metrics.info.accepted[0])
    # The stream's key is the one that it was, its count one further.
    _, _, new_rest = nnx.split(model, nnx.Param, ...)
    old_key, new_key = rest.dropout.rngs.key[...], new_rest.dropout.rngs.key[...]
    assert jnp.array_equal(jax.random.key_data(old_key), jax.random.key_data(new_key))


def test_parts_of_a_batch_leave_frozen_weights_exactly_as_they_are():
    """They are no result of a part: n copies of them were stacked and averaged."""
    from optax_armijo.nnx import make_train_step

    model = nnx.LoRA(6, 2, 1, base_module=nnx.Linear(6, 1, rngs=RNGS), rngs=RNGS)
    before = jnp.copy(model.base_module.kernel[...])
    optimizer = nnx.Optimizer(model, armijo_adam(one_group), wrt=nnx.LoRAParam)
    x, y = jax.random.normal(jax.random.key(0), (12, 6)), jnp.ones((12, 1))
    step = make_train_step(
        lambda model, x, y: jnp.mean((model(x) - y) ** 2),
        num_microbatches=3,
        weight_fn=lambda x, y: 1.0 + x[0, 0] ** 2,
    )
    for _ in range(5):
        step(model, optimizer, x, y)
    np.testing.assert_array_equal(model.base_module.kernel[...], before)


def test_a_bad_batch_leaves_no_nan_in_batch_statistics():
    model, optimizer, step = make()
    before = None
    for i in range(4):
        x, y = batch(i)
        step(model, optimizer, x.at[0].set(jnp.nan) if i == 2 else x, y)
        found = [np.array(x) for x in jax.tree.leaves(nnx.state(model, nnx.BatchStat))]
        for new, old in zip(found, before or [], strict=bool(before)):
            assert np.all(np.isfinite(new)) and np.array_equal(new, old) == (i == 2)
        before = found


def test_a_loss_may_add_variables_which_are_dropped():
    """As ``sow`` does, whose variable holds a tuple."""
    from optax_armijo.nnx import make_train_step

    model, optimizer, _ = make()

    def adding_loss(model, x, y):
        model.mean = nnx.Intermediate((x.mean(),))
        return loss_fn(model, x, y)

    step = make_train_step(adding_loss)
    losses = [float(step(model, optimizer, *batch(i)).loss) for i in range(8)]
    assert losses[-1] < losses[0]
    assert not jax.tree.leaves(nnx.state(model, nnx.Intermediate))


def test_any_optimizer_and_only_what_wrt_names():
    from optax_armijo.nnx import make_train_step

    class Scale(nnx.Variable):
        pass

    model = Network(nnx.Rngs(0))
    model.scale = Scale(jnp.ones(3))
    optimizer = nnx.Optimizer(model, armijo_adam(one_group), wrt=Scale)
    before = jnp.copy(model.conv.kernel[...])
    step = make_train_step(
        lambda m, x, y: optax.softmax_cross_entropy_with_integer_labels(
            m.scale[...] * m(x), y
        ).mean()
    )
    for i in range(3):
        step(model, optimizer, *batch(i))
    chex.assert_trees_all_equal(model.conv.kernel[...], before)
    assert not np.allclose(model.scale[...], 1.0)

    adam = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    plain = make_train_step(loss_fn)
    assert plain(model, adam, *batch()).info is None
    assert not np.allclose(model.conv.kernel[...], before)


def test_a_value_fn_of_the_model_is_told_from_one_of_the_state():
    model, optimizer, _ = make()
    grads = nnx.jit(nnx.grad(loss_fn))(model, *batch())
    with pytest.raises(TypeError, match="an nnx.State, .*optax_armijo.nnx.make_train_"):
        nnx.jit(type(optimizer).update, static_argnames="value_fn")(
            optimizer,
            model,
            grads,
            value=jnp.float32(1.0),
            value_fn=lambda model: loss_fn(model, *batch()),
        )
    with pytest.raises(ValueError, match="drops them, or optax_armijo.nnx.make_train_"):
        optimizer.update(model, grads)


def test_arguments_of_the_train_step_for_plain_params_are_refused():
    from optax_armijo.nnx import make_train_step

    model, optimizer, step = make()
    with pytest.raises(TypeError, match="takes loss_fn alone, .*got also Gradient"):
        make_train_step(loss_fn, armijo_adam())
    state = nnx.state(model, nnx.Param)
    with pytest.raises(TypeError, match="an nnx.Optimizer; got State and Armij"):
        step(state, optimizer.opt_state, *batch())
    both = nnx.ModelAndOptimizer(model, armijo_adam(), wrt=nnx.Param)
    with pytest.raises(TypeError, match="got Network and ModelAndOptimizer"):
        step(model, both, *batch())


def test_aux_that_is_not_said_and_an_array_that_is_donated_twice():
    from optax_armijo.nnx import make_train_step

    model, optimizer, step = make()
    with pytest.raises(ValueError, match="tuple of 2. Say has_aux=True"):
        make_train_step(loss_and_logits)(model, optimizer, *batch())
    model.head.bias[...] = jnp.ones(3)
    model.again = nnx.Param(model.head.bias[...])
    optimizer = nnx.Optimizer(model, armijo_adam(one_group), wrt=nnx.Param)
    with pytest.raises(ValueError, match="one array as 'model/.*' and 'model/"):
        step(model, optimizer, *batch())
