"""Figures of the comparison: the profile, its summary, and one of each task."""

import re
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from methods import CONSTANT, SWEPT
from protocol import ITERATES, standard_error
from standings import (
    DEFAULT,
    HINDSIGHT,
    Entrant,
    Gap,
    all_entrants,
    name_on_tasks,
    profiles,
    recorded,
    shown,
)
from tasks import FAMILIES, LISTS, family_of

NUM_DRAWN = 6  # methods in a task's figure
FARTHEST = 3.0  # gap at the right of the profile's figure, 20 times the best loss
KINDS = tuple(dict.fromkeys(family.kind for family in FAMILIES.values()))
# For readers who do not tell red from green: no green at all.
PALETTE = """
#0072B2 #E69F00 #D55E00 #F0E442 #332288 #56B4E9 #CC79A7 #000000 #999999 #8C6D31 #882255
"""
COLOURS = dict(zip(KINDS, PALETTE.split(), strict=True))
LINES = ("#D55E00", "#0072B2", "#E69F00", "#CC79A7", "#56B4E9", "#332288", "#8C6D31")
# Of the figure in the README: ours and the best known methods.
OURS = (f"{DEFAULT}-num_steps", DEFAULT)
SUMMARY = (
    *(*OURS, "prodigy_cosine", "dadapt_adamw_cosine", "momo_adam", "salsa"),
    *("schedule_free_adamw", "one_adamw", "adamw"),
)


def profile() -> Figure:
    """Draws each method's gaps in a row: a dot a task, a line at the median."""
    names = [name for name in reversed(LISTS) if recorded(name)]
    found = {name: profiles(recorded(name), "loss", "last") for name in names}
    titles = {x.method: x.title for name in names for x in found[name]}
    # In the order of the first list, best on top, and below what hindsight knows.
    order = sorted(titles, key=lambda method: method in HINDSIGHT)
    rows = {method: -y for y, method in enumerate(order)}
    titles |= {x: f"{titles[x]}, in hindsight" for x in HINDSIGHT if x in titles}
    figure = Figure(figsize=(11, 8), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for name, axes in zip(names, panels, strict=True):
        for one in found[name]:
            y = rows[one.method]
            for number, task in enumerate(one.gaps):
                colour = COLOURS[family_of(task).kind]
                draw_gap(axes, one.gaps[task], y, number, colour)
            draw_middle(axes, np.median(one.sizes()), y)
        draw_axis(axes, name)
    shown = [re.sub("[`*]", "", titles[x]) for x in rows]
    panels[0].set_yticks([*rows.values()], shown, fontsize=9)
    panels[0].get_yticklabels()[[*rows].index(DEFAULT)].set_fontweight("bold")
    for kind, colour in COLOURS.items():
        panels[0].plot([], [], "o", color=colour, label=kind)
    panels[0].plot([], [], "x", color="0.3", label="diverged")
    panels[0].plot([], [], color="0.1", lw=2, label="median of the tasks")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        **{"fontsize": 8, "loc": "outside lower center", "ncols": 6},
    )
    return figure


