"""Training over eight devices: the run of one device, compiled once."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from many_devices import (
    NETWORK,
    STACKED,
    assert_same_run,
    batches_of,
    gathered,
    mesh_of,
    on_one_device,
    split,
    train,
    whole,
)
from toys import LABELS, mean_loss, network_params, row_losses

from optax_armijo import (
    FROZEN,
    armijo_adam,
    armijo_adamw,
    average_iterates,
    dynamic_loss_scale,
    make_train_step,
    plasls,
    scale_by_armijo,
)

pytestmark = pytest.mark.slow

PROBLEMS = {"network": NETWORK, "stacked": STACKED}
STEPS = 5

each_case = pytest.mark.parametrize(
    ("name", "num_microbatches"), [("network", 1), ("stacked", 2)]
)


@functools.cache
def optimizer(name):
    return armijo_adam(PROBLEMS[name].labels)


@functools.cache
def expected(name):
    return on_one_device(PROBLEMS[name], optimizer(name), STEPS)


def compare(name, place, *, mesh, loss_fn=None, explicit=False, **options):
    """Trains with params placed so and rows split; returns the run."""
    problem, tx = PROBLEMS[name], optimizer(name)
    step = make_train_step(loss_fn or problem.loss_fn, tx, **options)
    params = place(mesh, problem.params())
    batches = [split(mesh, arguments) for arguments in batches_of(STEPS)]
    run = train(step, params, tx.init(params), batches, mesh=mesh if explicit else None)
    assert_same_run(run, expected(name))
    return run


@each_case
def test_data_parallel(name, num_microbatches):
    run = compare(name, whole, mesh=mesh_of(), num_microbatches=num_microbatches)
    for leaf in jax.tree.leaves((run.params, run.opt_state)):
        assert leaf.sharding.is_fully_replicated and len(leaf.sharding.device_set) == 8


@each_case
def test_fully_sharded(name, num_microbatches):
    mesh = mesh_of()
    run = compare(name, split, mesh=mesh, num_microbatches=num_microbatches)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    moments = run.opt_state.adam
    for tree in (run.params, moments.mu, moments.nu):
        for leaf in (tree["embed"]["w"], tree["layers"]["w"], tree["head"]["w"]):
            assert leaf.sharding.is_equivalent_to(rows, leaf.ndim)


@each_case
def test_explicit_mode_with_whole_params(name, num_microbatches):
    mesh = mesh_of("Explicit")
    options = {"num_microbatches": num_microbatches}
    compare(name, whole, mesh=mesh, explicit=True, **options)


@each_case
def test_explicit_mode_with_split_params(name, num_microbatches):
    mesh = mesh_of("Explicit")
    loss_fn = gathered(PROBLEMS[name].loss_fn)
    options = {"num_microbatches": num_microbatches}
    run = compare(name, split, mesh=mesh, explicit=True, loss_fn=loss_fn, **options)
    assert "data" in str(jax.typeof(run.params["layers"]["w"]))


@each_case
def test_shard_map(name, num_microbatches):
    """With its checks of what varies: they show that all devices do the same."""
    if not hasattr(jax, "shard_map"):
        pytest.skip("this JAX has no jax.shard_map")
    mesh, problem, tx = mesh_of(), PROBLEMS[name], optimizer(name)
    step = make_train_step(
        problem.loss_fn, tx, axis_name="data", num_microbatches=num_microbatches
    )
    every, rows = PartitionSpec(), PartitionSpec("data")
    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=(every, every, rows, rows), out_specs=every
    )
    params = whole(mesh, problem.params())
    batches = [split(mesh, arguments) for arguments in batches_of(STEPS)]
    run = train(jax.jit(mapped), params, tx.init(params), batches)
    assert_same_run(run, expected(name))


@pytest.mark.parametrize("num_microbatches", [1, 2])
def test_devices_whose_rows_weigh_differently(num_microbatches):
    """As with padded tokens: a mean of the devices' means would be wrong."""
    if not hasattr(jax, "shard_map"):
        pytest.skip("this JAX has no jax.shard_map")
    mesh, tx = mesh_of(), optimizer("network")

    def loss_fn(params, x, y, mask):
        return jnp.sum(mask * row_losses(params, x, y)) / jnp.sum(mask)

    x, y = batches_of(1)[0]
    mask = jnp.asarray(1 + np.arange(len(y)) % 5, jnp.float32)
    step = make_train_step(
        loss_fn,
        tx,
        axis_name="data",
        num_microbatches=num_microbatches,
        weight_fn=lambda x, y, mask: jnp.sum(mask),
    )
    every, rows = PartitionSpec(), PartitionSpec("data")
    mapped = jax.jit(
        jax.shard_map(
            step, mesh=mesh, in_specs=(every, every, *[rows] * 3), out_specs=every
        )
    )
    params = network_params()
    state = tx.init(params)
    one = make_train_step(loss_fn, tx, donate=False)
    expected, _, alone = one(params, state, x, y, mask)
    params, state = whole(mesh, params), whole(mesh, state)
    found, _, metrics = mapped(params, state, *split(mesh, (x, y, mask)))
    np.testing.assert_allclose(metrics.loss, alone.loss, rtol=1e-6)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("check_vma", [True, False])
