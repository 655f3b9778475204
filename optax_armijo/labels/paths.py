"""Where a leaf sits in its tree, as plain text parts."""

import re
from typing import Any

import jax

Path = tuple[str, ...]


def path_parts(path: tuple[Any, ...]) -> Path:
    """Returns the keys, indices and attribute names on the way to a leaf.

    A Flax NNX variable adds a last attribute, ``.value``, which says nothing about
    the leaf and is dropped.
    """
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return tuple(_part(key) for key in path)


def _part(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def natural_key(label: Any) -> tuple[Any, ...]:
    """Sorts ``layer_2`` before ``layer_10``, and labels of any types together."""
    pieces = re.split(r"(\d+)", str(label))
    return tuple(
        (0, int(piece), "") if piece.isdigit() else (1, 0, piece)
        for piece in pieces
        if piece
    )
