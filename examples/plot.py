"""Draws a run's curves and step sizes into a PNG file."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from metrics import Record

Sizes = dict[str, list[float]]  # by group: of each step


def plot_run(records: list[Record], path: Path) -> None:
    """Draws loss, accuracy and each group's step sizes, as heat map and as lines.

    Args:
      records: the lines of ``metrics.jsonl``.
      path: of the PNG file.
    """
    settings = next(r["settings"] for r in records if r["kind"] == "run")
    steps = [record for record in records if record["kind"] == "step"]
    epochs = [record for record in records if record["kind"] == "epoch"]
    figure = Figure(figsize=(13.0, 7.0), layout="constrained")
    FigureCanvasAgg(figure)  # draws to files; no display is asked for
    (loss, heat), (scores, sizes) = figure.subplots(2, 2, sharex=True)
    figure.suptitle(
        f"{settings['task']}, {settings['train_size'] or 'all'} rows, "
        f"{settings['optimizer']}"
    )
    _plot_loss(loss, steps, epochs)
    _plot_scores(scores, epochs)
    applied = {
        # A step that was taken back has a negative step size.
        label: [max(step["applied_step_size"][label], 0.0) or np.nan for step in steps]
        for label in steps[0]["applied_step_size"]
    }
    _plot_heat_map(heat, steps, applied)
    _plot_step_sizes(sizes, steps, applied)
    for axes in (scores, sizes):
        axes.set_xlabel("step")
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


def _plot_heat_map(axes: Any, steps: list[Record], applied: Sizes) -> None:
    """One row a group, in the order of depth; blank where a group did not move."""
    edges = np.arange(len(steps) + 1) + steps[0]["step"] - 0.5
    rows = np.arange(len(applied) + 1) - 0.5
    values = np.ma.masked_invalid(np.log10(np.array(list(applied.values()), float)))
    mesh = axes.pcolormesh(edges, rows, values, cmap="viridis")
    axes.set_yticks(np.arange(len(applied)), list(applied), fontsize="small")
    axes.invert_yaxis()
    axes.figure.colorbar(mesh, ax=axes, label="log10 of the applied step size")


def _plot_step_sizes(axes: Any, steps: list[Record], applied: Sizes) -> None:
    """One line a group, coloured by its depth; gaps where a group did not move."""
    x = [step["step"] for step in steps]
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, len(applied)))
    for (label, moved), colour in zip(applied.items(), colours, strict=True):
        axes.plot(x, moved, color=colour, label=label, linewidth=1.2)
    axes.set_yscale("log")
    axes.set_ylabel("applied step size")
    axes.legend(frameon=False, fontsize="small", loc="best", ncols=2)


def _floats(records: list[Record], name: str) -> list[float]:
    return [np.nan if r[name] is None else r[name] for r in records]


def _middle(steps: list[Record], epoch: int) -> float:
    return float(np.mean([step["step"] for step in steps if step["epoch"] == epoch]))
