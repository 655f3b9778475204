"""The params of the example's BERT under Hugging Face's names, and back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bert import LEAVES, checkpoint_name


def to_weights(params: Any) -> dict[str, np.ndarray]:
    """Names leaves as ``BertForSequenceClassification`` does; matrices transposed."""
    return {
        _name(path): np.asarray(leaf).T if _is_matrix(path) else np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(params)
    }


def from_weights(weights: dict[str, np.ndarray], like: Any) -> Any:
    """Puts weights where `to_weights` has found those of `like`."""

    def leaf(path: tuple[Any, ...], old: jax.Array) -> jax.Array:
        weight = weights[_name(path)]
        # A copy, which a step may be given for good.
        return jnp.array(weight.T if _is_matrix(path) else weight, old.dtype)

    return jax.tree_util.tree_map_with_path(leaf, like)


def _parts(path: tuple[Any, ...]) -> list[Any]:
    return [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]


def _name(path: tuple[Any, ...]) -> str:
    module, *_, leaf = parts = _parts(path)
    if module == "classifier":
        return f"classifier.{LEAVES[leaf]}"
    return f"bert.{checkpoint_name(parts)}"


def _is_matrix(path: tuple[Any, ...]) -> bool:
    """Whether PyTorch keeps it as [outputs, inputs], unlike Flax."""
    return _parts(path)[-1] == "kernel"
