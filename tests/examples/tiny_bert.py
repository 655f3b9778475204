"""A tiny BERT and its checkpoint."""

import json
from pathlib import Path

import jax
import numpy as np
from bert import BertClassifier, checkpoint_name
from flax import nnx
from safetensors.numpy import save_file
from transformers import BertConfig

TINY = BertConfig(
    vocab_size=28,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=40,
    initializer_range=0.2,
)
WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] good fine great bad poor awful a the film".split()
)


def tiny_tensors(config: BertConfig = TINY, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under the names of a Hugging Face checkpoint."""
    model = BertClassifier(config, 2, nnx.Rngs(seed))
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(model, nnx.Param)):
        parts = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        if parts[0] != "classifier":
            array = np.asarray(leaf.T if parts[-1] == "kernel" else leaf)
            tensors[checkpoint_name(parts)] = np.ascontiguousarray(array)
    return tensors


def write_checkpoint(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    """Writes a tiny checkpoint like those on the hub, with a tokenizer for `WORDS`."""
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(TINY.to_dict()))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
