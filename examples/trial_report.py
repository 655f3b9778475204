"""The report of a trial: a page of Markdown, and the same as HTML with its pictures."""

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markdown_it import MarkdownIt
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from metrics import Record

PICTURE = "trial.png"
OURS = "average_iterates(armijo_adam())"
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;"
    "padding:0 1rem;color:#222}table{border-collapse:collapse;display:block;"
    "overflow-x:auto}td,th{padding:.3rem .7rem;border-bottom:1px solid #ddd;"
    "text-align:left}img{max-width:100%}code{background:#f3f3f3}"
)


class Outcome(NamedTuple):
    """A run of the trial: its method, AdamW's rate, and the lines of its metrics."""

    method: str
    rate: float | None
    records: list[Record]


class Score(NamedTuple):
    """A mean over seeds and validation rows, and its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.error:.3f}"


class Row(NamedTuple):
    """A method's runs, boiled down."""

    rate: float | None
    num_runs: int
    seconds: float
    evaluations: float
    accuracy: Score
    log_loss: Score
    outcomes: list[Outcome]

    @property
    def name(self) -> str:
        return f"`{OURS}`" if self.rate is None else f"AdamW {self.rate:g}"


def write_report(outcomes: Sequence[Outcome], paper: float, folder: Path) -> str:
    """Writes report.md, report.html and the picture; returns what they say of it."""
    rates = list(dict.fromkeys(x.rate for x in outcomes))
    rows = [row([x for x in outcomes if x.rate == rate]) for rate in rates]
    run = outcomes[0].records[0]
    verdict = judge(rows, paper, run["data"])
    trained = describe(run["settings"], run["data"])
    versions = run["versions"]
    text = "\n".join(
        [
            "# Trial of optax_armijo on your data",
            "",
            f"**{verdict}**",
            "",
            *table(rows),
            "",
            "± is the standard error, from the number of validation rows and of "
            "seeds. Time is of training, validation and compilation. "
            "*Evaluations* are of the loss, a step, the gradient's included.",
            "",
            f"![loss, accuracy and what the sweep shows]({PICTURE})",
            "",
            f"{trained}; {run['device']}, "
            + ", ".join(f"{name} {version}" for name, version in versions.items())
            + ".",
            "",
        ]
    )
    picture = draw(rows)
    (folder / PICTURE).write_bytes(picture)
    (folder / "report.md").write_text(text, encoding="utf-8")
    (folder / "report.html").write_text(to_html(text, picture), encoding="utf-8")
    return f"{trained.replace('`', '')}.\n{verdict}"


def describe(settings: Record, data: Record) -> str:
    """Says what was trained, on how many rows of what."""
    source = settings["train_file"] or settings["task"]
    chosen = settings["validation_size"] is None
    share = " (a fifth, at most 1000: --validation-size)" if chosen else ""
    return (
        f"Model `{settings['model']}` on `{source}`: {data['train_rows']} rows to "
        f"train, {data['validation_rows']} to validate{share}, {settings['epochs']} "
        f"epochs at batch {settings['batch_size']}"
    )


def row(outcomes: list[Outcome]) -> Row:
    """Boils the runs of one method down."""
    last = [x.records[-1] for x in outcomes]
    return Row(
        rate=outcomes[0].rate,
        num_runs=len(outcomes),
        seconds=sum(x["seconds"] + x["compile_seconds"] for x in last),
        evaluations=float(np.mean([x["evaluations_per_step"] for x in last])),
        accuracy=score(last, "accuracy"),
        log_loss=score(last, "log_loss"),
        outcomes=outcomes,
    )


def score(summaries: Sequence[Record], name: str) -> Score:
    """Averages over seeds; they share the validation rows, whose error stays."""
    values = np.array([x[name] for x in summaries], float)
    rows = np.mean([x[f"{name}_error"] for x in summaries])
    seeds = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return Score(float(values.mean()), float(np.hypot(rows, seeds)))


def judge(rows: Sequence[Row], paper: float, data: Record) -> str:
    """Says in plain words how the untuned default did, and what it cost."""
    if not any(x.accuracy.mean > data["most_frequent_share"] for x in rows):
        return (
            "No verdict: no run is better than always saying "
            f"{data['most_frequent']!r}, which is right in "
            f"{data['most_frequent_share']:.3f} of the validation rows. Give more rows "
            "or more epochs."
        )
    ours = next(x for x in rows if x.rate is None)
    sweep = [x for x in rows if x.rate is not None]
    best = max(sweep, key=lambda x: x.accuracy.mean)
    usual = next(x for x in sweep if x.rate == paper)
    seconds = sum(x.seconds for x in sweep)
    return (
        f"Untuned, armijo_adam is {compare(ours.accuracy, best.accuracy)} the best of "
        f"{len(sweep)} AdamWs in accuracy ({ours.accuracy} against {best.accuracy}, "
        f"chosen in hindsight: {best.rate:g}), "
        f"{compare(ours.log_loss, best.log_loss, less_is_better=True)} it in log loss, "
        f"and {compare(ours.accuracy, usual.accuracy)} AdamW at the papers' {paper:g} "
        f"in accuracy ({usual.accuracy}). With compilation it took "
        f"{ours.seconds:.0f} s, the sweep {seconds:.0f} s, one AdamW run "
        f"{seconds / len(sweep):.0f} s."
    )


