"""What every kind of optimizer must do: what optax asks of its own, and odd params."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import LABELS, init, network_loss, network_params

import optax_armijo as oa


def each_entry(params: Any) -> Any:
    """Labels top-level entries by their names: groups in a tree of any structure."""
    return {name: name for name in params} if isinstance(params, dict) else "all"


# Each kind of state: of the search with moments and without, of a published method, and
# of wrappers, here around weight decay. How each is built around params of any
# structure.
FORMS = {
    "armijo_adam": lambda: oa.armijo_adam(each_entry),
    "scale_by_armijo": lambda: optax.chain(optax.sgd(1.0), oa.scale_by_armijo()),
    "salsa": lambda: oa.salsa(),
    "wrapped": lambda: oa.average_iterates(
        oa.dynamic_loss_scale(oa.armijo_adamw(weight_decay=0.1))
    ),
}
each_form = pytest.mark.parametrize("name", FORMS)


def update(tx: Any, *arguments: Any, **named: Any) -> tuple[Any, Any]:
    """Returns ``tx.update(...)``: optax's own type hides what updates hold."""
    return optax.with_extra_args_support(tx).update(*arguments, **named)


OUTSIDE_JIT = "ignore:update is called outside jax.jit:UserWarning"


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
    """Taken as ``optax.adam`` takes them, with no compilation more."""

    @pytest.mark.parametrize(
        ("name", "kind"),
        [("armijo_adam", kind) for kind in FOREIGN]
        + [("scale_by_armijo", "float64 arrays"), ("wrapped", "float64 arrays")],
    )
    def test_they_train_without_a_warning(self, name, kind):
        params = FOREIGN[kind]
        trained, _, num_traces = train(FORMS[name](), params)
        _, _, traces_of_adam = train(optax.adam(1e-3), params)
        assert num_traces <= traces_of_adam
        assert num_traces == 1 or kind == "Python scalars"  # whose type JAX changes
        assert bowl(trained) < bowl(params)
        for leaf in jax.tree.leaves(trained):
            assert isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32

    @pytest.mark.filterwarnings(OUTSIDE_JIT)
    def test_they_give_the_steps_of_arrays_outside_jit_too(self):
        params = {"a": np.ones(3), "b": 1.0}
        as_arrays = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
        (mine, *_), (theirs, *_) = (
            train(oa.armijo_adam(), tree, num_steps=1, is_jitted=False)
            for tree in (params, as_arrays)
        )
        for x, y in zip(*map(jax.tree.leaves, (mine, theirs)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5)

    def test_gradients_of_numpy_under_a_loss_scale(self):
        tx = oa.dynamic_loss_scale(optax.sgd(1.0), init_scale=8.0)
        params = {"a": np.ones(3), "b": 1.0}
        updates, _ = update(tx, {"a": np.full(3, 4.0), "b": 2.0}, tx.init(params))
        np.testing.assert_allclose(updates["a"], -0.5)
        np.testing.assert_allclose(updates["b"], -0.25)

    @pytest.mark.filterwarnings(OUTSIDE_JIT)
    def test_frozen_leaves_of_numpy_stay(self):
        params = {"a": np.ones(3), "n": np.arange(3), "f": np.ones(2)}
        tx = oa.armijo_adam({"a": "a", "n": oa.FROZEN, "f": oa.FROZEN})
        grads = {"a": np.ones(3), "n": np.zeros(3, np.int32), "f": np.ones(2)}
        updates, _ = update(
            tx,
            grads,
            tx.init(params),
            params,
            value=2.0,
            value_fn=lambda params: jnp.sum(params["a"] - 0.5),
        )
        assert not np.any(updates["n"]) and not np.any(updates["f"])
        assert updates["n"].dtype == jnp.int32 and np.all(updates["a"] < 0)


@pytest.mark.filterwarnings(OUTSIDE_JIT)
@pytest.mark.parametrize(
    ("name", "is_jitted"),
    [*[(name, True) for name in FORMS], ("armijo_adam", False)],
)
def test_leaves_without_an_entry_train_nothing_and_break_nothing(name, is_jitted):
    params = {"a": jnp.ones(0), "b": jnp.ones((2, 0))}
    trained, state, _ = train(FORMS[name](), params, is_jitted=is_jitted)
    assert [x.shape for x in jax.tree.leaves(trained)] == [(0,), (2, 0)]
    mixed = {"a": jnp.ones(0), "b": jnp.ones(2)}
    trained, _, _ = train(FORMS[name](), mixed, is_jitted=is_jitted)
    assert bowl(trained) < bowl(mixed)


EVERY_FORM = FORMS | {
    "armijo_adamw": oa.armijo_adamw,
    "num_steps": lambda: oa.armijo_adam(num_steps=8),
    "one_group": lambda: oa.armijo_adam(oa.one_group),
    "adamsls": oa.adamsls,
    "plasls": lambda: oa.plasls(LABELS),
    "kensls": oa.kensls,
    "sls": oa.sls,
    "amsgrad_sls": oa.amsgrad_sls,
    "ponos": oa.ponos,
}


@pytest.mark.parametrize("name", EVERY_FORM)
def test_the_flags_that_stop_at_nan_and_infinity_let_a_healthy_run_pass(name):
    """Nothing unknown stands in the state or in the info as NaN or infinity."""
    tx, params = EVERY_FORM[name](), network_params()
    before = network_loss(params)
    with jax.debug_nans(True), jax.debug_infs(True):
        step = oa.make_train_step(lambda params, _: network_loss(params), tx)
        state = tx.init(params)
        for _ in range(8):
            params, state, _ = step(params, state, 0)
    assert network_loss(params) < before


def same_types(state, other):
    """Asserts that two states agree in structure, shapes, dtypes and weak types."""
    chex.assert_trees_all_equal_structs(state, other)
    for x, y in zip(*map(jax.tree.leaves, (state, other)), strict=True):
        assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type)


