"""Tasks whose score is an accuracy: of texts, of digits, of the bytes of texts.

A pretrained BERT learns texts with all its weights or with LoRA adapters alone; the
others begin from random weights. Shapes: N rows, L tokens or bytes.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from batches import Batch, Encoded, encode, eval_batches, train_batches
from bert import BertClassifier, Pretrained, load_bert, load_pretrained
from finetune_lora import add_adapters
from flax import nnx
from sklearn.datasets import load_digits
from tasks import Setup, Task
from text_data import SPLIT_SEED, Row, draw, read_bbc, read_tweets, split_pool
from train_language_model import CONTEXT, LanguageModel, join

EVAL_BATCH_SIZE = 100
MAX_LENGTH = 32  # tokens: a tweet's median is 34, the news are cut to their beginnings
NUM_VALIDATION = {"news-2": 400, "news-3": 600, "passages-5": 300}  # texts; else 1,000
WORDS = {"passages-5": 60}  # of the passages into which a source's texts are cut
NUM_PASSAGES = 1000  # of the validation texts
NUM_TEST_DIGITS, NUM_TEST_TEXTS, NUM_TEST_WINDOWS = 360, 200, 500
NUM_WINDOWS = 2000  # that the language model trains on
WIDTH, NUM_LAYERS = 64, 2  # of the language model


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
    "tweets-positive": lambda: tweets(lambda x: x if x == "positive" else "other"),
    "tweets-negative": lambda: tweets(lambda x: x if x == "negative" else "other"),
    "news-5": news,
    "news-5-body": lambda: news(skip=100),
    "news-2": lambda: news("business", "politics"),
    "news-3": lambda: news("entertainment", "sports", "tech"),
    "passages-5": news,
}


class Texts(NamedTuple):
    """A source's rows, tokenised, and the number of classes."""

    train: Sequence[Encoded]
    validation: Sequence[Encoded]
    num_classes: int


def split(source: str) -> tuple[list[Row], list[Row]]:
    """Returns a source's pool of training rows, and its validation rows.

    Texts are split before they are cut, so that no text has passages in both. Some news
    were published twice with few changes: passages that they share are validated on.
    """
    pool, validation = split_pool(SOURCES[source](), NUM_VALIDATION.get(source, 1000))
    if source not in WORDS:
        return pool, validation
    pool, validation = (passages(rows, WORDS[source]) for rows in (pool, validation))
    known = {row.text for row in validation}
    pool = [row for row in pool if row.text not in known]
    return pool, draw(validation, NUM_PASSAGES, SPLIT_SEED)


def passages(rows: Sequence[Row], num_words: int) -> list[Row]:
    """Cuts texts into passages of so many words; what is left at an end is dropped.

    Example:
      >>> [row.text for row in passages([Row("a b c d e", None, "letters")], 2)]
      ['a b', 'c d']
    """
    return [
        row._replace(text=" ".join(words[i : i + num_words]))
        for row in rows
        for words in [row.text.split()]
        for i in range(0, len(words) - num_words + 1, num_words)
    ]


def mislabel(
    labels: np.ndarray, num_classes: int, share_wrong: float, seed: int
) -> np.ndarray:
    """Gives each label [N], with this probability, one of the other classes at random.

    Example:
      >>> mislabel(np.zeros(5, int), 2, 1.0, seed=0).tolist()
      [1, 1, 1, 1, 1]
    """
    if not share_wrong:
        return labels
    rng = np.random.default_rng((seed, SPLIT_SEED))
    is_wrong = rng.random(labels.shape) < share_wrong
    shift = rng.integers(1, num_classes, labels.shape, labels.dtype)
    return np.where(is_wrong, (labels + shift) % num_classes, labels)


@functools.lru_cache(maxsize=2)
def texts_of(source: str, num_train: int, seed: int, share_wrong: float = 0.0) -> Texts:
    """Draws training rows by the seed; the validation rows are always the same."""
    pool, validation = split(source)
    labels = sorted({row.label for row in pool})
    tokenizer = checkpoint().tokenizer
    train, validation = (
        encode(tokenizer, rows, labels, MAX_LENGTH)
        for rows in (draw(pool, num_train, seed), validation)
    )
    right = np.array([row.label for row in train])
    given = mislabel(right, len(labels), share_wrong, seed).tolist()
    train = [x._replace(label=label) for x, label in zip(train, given, strict=True)]
    return Texts(train, validation, len(labels))


