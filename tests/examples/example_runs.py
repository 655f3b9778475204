"""Runs of the examples that take seconds, what they leave, and what they refuse."""

from pathlib import Path
from typing import Any

import finetune_bert
import numpy as np
from command_line import tell
from run_folder import read
from tiny_bert import tiny_tensors, write_checkpoint

MAIN = str(finetune_bert.__file__)
GOOD, BAD = ("good", "fine", "great"), ("bad", "poor", "awful")


def write_tiny(folder: Path) -> list[str]:
    """Options of a run that takes seconds: 2 layers of width 16, 40 reviews."""
    model = write_checkpoint(folder / "model", tiny_tensors())
    rng = np.random.default_rng(0)
    lines = ["text,label"]
    for i in range(60):
        words = [str(word) for word in rng.choice(GOOD if i % 2 else BAD, 4)]
        padding = ["a film"] * int(rng.integers(0, 8))
        lines.append(" ".join(["the film", *words, *padding]) + f",{'ny'[i % 2]}")
    (folder / "reviews.csv").write_text("\n".join(lines))
    data = ["--task", "file", "--train-file", str(folder / "reviews.csv")]
    sizes = ["--train-size", "20", "--validation-size", "16", "--batch-size", "8"]
    return [*data, *sizes, "--max-length", "40", "--model", str(model)]


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl, without the times."""
    found = [record for record in read(folder) if record["kind"] == kind]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in found]


def assert_refused(program: Any, argv: list[str], message: str, capsys: Any) -> None:
    """Exit code 2, and one line that holds the message."""
    capsys.readouterr()
    assert tell(program.main, argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert line.startswith(f"{program.__name__}.py: ")
