"""Makes tables and figures of the comparison's records, and the tables of the README.

``python benchmarks/comparison/report.py`` writes ``README.md`` and a figure a task to
``benchmarks/results/comparison/``, and the tables between markers in the README of the
repository. Everything in them is computed from the records.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("examples", "benchmarks", "benchmarks/comparison")
sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS]

import protocol  # noqa: E402
from cli import make_parser  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from methods import HAND_TUNED, METHODS, SHARED_TITLES, SWEPT  # noqa: E402
from protocol import ITERATES, SIGNS, Record, read, standard_error  # noqa: E402
from tasks import FAMILIES, IMAGES, LISTS, TASKS, TUNING, family_of  # noqa: E402

README = ROOT / "README.md"
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(\n<!-- end of table -->)", re.S)
NUM_DRAWN = 6  # methods in a figure
FEWEST_TASKS = 4  # of a row in the table of differences
DEFAULT = "armijo_adam"
AT_EDGE = ", **at the edge**"
BEST_FREE = "best method without a learning rate, task by task, in hindsight"
TITLES = (
    f"`{DEFAULT}()`",
    "AdamW, warm-up and cosine, best rate of a sweep, in hindsight",
    "AdamW, warm-up and cosine, one usual rate",
    BEST_FREE,
    f"`{DEFAULT}(one_group)`, one step size for all",
    f"`{DEFAULT}` with `loss_fraction=None`, for random weights",
    "[PLASLS](https://arxiv.org/abs/2403.18506), layer-wise line search",
    "Adam, a hand-tuned rate for each part, best of some fifty sets, in hindsight",
)
LOG_LOSSES = {TUNING: "log loss", IMAGES: f"log loss, {IMAGES}"}
# Their last rows may have fewer seeds, or be missing.
OPTIONAL = ("armijo_adam-one", "armijo_adam-scratch", "plasls", HAND_TUNED)
FREE = ("salsa", "prodigy", "dadapt_adamw", "momo_adam", "schedule_free_adamw")
RIVALS = {"salsa": "SaLSA", "adamw": "AdamW at its best rate"}

INTRODUCTION = """\
# What was measured

Written by `benchmarks/comparison/report.py` from the records in the same folder.

Tasks are in two lists, written down before any run. *Development* tasks may be used to
choose a default; *test* tasks judge it afterwards.

"""
AHEAD = """\
## Who is ahead of `armijo_adam()`, and where

By the mean over the seeds that both have, of the last iterate; a sweep stands with its
best rate by score, or by loss. The difference is more than two standard errors, paired
by seed, on tasks in bold; two seeds tell little of the error.
"""
DIFFERENCES = """\
## Over all texts

Differences to the last iterate of `armijo_adam()`, paired by seed, in the mean over the
tasks of fine-tuning in both lists, ± the standard error over tasks. Each rate of AdamW
is the same on all tasks. Better are a larger accuracy and a smaller loss. Methods on
fewer than four tasks are left out.
"""
DETAILS = """\
## How to read the tables

- **Seeds.** Two of every method, then five of those within two standard errors of the
  best, and of ours. A seed determines params, rows and their order. Means are over
  seeds, ± the standard error where there are two or more.
- **Sweeps.** AdamW's learning rates are extended until the best is not at the edge, by
  score and by loss, of the last iterate and of the average. *Best of N rates* is chosen
  in hindsight by the mean score and, where that is another rate, also by the mean loss.
- **Groups.** `armijo_adam` and PLASLS find their groups by themselves: each layer, or
  in a model without layers each child of its root.
- **Hand-tuned rates.** Where the parts of a model differ in scale, Adam has a rate for
  each part that the task names: the best of many sets of rates, tried with a seed of
  their own.
- **Iterates.** Every run is scored by its last iterate and by what `average_iterates`
  makes of it. Schedule-free AdamW has an average of its own, shown as its last iterate.