def network_step(tx, loss_fn=network_loss, **extra_args):
    """Returns ``(params, state) -> (params, state)`` for the toy network."""

    def step(params, state):
        value, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = update(
            tx,
            grads,
            state,
            params,
            value=value,
            grad=grads,
            value_fn=loss_fn,
            **extra_args,
        )
        return optax.apply_updates(params, updates), state

    return step


@each_form
class TestNothingToTrain:
    """No-ops, as with ``optax.adam``."""

    @pytest.mark.parametrize("tree", [{}, {"a": None}], ids=str)
    def test_a_tree_without_leaves(self, name, tree):
        tx = FORMS[name]()
        state = first = init(tx, tree)
        for _ in range(2):
            updates, state = update(tx, tree, state, tree)
            assert updates == tree
        same_types(first, state)
        _, state = jax.jit(network_step(tx, bowl))(tree, state)
        same_types(first, state)
        info = oa.armijo_info(state)
        assert info.labels == () and "0 loss evaluations" in str(info)

    def test_params_that_are_masked_to_nothing(self, name):
        params = network_params()
        tx = optax.masked(FORMS[name](), jax.tree.map(lambda _: False, params))
        state = init(tx, params)
        updates, after = jax.jit(lambda: update(tx, params, state, params))()
        chex.assert_trees_all_equal(updates, params)
        same_types(state, after)


@pytest.mark.parametrize("make", [oa.armijo_adamw, oa.scale_by_armijo, oa.salsa])
def test_params_that_are_all_frozen_stay(make):
    frozen = make(oa.FROZEN)
    for tx in (frozen, oa.average_iterates(oa.dynamic_loss_scale(frozen))):
        params = network_params() | {"count": jnp.array(3), "float64": np.ones(2)}
        state = init(tx, params)
        grads = jax.tree.map(jnp.ones_like, params)
        arguments = {"value": 1.0, "grad": grads, "value_fn": lambda params: 1.0}
        for _ in range(2):
            updates, state = update(tx, grads, state, params, **arguments)
            assert not any(map(jnp.any, jax.tree.leaves(updates)))


@each_form
def test_the_tools_that_walk_a_state_find_its_params(name):
    tx, params = FORMS[name](), network_params()
    state = init(tx, params)
    moved = optax.tree_map_params(tx, lambda x: x + 1, state)
    same_types(state, moved)
    specs = jax.tree.map(lambda x: f"spec of {x.shape}", params)
    placed = optax.tree_map_params(
        tx, lambda _, spec: spec, state, specs, transform_non_params=lambda _: None
    )
    found = jax.tree.leaves(placed)
    trees, rest = divmod(len(found), len(jax.tree.leaves(params)))
    assert rest == 0 and found == trees * jax.tree.leaves(specs)
    assert trees > 0


def test_frozen_leaves_are_passed_over_by_the_tools_that_walk_a_state():
    params = network_params()
    tx = oa.armijo_adam(LABELS | {"head": oa.FROZEN})
    state = init(tx, params)
    placed: Any = optax.tree_map_params(
        tx,
        lambda x, spec: x if isinstance(x, optax.MaskedNode) else spec,
        state,
        jax.tree.map(lambda _: "spec", params),
        is_leaf=lambda x: isinstance(x, optax.MaskedNode),
    )
    assert placed.adam.nu["embed"]["w"] == "spec"
    assert isinstance(placed.adam.nu["head"]["w"], optax.MaskedNode)