def summary() -> Figure:
    """Draws the gaps of a few methods in a row each, with the mean over tasks."""
    names = [name for name in reversed(LISTS) if recorded(name)]
    found = {
        name: {x.method: x for x in profiles(recorded(name), "loss", "last", SUMMARY)}
        for name in names
    }
    methods = [x for x in SUMMARY if any(x in found[name] for name in names)]
    figure = Figure(figsize=(10, 0.6 + 0.4 * len(methods)), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for name, axes in zip(names, panels, strict=True):
        for y, method in enumerate(methods):
            if method not in found[name]:
                continue
            one = found[name][method]
            colour = "#D55E00" if method in OURS else "0.6"
            colour = "#0072B2" if method in HINDSIGHT else colour
            for number, gap in enumerate(one.gaps.values()):
                draw_gap(axes, gap, -y, number, colour)
            draw_middle(axes, one.sizes().mean(), -y)
        draw_axis(axes, name)
    titles = [re.sub("[`*]", "", name_on_tasks(x)[1]) for x in methods]
    titles = [
        f"{title}, best of a sweep" if x in HINDSIGHT else title
        for x, title in zip(methods, titles, strict=True)
    ]
    panels[0].set_yticks([-y for y in range(len(methods))], titles, fontsize=9)
    return figure


def draw_gap(axes: Any, gap: Gap, y: float, number: int, colour: str) -> None:
    """Draws the gap on a task, a little above or below others of the method."""
    marker = "o" if gap.size <= FARTHEST else ">"
    marker = "x" if gap.num_diverged else marker
    x, edge = min(gap.size, FARTHEST), 1.5 if marker == "x" else 0
    lift = (number % 5 - 2) * 0.12
    axes.plot(x, y + lift, marker, color=colour, ms=5, mew=edge, alpha=0.8)


def draw_middle(axes: Any, value: float, y: float) -> None:
    """Draws the median or the mean of a method."""
    value = min(float(value), FARTHEST)
    axes.plot([value] * 2, [y - 0.4, y + 0.4], color="0.1", lw=2)


def draw_axis(axes: Any, name: str) -> None:
    """Labels a panel of gaps; its axis is linear up to 0.1."""
    axes.set_title(f"{name} tasks")
    axes.set_xlabel("log(loss / best loss in hindsight)")
    axes.set_xscale("symlog", linthresh=0.1, linscale=0.6)
    ticks = {0: "0", 0.1: "0.1", 0.3: "0.3", 1: "1", FARTHEST: f"≥ {FARTHEST:g}"}
    axes.set_xticks([*ticks], [*ticks.values()])
    axes.set_xticks([], minor=True)
    axes.set_xlim(-0.08, FARTHEST * 1.15)
    axes.grid(axis="x", alpha=0.3)


def one_task(task: str) -> Figure:
    """Draws scores against AdamW's learning rate, and losses over the steps."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    figure.suptitle(task)
    axes: Any = figure.subplots(1, 2)
    left, right = axes
    unit = family_of(task).unit
    left.set(xscale="log", xlabel="AdamW's learning rate", ylabel=unit)
    right.set(yscale="log", xlabel="fraction of the run", ylabel="training loss")
    for name, colour in (("adamw", "0.1"), (CONSTANT, "0.55")):
        sweep = [x for x in all_entrants(task) if x.key == (name, "last")]
        points = zip(*sorted((x.rate, *mean_and_error(x)) for x in sweep), strict=True)
        if sweep:
            label = f"{SWEPT[name]}, every rate"
            left.errorbar(*points, color=colour, marker="o", label=label)
    # The best methods and the default, each by its better iterate.
    best: dict[str, Entrant] = {}
    for x in shown(task):
        best.setdefault(x.key[0], x)
    names = [*[*best][:NUM_DRAWN], DEFAULT]
    drawn = [x for name, x in best.items() if name in names]
    for colour, x in zip(LINES, drawn, strict=False):
        label = re.sub("[`*]", "", f"{x.title}{x.note}, {ITERATES[x.iterate]}")
        curve = np.mean([np.array(r["loss_curve"], float) for r in x.runs.values()], 0)
        right.plot(np.linspace(0, 1, len(curve)), curve, color=colour, label=label)
        if x.key[0] not in SWEPT:
            mean, error = mean_and_error(x)
            left.axhline(mean, color=colour)
            left.axhspan(mean - error, mean + error, color=colour, alpha=0.15, lw=0)
    right.set_xlim(0, 1)
    left.grid(alpha=0.3)
    right.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    return figure


def mean_and_error(entrant: Entrant) -> tuple[float, float]:
    """Returns the mean score and its standard error; NaN where a run diverged."""
    x = np.array([*entrant.values("score").values()])
    x[~np.isfinite(x)] = np.nan
    return float(x.mean()), standard_error(x)
