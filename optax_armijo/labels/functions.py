"""Label functions, which map params to labels, and the labels `FROZEN` and `Stacked`.

The functions split params into groups by tree paths alone. They work on nested dicts,
lists, Flax Linen params, Flax NNX state and any other pytree whose paths have names.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

import jax

from optax_armijo._checks import check_range
from optax_armijo.labels.paths import Path, natural_key, paths_and_leaves

FROZEN = "__frozen__"
"""The label of leaves that never move. They have no optimizer state.

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
    """Labels a leaf that stacks layers along an axis: one group per layer.

    Models that scan over their layers (``flax.linen.scan``, ``nnx.scan``) keep one leaf
    for the same weight of all layers. With this label, each layer in it has its own
    step size; leaves with the same `label` share them, layer by layer.

    Attributes:
      label: the name of the groups ``label_0``, ``label_1``, ...
      axis: the axis of the layers, counted from 0; 0 is Flax's default.

    Raises:
      ValueError: `axis` below 0; when traced, a leaf that has no such axis, or leaves
        with the same label but different numbers of layers.

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
        check_range("axis", self.axis, at_least=0, is_integer=True)

    def of_layer(self, number: int) -> str:
        """Returns the label of one layer's group."""
        return f"{self.label}_{number}"


MOST_PARTS = 16  # most top-level entries that are groups in a tree without layers
NO_LAYERS = "all (no layers found)"  # the only label if there are more
_OUTSIDE_BEFORE = re.compile(
    r"(?<![a-z])(pos|tok|token|word)?(emb|position|patch|stem)"  # begins a word
    r"|Emb|Position|Patch|Stem|^w[tp]e$"
)


def one_group(params: Any) -> Any:
    """Labels every leaf ``"all"``: one step size for the whole of params.

    Example:
      >>> one_group({"a": 1.0, "b": [2.0, 3.0]})
      {'a': 'all', 'b': ['all', 'all']}
    """
    return jax.tree.map(lambda _: "all", params)


def by_layer(params: Any) -> Any:
    """Labels embeddings, each block, and what comes after the blocks.

    A block is a layer with a number in its name. Blocks are siblings whose names differ
    only by a number: ``layers/0`` and ``layers/1``, ``Block_0`` and ``Block_1``, or the
    items of a list. If leaves are siblings, ``w1`` and ``b1`` belong to one block,
    ``w2`` and ``b2`` to the next. If a path has several such families, the one with the
    most members counts, or the outer one of two equal ones. Leaves outside all blocks
    are ``"embeddings"`` if a name in their path, except for names that all paths share,
    has a word that begins with embedding (or emb), position, patch or stem. Of the
    other leaves, those at the top of the tree have their names as labels, and those in
    modules are ``"output"``.

    In a tree without blocks, each top-level entry of the params is a group with its
    name as label.

    Args:
      params: any pytree; only its paths are read.

    Returns:
      A pytree of labels like `params`: ``"embeddings"``, ``"layer_0"``, ...,
      ``"output"``; with several families of blocks, their paths replace ``"layer"``.
      Every leaf is ``"all (no layers found)"`` if there are no blocks and more than 16
      top-level entries.

    Example:
      >>> head, blocks = {"kernel": 0.0, "bias": 0.0}, [{"w": 0.0}, {"w": 0.0}]
      >>> by_layer({"embed": 0.0, "blocks": blocks, "head": head})["blocks"]
      [{'w': 'layer_0'}, {'w': 'layer_1'}]
      >>> by_layer({"embed": 0.0, "blocks": blocks, "head": head})["head"]
      {'bias': 'output', 'kernel': 'output'}
      >>> by_layer({"network": [{"w": 0.0}, {"w": 0.0}], "stiffness": 0.0})
      {'network': [{'w': 'layer_0'}, {'w': 'layer_1'}], 'stiffness': 'stiffness'}
      >>> by_layer({"encoder": {"w": 0.0, "b": 0.0}, "head": {"w": 0.0}})
      {'encoder': {'b': 'encoder', 'w': 'encoder'}, 'head': {'w': 'head'}}
    """
    return _label_paths(params, _label_layers)


