"""Turns the user's labels into a static grouping of the leaves."""

import functools
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_armijo._numerics import rounded, search_dtype
from optax_armijo._types import Label, ParamLabels
from optax_armijo.labels.checks import (
    broadcast_prefix,
    call_label_function,
    check_leaf,
    check_names,
    check_stacks,
    check_whole,
    is_function,
)
from optax_armijo.labels.functions import FROZEN, Stacked, by_layer
from optax_armijo.labels.paths import natural_key, paths_and_leaves


class Member(NamedTuple):
    """Which groups a trainable leaf belongs to.

    Attributes:
      groups: its one group, or, for a leaf that is `Stacked`, that of each layer in it.
      axis: the axis along which the layers lie; None for a leaf of one group.
      ndim: the number of axes of the leaf.
    """

    groups: tuple[int, ...]
    axis: int | None
    ndim: int

    def spread(self, values: jax.Array) -> jax.Array:
        """Lays out one number per group, [G], to broadcast against the leaf."""
        if self.axis is None:
            # With a slice, each leaf's kernel would contain its group's index, and XLA
            # would compile the kernels of identical layers one by one.
            is_group = np.arange(values.size) == self.groups[0]
            return jnp.sum(jnp.where(is_group, values, 0), dtype=values.dtype)
        shape = [1] * self.ndim
        shape[self.axis] = len(self.groups)
        return values[np.asarray(self.groups)].reshape(shape)

    def sum(self, array: jax.Array) -> jax.Array:
        """Adds up an array shaped like the leaf by group: [1], or one per layer."""
        if self.axis is None:
            return jnp.sum(array)[None]
        others = tuple(i for i in range(self.ndim) if i != self.axis)
        return jnp.sum(array, axis=others)


class Grouping(NamedTuple):
    """Which group each leaf of params belongs to; all of it is known at trace time.

    Attributes:
      treedef: the structure of params.
      members: the member of each leaf, in tree order; None for a frozen one.
      labels: the label of each group, in natural order (``layer_2`` before
        ``layer_10``).
    """

    treedef: Any
    members: tuple[Member | None, ...]
    labels: tuple[Label, ...]

    @property
    def num_groups(self) -> int:
        return len(self.labels)

    @property
    def checksum(self) -> np.uint32:
        """A checksum of the labels and of which leaf is in which group."""
        groups = [member and member.groups for member in self.members]
        return np.uint32(zlib.crc32(repr((self.labels, groups)).encode()))

    @property
    def moving(self) -> tuple[Member, ...]:
        """The members of the leaves that `trainable` returns."""
        return tuple(member for member in self.members if member is not None)

    def trainable(self, tree: Any) -> list[Any]:
        """The leaves of `tree` (structured like params) that are not frozen."""
        leaves = self.treedef.flatten_up_to(tree)
        return [x for x, m in zip(leaves, self.members, strict=True) if m is not None]

    def merge(self, leaves: Sequence[Any], frozen: Sequence[Any]) -> Any:
        """The tree with `leaves` where params move and `frozen` everywhere else.

        Args:
          leaves: one entry per trainable leaf.
          frozen: one entry per leaf of params; those of trainable leaves are unused.
        """
        moving = iter(leaves)
        merged = [
            rest if member is None else next(moving)
            for member, rest in zip(self.members, frozen, strict=True)
        ]
        return self.treedef.unflatten(merged)

    def masked(self, leaves: Sequence[Any]) -> Any:
        """The tree with `leaves` where params move, and no leaf where they do not."""
        return self.merge(leaves, [optax.MaskedNode()] * len(self.members))

    def zeros_like(self, params: Any) -> Any:
        """A tree of zeros where params move, in float32 or wider."""
        leaves = self.trainable(params)
        return self.masked([jnp.zeros_like(x, search_dtype([x])) for x in leaves])

    def scaled(
        self, step_size: jax.Array, direction: Sequence[jax.Array], params: Any
    ) -> list[jax.Array]:
        """``step_size * direction``, f[G] times leaves, in the dtypes of params."""
        leaves = self.trainable(params)
        return [
            rounded(jnp.where(e != 0, e.astype(d.dtype) * d, 0), p.dtype)
            for e, d, p in zip(self.spread(step_size), direction, leaves, strict=True)
        ]

    def moved(self, params: Any, updates: Sequence[jax.Array]) -> Any:
        """The point that ``optax.apply_updates`` reaches; frozen leaves stay."""
        pairs = zip(self.trainable(params), updates, strict=True)
        moved = [rounded(_sum(p, u), p.dtype) for p, u in pairs]
        return self.merge(moved, self.treedef.flatten_up_to(params))

    def whole(self, updates: Sequence[jax.Array], params: Any) -> Any:
        """The tree of updates, with zeros for frozen leaves."""
        leaves = self.treedef.flatten_up_to(params)
        return self.merge(updates, [jnp.zeros_like(leaf) for leaf in leaves])

    def spread(self, values: jax.Array) -> list[jax.Array]:
        """Lays out one number per group, [G], for each trainable leaf."""
        return [member.spread(values) for member in self.moving]

    def sum(self, leaves: Sequence[jax.Array]) -> jax.Array:
        """Adds up arrays shaped like the trainable leaves by group, shape [G]."""
        return self.by_group(self.by_leaf(leaves))

    def by_leaf(self, leaves: Sequence[jax.Array]) -> list[jax.Array]:
        """Adds up each array: [1], or [G] where the leaf is `Stacked`."""
        return [
            m.sum(x) if m.axis is None else self._total(m.groups, m.sum(x))
            for m, x in zip(self.moving, leaves, strict=True)
        ]

    def by_group(self, sums: Sequence[jax.Array]) -> jax.Array:
        """Adds up the sums of `by_leaf` by group, shape [G]."""
        pairs = list(zip(self.moving, sums, strict=True))
        plain = [(m.groups, x) for m, x in pairs if m.axis is None]
        totals = [x for m, x in pairs if m.axis is not None]
        if plain:
            groups, single = zip(*plain, strict=True)
            totals.append(self._total(sum(groups, ()), jnp.concatenate(single)))
        return functools.reduce(jnp.add, totals)

    def _total(self, groups: tuple[int, ...], sums: jax.Array) -> jax.Array:
        """Adds up numbers, of which entry i belongs to group ``groups[i]``, shape [G].

        This is not a scatter, for which explicit sharding must be told where its result
        lies, nor a matrix product, which rounds to lower precision and spreads NaN over
        all groups. The layers of a leaf come here by themselves, since they may be
        sharded.
        """
        is_of_group = np.asarray(groups) == np.arange(self.num_groups)[:, None]
        return jnp.sum(jnp.where(is_of_group, sums, 0), axis=1)


