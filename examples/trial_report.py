"""The report of a trial: a page with the verdict, a table and a figure."""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from run_folder import Record

OURS = "average_iterates(armijo_adam())"
COLUMNS = ("method", "accuracy", "log loss", "runs", "time", "evaluations")
# The figure is embedded, so that one file can be sent.
PAGE = """\
<!doctype html><html lang="en"><head><meta charset="utf-8">
<title>Trial of optax_armijo</title>
<style>body {{ max-width: 60rem; margin: auto }} td, th {{ padding: .3rem }}</style>
</head><body>
<h1>Trial of optax_armijo on your data</h1>
<p><b>{verdict}</b></p>
<table>{table}</table>
<p>± is the standard error, from the number of validation rows and of seeds. Time is of
training, validation and compilation. <i>Evaluations</i> are of the loss, a step, the
gradient's included.</p>
<img alt="loss, accuracy, sweep" width="100%" src="data:image/png;base64,{picture}">
<p>{made}</p>
</body></html>
"""


class Score(NamedTuple):
    """A mean over seeds and validation rows, and its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.error:.3f}"


class Method:
    """A summary of a method's runs; `rate` is AdamW's, None for ours."""

    def __init__(self, rate: float | None, runs: Sequence[list[Record]]):
        self.rate = rate
        self.name = OURS if rate is None else f"AdamW {rate:g}"
        self.epochs = [[x for x in run if x["kind"] == "epoch"] for run in runs]
        self.seconds = sum(x["seconds"] for run in self.epochs for x in run)
        evaluations = [x.get("evaluations") for run in runs for x in run]
        self.evaluations = np.mean([x for x in evaluations if x is not None])
        self.accuracy = score([run[-1] for run in self.epochs], "accuracy")
        self.log_loss = score([run[-1] for run in self.epochs], "log_loss")


def write_report(runs: Sequence[list[Record]], common: float, folder: Path) -> str:
    """Writes report.html; returns what was trained, and the verdict."""
    by_rate: dict[float | None, list[list[Record]]] = {}
    for run in runs:
        by_rate.setdefault(run[0]["settings"]["learning_rate"], []).append(run)
    methods = [Method(rate, made) for rate, made in by_rate.items()]
    first, picture = runs[0][0], BytesIO()
    verdict, trained = judge(methods, common, first["data"]), describe(first)
    plot(methods).savefig(picture, dpi=110, format="png")
    versions = ", ".join(f"{k} {v}" for k, v in first["versions"].items())
    rows: list[Sequence[str]] = [COLUMNS]
    for x in methods:
        costs = str(len(x.epochs)), f"{x.seconds:.0f} s", f"{x.evaluations:.2f}"
        rows.append((x.name, str(x.accuracy), str(x.log_loss), *costs))
    page = PAGE.format(
        verdict=escape(verdict),
        table="\n".join("<tr><td>" + "<td>".join(row) for row in rows),
        picture=base64.b64encode(picture.getvalue()).decode(),
        made=escape(f"{trained} {first['device']}, {versions}."),
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    return f"{trained}\n{verdict}"


def describe(run: Record) -> str:
    """Says what was trained, on how many rows of what."""
    settings, data = run["settings"], run["data"]
    chosen = settings["validation_size"] is None and not settings["validation_file"]
    share = " (1000, at most a fifth: --validation-size)" if chosen else ""
    return (
        f"Model {settings['model']} on {settings['train_file'] or settings['task']}: "
        f"{data['train_rows']} rows to train, {data['validation_rows']} to validate"
        f"{share}, {settings['epochs']} epochs at batch {data['batch_size']}."
    )


def score(ends: Sequence[Record], name: str) -> Score:
    """Averages over seeds, which share the validation rows and so their error."""
    values = np.array([x[name] for x in ends])
    rows = np.mean([x[f"{name}_error"] for x in ends])
    seeds = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return Score(float(values.mean()), float(np.hypot(rows, seeds)))


def judge(methods: Sequence[Method], common: float, data: Record) -> str:
    """Says in plain words how the untuned default did, and what it cost."""
    share, label = data["most_frequent_share"], data["most_frequent"]
    if not any(x.accuracy.mean > share for x in methods):
        return (
            f"No verdict: no run is better than always saying {label!r}, right in "
            f"{share:.3f} of the validation rows. Give more rows or more epochs."
        )
    ours, *sweep = methods
    best = max(sweep, key=lambda x: x.accuracy.mean)
    usual = next(x for x in sweep if x.rate == common)
    seconds, number = sum(x.seconds for x in sweep), len(sweep)
    return (
        f"Untuned, armijo_adam is {compare(ours.accuracy, best.accuracy)} the best of "
        f"{number} AdamWs in accuracy ({ours.accuracy} against {best.accuracy}, "
        f"chosen in hindsight: {best.rate:g}), "
        f"{compare(ours.log_loss, best.log_loss, sign=-1.0)} it in log loss, and "
        f"{compare(ours.accuracy, usual.accuracy)} AdamW at a common {common:g} "
        f"in accuracy ({usual.accuracy}). With compilation it took "
        f"{ours.seconds:.0f} s, the sweep {seconds:.0f} s, one AdamW run "
        f"{seconds / number:.0f} s."
    )


def compare(ours: Score, theirs: Score, sign: float = 1.0) -> str:
    """Says which is better, if they differ by more than two standard errors.

    Example:
      >>> compare(Score(0.9, 0.01), Score(0.8, 0.01))
      'ahead of'
    """
    if np.isnan(ours.mean) or np.isnan(theirs.mean):
        return "behind" if np.isnan(ours.mean) else "ahead of"
    difference, error = ours.mean - theirs.mean, np.hypot(ours.error, theirs.error)
    if abs(difference) <= 2.0 * error:
        return "level with"
    return "ahead of" if sign * difference > 0.0 else "behind"


def plot(methods: Sequence[Method]) -> Figure:
    """Plots training loss and accuracy over epochs, and accuracy over rates."""
    figure = Figure(figsize=(11.0, 4.0), layout="constrained")  # needs no display
    loss, accuracy, sweep = figure.subplots(1, 3)
    ours, *swept = methods
    blues = colormaps["Blues"](np.linspace(0.4, 1.0, len(swept)))
    for x, color in zip([*swept, ours], [*blues, "C3"], strict=True):
        for axes, name in ((loss, "train_loss"), (accuracy, "accuracy")):
            means = np.mean([[r[name] for r in run] for run in x.epochs], axis=0)
            axes.plot(range(1, len(means) + 1), means, "o-", label=x.name, color=color)
            axes.set(xlabel="epoch", ylabel=name.replace("_", " "))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    means, errors = zip(*(x.accuracy for x in swept), strict=True)
    sweep.errorbar([x.rate for x in swept], means, errors, fmt="o-", color=blues[-1])
    mean, error = ours.accuracy
    sweep.axhline(mean, color="C3")
    sweep.axhspan(mean - error, mean + error, color="C3", alpha=0.15)
    sweep.set(xscale="log", xlabel="AdamW's learning rate", ylabel="final accuracy")
    # Below the axes: inside of them it would lie on the lines.
    lines = loss.get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=5)
    return figure