def by_depth(num_groups: int) -> Callable[[Any], Any]:
    """Splits the blocks into even runs: the split of arXiv 2403.18506, section 3.

    The first group is the embeddings and the last the output. The blocks (see
    `by_layer`) between them are cut by depth into ``num_groups - 2`` runs whose lengths
    differ by at most one.

    Args:
      num_groups: how many groups in all, 3 or more. With fewer blocks than
        ``num_groups - 2`` each block is a group.

    Returns:
      A label function: ``"embeddings"``, ``"depth_0"``, ..., ``"output"``.

    Raises:
      ValueError: `num_groups` below 3.

    Example:
      >>> params = {"embed": 0.0, "blocks": [0.0, 0.0, 0.0, 0.0], "head": 0.0}
      >>> by_depth(4)(params)["blocks"]
      ['depth_0', 'depth_0', 'depth_1', 'depth_1']
    """
    check_range("num_groups", num_groups, at_least=3, is_integer=True)

    def label_paths(paths: Sequence[Path]) -> list[str]:
        of_leaves = _layers(paths)
        found = {layer for layer in of_leaves if layer is not None}
        layers = sorted(found, key=lambda x: (natural_key(_name(x.family)), x.number))
        runs = min(num_groups - 2, len(layers))
        depth = {
            layer: f"depth_{i * runs // len(layers)}" for i, layer in enumerate(layers)
        }
        shared = _num_shared(paths)
        return [
            _outside_label(path, shared) if layer is None else depth[layer]
            for path, layer in zip(paths, of_leaves, strict=True)
        ]

    return lambda params: _label_paths(params, label_paths)


def by_attention(params: Any) -> Any:
    """Labels query, key and value weights, with all layers together, and the rest.

    A leaf belongs to ``"query"`` if a part of its path is ``query``, ``q``, ``q_proj``
    or similar; the same holds for key and value. This is the second split that arXiv
    2403.18506 tries.

    Example:
      >>> by_attention({"attn": {"q_proj": 0.0, "key": 0.0}, "mlp": 0.0})
      {'attn': {'key': 'key', 'q_proj': 'query'}, 'mlp': 'rest'}
    """
    suffix = "([_-]?(proj|projection|kernel|weight|bias))?"
    patterns = {
        name: f"(^|/)({name[0]}|{name}){suffix}(/|$)"
        for name in ("query", "key", "value")
    }
    return by_pattern(patterns, default="rest")(params)


def by_pattern(
    patterns: Mapping[str, str], *, default: str = "rest"
) -> Callable[[Any], Any]:
    """Labels leaves by regular expressions on their paths.

    Args:
      patterns: label -> regular expression, searched for in the leaf's path, whose
        parts are joined by ``/``. The first expression that matches gives the label.
      default: the label of leaves that no expression matches. `FROZEN` freezes them.

    Returns:
      A label function.

    Raises:
      ValueError: an expression that does not compile, with its label; when traced, one
        that matches no leaf if this would freeze or unfreeze something: that of
        `FROZEN`, or any if `FROZEN` is the default.

    Example:
      >>> label = by_pattern({"norms": "norm|bias"}, default="weights")
      >>> label({"norm1": {"scale": 0.0}, "dense": {"kernel": 0.0}})
      {'dense': {'kernel': 'weights'}, 'norm1': {'scale': 'norms'}}
    """
    compiled = {
        label: _compile(f"patterns[{label!r}]", regex)
        for label, regex in patterns.items()
    }

    def label_path(path: Path) -> str:
        text = "/".join(path)
        matches = (label for label, regex in compiled.items() if regex.search(text))
        return next(matches, default)

    def label_paths(paths: Sequence[Path]) -> list[str]:
        for label, regex in compiled.items():
            decides = FROZEN in (label, default)
            if decides and not any(map(regex.search, map("/".join, paths))):
                raise ValueError(
                    f"patterns[{label!r}] must match the path of a leaf, since it says "
                    f"what is frozen; got {regex.pattern!r}, and the paths are "
                    f"{_listed(paths)}"
                )
        return [*map(label_path, paths)]

    return lambda params: _label_paths(params, label_paths)


