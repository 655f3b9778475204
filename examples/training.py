"""Shared by the programs that fine-tune: options, rows and model, loss and scores."""

import argparse
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from batches import Batch, encode, eval_batches, train_batches
from bert import DEFAULT_MODEL, BertClassifier, load_bert, load_pretrained
from command_line import Parser, UserError
from compiling import Announced
from flax import nnx
from text_data import FILE_TASK, POOLS, TASKS, TRAIN_SIZE, TextData, load_data

# But 64 for tweets, of which 1 in 200 is longer: that would be one more program.
MAX_LENGTH = 128
BATCH_SIZE, EVAL_BATCH_SIZE = 32, 50


class Job(NamedTuple):
    """Rows, the model to train on them, and an epoch's batches, counted from 0."""

    data: TextData
    model: BertClassifier
    batch_size: int
    steps_per_epoch: int
    train_batches: Callable[[int], Iterator[Batch]]
    eval_batches: Callable[[], Iterator[Batch]]


def make_parser(doc: str | None) -> Parser:
    """Returns a parser of the options on data, model and training."""
    parser = Parser(doc)
    text = "tweets, bbc, one of GLUE, or file (default tweets; with --train-file, file)"
    parser.add_argument("--task", choices=TASKS, help=text)
    text = ".csv, .tsv or .jsonl with text, label, optionally text_pair; or GLUE's .tsv"
    parser.add_path("--train-file", text)
    text = "another file to validate on (default: some of --train-file)"
    parser.add_path("--validation-file", text)
    for column in ("text", "label"):
        text = f"the column of the {column}s in your files (default {column})"
        parser.add_argument(f"--{column}-column", metavar="NAME", help=text)
    text = "training examples, 0 for all"
    parser.add_count("--train-size", TRAIN_SIZE, text, least=0)
    text = "validation examples, 0 for all (default 1000, at most a fifth of the file)"
    parser.add_count("--validation-size", None, text, least=0)
    text = f"tokens in a row at most (default {MAX_LENGTH}, for tweets 64)"
    parser.add_count("--max-length", None, text)
    text = "minilm, a folder or a Hugging Face name of a BERT (default %(default)s)"
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME", help=text)
    parser.add_count("--num-layers", None, "only the first layers, for quick trials")
    parser.add_count("--epochs", 5, "passes over the training examples")
    text = f"examples per step (default {BATCH_SIZE}, or all if there are fewer)"
    parser.add_count("--batch-size", None, text)
    text = "seed of classifier, order of examples and dropout"
    parser.add_count("--seed", 0, text, least=0)
    return parser


def parse(parser: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line, and fills in what depends on the task."""
    options = parser.parse_args(argv)
    files = options.train_file, options.validation_file
    task = options.task = options.task or (FILE_TASK if any(files) else TASKS[0])
    if task in POOLS and any(files):
        raise UserError(f"--task {task} reads no --train-file or --validation-file")
    if task != FILE_TASK and (options.text_column or options.label_column):
        raise UserError(f"--task {task} takes no --text-column or --label-column")
    options.max_length = options.max_length or (64 if task == "tweets" else MAX_LENGTH)
    return options


def prepare(options: argparse.Namespace) -> Job:
    """Loads rows and model as the options say."""
    files = options.train_file, options.validation_file
    sizes = options.train_size, options.validation_size
    columns = {"text": options.text_column, "label": options.label_column}
    data = load_data(options.task, *sizes, *files, **columns)
    num_rows, limit, seed = len(data.train), options.max_length, options.seed
    size = options.batch_size or min(BATCH_SIZE, num_rows)
    if size > num_rows:
        raise UserError(f"--batch-size {size}: only {num_rows} examples to train on")
    # A multiple, so that devices that share training batches share these too.
    eval_size = size * max(1, EVAL_BATCH_SIZE // size)
    config, tokenizer, tensors = load_pretrained(options.model, options.num_layers)
    if limit > (has := config.max_position_embeddings):
        raise UserError(f"--max-length {limit}: the model has {has} positions")
    train, validation = (
        encode(tokenizer, rows, data.labels, limit)
        for rows in (data.train, data.validation)
    )
    return Job(
        data=data,
        model=load_bert(config, tensors, len(data.labels), seed),
        batch_size=size,
        steps_per_epoch=-(-num_rows // size),
        train_batches=lambda epoch: train_batches(train, size, limit, seed, epoch),
        eval_batches=lambda: eval_batches(validation, eval_size, limit),
    )


def log_losses(logits: jax.Array, batch: Batch) -> jax.Array:
    """Weighted cross entropies, [B]."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    return jnp.asarray(losses) * batch.weights


def mean_loss(model: BertClassifier, batch: Batch, key: jax.Array) -> jax.Array:
    """The mean over a batch's rows, with the dropout masks of `key`.

    The gradient and all trials of a step see the same masks. With new masks for each
    trial, trials would not measure the same function.
    """
    ids, mask, types = map(jnp.asarray, batch[:3])
    logits = model(ids, mask, types, nnx.Rngs(dropout=key))
    return log_losses(logits, batch).sum() / batch.weights.sum()


@functools.partial(Announced, name="validation")
@functools.partial(jax.jit, static_argnums=0)
def sums(graphdef: Any, params: Any, batch: Batch) -> tuple[jax.Array, ...]:
    """Sums over a batch: of hits, log losses, their squares, and weights (0 or 1)."""
    logits = nnx.merge(graphdef, params)(*batch[:3])
    hits = (logits.argmax(axis=-1) == batch.labels) * batch.weights
    losses = log_losses(logits, batch)
    return hits.sum(), losses.sum(), (losses**2).sum(), batch.weights.sum()


def evaluate(graphdef: Any, params: Any, batches: Iterable[Batch]) -> dict[str, float]:
    """Averages accuracy and log loss over rows, with the standard errors."""
    found = [jax.device_get(sums(graphdef, params, batch)) for batch in batches]
    hits, log_loss, squares, rows = np.sum(found, axis=0, dtype=float).tolist()
    accuracy, log_loss = hits / rows, log_loss / rows
    variances = accuracy * (1.0 - accuracy), max(0.0, squares / rows - log_loss**2)
    errors = [(variance / rows) ** 0.5 for variance in variances]
    names = "accuracy", "log_loss", "accuracy_error", "log_loss_error"
    return dict(zip(names, (accuracy, log_loss, *errors), strict=True))
