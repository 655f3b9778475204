"""Draws a run's curves into a PNG file."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from metrics import Record


def plot_run(records: list[Record], path: Path) -> None:
    """Draws loss, accuracy and log loss, and each group's step sizes, over the steps.

    Args:
      records: the lines of ``metrics.jsonl``.
      path: of the PNG file.
    """
    settings = next(r["settings"] for r in records if r["kind"] == "run")
    steps = [record for record in records if record["kind"] == "step"]
    epochs = [record for record in records if record["kind"] == "epoch"]
    figure = Figure(figsize=(7.5, 9.0), layout="constrained")
    FigureCanvasAgg(figure)  # draws to files; no display is asked for
    loss, scores, sizes = figure.subplots(3, 1, sharex=True)
    figure.suptitle(
        f"{settings['task']}, {settings['train_size'] or 'all'} rows, "
        f"{settings['optimizer']}"
    )
    _plot_loss(loss, steps, epochs)
    _plot_scores(scores, epochs)
    _plot_step_sizes(sizes, steps)
    sizes.set_xlabel("step")
    figure.savefig(path, dpi=120)


def _plot_loss(axes: Any, steps: list[Record], epochs: list[Record]) -> None:
    x = [step["step"] for step in steps]
    axes.plot(x, _floats(steps, "loss"), color="0.7", linewidth=1.0, label="batch")
    middles = [_middle(steps, epoch["epoch"]) for epoch in epochs]
    axes.plot(middles, _floats(epochs, "train_loss"), "o-", color="C0", label="epoch")
    axes.set_ylabel("train loss")
    axes.set_ylim(bottom=0.0)
    axes.legend(frameon=False)


def _plot_scores(axes: Any, epochs: list[Record]) -> None:
    x = [epoch["step"] for epoch in epochs]
    accuracy = axes.plot(x, _floats(epochs, "accuracy"), "o-", color="C2")
    axes.set_ylabel("validation accuracy")
    twin = axes.twinx()
    log_loss = twin.plot(x, _floats(epochs, "log_loss"), "s--", color="C3")
    twin.set_ylabel("validation log loss")
    axes.legend([*accuracy, *log_loss], ["accuracy", "log loss"], frameon=False)


def _plot_step_sizes(axes: Any, steps: list[Record]) -> None:
    """One line a group, coloured by its depth; gaps where a group did not move."""
    x = [step["step"] for step in steps]
    sizes = {
        label: [step["applied_step_size"][label] or np.nan for step in steps]
        for label in steps[0]["applied_step_size"]
    }
    if len({tuple(moved) for moved in sizes.values()}) == 1:
        sizes = {"all": next(iter(sizes.values()))}
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, len(sizes)))
    for (label, moved), colour in zip(sizes.items(), colours, strict=True):
        axes.plot(x, moved, color=colour, label=label, linewidth=1.2)
    axes.set_yscale("log")
    axes.set_ylabel("applied step size")
    axes.legend(
        frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5)
    )


def _floats(records: list[Record], name: str) -> list[float]:
    return [np.nan if r[name] is None else r[name] for r in records]


def _middle(steps: list[Record], epoch: int) -> float:
    return float(np.mean([step["step"] for step in steps if step["epoch"] == epoch]))