def by_stacked_layer(
    pattern: str = r"(^|/)(layers|blocks)(/|$)", *, label: str = "layer", axis: int = 0
) -> Callable[[Any], Any]:
    """Labels each layer of a model that scans over its layers, and what is outside.

    Args:
      pattern: regular expression, searched for in a leaf's path, whose parts are
        joined by ``/``. It matches the leaves that hold all layers.
      label: the name of their groups ``label_0``, ``label_1``, ...
      axis: the axis of those leaves along which the layers lie; it is 1 in MaxText.

    Returns:
      A label function: `Stacked` where the pattern matches, and elsewhere
      ``"embeddings"`` and ``"output"`` as in `by_layer`.

    Raises:
      ValueError: a pattern that does not compile; when traced, one that matches no
        leaf.

    Example:
      >>> import jax.numpy as jnp, optax_armijo
      >>> params = {"embed": jnp.ones(2), "layers": {"w": jnp.ones((3, 2))}}
      >>> tx = optax_armijo.armijo_adam(by_stacked_layer())
      >>> optax_armijo.armijo_info(tx.init(params)).labels
      ('embeddings', 'layer_0', 'layer_1', 'layer_2')
    """
    regex, stacked = _compile("pattern", pattern), Stacked(label, axis)

    def label_paths(paths: Sequence[Path]) -> list[Any]:
        shared = _num_shared(paths)
        labels = [
            stacked if regex.search("/".join(path)) else _outside_label(path, shared)
            for path in paths
        ]
        if stacked not in labels:
            raise ValueError(
                f"pattern must match the path of a leaf; got {pattern!r}, and the "
                f"paths are {_listed(paths)}"
            )
        return labels

    return lambda params: _label_paths(params, label_paths)


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(map("/".join, paths))


def _compile(name: str, regex: str) -> re.Pattern[str]:
    try:
        return re.compile(regex)
    except re.error as error:
        raise ValueError(
            f"{name} must be a regular expression; got {regex!r}: {error}"
        ) from error


def _label_paths(params: Any, label_paths: Callable[[Sequence[Path]], Any]) -> Any:
    paths = [path for path, _ in paths_and_leaves(params)]
    return jax.tree.structure(params).unflatten(label_paths(paths))


class _Layer(NamedTuple):
    """A numbered part of a path: ``("encoder", "block_")`` and 3 for ``block_3``."""

    family: Path
    number: int


def _label_layers(paths: Sequence[Path]) -> list[str]:
    """Returns a label for each leaf's path: see `by_layer`."""
    layers = _layers(paths)
    families = {layer.family for layer in layers if layer is not None}
    shared = _num_shared(paths)
    if not families:
        return _label_parts(paths, shared)

    def label(path: Path, layer: _Layer | None) -> str:
        if layer is not None:
            family = "layer" if len(families) == 1 else _name(layer.family)
            return f"{family}_{layer.number}"
        outside = _outside_label(path, shared)
        is_at_top = len(path) == shared + 1 and outside == "output"
        return path[-1] if is_at_top else outside

    return [*map(label, paths, layers)]


def _num_shared(paths: Sequence[Path]) -> int:
    """Counts the names that all paths begin with."""
    return len([*takewhile(lambda x: len({*x}) == 1, zip(*paths, strict=False))])


def _label_parts(paths: Sequence[Path], shared: int) -> list[str]:
    """Labels each leaf by the first name in which the paths differ."""
    labels = [path[shared] if len(path) > shared else "all" for path in paths]
    return labels if len(set(labels)) <= MOST_PARTS else [NO_LAYERS] * len(paths)


def _layers(paths: Sequence[Path]) -> list[_Layer | None]:
    """Returns the layer that each leaf is in; None outside all layers."""
    candidates = [_numbered_parts(path) for path in paths]
    members = Counter(layer.family for layer in {x for row in candidates for x in row})
    return [_largest_family(row, members) for row in candidates]


def _numbered_parts(path: Path) -> list[_Layer]:
    """Returns every part of a path that ends in a number, outermost first."""
    layers = []
    for i, part in enumerate(path):
        match = re.fullmatch(r"(.*?)(\d+)", part)
        if match:
            # Leaves with the same number belong together: w1 and b1, w2 and b2.
            stem = "" if i == len(path) - 1 else match[1]
            layers.append(_Layer((*path[:i], stem), int(match[2])))
    return layers


def _largest_family(layers: list[_Layer], members: Counter[Path]) -> _Layer | None:
    """Returns the layer of the largest family; None unless it has two members."""
    if not layers:
        return None
    largest = max(layers, key=lambda layer: members[layer.family])
    return largest if members[largest.family] >= 2 else None


def _outside_label(path: Path, shared: int) -> str:
    """Returns the label of a leaf outside all layers, by the names not all share."""
    own = path[min(shared, len(path) - 1) :]
    before = any(map(_OUTSIDE_BEFORE.search, own))
    return "embeddings" if before else "output"


def _name(family: Path) -> str:
    return ".".join(part.rstrip("_.-") for part in family if part)
