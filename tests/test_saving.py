"""Saving and resuming: the same run, on other devices too, from older states too."""

import pickle
import warnings
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from test_state import TX, train
from toys import network_params

from optax_armijo import armijo_adam, armijo_info, restore_state, sls


def through_pickle(tree, path):
    del path
    return jax.tree.map(jnp.asarray, pickle.loads(pickle.dumps(jax.device_get(tree))))


def through_flax(tree, path):
    del path
    serialization = pytest.importorskip("flax.serialization")
    saved = serialization.to_bytes(tree)
    template = jax.tree.map(jnp.zeros_like, tree)
    return jax.tree.map(jnp.asarray, serialization.from_bytes(template, saved))


def through_orbax(tree, path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    with checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(path / "checkpoint", tree)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path / "checkpoint", tree)


@pytest.mark.parametrize("save", [through_pickle, through_flax, through_orbax])
def test_a_resumed_run_continues_bit_for_bit(save, tmp_path):
    params = network_params()
    whole = train(params, TX.init(params), range(12))
    half = train(params, TX.init(params), range(7))
    params, state = save(half, tmp_path)
    resumed = train(params, state, range(7, 12))
    chex.assert_trees_all_equal(resumed, whole)


def untyped(node: Any) -> Any:
    """Nested dicts and lists of arrays, as orbax restores them without a target."""
    if hasattr(node, "_asdict"):
        return {name: untyped(child) for name, child in node._asdict().items()}
    if isinstance(node, dict):
        return {name: untyped(child) for name, child in node.items()}
    if isinstance(node, (tuple, list)):
        return [untyped(child) for child in node]
    return np.asarray(node)


def test_a_state_without_its_types_is_read():
    params = network_params()
    whole = train(params, TX.init(params), range(8))
    params, state = train(params, TX.init(params), range(5))
    restored = restore_state(TX.init(params), untyped(state))
    chex.assert_trees_all_equal_structs(restored, state)
    chex.assert_trees_all_equal(train(params, restored, range(5, 8)), whole)


def test_a_state_that_orbax_restores_without_a_target_is_read(tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    params, state = train(network_params(), TX.init(network_params()), range(3))
    with checkpoint.PyTreeCheckpointer() as checkpointer, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would rather be told the shardings
        checkpointer.save(tmp_path / "checkpoint", state)
        saved = checkpointer.restore(tmp_path / "checkpoint")
    chex.assert_trees_all_equal(restore_state(TX.init(params), saved), state)


def test_params_may_have_the_names_of_the_states_own_entries():
    params = {"checksum": jnp.ones(3), "label_codes": jnp.ones(2)}
    tx = armijo_adam()
    fresh = tx.init(params)
    grads = jax.tree.map(jnp.ones_like, params)

    @jax.jit
    def update(params):
        def value_fn(params):
            return sum(map(jnp.sum, jax.tree.leaves(params)))

        more = {"value": value_fn(params), "value_fn": value_fn, "grad": grads}
        return tx.update(grads, fresh, params, **more)

    _, state = update(params)
    chex.assert_trees_all_equal(restore_state(fresh, state), state)


@pytest.mark.parametrize("is_committed", [False, True])
def test_a_restored_state_is_a_copy(is_committed):
    """The step donates it; a second run could not start from the same state."""
    params = network_params()
    if is_committed:
        params = jax.device_put(params, jax.devices()[0])
    saved = TX.init(params)
    restored = restore_state(TX.init(params), saved)
    jax.tree.map(lambda x: x.delete(), restored)
    assert not any(x.is_deleted() for x in jax.tree.leaves(saved))


def test_a_restored_state_lies_where_params_do():
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    place = NamedSharding(mesh, PartitionSpec())
    params = jax.device_put(network_params(), place)
    fresh = TX.init(params)
    restored = restore_state(fresh, untyped(fresh))
    for x, y in zip(*map(jax.tree.leaves, (fresh, restored)), strict=True):
        assert y.committed and y.sharding == x.sharding


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s[1].pop("step_size"), "lacks 1/step_size and has nothing"),
        (lambda s: s[1].update(novelty=np.ones(3)), "1/novelty besides"),
        (
            lambda s: s[1].update(step_size=np.ones(3, np.float16)),
            "1/step_size has shape .* and float16",
        ),
        (
            lambda s: s[1].update(label_codes=s[1]["label_codes"][::-1]),
            "gives the groups .*'embed', 'head'.*has .*'layers', 'head'",
        ),
        (lambda s: s[1].update(checksum=s[1]["checksum"] + 1), "other leaves than"),
    ],
    ids=["missing", "unknown", "dtype", "labels", "leaves"],
)
def test_a_state_that_does_not_fit_is_refused_by_name(spoil, message):
    saved = untyped(TX.init(network_params()))
    spoil(saved)
    with pytest.raises(ValueError, match=message):
        restore_state(TX.init(network_params()), saved)


def test_a_state_that_is_one_array_is_read():
    """As that of a user's own transformation."""
    restored = restore_state(jnp.zeros(3, jnp.uint8), np.ones(3, np.uint8))
    np.testing.assert_array_equal(restored, np.ones(3))
    with pytest.raises(ValueError, match="has shape"):
        restore_state(jnp.zeros(3), np.ones(4, np.float32))


@pytest.mark.parametrize("make", [armijo_adam, sls], ids=["armijo_adam", "sls"])
def test_a_state_without_its_types_is_refused_in_a_step(make):
    params = {"w": jnp.ones(3)}
    state = {"0": {}, "1": {"step_size": np.ones(1)}}
    with pytest.raises(TypeError, match="restore_state"):
        make().update(params, state, params, value=jnp.ones(()), value_fn=lambda p: p)


def sharded(tree, num_devices):
    """Splits what can be split over that many devices, and copies the rest to all."""
    mesh = Mesh(np.asarray(jax.devices()[:num_devices]), ("data",))

    def put(leaf):
        fits = leaf.ndim > 0 and leaf.shape[0] % num_devices == 0
        spec = PartitionSpec("data") if fits else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(put, tree)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(8, 2), (1, 8)])
def test_a_run_resumes_on_another_number_of_devices(before, after, tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    if len(jax.devices()) < 8:
        pytest.skip("needs 8 devices: XLA_FLAGS was set before the tests could")
    params = network_params()
    whole, whole_state = train(params, TX.init(params), range(10))
    start = sharded((params, TX.init(params)), before)
    half = train(start[0], start[1], range(5))
    target = sharded((params, TX.init(params)), after)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), target
    )
    with checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "checkpoint", half)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "checkpoint", abstract)
    assert len(restored[0]["embed"]["w"].sharding.device_set) == after
    params, state = train(restored[0], restored[1], range(5, 10))
    chex.assert_trees_all_close(params, whole, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(
        armijo_info(state).total_trials, armijo_info(whole_state).total_trials
    )
