"""Runs of the examples that take seconds, what they leave, and what they refuse."""

import itertools
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
    times = "seconds", "compile_seconds"
    return [{k: v for k, v in record.items() if k not in times} for record in found]


def assert_no_ticks_overlap(figure: Any) -> None:
    """No label of a drawn figure's ticks lies on the next one of its axis."""
    for axis in (y for x in figure.axes for y in (x.xaxis, x.yaxis)):
        labels = [x for x in axis.get_ticklabels(which="both") if x.get_text()]
        low, high = sorted(axis.get_view_interval())
        boxes = [
            x.get_window_extent()
            for x, at in zip(labels, map(tick_of, labels), strict=True)
            if low <= at[axis.axis_name == "y"] <= high and not x.get_rotation()
        ]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def tick_of(label: Any) -> Any:
    return label.get_position()


def assert_refused(program: Any, argv: list[str], message: str, capsys: Any) -> None:
    """Exit code 2, and one line that holds the message."""
    capsys.readouterr()
    assert tell(program.main, argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert line.startswith(f"{program.__name__}.py: ")
