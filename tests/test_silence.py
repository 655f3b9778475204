"""What once failed in silence, or far from its cause: it works, or it is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_armijo as oa

# Every public form, and how each is built around params of any structure.
FORMS = {
    "armijo_adam": lambda: oa.armijo_adam(),
    "armijo_adamw": lambda: oa.armijo_adamw(weight_decay=0.1),
    "scale_by_armijo": lambda: optax.chain(optax.sgd(1.0), oa.scale_by_armijo()),
    "salsa": lambda: oa.salsa(),
    "kensls": lambda: oa.kensls(),
    "adamsls": lambda: oa.adamsls(),
    "plasls": lambda: oa.plasls(),
    "sls": lambda: oa.sls(),
    "amsgrad_sls": lambda: oa.amsgrad_sls(),
    "ponos": lambda: oa.ponos(),
    "average_iterates": lambda: oa.average_iterates(oa.armijo_adam()),
    "dynamic_loss_scale": lambda: oa.dynamic_loss_scale(oa.armijo_adam()),
}
each_form = pytest.mark.parametrize("name", FORMS)


def bowl(params):
    """A loss that takes a tree of any structure, empty ones included."""
    leaves = jax.tree.leaves(params)
    return sum((jnp.sum((x - 0.5) ** 2) for x in leaves), jnp.float32(1.0))


def train(tx, params, num_steps=3, is_jitted=True):
    """Trains on the bowl; returns params, state, and how often the step was traced."""
    traces = []
    transform = optax.with_extra_args_support(tx)

    def step(params, state):
        traces.append(1)
        value, grads = jax.value_and_grad(bowl)(params)
        updates, state = transform.update(
            grads, state, params, value=value, grad=grads, value_fn=bowl
        )
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    step = jax.jit(step) if is_jitted else step
    for _ in range(num_steps):
        params, state = step(params, state)
    return params, state, len(traces)


FOREIGN = {
    "float32 arrays": {"a": np.ones(3, np.float32), "b": np.ones((), np.float32)},
    "float64 arrays": {"a": np.ones(3), "b": np.ones(())},
    "NumPy scalars": {"a": np.float32(1.0), "b": np.float64(1.0)},
    "Python scalars": {"a": 1.0, "b": 2.0},
}


class TestNumPyAndPythonParams:
    """Point 7: taken as ``optax.adam`` takes them, with no compilation more."""

    @each_form
    @pytest.mark.parametrize("kind", FOREIGN)
    def test_they_train_without_a_warning(self, name, kind):
        params = FOREIGN[kind]
        trained, _, num_traces = train(FORMS[name](), params)
        _, _, traces_of_adam = train(optax.adam(1e-3), params)
        assert num_traces <= traces_of_adam
        assert num_traces == 1 or kind == "Python scalars"  # whose type JAX changes
        assert bowl(trained) < bowl(params)
        for leaf in jax.tree.leaves(trained):
            assert isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32

    @each_form
    def test_they_give_the_steps_of_arrays_outside_jit_too(self, name):
        params = {"a": np.ones(3), "b": 1.0}
        as_arrays = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
        (mine, *_), (theirs, *_) = (
            train(FORMS[name](), tree, num_steps=1, is_jitted=False)
            for tree in (params, as_arrays)
        )
        for x, y in zip(*map(jax.tree.leaves, (mine, theirs)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5)

    def test_gradients_of_numpy_under_a_loss_scale(self):
        tx = oa.dynamic_loss_scale(optax.sgd(1.0), init_scale=8.0)
        params = {"a": np.ones(3), "b": 1.0}
        updates, _ = tx.update({"a": np.full(3, 4.0), "b": 2.0}, tx.init(params))
        np.testing.assert_allclose(updates["a"], -0.5)
        np.testing.assert_allclose(updates["b"], -0.25)

    def test_frozen_leaves_of_numpy_stay(self):
        params = {"a": np.ones(3), "n": np.arange(3), "f": np.ones(2)}
        tx = oa.armijo_adam({"a": "a", "n": oa.FROZEN, "f": oa.FROZEN})
        grads = {"a": np.ones(3), "n": np.zeros(3, np.int32), "f": np.ones(2)}
        updates, _ = tx.update(
            grads,
            tx.init(params),
            params,
            value=2.0,
            value_fn=lambda params: jnp.sum(params["a"] - 0.5),
        )
        assert not np.any(updates["n"]) and not np.any(updates["f"])
        assert updates["n"].dtype == jnp.int32 and np.all(updates["a"] < 0)


@each_form
@pytest.mark.parametrize("is_jitted", [True, False])
def test_leaves_without_an_entry_train_nothing_and_break_nothing(name, is_jitted):
    params = {"a": jnp.ones(0), "b": jnp.ones((2, 0))}
    trained, state, _ = train(FORMS[name](), params, is_jitted=is_jitted)
    assert [x.shape for x in jax.tree.leaves(trained)] == [(0,), (2, 0)]
    mixed = {"a": jnp.ones(0), "b": jnp.ones(2)}
    trained, _, _ = train(FORMS[name](), mixed, is_jitted=is_jitted)
    assert bowl(trained) < bowl(mixed)
