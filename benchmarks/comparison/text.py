"""Texts to classify by a pretrained BERT: all its weights, or LoRA adapters alone.

Shapes: B rows, L tokens.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from batches import Batch, Encoded, encode, eval_batches, train_batches
from bert import BertClassifier, Pretrained, load_bert, load_pretrained
from finetune_lora import add_adapters
from flax import nnx
from tasks import Setup, Task
from text_data import Row, draw, read_bbc, read_tweets, split_pool

EVAL_BATCH_SIZE = 100
MAX_LENGTH = 32  # tokens: a tweet's median is 34, the news are cut to their beginnings
NUM_VALIDATION = {"news-2": 400}
LORA_RANK = 8


def tweets(keep: Callable[[str], str | None] = lambda label: label) -> list[Row]:
    """The tweets with their labels renamed; those renamed to None are left out."""
    renamed = [row._replace(label=keep(row.label) or "") for row in read_tweets()]
    return [row for row in renamed if row.label]


def news(*topics: str, skip: int = 0) -> list[Row]:
    """News of some topics, all without names, from their `skip`-th word on."""
    return [
        row._replace(text=" ".join(row.text.split()[skip:]) or row.text)
        for row in read_bbc()
        if not topics or row.label in topics
    ]


SOURCES: dict[str, Callable[[], list[Row]]] = {
    "tweets": tweets,
    "tweets-polar": lambda: tweets(
        {"negative": "negative", "positive": "positive"}.get
    ),
    "tweets-neutral": lambda: tweets(
        {"negative": "opinion", "positive": "opinion", "neutral": "neutral"}.get
    ),
    "news-5": news,
    "news-5-body": lambda: news(skip=100),
    "news-2": lambda: news("business", "politics"),
}


class Rows(NamedTuple):
    """A source's rows, tokenised, and the number of classes."""

    train: Sequence[Encoded]
    validation: Sequence[Encoded]
    num_classes: int


@functools.lru_cache(maxsize=2)
def rows_of(source: str, num_train: int, seed: int) -> Rows:
    """Draws training rows by the seed; the validation rows are always the same."""
    pool, validation = split_pool(SOURCES[source](), NUM_VALIDATION.get(source, 1000))
    labels = sorted({row.label for row in pool})
    tokenizer = checkpoint(None).tokenizer
    train, validation = (
        encode(tokenizer, rows, labels, MAX_LENGTH)
        for rows in (draw(pool, num_train, seed), validation)
    )
    return Rows(train, validation, len(labels))


@functools.lru_cache(maxsize=1)
def checkpoint(num_layers: int | None) -> Pretrained:
    return load_pretrained("minilm", num_layers)


def fine_tuning(
    source: str, num_train: int, num_layers: int | None = None, *, setup: Setup
) -> Task:
    """Trains all weights; the seed draws rows, their order and the classifier."""
    config, _, tensors = checkpoint(num_layers)

    def new_model(seed: int) -> BertClassifier:
        return load_bert(config, tensors, rows_of(source, num_train, 0)[2], seed)

    return _task(source, num_train, new_model, nnx.Param, setup)


def lora(source: str, num_train: int, *, setup: Setup) -> Task:
    """Trains adapters of rank 8 and the classifier; the checkpoint is frozen."""
    config, _, tensors = checkpoint(None)

    def new_model(seed: int) -> BertClassifier:
        model = load_bert(config, tensors, rows_of(source, num_train, 0)[2], seed)
        add_adapters(model, LORA_RANK, nnx.Rngs(seed))
        return model

    trained = nnx.Any(nnx.LoRAParam, nnx.PathContains("classifier"))
    task = _task(source, num_train, new_model, trained, setup)
    return task._replace(labels=lora_labels)


def lora_labels(params: Any) -> Any:
    """Labels each leaf ``A``, ``B`` or ``head``."""

    def label(path: Any, _: Any) -> str:
        names = [str(getattr(key, "key", key)) for key in path]
        if "classifier" in names:
            return "head"
        return "A" if "lora_a" in names else "B"

    return jax.tree_util.tree_map_with_path(label, params)


def _task(
    source: str,
    num_train: int,
    new_model: Callable[[int], BertClassifier],
    trained: Any,
    setup: Setup,
) -> Task:
    batch_size = setup.batch_size or 32
    graphdef, _, frozen = nnx.split(new_model(0), trained, ...)
    num_rows = [len(rows) for rows in rows_of(source, num_train, 0)[:2]]

    def losses_and_hits(
        params: Any, batch: Batch, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        dtype = jnp.dtype(setup.compute)
        cast = [_cast(state, dtype) for state in (params, frozen)]
        model: Any = nnx.merge(graphdef, *cast)
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

    def evaluate(params: Any) -> dict[str, float]:
        rows = rows_of(source, num_train, 0).validation
        batches = eval_batches(rows, EVAL_BATCH_SIZE, MAX_LENGTH)
        hits, loss, number = np.sum([sums(params, x) for x in batches], axis=0)
        return {"score": float(hits / number), "loss": float(loss / number)}

    return Task(
        init=lambda seed: nnx.state(new_model(seed), trained),
        loss_fn=loss_fn,
        batches=lambda seed, epoch: train_batches(
            rows_of(source, num_train, seed).train, batch_size, MAX_LENGTH, seed, epoch
        ),
        steps_per_epoch=-(-num_rows[0] // batch_size),
        num_epochs=5 if num_train < 5000 else 2,
        evaluate=evaluate,
        num_rows=(num_rows[0], num_rows[1]),
    )


def _cast(state: Any, dtype: Any) -> Any:
    def cast(x: Any) -> Any:
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, state)