@each_form
class TestAsOptaxTestsItsOwn:
    """What optax's suite asks of optimizers, contributed ones and wrappers."""

    def test_a_chain_compiles_once_keeps_types_and_may_be_donated(self, name):
        tx = optax.chain(
            optax.clip_by_global_norm(10.0), FORMS[name](), optax.scale(0.9)
        )
        traces = []

        def loss_fn(params):
            traces.append(1)
            return network_loss(params)

        step = jax.jit(network_step(tx, loss_fn), donate_argnums=(0, 1))
        params = network_params()
        first = init(tx, params)
        types = jax.tree.map(jnp.copy, first)
        before = network_loss(params)
        given = params
        params, state = step(params, first)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
        assert any(leaf.is_deleted() for leaf in jax.tree.leaves(first))
        num_traces = len(traces)
        for _ in range(5):
            params, state = step(params, state)
        assert len(traces) == num_traces <= 3
        same_types(types, state)
        assert network_loss(params) < before

    def test_extra_arguments_and_apply_if_finite(self, name):
        tx = FORMS[name]()
        guarded = optax.apply_if_finite(tx, 3)
        params = network_params()
        plain, _ = jax.jit(network_step(tx))(params, tx.init(params))
        mine, _ = jax.jit(network_step(guarded, reference="of another"))(
            params, guarded.init(params)
        )
        chex.assert_trees_all_close(mine, plain, rtol=1e-5, atol=1e-6)

    def test_the_state_may_go_through_a_condition(self, name):
        tx, params = FORMS[name](), network_params()
        step = network_step(tx)

        @jax.jit
        def maybe(is_due, params, state):
            return jax.lax.cond(is_due, step, lambda *same: same, params, state)

        state = tx.init(params)
        stayed, kept = maybe(False, params, state)
        chex.assert_trees_all_equal((stayed, kept), (params, state))
        moved, _ = maybe(True, params, state)
        assert network_loss(moved) < network_loss(params)

    def test_updates_have_the_types_of_params(self, name):
        tx = FORMS[name]()
        params = network_params(jnp.float16) | {"scale": jnp.ones((), jnp.float32)}

        def updates_of(params):
            value, grads = jax.value_and_grad(network_loss)(params)
            arguments = {"value": value, "grad": grads, "value_fn": network_loss}
            return update(tx, grads, tx.init(params), params, **arguments)[0]

        updates = jax.eval_shape(updates_of, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)

    def test_abstract_params_give_the_same_state(self, name):
        tx, params = FORMS[name](), network_params(jnp.bfloat16)
        concrete = jax.eval_shape(lambda: tx.init(params))
        abstract = jax.eval_shape(lambda: params)
        assert jax.eval_shape(tx.init, abstract) == concrete
        from_structs = jax.tree.map(lambda x: (x.shape, x.dtype), tx.init(abstract))
        assert from_structs == jax.tree.map(lambda x: (x.shape, x.dtype), concrete)

    def test_multi_steps_and_complex_leaves_are_refused(self, name):
        with pytest.raises(ValueError, match="num_microbatches=k"):
            optax.MultiSteps(FORMS[name](), 2).init(network_params())
        with pytest.raises(TypeError, match="leaf 'z' has dtype complex64; only real"):
            FORMS[name]().init({"z": jnp.ones(2, jnp.complex64)})


@pytest.mark.parametrize(
    ("make", "strings"),
    [
        (oa.salsa, {"direction": "sgd", "form": "paper", "frequency": "every"}),
        (oa.plasls, {"search": "weighted", "form": "paper"}),
    ],
)
def test_injected_hyperparams_take_strings_and_schedules_under_jit(make, strings):
    schedule = optax.linear_schedule(0.3, 0.6, 4)
    tx = optax.inject_hyperparams(make)(LABELS, c=schedule, **strings)
    plain = make(LABELS, c=0.3, **strings)
    params = network_params()
    step: Any = jax.jit(network_step(tx))
    state = init(tx, params)
    first, state = step(params, state)
    expected, _ = jax.jit(network_step(plain))(params, init(plain, params))
    chex.assert_trees_all_close(first, expected, rtol=1e-4, atol=1e-6)
    params = first
    for _ in range(4):
        params, state = step(params, state)
    assert step._cache_size() == 1
    np.testing.assert_allclose(state.hyperparams["c"], 0.6, rtol=1e-6)
