"""Meshes of the eight host devices, where to put arrays on them, and runs on them."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from toys import LABELS, batch, mean_loss, network_params

from optax_armijo import Stacked, make_train_step

NUM_ROWS = 32
LAYERS = 8


class Problem(NamedTuple):
    """Something to train."""

    params: Callable[[], Any]
    loss_fn: Callable[..., jax.Array]
    labels: Any


def stacked_params() -> dict[str, Any]:
    """Eight layers in one leaf, between the toy network's first and last."""
    ends = network_params()
    layers = [network_params(seed=seed)["layers"] for seed in range(LAYERS)]
    return ends | {"layers": jax.tree.map(lambda *x: jnp.stack(x), *layers)}


def stacked_loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    def layer(h: jax.Array, mine: Any) -> tuple[jax.Array, None]:
        return h + jnp.tanh(h @ mine["w"] + mine["b"]) / LAYERS, None

    h = jnp.tanh(x @ params["embed"]["w"] + params["embed"]["b"])
    h, _ = jax.lax.scan(layer, h, params["layers"])
    h = h @ params["head"]["w"] + params["head"]["b"]
    return optax.softmax_cross_entropy_with_integer_labels(h, y).mean()


NETWORK = Problem(network_params, mean_loss, LABELS)
STACKED = Problem(
    stacked_params, stacked_loss, LABELS | {"layers": Stacked("layer", axis=0)}
)


def mesh_of(axis_type: str | None = None) -> Mesh:
    """Eight devices in a row, called ``data``; skips where they are not to be had."""
    if len(jax.devices()) < 8:
        pytest.skip("needs 8 devices: XLA_FLAGS was set before the tests could")
    if axis_type is None:
        return Mesh(jax.devices()[:8], ("data",))
    types = getattr(jax.sharding, "AxisType", None)
    if types is None or not hasattr(jax, "set_mesh"):
        pytest.skip("this JAX has no explicit sharding, or not by set_mesh")
    return jax.make_mesh((8,), ("data",), axis_types=(getattr(types, axis_type),))


def whole(mesh: Mesh, tree: Any) -> Any:
    """Copies each leaf to all devices."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def split(mesh: Mesh, tree: Any) -> Any:
    """Splits each leaf over the devices along its first axis, where that can be."""

    def put(leaf: jax.Array) -> jax.Array:
        fits = leaf.ndim > 0 and leaf.shape[0] % mesh.size == 0
        spec = PartitionSpec("data") if fits else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(put, tree)


def gathered(loss_fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The loss as explicit mode wants it of split params: it says where they meet."""

    def loss(params: Any, *arguments: Any) -> jax.Array:
        return loss_fn(jax.sharding.reshard(params, PartitionSpec()), *arguments)

    return loss


def compilations() -> list[str]:
    """A list that grows by an entry whenever JAX traces or compiles something."""
    if not _COMPILATIONS:
        _COMPILATIONS.append([])

        def note(event: str, duration_secs: float, **kwargs: Any) -> None:
            del duration_secs, kwargs
            if event.startswith("/jax/core/compile/"):
                _COMPILATIONS[0].append(event)

        jax.monitoring.register_event_duration_secs_listener(note)
    return _COMPILATIONS[0]


_COMPILATIONS: list[list[str]] = []


class Run(NamedTuple):
    """What a run leaves: params, state, and numbers of each step."""

    params: Any
    opt_state: Any
    losses: np.ndarray  # [steps]
    step_sizes: np.ndarray  # [steps, G]
    num_trials: np.ndarray  # [steps, G]


def train(
    step: Callable[..., Any],
    params: Any,
    opt_state: Any,
    batches: Sequence[Any],
    mesh: Any = None,
) -> Run:
    """Trains, and sees that nothing is traced or compiled after the first step."""
    history, seen = [], compilations()
    with nullcontext() if mesh is None else jax.set_mesh(mesh):
        for number, arguments in enumerate(batches):
            jax.block_until_ready(arguments)
            if number == 1:
                seen.clear()
            params, opt_state, metrics = step(params, opt_state, *arguments)
            history.append(metrics)
        assert len(batches) < 2 or not seen, "the second step was compiled anew"
    return Run(
        params,
        opt_state,
        np.asarray([m.loss for m in history]),
        np.asarray([m.info.step_size for m in history]),
        np.asarray([m.info.num_trials for m in history]),
    )


def batches_of(num_steps: int) -> list[Any]:
    return [batch(NUM_ROWS, seed) for seed in range(num_steps)]


def on_one_device(problem: Problem, tx: Any, num_steps: int) -> Run:
    """The run that those on many devices are to repeat."""
    params = problem.params()
    step = make_train_step(problem.loss_fn, tx)
    return train(step, params, tx.init(params), batches_of(num_steps))


def assert_same_run(run: Run, expected: Run) -> None:
    """The same numbers to rounding, step by step."""
    np.testing.assert_allclose(run.losses, expected.losses, rtol=1e-4)
    np.testing.assert_allclose(run.step_sizes, expected.step_sizes, rtol=1e-4)
    np.testing.assert_array_equal(run.num_trials, expected.num_trials)
    for mine, theirs in zip(
        jax.tree.leaves(run.params), jax.tree.leaves(expected.params), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)
