"""Finding the layers of a network in the paths of its leaves."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from optax_armijo.labels.paths import Path

NO_LAYERS = "all (no layers found)"
"""The one label of a tree in which no layers are found."""


class _Layer(NamedTuple):
    """A numbered part of a path: ``("encoder", "block_")`` and 3 for ``block_3``."""

    family: Path
    number: int


_OUTSIDE_BEFORE = re.compile(r"emb|^w[tp]e$|position|patch|stem", re.IGNORECASE)


def label_layers(paths: Sequence[Path]) -> list[str]:
    """Returns a label for each leaf's path: see `by_layer`."""
    candidates = [_numbered_parts(path) for path in paths]
    members = Counter(layer.family for layer in {x for row in candidates for x in row})
    layers = [_largest_family(row, members) for row in candidates]
    families = {layer.family for layer in layers if layer is not None}
    if not families:
        return [NO_LAYERS] * len(paths)
    return [
        outside_label(path)
        if layer is None
        else f"{'layer' if len(families) == 1 else _name(layer.family)}_{layer.number}"
        for path, layer in zip(paths, layers, strict=True)
    ]


def _numbered_parts(path: Path) -> list[_Layer]:
    """Returns every part of a path that ends in a number, outermost first."""
    layers = []
    for i, part in enumerate(path):
        match = re.fullmatch(r"(.*?)(\d+)", part)
        if match:
            # Numbered leaves belong together by their number: w1 and b1, w2 and b2.
            stem = "" if i == len(path) - 1 else match[1]
            layers.append(_Layer((*path[:i], stem), int(match[2])))
    return layers


def _largest_family(layers: list[_Layer], members: Counter[Path]) -> _Layer | None:
    """Returns the layer of the largest family; None unless it has two members."""
    if not layers:
        return None
    largest = max(layers, key=lambda layer: members[layer.family])
    return largest if members[largest.family] >= 2 else None


def outside_label(path: Path) -> str:
    """Returns the label of a leaf outside every layer."""
    before = any(_OUTSIDE_BEFORE.search(part) for part in path)
    return "embeddings" if before else "output"


def _name(family: Path) -> str:
    return ".".join(part.rstrip("_.-") for part in family if part)
