"""The report of a trial: a page with the verdict, a table and a figure."""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from display import BLUE, ORANGE
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from run_folder import Record

OURS = "armijo_adam"
# What a run may be scored by, the first of which decides; 1 where more is better.
SCORES = {"accuracy": 1.0, "log_loss": -1.0, "loss": -1.0, "train_loss": -1.0}
# The figure is embedded, so that one file can be sent.
PAGE = """\
<!doctype html><html lang="en"><head><meta charset="utf-8">
<title>Trial of optax_armijo</title>
<style>body {{ max-width: 60rem; margin: auto }} td, th {{ padding: .3rem .6rem }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th {{ border-bottom: 1px solid }} td, th {{ text-align: right }}
td:first-child, th:first-child {{ text-align: left }}</style>
</head><body>
<h1>Trial of optax_armijo on your data</h1>
<p><b>{verdict}</b></p>
<table>{table}</table>
<p>The best of a column is bold; ± is the standard error, from the number of validation
rows and of seeds. All but the train loss is of the average of the last iterates, in
every method. <i>Time</i> is of training and validation; <i>compilation</i> is once for
all learning rates.
<i>Evaluations</i> are of the loss in a step, the gradient's included.</p>
<img alt="loss, score, sweep" width="100%" src="data:image/png;base64,{picture}">
<p>{made}</p>
</body></html>
"""


