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
    """Splits leaves along their first axis that the devices divide, or copies them.

    Each process has all of the tree and hands over what its own devices need.
    """

    def put(leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        axes = [i for i, n in enumerate(array.shape) if n % mesh.size == 0]
        where = [None] * axes[0] + ["data"] if is_split and axes else []
        sharding = NamedSharding(mesh, PartitionSpec(*where))
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(put, tree)
