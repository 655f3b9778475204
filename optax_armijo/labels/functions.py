"""Ready ways to split params into groups, from tree paths alone.

They work on nested dicts, lists, Flax Linen params, Flax NNX state and any other
pytree whose paths name its parts.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from optax_armijo.labels.layers import NO_LAYERS, label_layers, outside_label
from optax_armijo.labels.paths import Path, natural_key, path_parts
from optax_armijo.labels.special import Stacked


def one_group(params: Any) -> Any:
    """Labels every leaf ``"all"``: one step size for the whole of params.

    Example:
      >>> one_group({"a": 1.0, "b": [2.0, 3.0]})
      {'a': 'all', 'b': ['all', 'all']}
    """
    return jax.tree.map(lambda _: "all", params)


def by_layer(params: Any) -> Any:
    """Labels embeddings, each numbered layer, and what comes after them.

    A layer is found where siblings differ by a number alone: ``layers/0`` and
    ``layers/1``, ``Block_0`` and ``Block_1``, the items of a list. Of several such
    families on one path the one with the most members counts, the outer one where
    they are equal. Leaves outside every layer are ``"embeddings"`` when a part of
    their path speaks of embedding, position, patches or a stem, else ``"output"``.

    Args:
      params: any pytree; only its paths are read.

    Returns:
      A pytree of labels like `params`: ``"embeddings"``, ``"layer_0"``, ...,
      ``"output"``; with several families of layers their paths stand for
      ``"layer"``. Every leaf is ``"all (no layers found)"`` when there are none.

    Example:
      >>> params = {"embed": 0.0, "blocks": [{"w": 0.0}, {"w": 0.0}], "head": 0.0}
      >>> by_layer(params)["blocks"]
      [{'w': 'layer_0'}, {'w': 'layer_1'}]
      >>> by_layer(params)["embed"], by_layer(params)["head"]
      ('embeddings', 'output')
      >>> by_layer({"w": 0.0, "b": 0.0})["w"]
      'all (no layers found)'
    """
    return _label_paths(params, label_layers)


def by_depth(num_groups: int) -> Callable[[Any], Any]:
    """Splits the layers into even runs: the split of arXiv 2403.18506, section 3.

    The first group is the embeddings, the last the output, and the layers between
    are cut by depth into ``num_groups - 2`` runs whose lengths differ by one at most.

    Args:
      num_groups: how many groups in all, 3 or more. With fewer layers than
        ``num_groups - 2`` each layer is a group.

    Returns:
      A label function: ``"embeddings"``, ``"depth_0"``, ..., ``"output"``.

    Raises:
      ValueError: `num_groups` below 3.

    Example:
      >>> params = {"embed": 0.0, "blocks": [0.0, 0.0, 0.0, 0.0], "head": 0.0}
      >>> by_depth(4)(params)["blocks"]
      ['depth_0', 'depth_0', 'depth_1', 'depth_1']
    """
    if num_groups < 3:
        raise ValueError(f"num_groups must be 3 or more; got {num_groups}")

    def label_paths(paths: Sequence[Path]) -> list[str]:
        labels = label_layers(paths)
        outside = {"embeddings", "output", NO_LAYERS}
        layers = sorted(set(labels) - outside, key=natural_key)
        runs = min(num_groups - 2, len(layers))
        depth = {
            layer: f"depth_{i * runs // len(layers)}" for i, layer in enumerate(layers)
        }
        return [depth.get(label, label) for label in labels]

    return lambda params: _label_paths(params, label_paths)


def by_attention(params: Any) -> Any:
    """Labels query, key and value weights, all layers together, and the rest.

    A leaf belongs to ``"query"`` when a part of its path is ``query``, ``q``,
    ``q_proj`` or alike; the same for key and value. This is the second split that
    arXiv 2403.18506 tries.

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
        parts are joined by ``/``. The first that matches gives the label.
      default: the label of leaves that none matches. `FROZEN` freezes them.

    Returns:
      A label function.

    Raises:
      ValueError: an expression that does not compile, with its label.

    Example:
      >>> label = by_pattern({"norms": "norm|bias"}, default="weights")
      >>> label({"norm1": {"scale": 0.0}, "dense": {"kernel": 0.0}})
      {'dense': {'kernel': 'weights'}, 'norm1': {'scale': 'norms'}}
    """
    compiled = {label: _compile(label, regex) for label, regex in patterns.items()}

    def label_path(path: Path) -> str:
        text = "/".join(path)
        matches = (label for label, regex in compiled.items() if regex.search(text))
        return next(matches, default)

    return lambda params: _label_paths(params, lambda paths: map(label_path, paths))


def by_stacked_layer(
    pattern: str = r"(^|/)(layers|blocks)(/|$)", *, label: str = "layer", axis: int = 0
) -> Callable[[Any], Any]:
    """Labels each layer of a model that scans over its layers, and what is outside.

    Args:
      pattern: regular expression, searched for in a leaf's path, whose parts are
        joined by ``/``: the leaves that hold all layers.
      label: of their groups, ``label_0``, ``label_1``, ...
      axis: of those leaves, along which the layers lie; MaxText has 1.

    Returns:
      A label function: `Stacked` where the pattern matches, elsewhere
      ``"embeddings"`` and ``"output"`` as `by_layer` tells them.

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
    regex, stacked = _compile(label, pattern), Stacked(label, axis)

    def label_paths(paths: Sequence[Path]) -> list[Any]:
        labels = [
            stacked if regex.search("/".join(path)) else outside_label(path)
            for path in paths
        ]
        if stacked not in labels:
            raise ValueError(
                f"pattern must match the path of a leaf; got {pattern!r}, and the "
                f"paths are {', '.join(map('/'.join, paths))}"
            )
        return labels

    return lambda params: _label_paths(params, label_paths)


def _compile(label: str, regex: str) -> re.Pattern[str]:
    try:
        return re.compile(regex)
    except re.error as error:
        raise ValueError(
            f"patterns[{label!r}] must be a regular expression; got {regex!r}: {error}"
        ) from error


def _label_paths(params: Any, label_paths: Callable[[Sequence[Path]], Any]) -> Any:
    paths_and_leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    paths = [path_parts(path) for path, _ in paths_and_leaves]
    return treedef.unflatten(label_paths(paths))
