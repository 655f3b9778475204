"""Tokenised rows, and batches of them in few shapes.

Each shape is a program to compile, so rows are padded to one of `BUCKETS` and a last,
partial batch is filled up with rows of weight 0.
Shapes: B rows, L tokens.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from readers import Row

BUCKETS = (32, 64, 128, 256, 512)


class Encoded(NamedTuple):
    """One tokenised row."""

    input_ids: np.ndarray  # int32 [tokens]
    token_type_ids: np.ndarray  # int32 [tokens]
    label: int


class Batch(NamedTuple):
    """What a step sees. It is a pytree."""

    input_ids: np.ndarray  # int32 [B, L]
    attention_mask: np.ndarray  # int32 [B, L], 1 for tokens, 0 for padding
    token_type_ids: np.ndarray  # int32 [B, L]
    labels: np.ndarray  # int32 [B]
    weights: np.ndarray  # float32 [B], 0 for rows that fill up the batch


def encode(
    tokenizer: Any, rows: Sequence[Row], labels: Sequence[str], max_length: int
) -> list[Encoded]:
    """Tokenises rows, cut to `max_length` tokens; pairs lose from the longer text."""
    number = {label: i for i, label in enumerate(labels)}

    def encode_row(row: Row) -> Encoded:
        tokens = tokenizer(
            row.text,
            row.text_pair,
            truncation=True,
            max_length=max_length,
            padding=False,
            return_token_type_ids=True,
        )
        return Encoded(
            np.asarray(tokens["input_ids"], np.int32),
            np.asarray(tokens["token_type_ids"], np.int32),
            number[row.label],
        )

    return [encode_row(row) for row in rows]


def train_batches(
    rows: Sequence[Encoded], batch_size: int, max_length: int, seed: int, epoch: int
) -> Iterator[Batch]:
    """Yields an epoch's batches in an order that (seed, epoch) alone decide."""
    order = np.random.default_rng((seed, epoch)).permutation(len(rows))
    return _batches([rows[i] for i in order], batch_size, max_length)


def eval_batches(
    rows: Sequence[Encoded], batch_size: int, max_length: int
) -> Iterator[Batch]:
    """Yields all rows, short ones first: less padding, and no need for an order."""
    ordered = sorted(rows, key=lambda row: len(row.input_ids))
    return _batches(ordered, batch_size, max_length)


def _batches(
    rows: Sequence[Encoded], batch_size: int, max_length: int
) -> Iterator[Batch]:
    for start in range(0, len(rows), batch_size):
        yield pad_batch(rows[start : start + batch_size], batch_size, max_length)


def pad_batch(rows: Sequence[Encoded], batch_size: int, max_length: int) -> Batch:
    """Pads rows to the next bucket, and the batch to `batch_size` rows."""
    weights = np.zeros(batch_size, np.float32)
    weights[: len(rows)] = 1.0
    # Copies of a real row: the model sees no mask without tokens.
    rows = [*rows, *[rows[0]] * (batch_size - len(rows))]
    length = bucket(max(len(row.input_ids) for row in rows), max_length)
    masks = [_pad(np.ones_like(row.input_ids), length) for row in rows]
    return Batch(
        input_ids=np.stack([_pad(row.input_ids, length) for row in rows]),
        attention_mask=np.stack(masks),
        token_type_ids=np.stack([_pad(row.token_type_ids, length) for row in rows]),
        labels=np.array([row.label for row in rows], np.int32),
        weights=weights,
    )


def bucket(length: int, max_length: int) -> int:
    """The smallest of `BUCKETS` that `length` fits in, `max_length` at most.

    Example:
      >>> bucket(33, max_length=128), bucket(33, max_length=48)
      (64, 48)
    """
    return min([max_length, *(size for size in BUCKETS if length <= size)])


def _pad(values: np.ndarray, length: int) -> np.ndarray:
    # 0 is [PAD] in BERT's vocabularies; the mask hides it from attention anyway.
    return np.pad(values, (0, length - len(values)))
