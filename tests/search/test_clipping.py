"""Gradient clipping: how much one mini-batch may change Adam's moments."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chex import assert_trees_all_close
from toys import init

from optax_armijo import armijo_adam

NUM_STEPS = 80
SPOILT = 40


def usual_gradients(num_params=200):
    """Normal ones, each batch's by a factor of its own between .7 and 1.4."""
    rng = np.random.default_rng(0)
    factors = 2 ** rng.uniform(-0.5, 0.5, size=(NUM_STEPS, 1))
    return factors * rng.normal(size=(NUM_STEPS, num_params))


def spoilt_gradients(factor):
    grads = usual_gradients()
    grads[SPOILT] *= factor
    return grads


def states_of(grads, dtype="float32"):
    """The states after steps with these gradients, at params that do not move.

    The step sizes are too small to change the loss, which is 1, in any digit.
    """
    tx = armijo_adam()
    grads = jax.tree.map(lambda x: jnp.asarray(x, dtype), grads)
    params = jax.tree.map(lambda x: jnp.zeros_like(x[0]), grads)

    def body(state, grad):
        def value_fn(params):
            products = jax.tree.map(jnp.multiply, grad, params)
            return 1 + sum(
                jnp.sum(x.astype(jnp.float32)) for x in jax.tree.leaves(products)
            )

        value = value_fn(params)
        state = state._replace(step_size=jnp.full_like(state.step_size, 1e-12))
        _, state = tx.update(grad, state, params, value=value, value_fn=value_fn)
        return state, state

    states: Any = jax.lax.scan(body, init(tx, params), grads)[1]
    np.testing.assert_array_equal(states.adam.count, np.arange(1, NUM_STEPS + 1))
    return jax.device_get(states)


def scales(grads, states, part=lambda tree: tree):
    """By what the gradients were multiplied before they entered the first moment."""
    mu = part(states.adam.mu)
    mu = np.concatenate([np.zeros_like(mu[:1]), mu])
    entered = (mu[1:] - 0.9 * mu[:-1]) / 0.1
    return np.sum(entered * grads, axis=1) / np.sum(grads**2, axis=1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_one_spoilt_batch_hardly_changes_the_moments(dtype):
    """A gradient 100 times as large counts for no more than one twice as large."""
    states = {x: states_of(spoilt_gradients(x), dtype) for x in (0, 2.2, 100)}
    for name in ("mu", "nu"):
        without, twice, spoilt = (
            getattr(states[x].adam, name)[SPOILT:] for x in states
        )
        change = np.linalg.norm(spoilt - without, axis=1)
        assert np.all(change < 1.01 * np.linalg.norm(twice - without, axis=1))
    assert states[100].gradient_size[SPOILT] <= 1.1 * states[0].gradient_size.max()


def test_usual_gradients_are_taken_whole():
    grads = jnp.asarray(usual_gradients(), jnp.float32)
    adam = optax.scale_by_adam()

    def body(state, grad):
        state = adam.update(grad, state)[1]
        return state, state

    expected = jax.lax.scan(body, adam.init(grads[0]), grads)[1]
    assert_trees_all_close(states_of(grads).adam, expected, rtol=1e-5, atol=1e-6)


def test_the_tests_see_the_gradient_as_it_is():
    grads = spoilt_gradients(100)
    states = states_of(grads)
    k, eps = SPOILT + 1, 1e-8
    mean = states.adam.mu[SPOILT] / (1 - 0.9**k)
    root = np.sqrt(states.adam.nu[SPOILT] / (1 - 0.999**k))
    slope = np.sum(grads[SPOILT] * mean / (root + eps))
    predicted = states.last.applied_step_size[SPOILT] * slope
    np.testing.assert_allclose(
        states.last.predicted_decrease[SPOILT], predicted, rtol=1e-4
    )


def test_the_limit_follows_gradients_that_grow():
    """Ten times as large for good: taken whole again within twenty steps."""
    grads = usual_gradients()
    grads[SPOILT:] *= 10
    found = scales(grads, states_of(grads))
    assert found[SPOILT] < 0.3
    np.testing.assert_allclose(found[SPOILT + 20 :], 1, rtol=1e-4)


def test_the_first_batches_are_taken_whole():
    """Second moments of a few batches say little of the next."""
    grads = usual_gradients()
    grads[:5] *= 100.0 ** np.arange(-5, 0)[:, None]
    np.testing.assert_allclose(scales(grads, states_of(grads))[:5], 1, rtol=1e-4)


def test_sparse_gradients_whose_second_moments_are_young_are_taken_whole():
    """Rows of rare words, far larger in each batch than the moments say."""
    rng = np.random.default_rng(0)
    num_rows, size = 320, 4
    grads = 1e-3 * rng.normal(size=(NUM_STEPS, num_rows, size))
    for step, rows in enumerate(rng.permutation(num_rows).reshape(NUM_STEPS, -1)):
        grads[step, rows] = rng.normal(size=(len(rows), size))
    grads = grads.reshape(NUM_STEPS, -1)
    states = states_of(grads)
    # In the mean of the ratios of single entries it would be above 20.
    assert np.all(np.abs(np.log(states.gradient_size)) < np.log(1.5))
    np.testing.assert_allclose(scales(grads, states)[30:], 1, rtol=1e-4)


def test_a_rare_word_among_usual_ones_is_taken_whole():
    """Its ratio is a million: a mean over entries would divide all of it by 35."""
    grads = usual_gradients()
    grads[:, 0] *= 1e-3
    grads[SPOILT, 0] = 1
    np.testing.assert_allclose(scales(grads, states_of(grads)), 1, rtol=1e-4)


def test_a_group_of_small_gradients_counts_as_much_as_any_other():
    grads = usual_gradients()
    grads[:, 100:] *= 1e-4
    grads[SPOILT, 100:] *= 100
    found = scales(grads, states_of(grads))
    np.testing.assert_allclose(found[SPOILT], 1, rtol=1e-4)
    parts = {"large": grads[:, :100], "small": grads[:, 100:]}
    found = scales(grads[:, 100:], states_of(parts), lambda tree: tree["small"])
    assert found[SPOILT] < 0.1


def test_a_size_that_overflows_clips_nothing_and_is_forgotten():
    grads = 1e-16 * usual_gradients()
    grads[SPOILT] *= 1e20
    states = states_of(grads)
    before, after = states.gradient_size[SPOILT - 1 : SPOILT + 1]
    assert before == after
    np.testing.assert_allclose(scales(grads, states)[SPOILT], 1, rtol=1e-4)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(states))