def group_leaves(param_labels: ParamLabels, params: Any) -> Grouping:
    """Resolves `param_labels` on `params` and checks the result.

    A tree without leaves has no groups, whatever the labels. Such trees come from
    ``optax.tree_map_params``, and from wrappers that mask everything.

    Raises:
      ValueError: labels that do not fit the tree, or params with holes (inside
        ``optax.masked`` or ``optax.partition``).
      TypeError: a label that cannot be hashed, or a trainable leaf that is not real
        floating point.
    """
    if not jax.tree.leaves(params):
        return Grouping(jax.tree.structure(params), (), ())
    check_whole(params)
    if param_labels is None:
        param_labels = by_layer
    labels = param_labels
    if is_function(param_labels):
        labels = call_label_function(param_labels, params)
    leaf_labels = broadcast_prefix("param_labels", labels, params)
    entries = paths_and_leaves(params)
    leaves = [leaf for _, leaf in entries]
    paths = ["/".join(path) for path, _ in entries]
    for path, leaf, label in zip(paths, leaves, leaf_labels, strict=True):
        check_leaf(path, leaf, label)
    check_stacks(paths, leaves, leaf_labels)
    labels_of = [
        _labels_of(leaf, label) for leaf, label in zip(leaves, leaf_labels, strict=True)
    ]
    groups = sorted({x for each in labels_of for x in each}, key=sorting_key)
    check_names(groups)
    index = {label: i for i, label in enumerate(groups)}
    members = [
        Member(
            groups=tuple(index[x] for x in names),
            axis=label.axis if isinstance(label, Stacked) else None,
            ndim=jnp.ndim(leaf),
        )
        if names
        else None
        for leaf, label, names in zip(leaves, leaf_labels, labels_of, strict=True)
    ]
    return Grouping(jax.tree.structure(params), tuple(members), tuple(groups))


def _sum(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns ``x + y`` in float32 or wider."""
    dtype = search_dtype([x])
    return x.astype(dtype) + y.astype(dtype)


def sorting_key(label: Label) -> tuple[Any, ...]:
    """The natural order, also of ``w1`` and ``w01``, the same in each process."""
    return natural_key(label), str(label), type(label).__name__


def _labels_of(leaf: Any, label: Label) -> tuple[Label, ...]:
    """Returns the labels of all groups in a leaf; none for a frozen leaf."""
    if isinstance(label, Stacked):
        num_layers = jnp.shape(leaf)[label.axis]
        return tuple(label.of_layer(i) for i in range(num_layers))
    return () if label == FROZEN else (label,)
