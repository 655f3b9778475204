"""Texts to classify, by a pretrained BERT or its first layers, as in the example."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from batches import Batch, Encoded, encode, eval_batches, train_batches
from bert import BertClassifier
from bert_weights import load_bert
from flax import nnx
from pretrained import load_pretrained
from task import EVAL_BATCH_SIZE, Setup, Task, scores
from text_data import Sizes, load_data


class Size(NamedTuple):
    """How much of the pretrained model a task trains."""

    num_layers: int | None
    max_length: int


SIZES = {"small": Size(3, 32), "full": Size(None, 48)}
VALIDATION = {"tweets": 4000, "bbc": 1000}


def text_task(source: str, num_train: int, size: Size, setup: Setup) -> Task:
    """Classification of short texts by a pretrained BERT, as in the example.

    The seed draws the classifier's weights, the order of the rows and which rows are
    trained on; the validation rows are the same in every run.
    """
    pretrained = load_pretrained("minilm", size.num_layers)
    held_out = VALIDATION[source]

    @functools.lru_cache(maxsize=1)
    def rows_of(seed: int) -> tuple[list[Encoded], list[Encoded], int]:
        data = load_data(source, Sizes(num_train, held_out), seed)
        train, validation = (
            encode(pretrained.tokenizer, rows, data.labels, size.max_length)
            for rows in (data.train, data.validation)
        )
        return train, validation, len(data.labels)

    train, validation, num_classes = rows_of(0)

    def new_model(seed: int) -> BertClassifier:
        return load_bert(pretrained.config, pretrained.tensors, num_classes, seed)

    graphdef = nnx.graphdef(new_model(0))

    def losses_and_hits(
        params: Any, batch: Batch, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        dtype = jnp.dtype(setup.compute)
        model = nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(dtype), params))
        rngs = None if key is None else nnx.Rngs(dropout=key)
        ids, mask, types = batch.input_ids, batch.attention_mask, batch.token_type_ids
        logits = model(ids, mask, types, rngs).astype(jnp.float32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        hits = logits.argmax(axis=-1) == batch.labels
        return jnp.asarray(losses) * batch.weights, hits * batch.weights

    def loss_fn(params: Any, batch: Batch, key: jax.Array) -> jax.Array:
        losses, _ = losses_and_hits(params, batch, key if setup.dropout else None)
        return losses.sum() / batch.weights.sum()

    @jax.jit
    def sums(params: Any, batch: Batch) -> jax.Array:
        losses, hits = losses_and_hits(params, batch, None)
        return jnp.stack([hits.sum(), losses.sum(), batch.weights.sum()])

    def evaluate(params: Any, num_rows: int | None) -> dict[str, float]:
        batches = eval_batches(validation[:num_rows], EVAL_BATCH_SIZE, size.max_length)
        return scores(sums(params, batch) for batch in batches)

    return Task(
        init=lambda seed: nnx.state(new_model(seed), nnx.Param),
        loss_fn=loss_fn,
        batches=lambda seed, epoch: train_batches(
            rows_of(seed)[0], setup.batch_size, size.max_length, seed, epoch
        ),
        steps_per_epoch=-(-len(train) // setup.batch_size),
        evaluate=evaluate,
        num_rows=(len(train), len(validation)),
    )
