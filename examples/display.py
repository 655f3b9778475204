"""What programs show: a table that grows row by row, and a picture."""

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
    """The range of the step sizes of what moved.

    Example:
      >>> span([1e-3, 0.0, 2e-4])
      '2.0e-04 to 1.0e-03'
    """
    moved = [size for size in sizes if size > 0.0] or [0.0]
    return f"{min(moved):.1e} to {max(moved):.1e}"


def plot_run(records: list[Record], title: str, path: Path) -> None:
    """Draws loss, accuracy and each group's step sizes, as heat map and as lines."""
    steps = [record for record in records if record["kind"] == "step"]
    epochs = [record for record in records if record["kind"] == "epoch"]
    figure = Figure(figsize=(13.0, 7.0), layout="constrained")  # needs no display
    figure.suptitle(title)
    (loss, heat), (accuracy, lines) = figure.subplots(2, 2, sharex=True)
    x, ends = [r["step"] for r in steps], [r["step"] for r in epochs]

    loss.plot(x, [r["loss"] for r in steps], color="0.7", label="batch")
    middles = [end - (ends[0] - 1) / 2 for end in ends]
    loss.plot(middles, [r["train_loss"] for r in epochs], "o-", label="epoch")
    loss.set(ylabel="train loss", ylim=(0.0, None))
    loss.legend(frameon=False)

    log_loss = accuracy.twinx()
    drawn = accuracy.plot(ends, [r["accuracy"] for r in epochs], "o-", color="C2")
    drawn += log_loss.plot(ends, [r["log_loss"] for r in epochs], "s--", color="C3")
    accuracy.legend(drawn, ["accuracy", "log loss"], frameon=False)
    accuracy.set(ylabel="validation accuracy", xlabel="step")
    log_loss.set_ylabel("validation log loss")

    groups = list(steps[0]["step_size"])
    sizes = np.array([[r["step_size"][g] for r in steps] for g in groups])
    sizes[sizes <= 0.0] = np.nan  # a group that did not move, or moved back
    edges = np.arange(len(steps) + 1) + x[0] - 0.5, np.arange(len(groups) + 1) - 0.5
    logarithms = np.ma.masked_invalid(np.log10(sizes))
    mesh = heat.pcolormesh(*edges, logarithms, cmap="viridis")
    heat.set_yticks(np.arange(len(groups)), groups, fontsize="small")
    heat.invert_yaxis()  # the first layer above
    figure.colorbar(mesh, ax=heat, label="log10 of the applied step size")

    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, len(groups)))
    for group, row, colour in zip(groups, sizes, colours, strict=True):
        lines.plot(x, row, color=colour, label=group, linewidth=1.2)
    lines.set(xlabel="step", ylabel="applied step size", yscale="log")
    lines.legend(frameon=False, fontsize="small", ncols=2)
    figure.savefig(path, dpi=120)
