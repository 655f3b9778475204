"""Draws accuracy against learning rates: ``python docs/figures/against_rates.py``.

The figure names the records that it shows; where these have changed since, building the
site draws it anew.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from canvas import BLUE, GREEN, GREY, IMAGES, new_figure, save

RECORDS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "finetune"
TASKS = ("tweets-500-small", "bbc-500-small")
NAME = "against_rates.png"
OURS = (
    ("armijo_adam-averaged", GREEN, "average_iterates(armijo_adam())"),
    ("armijo_adam", BLUE, "armijo_adam()"),
)


def main(folder: Path = IMAGES) -> None:
    figure = new_figure(6.0, 6.0)
    panels = figure.subplots(2, 1, sharex=True)
    for axes, task in zip(panels, TASKS, strict=True):
        draw(axes, json.loads((RECORDS / f"{task}.json").read_text())["runs"])
        axes.set_title(task)
    panels[-1].set_xlabel("AdamW's learning rate")
    save(figure, NAME, folder, Source=fingerprint())


def draw(axes: Any, runs: list[dict[str, Any]]) -> None:
    """One line for the sweep, flat ones for what has no learning rate."""
    accuracy: dict[str, list[float]] = {}
    for run in runs:
        accuracy.setdefault(run["variant"], []).append(run["accuracy"][-1])
    rates = sorted(
        (float(name.removeprefix("adamw-")), name)
        for name in accuracy
        if name.startswith("adamw-") and "," not in name
    )
    means, errors = zip(*(mean_and_error(accuracy[x]) for _, x in rates), strict=True)
    x = [rate for rate, _ in rates]
    axes.errorbar(x, means, errors, marker="o", color=GREY, label="AdamW")
    for name, color, label in OURS:
        mean, error = mean_and_error(accuracy[name])
        axes.axhline(mean, color=color, linewidth=2.2, label=label)
        axes.axhspan(mean - error, mean + error, color=color, alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_ylabel("accuracy at the end")
    axes.legend(frameon=False, loc="lower right")


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Returns the mean over seeds and its standard error, 0 of one seed."""
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return float(np.mean(values)), float(error)


def fingerprint() -> str:
    """Tells the records apart from those of another time."""
    data = b"".join((RECORDS / f"{task}.json").read_bytes() for task in TASKS)
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def is_current() -> bool:
    """Tells whether the figure shows the records as they are."""
    path = IMAGES / NAME
    return path.exists() and fingerprint().encode() in path.read_bytes()


if __name__ == "__main__":
    main()