def test_what_is_frozen_does_not_count_in_a_global_norm_over_devices(check_vma):
    """Neither a gradient that is never finite, nor that of a key."""
    if not hasattr(jax, "shard_map"):
        pytest.skip("this JAX has no jax.shard_map")

    def loss_fn(params, x, y):
        never_finite = jnp.linalg.norm(params["embed"]["w"] * 0)
        return mean_loss(params, x, y) + never_finite

    labels = LABELS | {"embed": FROZEN, "key": FROZEN}
    tx = optax.chain(optax.clip_by_global_norm(1.0), armijo_adam(labels))
    runs = []
    for axis_name in ("data", None):
        step = make_train_step(loss_fn, tx, axis_name=axis_name, donate=False)
        if axis_name is not None:
            rows, all_of_it = PartitionSpec("data"), PartitionSpec()
            step = jax.jit(
                jax.shard_map(
                    lambda *arguments, step=step: step(*arguments)[:2],
                    mesh=mesh_of(),
                    in_specs=(all_of_it, all_of_it, rows, rows),
                    out_specs=(all_of_it, all_of_it),
                    check_vma=check_vma,
                )
            )
        params = network_params() | {"key": jax.random.key(3)}
        opt_state = tx.init(params)
        for arguments in batches_of(STEPS):
            params, opt_state, *_ = step(params, opt_state, *arguments)
        runs.append({name: params[name] for name in LABELS})
    chex.assert_trees_all_close(*runs, rtol=1e-4, atol=1e-6)
    assert jnp.any(runs[0]["head"]["b"] != 0)


def test_pmap():
    mesh_of()
    tx = optimizer("network")
    step = make_train_step(mean_loss, tx, axis_name="data", num_microbatches=2)
    mapped = jax.pmap(step, axis_name="data")

    def on_each(tree):
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * 8), tree)

    def shares(tree):
        return jax.tree.map(lambda leaf: leaf.reshape(8, -1, *leaf.shape[1:]), tree)

    params = network_params()
    params, state = on_each(params), on_each(tx.init(params))
    for number, arguments in enumerate(batches_of(STEPS)):
        params, state, metrics = mapped(params, state, *shares(arguments))
        losses, sizes = np.asarray(metrics.loss), np.asarray(metrics.info.step_size)
        assert np.all(losses == losses[0]) and np.all(sizes == sizes[0])
        run = expected("network")
        np.testing.assert_allclose(losses[0], run.losses[number], rtol=1e-4)
        np.testing.assert_allclose(sizes[0], run.step_sizes[number], rtol=1e-4)


def own_step(tx, loss_fn, *, averages_gradients, is_local=False):
    """A step as a loop of one's own makes it, on each device's rows."""

    def step(params, state, *rows):
        def value_fn(params):
            loss = loss_fn(params, *rows)
            return loss if is_local else jax.lax.pmean(loss, "data")

        if averages_gradients:
            value, grads = jax.value_and_grad(loss_fn)(params, *rows)
            value, grads = jax.lax.pmean((value, grads), "data")
        else:
            value, grads = jax.value_and_grad(value_fn)(params)
        updates, state = tx.update(
            grads, state, params, value=value, grad=grads, value_fn=value_fn
        )
        return optax.apply_updates(params, updates), state, value

    return step


def on_two_devices(step, problem, tx):
    """Params and state of each of two devices, and the losses, after a few steps."""
    if len(jax.devices()) < 2:
        pytest.skip("needs 2 devices")
    mapped = jax.pmap(step, axis_name="data", devices=jax.devices()[:2])

    def on_each(tree):
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), tree)

    def shares(tree):
        return jax.tree.map(lambda leaf: leaf.reshape(2, -1, *leaf.shape[1:]), tree)

    params = problem.params()
    params, state, losses = on_each(params), on_each(tx.init(params)), []
    for arguments in batches_of(STEPS):
        params, state, loss = mapped(params, state, *shares(arguments))
        losses.append(np.asarray(loss))
    return params, losses


def drift(params):
    leaves = map(np.asarray, jax.tree.leaves(params))
    return max(float(np.max(np.abs(leaf - leaf[:1]))) for leaf in leaves)


def test_replicas_stay_equal_in_a_pmap_loop_of_ones_own():
    tx = optimizer("network")
    step = own_step(tx, mean_loss, averages_gradients=True)
    params, losses = on_two_devices(step, NETWORK, tx)
    assert drift(params) == 0.0
    for loss, expected_loss in zip(losses, expected("network").losses, strict=True):
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-4)


def test_replicas_drift_apart_when_the_loss_is_local():
    """What the guide warns of: the gradient averaged, the trials' loss not."""
    tx = armijo_adam(LABELS)
    step = own_step(tx, mean_loss, averages_gradients=True, is_local=True)
    params, _ = on_two_devices(step, NETWORK, tx)
    assert drift(params) > 1e-3


@pytest.mark.parametrize("check_vma", [True, False])
def test_replicas_stay_equal_in_a_shard_map_loop_of_ones_own(check_vma):
    if not hasattr(jax, "shard_map") or len(jax.devices()) < 2:
        pytest.skip("needs jax.shard_map and 2 devices")
    tx = optimizer("network")
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("data",))
    every, rows = PartitionSpec(), PartitionSpec("data")
    step = own_step(tx, mean_loss, averages_gradients=not check_vma)
    mapped = jax.jit(
        jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(every, every, rows, rows),
            out_specs=every,
            check_vma=check_vma,
        )
    )
    params = whole(mesh, network_params())
    state = tx.init(params)
    for arguments, loss in zip(
        batches_of(STEPS), expected("network").losses, strict=True
    ):
        params, state, value = mapped(params, state, *split(mesh, arguments))
        np.testing.assert_allclose(value, loss, rtol=1e-4)
    for leaf in jax.tree.leaves(params):
        first, second = (np.asarray(shard.data) for shard in leaf.addressable_shards)
        np.testing.assert_array_equal(first, second)


def test_a_local_loss_under_shard_map_does_not_pass_its_checks():
    if not hasattr(jax, "shard_map") or len(jax.devices()) < 2:
        pytest.skip("needs jax.shard_map and 2 devices")
    tx = optimizer("network")
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("data",))
    every, rows = PartitionSpec(), PartitionSpec("data")
    step = own_step(tx, mean_loss, averages_gradients=False, is_local=True)
    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=(every, every, rows, rows), out_specs=every
    )
    params = whole(mesh, network_params())
    with pytest.raises((TypeError, ValueError)):
        jax.jit(mapped)(params, tx.init(params), *split(mesh, batches_of(1)[0]))


@pytest.mark.parametrize(
    "tx",
    [
        armijo_adamw(LABELS),
        plasls(LABELS),
        optax.chain(optax.sgd(1.0), scale_by_armijo(LABELS)),
        average_iterates(dynamic_loss_scale(armijo_adam(LABELS))),
    ],
    ids=["armijo_adamw", "plasls", "scale_by_armijo", "wrapped"],
)
def test_the_state_lies_where_params_do_from_init_on(tx):
    """Or else the second step, whose state does, would be compiled anew."""
    mesh = mesh_of()
    params = split(mesh, network_params())
    state = tx.init(params)
    for leaf in jax.tree.leaves(state):
        assert isinstance(leaf.sharding, NamedSharding) and leaf.sharding.mesh == mesh
    batches = [split(mesh, arguments) for arguments in batches_of(2)]
    train(make_train_step(mean_loss, tx), params, state, batches)


def test_the_state_lies_on_the_one_device_of_params():
    device = jax.devices()[-1]
    params = jax.device_put(network_params(), device)
    state = optimizer("network").init(params)
    assert all(leaf.devices() == {device} for leaf in jax.tree.leaves(state))
    batches = [jax.device_put(arguments, device) for arguments in batches_of(2)]
    train(make_train_step(mean_loss, optimizer("network")), params, state, batches)
