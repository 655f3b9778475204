"""The records of runs, read and boiled down to what tables and plots need."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from run import Run
from task import Setup

Record = dict[str, Any]

CURVE_POINTS = 40
COLLAPSED = 1e-3  # of the median group's step size
COLLAPSED_STEPS = 50  # for more than so many steps: the group is out of the game


def read(folder: Path, task: str) -> list[Record]:
    """Returns the runs of a task, boiled down."""
    files = sorted((folder / task).glob("*.json"))
    return [boil_down(json.loads(file.read_text())) for file in files]


def results(path: Path) -> list[Record]:
    """Returns the boiled down runs of a result file; none if there is no such file."""
    return json.loads(path.read_text())["runs"] if path.exists() else []


def merged(old: Sequence[Record], new: Sequence[Record]) -> list[Record]:
    """Returns all runs by method and seed, the new one where there are both."""
    runs = {(run["variant"], run["seed"]): run for run in (*old, *new)}
    return [runs[key] for key in sorted(runs)]


def boil_down(record: Record) -> Record:
    """Returns a record with a number where there was a curve over steps."""
    losses = np.array([np.nan if x is None else x for x in record["loss"]])
    by_epoch = np.array_split(losses, len(record["epochs"]))
    evaluations = record["evaluations"]
    return {
        "variant": variant_of(record),
        "seed": record["seed"],
        "accuracy": [epoch["accuracy"] for epoch in record["epochs"]],
        "log_loss": [epoch["log_loss"] for epoch in record["epochs"]],
        "train_loss": [rounded(np.mean(part)) for part in by_epoch],
        "loss_curve": block_means(losses),
        "evaluations_per_step": rounded(1.0 + np.mean(evaluations)),
        "most_evaluations": 1 + max(evaluations),
        "step_seconds": record["step_seconds"],
        "seconds": record["seconds"],
        "collapsed_groups": collapsed_groups(record),
        "step_size": step_size_by_epoch(record),
        "commit": record["made"]["commit"],
    }


def block_means(values: np.ndarray) -> list[float]:
    """Returns a curve of `CURVE_POINTS` points at most, each a mean of steps."""
    blocks = np.array_split(values, min(CURVE_POINTS, len(values)))
    return [rounded(np.mean(block)) for block in blocks]


def variant_of(record: Record) -> str:
    """Returns the method's name, with what its set-up changes of the usual one."""
    settings = record["made"]["settings"]
    setup = Setup(**settings["setup"])
    return Run(record["task"], record["method"], 0, settings["epochs"], setup).variant


def collapsed_groups(record: Record) -> list[str]:
    """Names the groups that stayed far below the others for long."""
    sizes = np.array(record["step_size"], float)  # [steps, groups]
    if sizes.size == 0 or sizes.shape[1] < 2:
        return []
    sizes = sizes[np.any(sizes > 0, axis=1)]
    moved = sizes > 0
    median = np.nanmedian(np.where(moved, sizes, np.nan), axis=1, keepdims=True)
    below = moved & (sizes < COLLAPSED * median)
    return [
        label
        for label, column in zip(record["groups"], below.T, strict=True)
        if longest_run(column) > COLLAPSED_STEPS
    ]


def longest_run(marks: Iterable[bool]) -> int:
    """Returns the length of the longest run of true marks.

    Example:
      >>> longest_run([True, False, True, True])
      2
    """
    longest = current = 0
    for mark in marks:
        current = current + 1 if mark else 0
        longest = max(longest, current)
    return longest


def step_size_by_epoch(record: Record) -> dict[str, list[float]]:
    """Returns each group's median step size in each epoch; 0 where it did not move."""
    if not record["step_size"]:
        return {}
    sizes = np.array(record["step_size"], float)
    parts = np.array_split(sizes, len(record["epochs"]))
    medians = [[rounded(x) for x in np.median(part, axis=0)] for part in parts]
    return dict(
        zip(record["groups"], map(list, zip(*medians, strict=True)), strict=True)
    )


def rounded(x: Any) -> float:
    """Five digits are more than any of these figures is good for."""
    return float(f"{float(x):.5g}")


def by_variant(runs: Sequence[Record]) -> dict[str, list[Record]]:
    """Groups runs by method and set-up, in the order of their first run."""
    groups: dict[str, list[Record]] = {}
    for run in runs:
        groups.setdefault(run["variant"], []).append(run)
    return groups


def paired(
    runs: Sequence[Record], others: Sequence[Record]
) -> list[tuple[Record, Record]]:
    """Returns each of the runs beside that of the others with the same seed.

    Example:
      >>> paired([{"seed": 0}, {"seed": 1}], [{"seed": 1}, {"seed": 2}])
      [({'seed': 1}, {'seed': 1})]
    """
    by_seed = {run["seed"]: run for run in others}
    return [(run, by_seed[run["seed"]]) for run in runs if run["seed"] in by_seed]
