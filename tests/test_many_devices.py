"""Training over eight devices: the run of one device, compiled once."""

import functools

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
from test_training import mean_loss
from toys import LABELS, network_params

from optax_armijo import (
    armijo_adam,
    armijo_adamw,
    dynamic_loss_scale,
    make_train_step,
    scale_by_armijo,
)

PROBLEMS = {"network": NETWORK, "stacked": STACKED}
STEPS = 5

each_case = pytest.mark.parametrize(
    ("name", "num_microbatches"), [("network", 1), ("network", 2), ("stacked", 2)]
)


@functools.cache
def optimizer(name):
    return armijo_adam(PROBLEMS[name].labels, num_joint_steps=2)


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
    moments, _ = run.opt_state
    for tree in (run.params, moments.nu):
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


@pytest.mark.parametrize(
    "tx",
    [
        armijo_adamw(LABELS, momentum="kept"),
        armijo_adam(LABELS, search="weighted", frequency="adaptive", merging="combine"),
        optax.chain(optax.sgd(1.0), scale_by_armijo(LABELS)),
        dynamic_loss_scale(armijo_adam(LABELS)),
    ],
    ids=["momentum", "policies", "other direction", "loss scale"],
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