def compare(ours: Score, theirs: Score, less_is_better: bool = False) -> str:
    """Says which is better, if they differ by more than two standard errors.

    Example:
      >>> compare(Score(0.9, 0.01), Score(0.8, 0.01))
      'ahead of'
      >>> compare(Score(0.81, 0.01), Score(0.8, 0.01))
      'level with'
      >>> compare(Score(0.9, 0.01), Score(0.8, 0.01), less_is_better=True)
      'behind'
    """
    if np.isnan(ours.mean) or np.isnan(theirs.mean):
        return "behind" if np.isnan(ours.mean) else "ahead of"
    difference = ours.mean - theirs.mean
    if abs(difference) <= 2.0 * np.hypot(ours.error, theirs.error):
        return "level with"
    return "ahead of" if (difference < 0.0) == less_is_better else "behind"


def table(rows: Sequence[Row]) -> list[str]:
    """Returns the lines of a Markdown table."""
    columns = ["method", "accuracy", "log loss", "runs", "time", "evaluations"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for x in rows:
        cells = [x.name, str(x.accuracy), str(x.log_loss), str(x.num_runs)]
        cells += [f"{x.seconds:.0f} s", f"{x.evaluations:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def draw(rows: Sequence[Row]) -> bytes:
    """Returns the picture of `plot` as PNG."""
    buffer = BytesIO()
    plot(rows).savefig(buffer, dpi=110, format="png")
    return buffer.getvalue()


def plot(rows: Sequence[Row]) -> Figure:
    """Plots training loss and accuracy over epochs, and accuracy over rates."""
    figure = Figure(figsize=(11.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)  # draws to files; no display is asked for
    loss, accuracy, sweep = figure.subplots(1, 3)
    swept = [x for x in rows if x.rate is not None]
    blues = colormaps["Blues"](np.linspace(0.4, 1.0, len(swept)))
    colors = {x.rate: color for x, color in zip(swept, blues, strict=True)}
    for x in rows:
        style: Any = {"color": "C3", "linewidth": 2.5}
        if x.rate is not None:
            style = {"color": colors[x.rate]}
        for axes, name in ((loss, "train_loss"), (accuracy, "accuracy")):
            means = np.mean([curve(y.records, name) for y in x.outcomes], axis=0)
            epochs = np.arange(1, len(means) + 1)
            axes.plot(epochs, means, "o-", label=x.name.strip("`"), **style)
            axes.set_xlabel("epoch")
            axes.set_ylabel(name.replace("_", " "))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    means = [x.accuracy.mean for x in swept]
    errors = [x.accuracy.error for x in swept]
    rates = [x.rate for x in swept]
    sweep.errorbar(rates, means, errors, fmt="o-", color=blues[-1])
    ours = next(x.accuracy for x in rows if x.rate is None)
    sweep.axhline(ours.mean, color="C3", linewidth=2.5)
    low, high = ours.mean - ours.error, ours.mean + ours.error
    sweep.axhspan(low, high, color="C3", alpha=0.15)
    sweep.set_xscale("log")
    sweep.set_xlabel("AdamW's learning rate")
    sweep.set_ylabel("accuracy at the end")
    # Below the axes: inside of them it would lie on the lines.
    lines = loss.get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=5)
    return figure


def curve(records: Sequence[Record], name: str) -> list[float]:
    """Returns a figure of each epoch; what was not finite is a gap."""
    values = [x[name] for x in records if x["kind"] == "epoch"]
    return [np.nan if x is None else x for x in values]


def to_html(text: str, picture: bytes) -> str:
    """Returns the page with its picture inside, so that one file can be sent."""
    data = "data:image/png;base64," + base64.b64encode(picture).decode()
    renderer = MarkdownIt("commonmark").enable("table")
    # Inserted after rendering: the parser takes no data addresses of this kind.
    body = renderer.render(text).replace(f'src="{PICTURE}"', f'src="{data}"')
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Trial of optax_armijo</title><style>{STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )
