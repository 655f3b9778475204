"""Places the state's own arrays on all devices that hold params.

The outputs of a step are on the devices of the params. If the state's arrays were on
JAX's default device before the first step, the second step would be compiled again.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

Built = TypeVar("Built")


def build_beside(params: Any, build: Callable[[], Built]) -> Built:
    """Returns ``build()``, small arrays, copied to each device that holds params."""
    sharding = _replicated_over(jax.tree.leaves(params))
    if sharding is None:
        return build()
    # `device_put` will not do: it cannot reach other processes' devices, or it compares
    # what all of them hold, array by array.
    return jax.jit(build, out_shardings=sharding)()


def _replicated_over(leaves: list[Any]) -> Sharding | None:
    """Returns where copies go; None if JAX is free to choose, as inside ``jit``."""
    for leaf in leaves:
        if isinstance(leaf, Tracer) or not getattr(leaf, "committed", False):
            continue
        if isinstance(leaf.sharding, NamedSharding):
            return NamedSharding(leaf.sharding.mesh, PartitionSpec())
        if isinstance(leaf.sharding, SingleDeviceSharding):
            return leaf.sharding
    return None
