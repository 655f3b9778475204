"""From the user's labels to a static grouping of the leaves, with its checks."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_armijo import _label_functions
from optax_armijo._paths import natural_key, path_parts
from optax_armijo._types import Label, ParamLabels

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

_FROZEN_ID = -1


class Grouping(NamedTuple):
    """Which group each leaf of params belongs to; all of it known at trace time.

    Attributes:
      treedef: the structure of params.
      ids: the group of each leaf, in tree order; -1 for a frozen one.
      labels: the label of each group, in natural order (``layer_2`` before
        ``layer_10``), which is also the order of the groups' turns.
    """

    treedef: Any
    ids: tuple[int, ...]
    labels: tuple[Label, ...]

    @property
    def num_groups(self) -> int:
        return len(self.labels)

    @property
    def trainable_ids(self) -> tuple[int, ...]:
        """The group of each leaf that `trainable` returns."""
        return tuple(i for i in self.ids if i != _FROZEN_ID)

    def trainable(self, tree: Any) -> list[Any]:
        """The leaves of `tree` (structured like params) that are not frozen."""
        leaves = self.treedef.flatten_up_to(tree)
        return [x for x, i in zip(leaves, self.ids, strict=True) if i != _FROZEN_ID]

    def merge(self, leaves: Sequence[Any], frozen: Sequence[Any]) -> Any:
        """The tree with `leaves` where params move and `frozen` everywhere else.

        Args:
          leaves: one entry a trainable leaf.
          frozen: one entry a leaf of params; those of trainable leaves are unused.
        """
        moving = iter(leaves)
        merged = [
            rest if i == _FROZEN_ID else next(moving)
            for i, rest in zip(self.ids, frozen, strict=True)
        ]
        return self.treedef.unflatten(merged)

    def masked(self, leaves: Sequence[Any]) -> Any:
        """The tree with `leaves` where params move, and no leaf where frozen."""
        return self.merge(leaves, [optax.MaskedNode()] * len(self.ids))

    def sum(self, leaf_values: Sequence[jax.Array]) -> jax.Array:
        """Adds up one scalar a trainable leaf into one a group, shape [G]."""
        totals = jnp.zeros(self.num_groups, leaf_values[0].dtype)
        return totals.at[np.asarray(self.trainable_ids)].add(jnp.stack(leaf_values))


def group_leaves(param_labels: ParamLabels, params: Any) -> Grouping:
    """Resolves `param_labels` on `params` and checks the result.

    Raises:
      ValueError: labels that do not fit the tree, nothing left to train, or params
        with holes (inside ``optax.masked`` or ``optax.partition``).
      TypeError: a label that cannot be hashed, or a trainable leaf that is not real
        floating point.
    """
    _check_whole(params)
    paths_and_leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    if param_labels is None:
        param_labels = _label_functions.by_layer
    labels = param_labels(params) if callable(param_labels) else param_labels
    leaf_labels = broadcast_prefix("param_labels", labels, params)
    for (path, leaf), label in zip(paths_and_leaves, leaf_labels, strict=True):
        _check_leaf("/".join(path_parts(path)), leaf, label)
    groups = sorted({x for x in leaf_labels if x != FROZEN}, key=natural_key)
    if not groups:
        raise ValueError(
            "param_labels leaves nothing to train: params has "
            f"{len(leaf_labels)} leaves and each is labelled FROZEN. Give at least "
            "one leaf another label."
        )
    index = {label: i for i, label in enumerate(groups)}
    ids = tuple(index.get(label, _FROZEN_ID) for label in leaf_labels)
    return Grouping(treedef, ids, tuple(groups))


def broadcast_prefix(name: str, prefix: Any, params: Any) -> list[Any]:
    """Returns the entry of `prefix` for each leaf of `params`, in tree order.

    Raises:
      ValueError: `prefix`, called `name` in the message, is no prefix of params' tree.
    """
    try:
        full = jax.tree.map(
            lambda entry, part: jax.tree.map(lambda _: _Boxed(entry), part),
            prefix,
            params,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{name} must be a pytree that is a prefix of params' tree, or a function "
            f"from params to one; this one does not fit. {name}: "
            f"{jax.tree.structure(prefix)}; params: {jax.tree.structure(params)}."
        ) from error
    return [box.entry for box in jax.tree.leaves(full)]


class _Boxed:
    """Keeps an entry a leaf, whatever its type."""

    def __init__(self, entry: Any):
        self.entry = entry


def _check_whole(params: Any) -> None:
    def is_hole(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    if any(map(is_hole, jax.tree.leaves(params, is_leaf=is_hole))):
        raise ValueError(
            "a line search evaluates the loss, which needs the whole params, but got "
            "params with optax.MaskedNode in them. Do not wrap it in optax.masked or "
            "optax.partition: label what must not move optax_armijo.FROZEN in "
            "param_labels, and what must move apart with labels of its own."
        )


def _check_leaf(path: str, leaf: Any, label: Label) -> None:
    if not isinstance(label, Hashable):
        raise TypeError(
            f"param_labels gives leaf '{path}' the label {label!r}, which cannot be "
            "hashed. Use strings."
        )
    if label != FROZEN and not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        raise TypeError(
            f"leaf '{path}' has dtype {jnp.result_type(leaf)}; only real floating "
            "point leaves can be searched. Label it optax_armijo.FROZEN, or split a "
            "complex leaf into its real and imaginary part "
            "(optax.contrib.split_real_and_imaginary)."
        )