- **Columns.** The score is an accuracy or decibels (dB). Score and loss are of the
  validation data; in the short tables the log loss is of the runs that are best by
  score. The training loss is the mean of the last epoch. *Early* is the score
  after two epochs of five or ten, or one of two. *Cost* is in runs of AdamW, with
  evaluations of the loss at the cost measured on the task, times the runs that finding
  the rates took. *At equal cost* is the score when a run of AdamW is over. *Difference*
  is to the best rival, paired by seed: the method not ours with the best mean score.
- **Diverged** is a run whose score or loss is not finite. It counts as worst.
- **Ranks** are 1 plus the number of others that are better, by the mean over the seeds
  that both have; then the mean over tasks. Each iterate of each method is an entrant, a
  sweep with its best rate by score in one column and by loss in the other. Tasks and
  entrants are those of the largest table without gaps.
"""


class Entrant(NamedTuple):
    """A row of a table: a method and which of its iterates is kept.

    Attributes:
      task: its name.
      method: its name in the records, such as ``adamw@1e-04``.
      iterate: ``last`` or ``average``.
      runs: records by seed.
      title: in tables, without the rate.
      note: what is to be said of it besides.
      num_tried: the runs that finding its rates took.
    """

    task: str
    method: str
    iterate: str
    runs: dict[int, Record]
    title: str
    note: str = ""
    num_tried: int = 1

    @property
    def key(self) -> tuple[str, str]:
        """The same for all rates of a sweep, and on all tasks."""
        return self.method.partition("@")[0], self.iterate

    @property
    def rate(self) -> float:
        return float(self.method.partition("@")[2])

    def values(self, score: str, when: str = "end") -> dict[int, float]:
        """Returns a score by seed, the larger the better; -inf if a run diverged."""
        return {
            seed: protocol.goodness(run, self.iterate, score, when)
            for seed, run in self.runs.items()
        }

    def on(self, seeds: set[int]) -> "Entrant":
        """The same on these seeds."""
        return self._replace(runs={seed: self.runs[seed] for seed in sorted(seeds)})

    def mean(self, score: str = "score") -> float:
        """Returns the mean over seeds, the larger the better."""
        return float(np.mean([*self.values(score).values()]))

    def text(self, score: str, when: str = "end") -> str:
        """Returns the mean over seeds for a table."""
        values = [SIGNS[score] * x for x in self.values(score, when).values()]
        return mean_text(values, places(self.task, score))


def all_entrants(task: str) -> list[Entrant]:
    """Returns every method and iterate of a task, each learning rate by itself."""
    runs: dict[str, dict[int, Record]] = {}
    for record in read(task):
        runs.setdefault(record["method"], {})[record["seed"]] = record
    return [
        Entrant(task, method, iterate, runs[method], *described(task, method))
        for method in runs
        for iterate in ITERATES
        if (method, iterate) != ("schedule_free_adamw", "average")
    ]


def described(task: str, method: str) -> tuple[str, str, int]:
    """Returns the title, the note and the number of runs tried of a method."""
    kind, _, rate = method.partition("@")
    if kind == HAND_TUNED:
        number = len(read(task, kind="-rates"))
        return "Adam, hand-tuned rates", f", best of {number} sets", number
    if rate:
        return (SWEPT | SHARED_TITLES)[kind], f", {rate}", 1
    return METHODS[kind].title if kind in METHODS else f"`{method}`", "", 1


def entrants(task: str, by: str = "score") -> list[Entrant]:
    """Returns the entrants of a task, of each sweep the best rate; best ones first."""
    rates: dict[tuple[str, str], list[Entrant]] = {}
    for x in all_entrants(task):
        rates.setdefault(x.key, []).append(x)
    found = [best_rate(x, by) if k[0] in SWEPT else x[0] for k, x in rates.items()]
    return sorted(found, key=lambda x: -x.mean(by))


def best_rate(sweep: list[Entrant], by: str) -> Entrant:
    """Returns the best of a sweep; says where it lies at the edge of what was tried."""
    sweep = sorted(sweep, key=lambda x: x.rate)
    best = max(sweep, key=lambda x: x.mean(by))
    note = f", best of {len(sweep)} rates{' by loss' * (by == 'loss')}{best.note}"
    note += AT_EDGE * (best in (sweep[0], sweep[-1]))
    return best._replace(note=note, num_tried=len(sweep))


def shown(task: str) -> list[Entrant]:
    """Returns the rows of a task's table: the best rates by score, and by loss."""
    best = entrants(task)
    known = {(x.method, x.iterate) for x in best}
    best += [x for x in entrants(task, "loss") if (x.method, x.iterate) not in known]
    return sorted(best, key=Entrant.mean, reverse=True)


