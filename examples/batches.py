"""Tokenised rows, and batches of them in few shapes.

Each shape is a program to compile, so rows are padded to one of `BUCKETS` and a last,
partial batch is filled up with rows of weight 0.
Shapes: B rows, L tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from text_data import Row

BUCKETS = (32, 64, 128, 256, 512)


class Encoded(NamedTuple):
    """One tokenised row."""

    input_ids: np.ndarray  # int32 [tokens]
    token_type_ids: np.ndarray  # int32 [tokens]
    label: int


class Batch(NamedTuple):
    """The arrays of a batch. It is a pytree."""

    input_ids: np.ndarray  # int32 [B, L]
    attention_mask: np.ndarray  # int32 [B, L], 1 for tokens, 0 for padding
    token_type_ids: np.ndarray  # int32 [B, L]
    labels: np.ndarray  # int32 [B]
    weights: np.ndarray  # float32 [B], 0 for rows that fill up the batch


def encode(
    tokenizer: Any, rows: Sequence[Row], labels: Sequence[str], max_length: int
) -> list[Encoded]:
    """Tokenises rows, truncated to `max_length` tokens, pairs at the longer text."""
    number = {label: i for i, label in enumerate(labels)}
    options = {"truncation": True, "max_length": max_length}

    def encode_row(row: Row) -> Encoded:
        tokens = tokenizer(*row[:2], return_token_type_ids=True, **options)
        both = tokens["input_ids"], tokens["token_type_ids"]
        ids, types = np.asarray(both, np.int32)
        return Encoded(ids, types, number[row.label])

    return [encode_row(row) for row in rows]


def train_batches(
    rows: Sequence[Encoded], batch_size: int, max_length: int, seed: int, epoch: int
) -> Iterator[Batch]:
    """Yields an epoch's batches in an order that depends on (seed, epoch) only."""
    order = np.random.default_rng((seed, epoch)).permutation(len(rows))
    for i in range(0, len(rows), batch_size):
        chosen = [rows[j] for j in order[i : i + batch_size]]
        yield pad_batch(chosen, batch_size, max_length)


def eval_batches(
    rows: Sequence[Encoded], batch_size: int, max_length: int
) -> Iterator[Batch]:
    """Yields all rows, short ones first, which needs less padding."""
    ordered = sorted(rows, key=lambda row: len(row.input_ids))
    for i in range(0, len(rows), batch_size):
        yield pad_batch(ordered[i : i + batch_size], batch_size, max_length)


def pad_batch(rows: Sequence[Encoded], batch_size: int, max_length: int) -> Batch:
    """Pads rows to the next of `BUCKETS`, and the batch to `batch_size` rows."""
    weights = np.zeros(batch_size, np.float32)
    weights[: len(rows)] = 1.0
    # Copies of a real row: the model sees no mask without tokens.
    rows = [*rows, *[rows[0]] * (batch_size - len(rows))]
    longest = max(len(row.input_ids) for row in rows)
    length = min([max_length, *(size for size in BUCKETS if longest <= size)])

    def stack(values: Iterable[np.ndarray]) -> np.ndarray:
        # 0 is [PAD] in BERT's vocabularies; the mask hides it from attention anyway.
        return np.stack([np.pad(x, (0, length - len(x))) for x in values])

    return Batch(
        input_ids=stack(row.input_ids for row in rows),
        attention_mask=stack(np.ones_like(row.input_ids) for row in rows),
        token_type_ids=stack(row.token_type_ids for row in rows),
        labels=np.array([row.label for row in rows], np.int32),
        weights=weights,
    )
