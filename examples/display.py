"""What programs show: a table that grows row by row, and a figure."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from run_folder import Record

SPAN = "     step sizes     "


class Table:
    """Prints its header when it is made, and then each row as it comes.

    Example:
      >>> table = Table("epoch", "train loss", "layer_0")
         epoch  train loss   layer_0
      >>> table.row(1, 0.98765, 3.21e-05)
             1       0.988  3.21e-05
    """

    def __init__(self, *names: str):
        self.widths = [max(8, len(name)) for name in names]
        self.row(*names)

    def row(self, *cells: Any) -> None:
        """Prints texts and integers as they are, other numbers in three digits."""
        texts = (x if isinstance(x, int | str) else f"{float(x):.3g}" for x in cells)
        columns = zip(map(str, texts), self.widths, strict=True)
        print("  ".join(text.rjust(width) for text, width in columns), flush=True)


def span(sizes: list[float]) -> str:
    """The range of the step sizes that were applied.

    Example:
      >>> span([1e-3, 0.0, 2e-4])
      '2.0e-04 to 1.0e-03'
    """
    moved = [size for size in sizes if size > 0.0] or [0.0]
    return f"{min(moved):.1e} to {max(moved):.1e}"


def plot_run(records: list[Record], title: str, path: Path) -> None:
    """Plots losses, accuracy, and the groups' step sizes: over steps, and compared."""
    steps = [record for record in records if record["kind"] == "step"]
    epochs = [record for record in records if record["kind"] == "epoch"]
    figure = Figure(figsize=(11.0, 6.6), layout="constrained")  # needs no display
    figure.suptitle(title)
    (loss, lines), (accuracy, heat) = figure.subplots(2, 2, sharex=True)
    x, ends = [r["step"] for r in steps], [r["step"] for r in epochs]

    loss.plot(x, [r["loss"] for r in steps], color="0.75", label="each batch")
    middles = [end - (ends[0] - 1) / 2 for end in ends]
    loss.plot(middles, [r["train_loss"] for r in epochs], "o-", label="mean of epoch")
    loss.plot(ends, [r["log_loss"] for r in epochs], "s--C3", label="validation")
    loss.set(title="Loss", ylim=(0.0, None))
    loss.legend(frameon=False, ncols=3, loc="lower center", fontsize="small")
    accuracy.plot(ends, [r["accuracy"] for r in epochs], "o-C2")
    accuracy.set(title="Validation accuracy", xlabel="step")

    groups = list(steps[0]["step_size"])
    sizes = np.array([[r["step_size"][g] for r in steps] for g in groups])
    sizes = np.ma.masked_less_equal(sizes, 0.0)  # a group that did not move, or back
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, len(groups)))
    for group, row, colour in zip(groups, sizes, colours, strict=True):
        lines.plot(x, row, color=colour, label=group, linewidth=1.2)
    lines.set(title="Step size of each group", yscale="log")
    lines.legend(frameon=False, fontsize="small", ncols=2)

    ratios = np.ma.log2(sizes)
    ratios -= ratios.mean(axis=0)
    most = max(1, int(np.ceil(np.percentile([0, *abs(ratios).compressed()], 98))))
    edges = np.arange(len(steps) + 1) + x[0] - 0.5, np.arange(len(groups) + 1) - 0.5
    mesh = heat.pcolormesh(*edges, ratios, cmap="RdBu_r", vmin=-most, vmax=most)
    heat.set_yticks(np.arange(len(groups)), groups, fontsize="small")
    heat.invert_yaxis()  # the first layer at the top
    heat.set(title="Relative to their mean", xlabel="step", xlim=(x[0] - 2, x[-1] + 2))
    bar = figure.colorbar(mesh, ax=heat, ticks=range(-most, most + 1), extend="both")
    bar.set_ticklabels([f"x {2.0**i:g}" for i in range(-most, most + 1)])
    figure.savefig(path, dpi=140)
