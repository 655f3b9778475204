"""Labels that say more than which group: leaves that never move, stacks of layers."""

from dataclasses import dataclass

FROZEN = "__frozen__"
"""The label of leaves that never move: they cost no state and no time.

The loss still sees the full params.

Example:
  >>> import jax.numpy as jnp, optax_armijo
  >>> tx = optax_armijo.armijo_adam({"body": optax_armijo.FROZEN, "head": "head"})
  >>> state = tx.init({"body": jnp.ones(1000), "head": jnp.ones(3)})
  >>> optax_armijo.armijo_info(state).labels
  ('head',)
"""


@dataclass(frozen=True)
class Stacked:
    """Labels a leaf one axis of which counts layers: a group for each.

    Models that scan over their layers (``flax.linen.scan``, ``nnx.scan``) keep one leaf
    for the same weight of all layers. Labelled with this, each layer in it has a step
    size of its own; leaves with the same `label` share them, layer by layer.

    Attributes:
      label: of the groups, ``label_0``, ``label_1``, ...
      axis: of the layers, counted from 0; 0 is Flax's default.

    Raises:
      ValueError: `axis` below 0; when traced, a leaf that has no such axis, or leaves
        with the same label but other numbers of layers.

    Example:
      >>> import jax.numpy as jnp, optax_armijo
      >>> params = {"blocks": {"w": jnp.ones((3, 4, 4)), "b": jnp.ones((3, 4))},
      ...     "head": jnp.ones(4)}
      >>> tx = optax_armijo.armijo_adam({"blocks": Stacked("layer"), "head": "head"})
      >>> optax_armijo.armijo_info(tx.init(params)).labels
      ('head', 'layer_0', 'layer_1', 'layer_2')
    """

    label: str = "layer"
    axis: int = 0

    def __post_init__(self) -> None:
        if self.axis < 0:
            raise ValueError(f"axis must be 0 or more; got {self.axis!r}")

    def of_layer(self, number: int) -> str:
        """Returns the label of one layer's group."""
        return f"{self.label}_{number}"