def best_rival(task: str) -> Entrant | None:
    """Returns the best of the methods that are not ours, by mean score."""
    return next((x for x in entrants(task) if not x.method.startswith("armijo")), None)


def is_better(one: Entrant, other: Entrant, by: str = "score") -> bool:
    """Tells whether one is ahead of another in the mean over the seeds of both."""
    return bool({*one.runs} & {*other.runs}) and mean_difference(one, other, by) > 0


def mean_text(values: Iterable[float], places: int = 3, sign: str = "") -> str:
    """Formats a mean, with its standard error where there are two values or more.

    Example:
      >>> mean_text([0.5, 0.7]), mean_text([0.5], 2, "+"), mean_text([0.5, np.inf])
      ('0.600 ± 0.100', '+0.50', 'diverged: 1 of 2')
    """
    x = np.array([*values], float)
    if not np.all(np.isfinite(x)):
        return f"diverged: {np.sum(~np.isfinite(x))} of {x.size}"
    if x.size == 0:
        return ""
    error = f" ± {standard_error(x):.{places}f}" if x.size > 1 else ""
    return f"{x.mean():{sign}.{places}f}{error}"


def places(task: str, score: str) -> int:
    """Returns how many decimal places a score is shown with."""
    return 4 if score == "loss" else {"dB": 2, "accuracy": 3}[family_of(task).unit]