class Score(NamedTuple):
    """A mean over seeds and validation rows, and its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        form = ".3f" if abs(self.mean) >= 0.1 else ".3g"
        error = f" ± {self.error:{form}}" if self.error else ""
        return f"{self.mean:{form}}{error}"


class Method:
    """A summary of a method's runs; `rate` is AdamW's, None for ours."""

    def __init__(self, rate: float | None, runs: Sequence[list[Record]]):
        self.rate = rate
        self.name = OURS if rate is None else f"AdamW {rate:g}"
        self.epochs = [[x for x in run if x["kind"] == "epoch"] for run in runs]
        compiled = [sum(x.get("compile_seconds", 0.0) for x in y) for y in self.epochs]
        whole = sum(x["seconds"] for run in self.epochs for x in run)
        self.seconds = whole - sum(compiled)
        self.compilation = float(max(compiled))  # of one run: others may share it
        evaluations = [x.get("evaluations") for run in runs for x in run]
        self.evaluations = np.mean([x for x in evaluations if x is not None])
        last = [run[-1] for run in self.epochs]
        names = [x for x in SCORES if x in last[0]]
        # The training loss only where there is no other.
        self.scores = {x: score(last, x) for x in names[:-1] or names}


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
    page = PAGE.format(
        verdict=escape(verdict),
        table=tabulate(methods),
        picture=base64.b64encode(picture.getvalue()).decode(),
        made=escape(f"{trained} {first['device']}, {versions}."),
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    return f"{trained}\n{verdict}"


def tabulate(methods: Sequence[Method]) -> str:
    """The rows of the table, in HTML."""
    scores = methods[0].scores
    names = [name.replace("_", " ") for name in scores]
    header = ["method", *names, "runs", "time", "compilation", "evaluations"]
    lines = ["<tr><th>" + "<th>".join(header)]
    best = {name: str(best_of(methods, name).scores[name]) for name in scores}
    for x in methods:
        shown = {name: str(value) for name, value in x.scores.items()}
        cells = [f"<b>{v}</b>" if v == best[k] else v for k, v in shown.items()]
        seconds = f"{x.seconds:.0f} s", f"{x.compilation:.0f} s"
        row = x.name, *cells, str(len(x.epochs)), *seconds, f"{x.evaluations:.2f}"
        lines.append("<tr><td>" + "<td>".join(row))
    return "\n".join(lines)


def best_of(methods: Sequence[Method], name: str) -> Method:
    """The best in a score; one that is not a number is the worst."""
    gains = [SCORES[name] * x.scores[name].mean for x in methods]
    return methods[int(np.argmax(np.nan_to_num(gains, nan=-np.inf)))]


def describe(run: Record) -> str:
    """Says what was trained, on how many rows of what."""
    settings, data = run["settings"], run["data"]
    if problem := settings.get("problem"):
        steps = f"{data['steps_per_epoch']} steps each"
        return f"{problem}: {settings['epochs']} epochs of {steps}."
    chosen = settings["validation_size"] is None and not settings["validation_file"]
    share = " (1000, at most a fifth: --validation-size)" if chosen else ""
    return (
        f"Model {settings['model']} on {settings['train_file'] or settings['task']}: "
        f"{data['train_rows']} examples to train, {data['validation_rows']} to validate"
        f"{share}, {settings['epochs']} epochs at batch {data['batch_size']}."
    )


def score(ends: Sequence[Record], name: str) -> Score:
    """Averages over seeds, which share the validation rows and so their error."""
    values = np.array([x[name] for x in ends])
    rows = np.mean([x.get(f"{name}_error", 0.0) for x in ends])
    seeds = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return Score(float(values.mean()), float(np.hypot(rows, seeds)))


def judge(methods: Sequence[Method], common: float, data: Record) -> str:
    """Says in plain words how the untuned default did, and what it cost."""
    ours, *sweep = methods
    share, label = data.get("most_frequent_share"), data.get("most_frequent")
    if share and not any(x.scores["accuracy"].mean > share for x in methods):
        return (
            f"No verdict: no run is better than always saying {label!r}, right in "
            f"{share:.3f} of validation. Give more examples or more epochs."
        )
    first, *others = ours.scores
    best = best_of(sweep, first)
    usual = next(x for x in sweep if x.rate == common)

    def against(theirs: Method, name: str) -> str:
        return compare(ours.scores[name], theirs.scores[name], sign=SCORES[name])

    also = [f"{against(best, x)} it in {x.replace('_', ' ')}" for x in others]
    seconds, number = sum(x.seconds for x in sweep), len(sweep)
    compilation = max(x.compilation for x in sweep)
    what = first.replace("_", " ")
    said = (
        f"Untuned, armijo_adam is {against(best, first)} the best of "
        f"{number} AdamWs in {what} ({ours.scores[first]} against "
        f"{best.scores[first]}, chosen in hindsight: {best.rate:g}), "
        f"{', '.join([*also, 'and '])}{against(usual, first)} AdamW at a common "
        f"{common:g} in {what} ({usual.scores[first]}). With compilation, once for all "
        f"rates, it took {ours.seconds + ours.compilation:.0f} s, the sweep "
        f"{seconds + compilation:.0f} s, one AdamW run "
        f"{seconds / number + compilation:.0f} s."
    )
    rates = [x.rate for x in sweep if x.rate]
    if len(rates) > 1 and best.rate in (min(rates), max(rates)):
        said += " The best rate is at the end of the sweep: --rates gives it more."
    if len(ours.epochs) == 1 and f"{first}_error" not in ours.epochs[0][-1]:
        said += " One seed has no standard error: repeat it with --seeds 3."
    return said


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
    """Plots training loss and the first score over epochs, and that over rates."""
    figure = Figure(figsize=(11.0, 4.0), layout="constrained")  # needs no display
    ours, *swept = methods
    first = next(iter(ours.scores))
    loss, scores, sweep = figure.subplots(1, 3)
    blues = colormaps["Blues"](np.linspace(0.4, 1.0, len(swept)))
    for x, color in zip([*swept, ours], [*blues, ORANGE], strict=True):
        style = {"color": color, "linestyle": "--" if x is ours else "-"}
        for axes, name in ((loss, "train_loss"), (scores, first)):
            means = np.mean([[r[name] for r in run] for run in x.epochs], axis=0)
            epochs = range(1, len(means) + 1)
            axes.plot(epochs, means, marker="o", label=x.name, **style)
            axes.set(xlabel="epoch", ylabel=name.replace("_", " "))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if loss.dataLim.y0 >= 0.0:
        loss.set_ylim(0.0, 1.05 * loss.dataLim.y1)
    rates = [x.rate for x in swept]
    means, errors = zip(*(x.scores[first] for x in swept), strict=True)
    sweep.errorbar(rates, means, errors, fmt="o-", color=BLUE)
    mean, error = ours.scores[first]
    sweep.axhline(mean, color=ORANGE, linestyle="--")
    sweep.axhspan(mean - error, mean + error, color=ORANGE, alpha=0.15)
    final = f"final {first.replace('_', ' ')}"
    sweep.set(xscale="log", xlabel="AdamW's learning rate", ylabel=final)
    # Turned, and none of matplotlib's own between them: they would overlap.
    sweep.set_xticks(rates, [f"{rate:g}" for rate in rates], rotation=45)
    sweep.minorticks_off()
    # Below the axes: inside of them it would lie on the lines.
    lines = loss.get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=5)
    return figure
