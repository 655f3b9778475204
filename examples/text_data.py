"""The rows that a run trains and validates on: tasks and their fixed splits.

Where a task comes as one pool, as both default tasks do, its rows are freed of
repeated texts (a tweet and its retweets must not stand on both sides), shuffled with
`SPLIT_SEED`, and the first `validation_size` are the validation rows: they are the
same in every run. Training rows are drawn from the others with the data seed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from errors import UserError
from glue import GLUE, read_glue
from readers import Row, read_bbc, read_file, read_tweets

SPLIT_SEED = 2403_18506
POOLS = {"tweets": read_tweets, "bbc": read_bbc}
FILE_TASK = "file"
TASKS = (*POOLS, *GLUE, FILE_TASK)


class TextData(NamedTuple):
    """Rows of both splits, and the labels in the order of the classifier's outputs."""

    train: list[Row]
    validation: list[Row]
    labels: tuple[str, ...]


class Sizes(NamedTuple):
    """How many rows to use; None is all of them.

    Attributes:
      train: rows to train on.
      validation: rows to validate on.
      validation_share: of a file's rows, which validation rows may be at most.
    """

    train: int | None
    validation: int | None
    validation_share: float = 1.0


def load_data(
    task: str,
    sizes: Sizes,
    data_seed: int,
    data_dir: Path | None = None,
    train_file: Path | None = None,
    validation_file: Path | None = None,
) -> TextData:
    """Loads a task's rows and splits them as the module's docstring says.

    Args:
      task: one of `TASKS`.
      sizes: rows to use of each split; the paper's "small" protocol is 500.
      data_seed: picks which rows are trained on.
      data_dir: GLUE's TSV files.
      train_file: of task ``"file"``.
      validation_file: of task ``"file"``; None takes validation rows from
        `train_file`, as for a pool.

    Raises:
      UserError: anything wrong with files, columns, labels or sizes.
    """
    if task in POOLS:
        train, validation = split_pool(POOLS[task](), sizes.validation)
    elif task in GLUE:
        train, validation = read_glue(task, data_dir)
    elif train_file is None:
        raise UserError("--task file needs --train-file")
    elif validation_file is None:
        train, validation = split_pool(
            read_file(train_file), sizes.validation, sizes.validation_share
        )
    else:
        train, validation = read_file(train_file), read_file(validation_file)
    labels = _labels(train, validation)
    return TextData(
        draw(train, sizes.train, data_seed),
        draw(validation, sizes.validation, SPLIT_SEED),
        labels,
    )


def split_pool(
    pool: Sequence[Row], size: int | None, share: float = 1.0
) -> tuple[list[Row], list[Row]]:
    """Splits a pool into training and validation rows, no text in both.

    There are `size` validation rows, but for no more than a `share` of all, and one.
    """
    if size is None:
        raise UserError("--validation-size 0 (all rows) needs a validation file")
    first: dict[tuple[str, str | None], Row] = {}
    for row in pool:
        first.setdefault((row.text, row.text_pair), row)
    rows = list(first.values())
    if share < 1.0:
        size = min(size, max(1, int(share * len(rows))))
    if len(rows) < size + 1:
        raise UserError(
            f"--validation-size {size}: there are {len(rows)} different rows in all"
        )
    order = np.random.default_rng(SPLIT_SEED).permutation(len(rows))
    shuffled = [rows[i] for i in order]
    return shuffled[size:], shuffled[:size]


def draw(rows: Sequence[Row], size: int | None, seed: int) -> list[Row]:
    """Draws `size` rows without replacement, all of them (in order) if there are fewer.

    The draw of a smaller size is the beginning of that of a larger one.
    """
    if size is None or size >= len(rows):
        return list(rows)
    order = np.random.default_rng(seed).permutation(len(rows))[:size]
    return [rows[i] for i in order]


def _labels(train: Sequence[Row], validation: Sequence[Row]) -> tuple[str, ...]:
    labels = {row.label for row in train}
    unknown = sorted({row.label for row in validation} - labels)
    if unknown:
        raise UserError(
            f"validation label {unknown[0]!r} is none of the training labels: "
            + ", ".join(sorted(labels))
        )
    if len(labels) < 2:
        raise UserError(f"all training rows have the one label {labels.pop()!r}")
    return tuple(sorted(labels))
