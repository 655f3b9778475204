"""Many devices: joining other processes, and where arrays lie."""

from typing import Any

import jax
import numpy as np
from errors import UserError
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def join(
    cluster: bool,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
) -> None:
    """Joins the other processes; before the first computation, or it is too late.

    Args:
      cluster: whether SLURM, Cloud TPU or the like is to say who takes part.
      coordinator: host and port of process 0; None with the others for one process.
      num_processes: how many there are.
      process_id: which this one is, from 0.

    Raises:
      UserError: some of the last three without the others.
    """
    given = (coordinator, num_processes, process_id)
    if cluster:
        jax.distributed.initialize()
    elif None not in given:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    elif given != (None, None, None):
        raise UserError("--coordinator, --num-processes and --process-id go together")


def place(mesh: Mesh, tree: Any, *, is_split: bool) -> Any:
    """Puts leaves where `sharding_of` says.

    Each process has all of the tree and hands over what its own devices need.
    """

    def put(leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        sharding = sharding_of(mesh, array.shape, is_split=is_split)
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(put, tree)


def sharding_of(mesh: Mesh, shape: tuple[int, ...], *, is_split: bool) -> NamedSharding:
    """Splits an array along its first axis that the devices divide, or copies it."""
    axes = [i for i, size in enumerate(shape) if size % mesh.size == 0]
    where = [None] * axes[0] + ["data"] if is_split and axes else []
    return NamedSharding(mesh, PartitionSpec(*where))
