"""The paths of the leaves of a tree, as plain strings."""

import re
import sys
from typing import Any

import jax
import optax

Path = tuple[str, ...]

_HOLE = object()


def paths_and_leaves(tree: Any) -> list[tuple[Path, Any]]:
    """Returns keys, indices and attribute names on the way to each leaf, and the leaf.

    Flax keeps a leaf in a box, an ``nnx.Variable`` or a Linen ``Partitioned``, whose
    attribute ``value`` says nothing about the leaf and is left out. Only its type
    distinguishes a box from a user's dataclass, since JAX gives both the same keys.
    """
    boxes = _box_types()

    def is_box(node: Any) -> bool:
        return isinstance(node, boxes)

    entries = []
    for path, node in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_box)[0]:
        inside = [((), node)]
        if is_box(node):
            boxed = jax.tree_util.tree_flatten_with_path(node)[0]
            inside = [(keys[1:], leaf) for keys, leaf in boxed]
        entries += [(tuple(map(_part, (*path, *keys))), leaf) for keys, leaf in inside]
    return entries


def paths_and_holes(tree: Any) -> dict[Path, Any]:
    """Returns the leaves by their paths, None where there is an ``optax.MaskedNode``.

    optax puts one where a leaf is left out.
    """
    boxed = jax.tree.map(
        lambda node: _HOLE if is_hole(node) else node, tree, is_leaf=is_hole
    )
    entries = paths_and_leaves(boxed)
    return {path: None if leaf is _HOLE else leaf for path, leaf in entries}


def is_hole(node: Any) -> bool:
    """Tells whether this stands for a leaf that is left out."""
    return isinstance(node, optax.MaskedNode)


def _box_types() -> tuple[type, ...]:
    """Returns Flax's box types; a tree that holds one has imported its module."""
    places = (("flax.nnx", "Variable"), ("flax.core.meta", "AxisMetadata"))
    loaded = [(sys.modules.get(module), name) for module, name in places]
    return tuple(getattr(module, name) for module, name in loaded if module)


def _part(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def natural_key(label: Any) -> tuple[Any, ...]:
    """Sorts ``layer_2`` before ``layer_10``, and labels of any types together."""
    pieces = re.split(r"(\d+)", str(label))
    return tuple(
        (0, int(piece), "") if piece.isdecimal() else (1, 0, piece)
        for piece in pieces
        if piece
    )
