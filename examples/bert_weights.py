"""Hugging Face's BERT weights, put into the modules of `bert`."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bert import ACTIVATIONS, BertClassifier
from errors import UserError
from flax import nnx
from transformers import BertConfig

# Our path of a module -> its name in the checkpoint.
MODULES = {
    "embeddings/word": "embeddings.word_embeddings",
    "embeddings/position": "embeddings.position_embeddings",
    "embeddings/token_type": "embeddings.token_type_embeddings",
    "embeddings/norm": "embeddings.LayerNorm",
    "layers/*/attention/query": "encoder.layer.*.attention.self.query",
    "layers/*/attention/key": "encoder.layer.*.attention.self.key",
    "layers/*/attention/value": "encoder.layer.*.attention.self.value",
    "layers/*/attention/output": "encoder.layer.*.attention.output.dense",
    "layers/*/attention_norm": "encoder.layer.*.attention.output.LayerNorm",
    "layers/*/intermediate": "encoder.layer.*.intermediate.dense",
    "layers/*/output": "encoder.layer.*.output.dense",
    "layers/*/output_norm": "encoder.layer.*.output.LayerNorm",
    "pooler": "pooler.dense",
}
LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias"}


def load_bert(
    config: BertConfig, tensors: Mapping[str, np.ndarray], num_classes: int, seed: int
) -> BertClassifier:
    """Builds the model of `config` with pretrained weights and a new classifier.

    Args:
      config: sizes; with fewer layers than `tensors` hold, the first ones are used.
      tensors: names in the checkpoint, with or without a leading ``bert.``, -> arrays.
      num_classes: width of the classifier.
      seed: of the classifier's initial weights.

    Raises:
      UserError: a kind of BERT that `bert` is not; a weight missing or misshapen.
    """
    _check_config(config)
    tensors = {_plain_name(name): tensor for name, tensor in tensors.items()}
    pooler = "pooler.dense.weight" in tensors
    model = BertClassifier(config, num_classes, nnx.Rngs(seed), pooler)

    def pretrained(path: tuple[Any, ...], old: jax.Array) -> jax.Array:
        parts = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        return old if parts[0] == "classifier" else _tensor(tensors, parts, old.shape)

    params = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree_util.tree_map_with_path(pretrained, params))
    return model


def _check_config(config: BertConfig) -> None:
    positions = getattr(config, "position_embedding_type", "absolute")
    if config.hidden_act not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UserError(f"hidden_act {config.hidden_act!r} is not one of {known}")
    if positions not in (None, "absolute"):
        raise UserError(f"position_embedding_type {positions!r} is not 'absolute'")


def _plain_name(name: str) -> str:
    """Drops the prefix of task models and today's names for the norms' weights."""
    name = name.removeprefix("bert.")
    # Checkpoints converted from TensorFlow, bert-base-uncased among them.
    return re.sub(
        r"LayerNorm\.(gamma|beta)$",
        lambda match: "LayerNorm." + {"gamma": "weight", "beta": "bias"}[match[1]],
        name,
    )


def checkpoint_name(parts: list[Any]) -> str:
    """Names one of our leaves as the checkpoint does.

    Example:
      >>> checkpoint_name(["layers", 3, "attention", "query", "kernel"])
      'encoder.layer.3.attention.self.query.weight'
    """
    *module, leaf = map(str, parts)
    numbers = [part for part in module if part.isdigit()]
    pattern = "/".join("*" if part.isdigit() else part for part in module)
    name = MODULES[pattern].replace("*", "".join(numbers))
    return f"{name}.{LEAVES[leaf]}"


def _tensor(
    tensors: Mapping[str, np.ndarray], parts: list[Any], shape: tuple[int, ...]
) -> jax.Array:
    name = checkpoint_name(parts)
    if name not in tensors:
        raise UserError(f"the checkpoint has no weight {name!r}: is it a BERT?")
    # PyTorch keeps a dense layer's matrix as [outputs, inputs].
    tensor = tensors[name].T if parts[-1] == "kernel" else tensors[name]
    if tensor.shape != shape:
        raise UserError(
            f"weight {name!r} has shape {tensor.shape}, config.json says {shape}"
        )
    return jnp.asarray(tensor, jnp.float32)