def table(rows: Sequence[dict[str, str]]) -> str:
    """Returns a Markdown table of rows with the same columns."""
    lines = [[*rows[0]], ["---"] * len(rows[0]), *([*x.values()] for x in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def row(entrant: Entrant, rival: Entrant | None) -> dict[str, str]:
    """Returns the cells of an entrant by the names of their columns."""
    unit, runs = family_of(entrant.task).unit, entrant.runs.values()
    training = [x["train_loss"]["end"] for x in runs]
    logs = [np.inf if x is None else np.log10(x) for x in training]
    cost = f"{np.mean([x['cost'] for x in runs]):.2f}"

    def difference(score: str) -> str:
        if rival is None or rival[:3] == entrant[:3]:
            return "best rival" if rival else ""
        own, other = entrant.values(score), rival.values(score)
        pairs = np.array([(own[s], other[s]) for s in own if s in other])
        if not np.all(np.isfinite(pairs)):
            return "diverged"
        ahead = [SIGNS[score] * (x - y) for x, y in pairs]
        return mean_text(ahead, places(entrant.task, score), "+")

    return {
        "method": entrant.title + entrant.note,
        "iterate": ITERATES[entrant.iterate],
        "seeds": str(len(runs)),
        unit: entrant.text("score"),
        "loss": entrant.text("loss"),
        "log10 training loss": mean_text(logs, 2),
        "early": entrant.text("score", "early"),
        "cost": cost if entrant.num_tried == 1 else f"{entrant.num_tried} x {cost}",
        "at equal cost": entrant.text("score", "equal_cost"),
        f"{unit}, difference": difference("score"),
        "loss, difference": difference("loss"),
    }


def ranks(tasks: Sequence[str]) -> str:
    """Returns mean ranks over tasks, and says over which and who is missing."""
    by_task = {
        task: {by: {x.key: x for x in entrants(task, by)} for by in SIGNS}
        for task in tasks
    }
    titles = {k: x.title for t in by_task.values() for k, x in t["score"].items()}
    full, keys = largest_full({task: {*x["score"]} for task, x in by_task.items()})

    def mean_rank(key: tuple[str, str], by: str) -> float:
        found = [by_task[task][by] for task in full]
        better = [sum(is_better(x[k], x[key], by) for k in keys) for x in found]
        return 1 + float(np.mean(better))

    standings = sorted((mean_rank(k, "score"), mean_rank(k, "loss"), k) for k in keys)
    rows = [
        {
            "method": titles[key],
            "iterate": ITERATES[key[1]],
            "rank by score": f"{by_score:.1f}",
            "rank by loss": f"{by_loss:.1f}",
        }
        for by_score, by_loss, key in standings
    ]
    absent = {
        f"{titles[k]} ({sum(k in x['score'] for x in by_task.values())})"
        for k in titles.keys() - keys
    }
    missing = ", ".join(sorted(absent)) or "none"
    return (
        f"Mean ranks of {len(keys)} entrants over {', '.join(full)}.\n\n{table(rows)}"
        f"\n\nNot ranked, with the number of tasks of {len(tasks)}: {missing}."
    )


def largest_full(found: dict[str, set[Any]]) -> tuple[list[str], set[Any]]:
    """Returns tasks, and what all of these have, so that their table is largest.

    Example:
      >>> largest_full({"a": {1, 2}, "b": {1}, "c": {1, 2, 3}})
      (['a', 'c'], {1, 2})
    """
    order = sorted(found, key=lambda task: -len(found[task]))
    parts = [order[: i + 1] for i in range(len(order))]
    shared = [set.intersection(*(found[task] for task in part)) for part in parts]
    i = max(range(len(parts)), key=lambda i: len(parts[i]) * len(shared[i]))
    return [task for task in found if task in parts[i]], shared[i]


def list_section(name: str) -> str:
    """Returns what a list's records say, kind by kind and task by task."""
    tasks = recorded(name)
    waiting = ", ".join(task for task in LISTS[name] if task not in tasks) or "none"
    number = sum(len(read(task)) for task in tasks)
    text = f"## {name.capitalize()} tasks\n\n"
    text += f"{number} runs so far; tasks without any: {waiting}.\n"
    if not tasks:
        return text
    edges = [
        f"{task}, {x.title}{x.note.removesuffix(AT_EDGE)}, {ITERATES[x.iterate]}"
        for task in tasks
        for x in shown(task)
        if x.note.endswith(AT_EDGE)
    ]
    text += f"Sweeps whose best rate is at the edge: {'; '.join(edges) or 'none'}.\n"
    text += f"\n{ranks(tasks)}\n"
    for kind in dict.fromkeys(family.kind for family in FAMILIES.values()):
        members = [task for task in tasks if family_of(task).kind == kind]
        if members:
            text += f"\n### {name.capitalize()}: {kind}\n"
            text += f"\n{ranks(members)}\n" if len(members) > 1 else ""
            text += "".join(map(task_section, members))
    return text


def recorded(name: str) -> list[str]:
    """Returns the tasks of a list that have runs."""
    return [task for task in LISTS[name] if read(task)]


def task_section(task: str) -> str:
    """Returns a task's figure and tables; single rates are folded away."""
    rival = best_rival(task)
    made = sorted({f"{x['made']['commit']}, {x['made']['device']}" for x in read(task)})
    single = [x for x in all_entrants(task) if "@" in x.method]
    single.sort(key=lambda x: x.rate)
    best, rates = ([row(x, rival) for x in some] for some in (shown(task), single))
    text = f"\n#### {task}\n\n![{task}]({task}.png)\n\n{table(best)}\n"
    if rates:
        text += "\n<details><summary>Each learning rate of AdamW</summary>\n\n"
        text += f"{table(rates)}\n\n</details>\n"
    return text + f"\nMade by commit, on device: {'; '.join(made)}.\n"


def draw(task: str) -> Figure:
    """Draws scores against AdamW's learning rate, and losses over the steps."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    figure.suptitle(task)
    axes: Any = figure.subplots(1, 2)
    left, right = axes
    unit = family_of(task).unit
    left.set(xscale="log", xlabel="AdamW's learning rate", ylabel=unit)
    right.set(yscale="log", xlabel="part of the run", ylabel="training loss")
    for name, colour in zip(SWEPT, ("0.1", "0.55"), strict=True):
        sweep = [x for x in all_entrants(task) if x.key == (name, "last")]
        points = zip(*sorted((x.rate, *mean_and_error(x)) for x in sweep), strict=True)
        if sweep:
            label = f"{SWEPT[name]}, every rate"
            left.errorbar(*points, color=colour, marker="o", label=label)
    # The best methods and the default, each by its better iterate.
    best: dict[str, Entrant] = {}
    for x in entrants(task):
        best.setdefault(x.key[0], x)
    names = [*[*best][:NUM_DRAWN], DEFAULT]
    for i, x in enumerate(x for name, x in best.items() if name in names):
        label = re.sub("[`*]", "", f"{x.title}{x.note}, {ITERATES[x.iterate]}")
        curve = np.mean([np.array(r["loss_curve"], float) for r in x.runs.values()], 0)
        right.plot(np.linspace(0, 1, len(curve)), curve, color=f"C{i}", label=label)
        if x.key[0] not in SWEPT:
            mean, error = mean_and_error(x)
            left.axhline(mean, color=f"C{i}")
            left.axhspan(mean - error, mean + error, color=f"C{i}", alpha=0.15, lw=0)
    left.grid(alpha=0.3)
    right.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    return figure


def mean_and_error(entrant: Entrant) -> tuple[float, float]:
    """Returns the mean score and its standard error; NaN where a run diverged."""
    x = np.array([*entrant.values("score").values()])
    x[~np.isfinite(x)] = np.nan
    return float(x.mean()), standard_error(x)


def summary(name: str) -> str:
    """Returns a list's scores in a short table, and where the default stands."""
    tasks = recorded(name)
    if not tasks:
        return f"No runs on the {name} tasks so far."
    found = {task: {x.key: x for x in entrants(task)} for task in tasks}
    columns = columns_of(found)
    seeds = {
        key: [f"{task} ({len(rows[0].runs)})" for task, rows in x.items() if rows[0]]
        for key, x in columns.items()
    }
    names = "; ".join(f"{key}: {', '.join(x)}" for key, x in seeds.items())
    short_of_seeds = {
        x.title
        for column in columns.values()
        for rows in column.values()
        for x in rows
        if x and rows[0] and len(x.runs) < len(rows[0].runs)
    }
    fewer = f" (fewer for {', '.join(sorted(short_of_seeds))})"
    last, average = (standing(found, x) for x in ITERATES)
    short = f"{table(short_rows(columns))}\n\n" if columns else ""
    return (
        f"{short}All rows have the same tasks and seeds"
        f"{fewer if short_of_seeds else ''}. Tasks, with the number of seeds: "
        f"{names or 'none so far'}. "
        "By the mean score, on the tasks that both have run on, `armijo_adam()` is "
        f"{last}; with `average_iterates` around both, {average}."
    )


def columns_of(found: dict[str, Any]) -> dict[str, dict[str, list[Entrant | None]]]:
    """Returns the entrants in the rows of `TITLES` by task, by the columns' headings.

    The rows are the default, the best rate of a sweep, the middle one of those that the
    sweep begins with, of the methods without a learning rate the best one on the task,
    and those of `OPTIONAL`.
    """
    columns: dict[str, dict[str, list[Entrant | None]]] = {}
    for task, keyed in found.items():
        family = family_of(task)
        typical = f"adamw@{family.first_rates[1]:.0e}"
        single = {(x.method, x.iterate): x for x in all_entrants(task)}
        free = [keyed[x, "last"] for x in FREE if (x, "last") in keyed]
        rows = [
            keyed.get((DEFAULT, "last")),
            keyed.get(("adamw", "last")),
            single.get((typical, "last")),
            max(free, key=Entrant.mean, default=None),
        ]
        seeds = set.intersection(*[{*x.runs} if x else set() for x in rows])
        rows += [keyed.get((x, "last")) for x in OPTIONAL]
        if seeds:
            some = [x.on(seeds & {*x.runs}) if x else None for x in rows]
            rows = [x if x and x.runs else None for x in some]
            heading = f"{family.kind}, {family.unit}"
            columns.setdefault(heading, {})[task] = rows
    return columns


def short_rows(
    columns: dict[str, dict[str, list[Entrant | None]]],
) -> list[dict[str, str]]:
    """Returns the cells of the short table by the names of their columns."""
    rows = []
    for i, title in enumerate(TITLES):
        cells, every = {"": title}, []
        for heading, column in columns.items():
            some = [x for x in (of[i] for of in column.values()) if x]
            scores = {heading: "score"}
            kind = next((x for x in LOG_LOSSES if heading.startswith(x)), "")
            scores |= {LOG_LOSSES[kind]: "loss"} if kind else {}
            cells |= dict.fromkeys(scores, "")
            if len(some) == len(column):
                every += some
                for name, score in scores.items():
                    cells[name] = mean_over_tasks(some, 2 if "dB" in name else 3, score)
                if title == BEST_FREE:
                    cells[heading] += f" ({', '.join(sorted({x.title for x in some}))})"
        cells["runs"] = from_to([x.num_tried for x in every], 0)
        costs = [
            x.num_tried * np.mean([run["cost"] for run in x.runs.values()])
            for x in every
        ]
        if every:
            rows.append(cells | {"cost": from_to(costs, 2)})
    return rows


def mean_over_tasks(some: list[Entrant], places: int, score: str) -> str:
    """Returns the mean, and its error over seeds where each task has two or more."""
    errors = [standard_error(np.array([*x.values(score).values()])) for x in some]
    text = f"{SIGNS[score] * np.mean([x.mean(score) for x in some]):.{places}f}"
    if all(len(x.runs) > 1 for x in some):
        text += f" ± {np.linalg.norm(errors) / len(errors):.{places}f}"
    return text


def from_to(values: Sequence[float], places: int) -> str:
    """Returns the smallest and the largest value.

    Example:
      >>> from_to([1.04, 1.16], 2), from_to([1, 1], 0)
      ('1.04 to 1.16', '1')
    """
    ends = [f"{x:.{places}f}" for x in (min(values), max(values))] if values else []
    return " to ".join(dict.fromkeys(ends))


def standing(found: dict[str, dict[Any, Entrant]], iterate: str) -> str:
    """Says on how many tasks each rival is ahead of the default."""
    ours = (DEFAULT, iterate)
    texts = []
    for rival, label in RIVALS.items():
        both = [x for x in found.values() if {ours, (rival, iterate)} <= x.keys()]
        number = sum(is_better(x[rival, iterate], x[ours]) for x in both)
        texts.append(f"behind {label} on {number} of {len(both)}")
    return " and ".join(texts)


def who_is_ahead() -> str:
    """Names the tasks on which each method is ahead of the default, in a table."""
    tasks = [task for name in LISTS for task in recorded(name)]
    by_task = {
        by: {task: {x.key: x for x in entrants(task, by)} for task in tasks}
        for by in SIGNS
    }
    titles = {k: x.title for t in by_task["score"].values() for k, x in t.items()}
    ours = (DEFAULT, "last")
    rows = []
    for key in sorted(titles, key=lambda key: titles[key]):
        both = [x for x in tasks if {ours, key} <= by_task["score"][x].keys()]
        if key == ours or key[1] != "last" or not both:
            continue
        cells = {"method": titles[key], "tasks": str(len(both))}
        for by in SIGNS:
            pairs = {x: (by_task[by][x][key], by_task[by][x][ours]) for x in both}
            ahead = [x for x, pair in pairs.items() if is_better(*pair, by)]
            names = [f"**{x}**" if is_clear(*pairs[x], by) else x for x in ahead]
            cells[f"ahead by {by}"] = f"{len(names)}: {', '.join(names)}".rstrip(": ")
        rows.append(cells)
    return table(rows)


def is_clear(one: Entrant, other: Entrant, by: str) -> bool:
    """Tells whether they differ by more than two standard errors, paired by seed."""
    x, y = one.values(by), other.values(by)
    differences = np.array([x[s] - y[s] for s in sorted({*x} & {*y})])
    if not np.all(np.isfinite(differences)) or differences.size < 2:
        return False
    return bool(abs(differences.mean()) > 2 * standard_error(differences))


def differences(kind: str) -> str:
    """Returns a table of each method's difference to the default on tasks of a kind."""
    tasks = [x for x in map(str, TASKS) if family_of(x).kind == kind]
    by_task = [{(x.method, x.iterate): x for x in all_entrants(t)} for t in tasks]
    ours = (DEFAULT, "last")
    pairs: dict[tuple[str, str], list[tuple[Entrant, Entrant]]] = {}
    for found in by_task:
        for key, x in found.items():
            if ours in found and key != ours and {*x.runs} & {*found[ours].runs}:
                pairs.setdefault(key, []).append((x, found[ours]))
    rows = []
    for both in (x for x in pairs.values() if len(x) >= FEWEST_TASKS):
        found = {by: [mean_difference(*x, by) for x in both] for by in SIGNS}
        one, _ = both[0]
        cells = {"method": one.title + one.note, "iterate": ITERATES[one.iterate]}
        cells["tasks"] = str(len(both))
        cells["accuracy"] = mean_text(found["score"], 3, "+")
        cells["log loss"] = mean_text([-x for x in found["loss"]], 3, "+")
        rows.append((-len(both), -np.mean(found["score"]), cells))
    rows.sort(key=lambda x: x[:2])
    return table([cells for *_, cells in rows]) if rows else "None so far."


def mean_difference(one: Entrant, other: Entrant, by: str) -> float:
    """Returns by how much one is ahead, over the seeds of both."""
    seeds = {*one.runs} & {*other.runs}
    return one.on(seeds).mean(by) - other.on(seeds).mean(by)


def page() -> str:
    """Returns the page of all results: the short tables first, then the details."""
    short = "\n".join(f"## In short: {x} tasks\n\n{summary(x)}\n" for x in LISTS)
    short += f"\n{AHEAD}\n{who_is_ahead()}\n\n{DIFFERENCES}\n{differences(TUNING)}\n"
    return "\n".join([INTRODUCTION + short, DETAILS, *map(list_section, LISTS)])


def updated_readme(text: str) -> str:
    """Returns the README with the tables between its markers made anew."""
    return TABLE.sub(lambda x: x[1] + summary(x[2]) + x[3], text)


def main(argv: Sequence[str] | None = None) -> None:
    make_parser(__doc__).parse_args(argv)
    (protocol.RECORDS / "README.md").write_text(page())
    for task in (task for name in LISTS for task in recorded(name)):
        draw(task).savefig(protocol.RECORDS / f"{task}.png", dpi=100)
    README.write_text(updated_readme(README.read_text()))


if __name__ == "__main__":
    main()
