"""What programs show: a table that grows row by row, a bar, and a figure."""

import sys
from collections.abc import Iterable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.progress import track

SPAN, MOST_TICKS = "     step sizes     ", 16
# Okabe and Ito's, which the colour-blind tell apart as well.
BLUE, ORANGE, YELLOW = "#0072B2", "#D55E00", "#E69F00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
RUN_COLOURS = ORANGE, BLUE, BLACK
GROUP_COLOURS = BLUE, YELLOW, SKY, BLACK, PURPLE, ORANGE


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


def progress(steps: Iterable[Any], name: str, total: int | None = None) -> Any:
    """Shows how far a loop is, on a terminal; in a log file it would be noise."""
    hidden = not sys.stdout.isatty()
    return track(steps, name, total, transient=True, disable=hidden)


def span(sizes: list[float]) -> str:
    """The range of the step sizes that were applied.

    Example:
      >>> span([1e-3, 0.0, 2e-4])
      '2.0e-04 to 1.0e-03'
    """
    moved = [size for size in sizes if size > 0.0] or [0.0]
    return f"{min(moved):.1e} to {max(moved):.1e}"


def plot_run(records: list[dict[str, Any]], title: str) -> Figure:
    """Plots losses, accuracy, and the groups' step sizes: over steps, and compared."""
    steps = [record for record in records if record["kind"] == "step"]
    epochs = [record for record in records if record["kind"] == "epoch"]
    figure = Figure(figsize=(11.0, 6.6), layout="constrained")  # needs no display
    figure.suptitle(title)
    (loss, lines), (accuracy, heat) = figure.subplots(2, 2, sharex=True)
    x, ends = [r["step"] for r in steps], [r["step"] for r in epochs]

    loss.plot(x, [r["loss"] for r in steps], color="0.75", label="each batch")
    middles = [end - (ends[0] - 1) / 2 for end in ends]
    means = [r["train_loss"] for r in epochs]
    marked: Any = {"color": BLUE, "clip_on": False}
    loss.plot(middles, means, "o-", label="mean of epoch", **marked)
    if tested := {"log_loss", "loss"} & epochs[0].keys():
        scores = [r[min(tested)] for r in epochs]
        dashed = marked | {"color": ORANGE}
        loss.plot(ends, scores, "s--", label="validation", **dashed)
    top = 1.05 * loss.dataLim.y1
    loss.set(title="Loss", ylim=(0.0, top) if loss.dataLim.y0 >= 0.0 else None)
    loss.legend(frameon=False, fontsize="small")
    if "accuracy" in epochs[0]:
        accuracy.plot(ends, [r["accuracy"] for r in epochs], "o-", **marked)
        accuracy.set(title="Validation accuracy", xlabel="step")
    else:
        accuracy.set_axis_off()
        loss.tick_params(labelbottom=True)

    groups = list(steps[0]["step_size"])
    sizes = np.array([[r["step_size"][g] for r in steps] for g in groups])
    sizes = np.ma.masked_less_equal(sizes, 0.0)  # a group that did not move, or back
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, len(groups)))
    for group, row, colour in zip(groups, sizes, colours, strict=True):
        lines.plot(x, row, color=colour, label=group, linewidth=1.2)
    lines.set(title="Step size of each group", yscale="log")
    if len(groups) <= MOST_TICKS:
        lines.legend(frameon=False, fontsize="small", ncols=2)

    ratios = np.ma.log2(sizes)
    ratios -= ratios.mean(axis=0)
    most = max(1, int(np.ceil(np.percentile([0, *abs(ratios).compressed()], 98))))
    edges = np.arange(len(steps) + 1) + x[0] - 0.5, np.arange(len(groups) + 1) - 0.5
    mesh = heat.pcolormesh(*edges, ratios, cmap="RdBu_r", vmin=-most, vmax=most)
    some = slice(None, None, -(-len(groups) // MOST_TICKS))  # they would overlap
    heat.set_yticks(np.arange(len(groups))[some], groups[some], fontsize="small")
    heat.invert_yaxis()  # the first layer at the top
    heat.set(title="Relative to their mean", xlabel="step", xlim=edges[0][[0, -1]])
    heat.xaxis.set_major_locator(MaxNLocator(integer=True))
    every = -(-2 * most // MOST_TICKS)
    powers = range(-(most // every) * every, most + 1, every)
    bar = figure.colorbar(mesh, ax=heat, ticks=powers, extend="both")
    bar.set_ticklabels([f"x {2.0**i:.3g}" for i in powers])
    return figure


def plot_fits(
    runs: dict[str, dict[str, Any]], rates: dict[str, Any], score: str, num_above: int
) -> tuple[Figure, list[Any]]:
    """Plots scores and step sizes of runs; returns axes above for what was fitted.

    Args:
      runs: by name, ``score`` of some of the steps, ``step``, and ``step_sizes`` of
        all, dicts by group; those of the first run are shown.
      rates: learning rates to be shown dotted, numbers or schedules: by group, or by
        another name for all groups.
      score: its title.
      num_above: how many axes there are above.
    """
    figure = Figure(figsize=(11.0, 7.0), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(4, 1 + num_above))
    above, (left, right) = halves[0].subplots(1, num_above), halves[1].subplots(1, 2)
    for (name, run), color in zip(runs.items(), RUN_COLOURS, strict=False):
        left.plot(run["step"], run["score"], label=name, color=color)
    left.set(xlabel="step", title=score)
    left.legend(frameon=False)

    sizes = next(iter(runs.values()))["step_sizes"]
    colours = dict(zip(sizes[0], GROUP_COLOURS, strict=False))
    for group, color in colours.items():
        found = np.array([x[group] for x in sizes], float)
        found[found <= 0] = np.nan  # a group that did not move, or moved back
        right.plot(found, color=color, label=group)
    greys, lowest = iter(("0.65", "0.35")), [right.dataLim.y0]
    for name, rate in rates.items():
        values: Any = rate(np.arange(len(sizes))) if callable(rate) else rate
        own = {} if name in colours else {"color": next(greys), "label": name}
        shown: Any = {"color": colours.get(name), "linestyle": ":"} | own
        right.plot(np.broadcast_to(values, len(sizes)), **shown)
        lowest.append(float(np.median(values)))
    right.set(xlabel="step", yscale="log", title="Step sizes (dotted: learning rates)")
    right.set_ylim(bottom=min(lowest) / 3)  # a cosine ends at 0
    for axes in (left, right):
        axes.set_xlim(0, len(sizes))
    halves[1].legend(*right.get_legend_handles_labels(), loc="outside right center")
    return figure, list(above)


def show_image(axes: Any, title: str, image: Any) -> None:
    """Shows an image [rows, columns, 3] without ticks, its colours within [0, 1]."""
    axes.imshow(np.clip(image, 0, 1))
    axes.set(title=title, xticks=[], yticks=[])


def show_field(axes: Any, title: str, field: Any, largest: float) -> None:
    """Shows values [rows, columns] on the unit square, with their colours."""
    scale: Any = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
    image = axes.imshow(field, extent=(0, 1, 0, 1), origin="lower", **scale)
    ticks = [-largest, 0, largest]  # more would touch those of the next field
    axes.figure.colorbar(image, ax=axes, location="bottom", ticks=ticks)
    axes.set(title=title)