@functools.cache
def checkpoint() -> Pretrained:
    return load_pretrained("minilm")


def fine_tuning(
    source: str, num_train: int, share_wrong: float = 0.0, *, setup: Setup
) -> Task:
    """Trains all weights; the seed draws rows, their order and the classifier.

    A share of the training labels is wrong, of the same rows throughout a run.
    """
    return _text_task(source, num_train, nnx.Param, setup, share_wrong=share_wrong)


def lora(source: str, num_train: int, rank: int = 8, *, setup: Setup) -> Task:
    """Trains adapters of a rank and the classifier; the checkpoint is frozen."""
    trained = nnx.Any(nnx.LoRAParam, nnx.PathContains("classifier"))
    task = _text_task(source, num_train, trained, setup, rank=rank)
    return task._replace(labels=lora_labels)


def lora_labels(params: Any) -> Any:
    """Labels each leaf ``A``, ``B`` or ``head``."""

    def label(path: Any, _: Any) -> str:
        names = [str(getattr(key, "key", key)) for key in path]
        if "classifier" in names:
            return "head"
        return "A" if "lora_a" in names else "B"

    return jax.tree_util.tree_map_with_path(label, params)


def _text_task(
    source: str,
    num_train: int,
    trained: Any,
    setup: Setup,
    *,
    rank: int = 0,
    share_wrong: float = 0.0,
) -> Task:
    size = setup.batch_size or 32

    def texts(seed: int) -> Texts:
        return texts_of(source, num_train, seed, share_wrong)

    def new_model(seed: int) -> BertClassifier:
        config, _, tensors = checkpoint()
        model = load_bert(config, tensors, texts(0).num_classes, seed)
        if rank:
            add_adapters(model, rank, nnx.Rngs(seed))
        return model

    def logits_of(model: Any, batch: Batch, rngs: nnx.Rngs | None) -> jax.Array:
        ids, mask, types = batch.input_ids, batch.attention_mask, batch.token_type_ids
        return model(ids, mask, types, rngs)

    def batches(seed: int, epoch: int) -> Iterator[Batch]:
        return train_batches(texts(seed).train, size, MAX_LENGTH, seed, epoch)

    validation = [*eval_batches(texts(0).validation, EVAL_BATCH_SIZE, MAX_LENGTH)]
    return _task(
        *(new_model, trained, logits_of, batches, validation, setup),
        steps_per_epoch=-(-len(texts(0).train) // size),
        num_epochs=5 if num_train < 5000 else 2,
    )


class Rows(NamedTuple):
    """Inputs and what is to be predicted of them, [N, ...] each."""

    inputs: np.ndarray
    labels: np.ndarray

    def at(self, index: Any) -> "Rows":
        return Rows(self.inputs[index], self.labels[index])


class Digits(nnx.Module):
    """Two convolutions and a linear classifier; nothing that batches leave behind."""

    def __init__(self, rngs: nnx.Rngs):
        self.narrow = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.wide = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.head = nnx.Linear(32 * 4, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """[N, 8, 8, 1] images -> logits [N, 10]."""
        x = images
        for layer in (self.narrow, self.wide):
            x = nnx.max_pool(nnx.relu(layer(x)), (2, 2), (2, 2))
        return self.head(x.reshape(x.shape[0], -1))


def digits(num_train: int, share_wrong: float = 0.0, *, setup: Setup) -> Task:
    """scikit-learn's 8 x 8 images of ten digits; 360 are validated on.

    A share of the training labels is wrong, of the same rows throughout a run.
    """
    pool, validation = digit_rows()
    return scratch_task(
        lambda seed: Digits(nnx.Rngs(seed)),
        *(pool, num_train, validation, setup, share_wrong),
    )


def digit_rows() -> tuple[Rows, Rows]:
    """Images [N, 8, 8, 1] in [0, 1] and their digits: a pool, and validation rows."""
    data: Any = load_digits()
    images = (data.images / 16.0).astype(np.float32)[..., None]
    rows = Rows(images, data.target.astype(np.int32))
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    validation, pool = np.split(order, [NUM_TEST_DIGITS])
    return rows.at(pool), rows.at(validation)


def language_model(source: str, *, setup: Setup) -> Task:
    """Windows of text, each byte to be predicted from those before it."""
    pool, validation = map(join, split_pool(SOURCES[source](), NUM_TEST_TEXTS))
    return scratch_task(
        lambda seed: LanguageModel(WIDTH, NUM_LAYERS, nnx.Rngs(seed)),
        windows(pool, min(20_000, len(pool) // CONTEXT)),
        NUM_WINDOWS,
        windows(validation, NUM_TEST_WINDOWS),
        setup,
    )


def windows(text: np.ndarray, number: int) -> Rows:
    """Cuts so many windows out of a text, evenly spaced: uint8 [N, L] and what follows.

    Example:
      >>> inputs, labels = windows(np.arange(200, dtype=np.uint8), 2)
      >>> inputs[:, 0].tolist(), labels[:, 0].tolist()
      ([0, 135], [1, 136])
    """
    starts = np.linspace(0, len(text) - CONTEXT - 1, number, dtype=int)
    cut = text[starts[:, None] + np.arange(CONTEXT + 1)]
    return Rows(cut[:, :-1], cut[:, 1:].astype(np.int32))


def scratch_task(
    new_model: Callable[[int], Any],
    pool: Rows,
    num_train: int,
    validation: Rows,
    setup: Setup,
    share_wrong: float = 0.0,
    trained: Any = nnx.Param,
) -> Task:
    """A task on arrays, of a module that maps inputs to logits, ``[..., classes]``.

    The seed draws rows from the pool, without replacement, and their order.
    """
    if setup.dropout:
        raise ValueError("dropout must be False for a task from scratch; got True")
    size, num_train = setup.batch_size or 32, min(num_train, len(pool.labels))

    def logits_of(model: Any, batch: Rows, rngs: None) -> jax.Array:
        inputs = jnp.asarray(batch.inputs)
        if jnp.issubdtype(inputs.dtype, jnp.floating):
            inputs = inputs.astype(setup.compute)
        return model(inputs)

    def batches(seed: int, epoch: int) -> Iterator[Rows]:
        rows = np.random.default_rng(seed).permutation(len(pool.labels))[:num_train]
        order = rows[np.random.default_rng((seed, epoch)).permutation(num_train)]
        given = mislabel(pool.labels, pool.labels.max() + 1, share_wrong, seed)
        for i in range(0, num_train - size + 1, size):
            yield pool._replace(labels=given).at(order[i : i + size])

    parts = [
        validation.at(slice(i, i + EVAL_BATCH_SIZE))
        for i in range(0, len(validation.labels), EVAL_BATCH_SIZE)
    ]
    return _task(
        *(new_model, trained, logits_of, batches, parts, setup),
        steps_per_epoch=num_train // size,
        num_epochs=5,
    )


def _task(
    new_model: Callable[[int], Any],
    trained: Any,
    logits_of: Callable[[Any, Any, Any], jax.Array],
    batches: Callable[[int, int], Iterator[Any]],
    validation: Sequence[Any],
    setup: Setup,
    *,
    steps_per_epoch: int,
    num_epochs: int,
) -> Task:
    """A task of a module; a batch has `labels`, and `weights` where it is filled up."""
    graphdef, _, frozen = nnx.split(new_model(0), trained, ...)

    def cast(x: jax.Array) -> jax.Array:
        is_real = jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(setup.compute) if is_real else x

    def sums(params: Any, batch: Any, key: jax.Array | None) -> tuple[jax.Array, ...]:
        """Sums of losses, hits and weights."""
        model = nnx.merge(graphdef, *jax.tree.map(cast, (params, frozen)))
        rngs = nnx.Rngs(dropout=key) if setup.dropout and key is not None else None
        logits = logits_of(model, batch, rngs).astype(jnp.float32)
        labels = jnp.asarray(batch.labels)
        weights = getattr(batch, "weights", jnp.ones(labels.shape))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        hits = logits.argmax(axis=-1) == labels
        return tuple(jnp.sum(x) for x in (losses * weights, hits * weights, weights))

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> jax.Array:
        loss, _, number = sums(params, batch, key)
        return loss / number

    sums_of_validation = jax.jit(lambda params, batch: sums(params, batch, None))

    def evaluate(params: Any) -> dict[str, float]:
        found = [sums_of_validation(params, batch) for batch in validation]
        loss, hits, number = np.sum(found, axis=0)
        return {"score": float(hits / number), "loss": float(loss / number)}

    return Task(
        init=lambda seed: nnx.state(new_model(seed), trained),
        loss_fn=loss_fn,
        batches=batches,
        steps_per_epoch=steps_per_epoch,
        num_epochs=num_epochs,
        evaluate=evaluate,
    )
