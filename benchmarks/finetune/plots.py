"""Draws the result files: ``python benchmarks/finetune/plots.py``.

For each task, under ``results/finetune/``: ``TASK-rates.png``, accuracy and training
loss against AdamW's learning rate with the untuned methods as flat lines;
``TASK-curves.png``, loss and accuracy over steps and over time;
``TASK-step_sizes.png``, each group's step size over the epochs.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]

from methods import OURS, is_of_now  # noqa: E402
from provenance import RESULTS  # noqa: E402
from records import Record, by_variant  # noqa: E402

FLAT = (*OURS, "salsa", "prodigy")
CURVES = 5  # so many of the best AdamWs and others are drawn besides ours


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results-dir", type=Path, default=RESULTS / "finetune")
    folder: Path = parser.parse_args(argv).results_dir
    plt.rcParams.update({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text())
        variants = by_variant(result["runs"])
        for name, figure in {
            "rates": against_rates(result["task"], variants),
            "curves": over_steps_and_time(result["task"], variants),
            "step_sizes": step_sizes(result["task"], variants),
        }.items():
            if figure is not None:
                figure.savefig(folder / f"{path.stem}-{name}.png", dpi=110)
                plt.close(figure)


def against_rates(task: str, variants: dict[str, list[Record]]) -> Any:
    """Accuracy and training loss against AdamW's learning rate."""
    rates = sorted(
        (float(name.removeprefix("adamw-")), name)
        for name in variants
        if name.startswith("adamw-") and "," not in name
    )
    if not rates:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    x = [rate for rate, _ in rates]
    for axis, key in zip(axes, ("accuracy", "train_loss"), strict=True):
        means, errors = zip(
            *(mean_and_error(variants[name], key) for _, name in rates), strict=True
        )
        axis.errorbar(x, means, errors, marker="o", color="0.35", label="AdamW")
        for i, name in enumerate(name for name in FLAT if name in variants):
            mean, error = mean_and_error(variants[name], key)
            axis.axhline(mean, color=f"C{i}", label=name)
            axis.axhspan(mean - error, mean + error, color=f"C{i}", alpha=0.15, lw=0)
        axis.set_xscale("log")
        axis.set_xlabel("AdamW's learning rate")
    axes[0].set_ylabel("accuracy at the end")
    axes[1].set_ylabel("training loss, last epoch")
    axes[1].set_yscale("log")
    axes[0].legend(fontsize=8)
    figure.suptitle(f"{task}: a sweep beside methods that need none")
    return figure


def over_steps_and_time(task: str, variants: dict[str, list[Record]]) -> Any:
    """Loss and accuracy of the best methods, with bands over seeds."""
    names = chosen(variants)
    if not names:
        return None
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained")
    for name in names:
        runs = variants[name]
        curve = np.array([run["loss_curve"] for run in runs])
        scores = np.array([run["accuracy"] for run in runs])
        seconds = float(np.mean([run["seconds"] for run in runs]))
        for column, total in enumerate((1.0, seconds)):
            width = total * (len(scores[0]) if column == 0 else 1)
            band(axes[0, column], width, curve, name)
            band(axes[1, column], width, scores, name)
    for axis in axes[0]:
        axis.set_yscale("log")
        axis.set_ylabel("training loss")
    for axis in axes[1]:
        axis.set_ylabel("validation accuracy")
    axes[1, 0].set_xlabel("epochs")
    axes[1, 1].set_xlabel("seconds of training, compilation included")
    axes[0, 0].legend(fontsize=7)
    figure.suptitle(task)
    return figure


def chosen(variants: dict[str, list[Record]]) -> list[str]:
    """Names ours and the best of the others by accuracy at the end."""
    ours = [name for name in OURS if name in variants]
    others = sorted(
        (name for name in variants if name not in ours and is_of_now(name)),
        key=lambda name: -mean_and_error(variants[name], "accuracy")[0],
    )
    return [*ours, *others[:CURVES]]


def band(axis: Any, width: float, curves: np.ndarray, name: str) -> None:
    """Draws the mean over seeds, and from the least to the largest."""
    x = width * np.arange(1, curves.shape[1] + 1) / curves.shape[1]
    (line,) = axis.plot(x, curves.mean(axis=0), label=name)
    low, high = curves.min(axis=0), curves.max(axis=0)
    axis.fill_between(x, low, high, color=line.get_color(), alpha=0.15, lw=0)


def step_sizes(task: str, variants: dict[str, list[Record]]) -> Any:
    """A heat map of each group's step size over the epochs, first seed."""
    runs = variants.get("by_layer")
    if not runs:
        return None
    groups = runs[0]["step_size"]
    sizes = np.array(list(groups.values()), float)
    sizes = np.log10(np.where(sizes > 0, sizes, np.nan))
    figure, axis = plt.subplots(
        figsize=(6, 0.35 * len(groups) + 1.6), layout="constrained"
    )
    image = axis.imshow(sizes, aspect="auto", cmap="viridis")
    axis.set_yticks(range(len(groups)), list(groups))
    axis.set_xticks(range(sizes.shape[1]), [str(i + 1) for i in range(sizes.shape[1])])
    axis.set_xlabel("epoch")
    axis.grid(False)
    figure.colorbar(image, label="log10 of the median step size")
    axis.set_title(f"every layer searched by itself: {task}")
    return figure


def mean_and_error(runs: Sequence[Record], key: str) -> tuple[float, float]:
    """Returns the mean at the end, and its standard error over seeds, 0 of one seed."""
    values = np.array([run[key][-1] for run in runs])
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return float(values.mean()), float(error)


if __name__ == "__main__":
    main()
