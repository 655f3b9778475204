"""What is timed: a loss, its params and one batch of it.

The BERT example's step on real tweets, a wide multi-layer perceptron, and a language
model of four layers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from batches import encode, train_batches
from bert import load_bert, load_pretrained
from flax import nnx
from text_data import load_data
from train_language_model import CONTEXT, LanguageModel, bits_per_byte


class Problem(NamedTuple):
    """A loss to step on.

    Attributes:
      loss_fn: ``(params, batch) -> loss``.
      params: where to begin.
      batch: the one batch, always the same.
    """

    loss_fn: Callable[[Any, Any], jax.Array]
    params: Any
    batch: Any


def bert(batch_size: int = 32, length: int = 48) -> Problem:
    """MiniLM with its pretrained weights on tweets, no dropout."""
    data = load_data("tweets", train_size=batch_size, validation_size=9)
    pretrained = load_pretrained("minilm")
    model = load_bert(pretrained.config, pretrained.tensors, len(data.labels), seed=0)
    graphdef, params = nnx.split(model, nnx.Param)
    rows = encode(pretrained.tokenizer, data.train, data.labels, length)

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        model = nnx.merge(graphdef, params)
        logits = model(batch.input_ids, batch.attention_mask, batch.token_type_ids)
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, batch.labels
        ).mean()

    batch = next(iter(train_batches(rows, batch_size, length, 0, 0)))
    return Problem(loss_fn, params, batch)


def perceptron(width: int = 2048, num_layers: int = 4, rows: int = 128) -> Problem:
    """Dense layers of one width, on noise."""
    rng = np.random.default_rng(0)
    params = {
        f"layer_{i}": {
            "kernel": rng.normal(size=(width, width)) * (2 / width) ** 0.5,
            "bias": np.zeros(width),
        }
        for i in range(num_layers)
    }
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    x, y = (jnp.asarray(rng.normal(size=(rows, width)), jnp.float32) for _ in "xy")

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        x, y = batch
        for layer in params.values():
            x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
        return jnp.mean((x - y) ** 2)

    return Problem(loss_fn, params, (x, y))


def language_model(width: int = 256, num_layers: int = 4, rows: int = 16) -> Problem:
    """The causal Transformer over bytes of `train_language_model.py`, wider."""
    model = LanguageModel(width, num_layers, nnx.Rngs(0))
    graphdef, params = nnx.split(model, nnx.Param)
    windows = np.random.default_rng(0).integers(256, size=(rows, CONTEXT + 1))

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        return bits_per_byte(nnx.merge(graphdef, params), batch)

    return Problem(loss_fn, params, jnp.asarray(windows, jnp.uint8))


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "BERT, 32 x 48": bert,
    "perceptron": perceptron,
    "language model": language_model,
}
