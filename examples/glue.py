"""GLUE's classification tasks, from local TSV files or the `datasets` library."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

from errors import UserError
from readers import Columns, Row, pick_rows, read_text


class GlueTask(NamedTuple):
    """Names of a task's folder, files and columns, in both places."""

    folder: str
    columns: Columns  # in the TSV files; numbers where these have no header
    hub_columns: Columns  # in the `datasets` library
    validation_file: str = "dev"
    hub_validation: str = "validation"
    header: bool = True


_PAIR = Columns("sentence1", "sentence2", "label")
_SINGLE = Columns("sentence", None, "label")
_MRPC = Columns("#1 String", "#2 String", "Quality")
_QQP = Columns("question1", "question2", "is_duplicate")
_QNLI = Columns("question", "sentence", "label")

GLUE = {
    "cola": GlueTask("CoLA", Columns("3", None, "1"), _SINGLE, header=False),
    "sst2": GlueTask("SST-2", _SINGLE, _SINGLE),
    "mrpc": GlueTask("MRPC", _MRPC, _PAIR),
    "qqp": GlueTask("QQP", _QQP, _QQP._replace(label="label")),
    "mnli": GlueTask(
        "MNLI",
        _PAIR._replace(label="gold_label"),
        Columns("premise", "hypothesis", "label"),
        validation_file="dev_matched",
        hub_validation="validation_matched",
    ),
    "qnli": GlueTask("QNLI", _QNLI, _QNLI),
    "rte": GlueTask("RTE", _PAIR, _PAIR),
    "wnli": GlueTask("WNLI", _PAIR, _PAIR),
}


def read_glue(name: str, folder: Path | None) -> tuple[list[Row], list[Row]]:
    """Reads a task's training and validation rows.

    Args:
      name: a key of `GLUE`.
      folder: holds ``train.tsv`` and ``dev.tsv`` (MNLI: ``dev_matched.tsv``), itself
        or in a folder named like the task. None: the `datasets` library.

    Raises:
      UserError: no such folder, file or column; `datasets` not installed or failing.
    """
    task = GLUE[name]
    if folder is None:
        return _from_hub(name, task)
    if not folder.is_dir():
        raise UserError(f"--data-dir {folder}: no such folder")
    inner = folder / task.folder
    inner = inner if inner.is_dir() else folder
    train = _read_tsv(inner / "train.tsv", task)
    return train, _read_tsv(inner / f"{task.validation_file}.tsv", task)


def _read_tsv(path: Path, task: GlueTask) -> list[Row]:
    # GLUE does not quote: a lone '"' belongs to the sentence.
    lines = csv.reader(
        io.StringIO(read_text(path)), delimiter="\t", quoting=csv.QUOTE_NONE
    )
    table = [line for line in lines if line]
    if task.header:
        header, *table = table or [[]]
    else:
        header = [str(i) for i in range(max(map(len, table), default=0))]
    # Lines that are cut short lack the last columns; `pick_rows` says so.
    dicts = (dict(zip(header, line, strict=False)) for line in table)
    return pick_rows(path, dicts, task.columns)


def _from_hub(name: str, task: GlueTask) -> tuple[list[Row], list[Row]]:
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"--task {name} needs --data-dir with GLUE's TSV files, or the `datasets` "
            "library: pip install datasets"
        ) from error
    try:
        data = datasets.load_dataset("nyu-mll/glue", name)
        train, validation = data["train"], data[task.hub_validation]
    except Exception as error:
        # Which exceptions come out of `datasets` changes between its versions; all of
        # them mean the same to the user.
        raise UserError(f"datasets could not load GLUE's {name}: {error}") from error
    place = Path(f"datasets:glue/{name}")
    return (
        pick_rows(place, train, task.hub_columns),
        pick_rows(place, validation, task.hub_columns),
    )
