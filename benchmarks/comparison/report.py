"""Makes pages and figures of the comparison's records, and the table of the README.

``python benchmarks/comparison/report.py`` writes to ``benchmarks/results/comparison/``
the profile with its figures (``README.md``, ``profile.png``, ``summary.png``), the
tables by kind of task (``by_kind.md``) and a page and a figure for each task
(``tasks/``), and three short tables between markers: into the README of the repository,
and two into ``docs/guides/parts.md``.
"""

import re
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("examples", "benchmarks", "benchmarks/comparison")
sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS]

import figures  # noqa: E402
import protocol  # noqa: E402
from cli import make_parser  # noqa: E402
from methods import HAND_TUNED, METHODS, PUBLISHED, SHARED, SWEPT  # noqa: E402
from protocol import (  # noqa: E402
    ITERATES,
    SIGNS,
    chosen_on,
    read,
    shared_rates,
    standard_error,
)
from standings import (  # noqa: E402
    AT_EDGE,
    DEFAULT,
    HINDSIGHT,
    UNTUNED,
    Entrant,
    Profile,
    all_entrants,
    best_rate,
    best_rival,
    difference,
    entrants,
    gap_between,
    mean_gap,
    mean_text,
    name_on_tasks,
    places,
    profiles,
    recorded,
    score_text,
    shown,
    table,
)
from tasks import LISTS, LOOKED_AT, NEWEST, TUNING, family_of  # noqa: E402

README, GUIDE = ROOT / "README.md", ROOT / "docs" / "guides" / "parts.md"
TABLE = "(<!-- {0} -->\n).*?(\n<!-- end of {0} -->)"
NUM_WORST = 5  # tasks that are named
IN_HINDSIGHT = ", best of a sweep on each task"
NUM_RIVALS = 2  # in the table of the README
# In the table of texts.
ON_TEXTS = (
    f"{DEFAULT}-num_steps",
    DEFAULT,
    "adamw@1e-04",
    "prodigy_cosine",
    "salsa",
)
HANDED_OVER = f"{DEFAULT}-handed_over"
# In the table of rates that are handed over.
BESIDE_RATES = (
    "one_adamw",
    "prodigy_cosine",
    "dadapt_adamw_cosine",
    f"{DEFAULT}-num_steps",
)
FEWEST_TASKS = 4  # of a row in the table of differences

INTRODUCTION = f"""\
# How far from the best, with nothing set

Written by `benchmarks/comparison/report.py` from the records in `records/`. A method's
*gap* on a task is log(its loss / the loss of the best of all methods and learning
rates, in hindsight): 0.1 is a loss 10% larger. Losses are of validation data: log
losses and squared errors.

Tasks are in two lists, written down before any run. *Development* tasks may be used to
choose a default; *test* tasks judge it afterwards. Some were test tasks until a default
was chosen with their results at hand: {", ".join(LOOKED_AT)}.
The newest test tasks are {", ".join(NEWEST)}: since they first ran, the rule of the
search has changed twice, by what purchases and a neural ODE showed. A third change was
left out by development tasks and by three test tasks: denoising-digits, which has
become a development task, word-counts-tweets and graph. Results of the others were seen
while the rule was made, and it was not chosen by them.

![Gaps of each method, a dot a task](profile.png)
"""
LINKS = """\
## More

- [Tables by kind of task](by_kind.md): accuracies, decibels, losses; gaps in accuracy;
  gaps on the newest test tasks.
- [How it was measured](how_it_was_measured.md): seeds, sweeps, columns.
- A page for each task, with every learning rate, in `tasks/`.
"""
MEASURED = """\
# How it was measured

- **Gaps.** The best in hindsight of a task is the method, rate and iterate with the
  smallest mean of log(loss) over the first two seeds; a gap is the mean difference to
  it over the seeds of both. Seeds that the default has not run count for no method. A
  method with more seeds than the best may have a gap below zero. A run that diverged,
  or whose loss is more than 22,000 times the best, has a gap of 10. *`armijo_adam()`
  there* is the mean gap of the default on the tasks that the method has run on. Gaps in
  accuracy or dB are best score - score, with the best chosen by the score, and at most
  1 and 43.4 dB.
- **Nothing set.** Ours, the line searches, Prodigy, D-Adaptation, schedule-free AdamW,
  MoMo-Adam, ScheduleFree+ and L-BFGS run at their documented defaults; where the name
  says so, with a cosine or a warm-up over the run. *One AdamW for everything* has one
  learning rate for all tasks, the best one on the development tasks by the mean gap
  (without those of 5,000 examples); so have one schedule-free AdamW and one MoMo-Adam.
  L-BFGS runs where there is little noise, gsplat's rates run on pictures by Gaussians,
  LoRA+ on LoRA adapters.
- **Seeds.** Two of every method, then five of those within two standard errors of the
  best, and of ours; what is missing is missing. A seed determines params, examples and
  their order. Means are over seeds, ± the standard error where there are two or more.
- **Sweeps.** Learning rates of AdamW and of LoRA+ are extended until the best is not at
  the edge, by score and by loss, of the last iterate and of the average. *Best of N
  rates* is chosen in hindsight by the mean score and, where that is another rate, also
  by the mean loss. A rate of LoRA+ is that of A.
- **Groups.** `armijo_adam` and PLASLS find their groups by themselves: each layer, or
  in a model without layers each top-level entry of its params.
- **Hand-tuned rates.** Where the parts of a model differ in scale, Adam has a rate for
  each part that the task names: the best of many sets of rates, tried with a seed of
  their own.
- **Iterates.** Every run is scored by its last iterate and by what `average_iterates`
  makes of it. That changes runs of `armijo_adam()` and `armijo_adam(one_group)` alone,
  whose params may follow the average, as in any run of unknown length. Schedule-free
  methods have an average of their own, shown as their last iterate.
- **Columns.** The score is an accuracy or decibels (dB). Score and loss are of the
  validation data. The training loss is the mean of the last epoch. *Early* is the score
  after two epochs of five or ten, or one of two. *Cost*: total compute relative to one
  AdamW run, with evaluations of the loss at the cost measured on the task, times the
  runs that finding the rates took. *At equal cost* is the score when a run of AdamW is
  over. *Difference* is to the best rival, paired by seed: the method not ours with the
  best mean score.
- **Diverged** is a run whose score or loss is not finite. It counts as worst.
"""
SOME = """\
Mean gaps of the last iterate, and of the average in brackets. The newest tasks ran
first before the last two changes of the search; two more of them, purchases and
denoising-digits, have helped to choose since, and are development tasks now. Texts are
those with a language model, pretrained or not."""
DIFFERENCES = """\
## Over all texts

Differences to the last iterate of `armijo_adam()`, paired by seed, in the mean over the
tasks of 500 texts in both lists, ± the standard error over tasks. Each rate of
AdamW is the same on all tasks. Better are a larger accuracy and a smaller loss. Methods
on fewer than four tasks are left out.
"""


# The profile.


def page() -> str:
    """Returns the page of the profile: its figure and a table for each list."""
    text = INTRODUCTION
    for name in reversed(LISTS):
        text += f"\n## {name.capitalize()} tasks\n\n{summary(name)}\n"
    return f"{text}\n{LINKS}"


def commits_of_ours() -> str:
    """Says of which commits the runs of ours are: how many of each, most first."""
    made = Counter(
        x["made"]["commit"]
        for name in LISTS
        for task in recorded(name)
        for x in read(task)
        if x["method"].startswith(DEFAULT)
    )
    text = ", ".join(f"{number} of {name}" for name, number in made.most_common())
    return f"- **Commits.** Runs of ours: {text}.\n" * bool(made)


def subsets() -> str:
    """Returns a table of mean gaps on some of the test tasks, last and averaged."""
    tasks = recorded("test")
    parts = {
        "newest": [x for x in tasks if x in NEWEST],
        "others": [x for x in tasks if x not in NEWEST],
        "texts": [x for x in tasks if family_of(x).module == "classification"],
    }
    rows: dict[str, dict[str, str]] = {x: {} for x in figures.SUMMARY}
    for title, some in parts.items():
        if not some:
            continue
        last, average = (
            {x.method: x for x in profiles(some, "loss", iterate, figures.SUMMARY)}
            for iterate in ITERATES
        )
        for method, row in rows.items():
            if method in last and len(last[method].gaps) == len(some):
                both = mean_gap(last[method]), mean_gap(average[method])
                row[f"{title} ({len(some)})"] = "{:.2f} [{:.2f}]".format(*both)
    columns = list(dict.fromkeys(x for row in rows.values() for x in row))
    if not columns:
        return "No runs so far."
    return table(
        [
            {"method": name_on_tasks(method)[1] + IN_HINDSIGHT * (method in HINDSIGHT)}
            | {x: row.get(x, "") for x in columns}
            for method, row in rows.items()
            if row
        ]
    )


def summary(name: str) -> str:
    """Returns the table of the profile of a list, and where the default is worst."""
    tasks = recorded(name)
    if not tasks:
        return f"No runs on the {name} tasks so far."
    last = profiles(tasks, "loss", "last")
    average = {x.method: x for x in profiles(tasks, "loss", "average")}
    (ours,) = [x for x in last if x.method == DEFAULT]
    rows = [profile_row(x, average[x.method], ours, len(tasks)) for x in last]
    worst = sorted(ours.gaps, key=lambda task: -ours.gaps[task].size)[:NUM_WORST]
    named = ", ".join(f"{task} ({ours.gaps[task].size:.2f})" for task in worst)
    waiting = [task for task in LISTS[name] if task not in tasks]
    missing = f" Tasks without runs so far: {', '.join(waiting)}." * bool(waiting)
    note = f"`{DEFAULT}()` is farthest behind on {named}.{missing}{unfinished_sweeps()}"
    edges = ", ".join(filter(is_at_edge, tasks))
    note += f" AdamW's best rate is at the edge of its sweep on {edges}." * bool(edges)
    return f"{table(rows)}\n\n{note}"


def is_at_edge(task: str) -> bool:
    """Whether AdamW, with warm-up and cosine, may be better at a rate not tried yet."""
    sweep = [x for x in all_entrants(task) if x.key == ("adamw", "last")]
    return bool(sweep) and best_rate(sweep, "loss").note.endswith(AT_EDGE)


def unfinished_sweeps() -> str:
    """Says on how many tasks one rate for all was chosen, where runs are missing."""
    found = {SHARED[x][1]: shared_rates(x) for x in SHARED}
    number = len(chosen_on())
    parts = [
        f"that of {title.partition(',')[0]} on {len(x.tasks)}, from "
        + " and ".join(f"{rate:.0e}" for rate in x.rates)
        for title, x in found.items()
        if x.tasks and not x.is_known
    ]
    text = f" One rate for all is so far chosen on fewer than the {number} development"
    return f"{text} tasks: {'; '.join(parts)}." if parts else ""


def profile_row(
    last: Profile, average: Profile, ours: Profile, num_tasks: int
) -> dict[str, Any]:
    """Returns the cells of a method in the table of the profile."""
    of = "" if len(last.gaps) == num_tasks else f" of {num_tasks}"
    costs = [x.cost for x in last.gaps.values()]
    there = np.mean([ours.gaps[x].size for x in last.gaps])
    title = f"**{last.title}**" if last.method == DEFAULT else last.title
    hindsight = IN_HINDSIGHT * (last.method in HINDSIGHT)
    return {
        "method": title + hindsight,
        "tasks": f"{len(last.gaps)}{of}",
        "mean gap": f"{mean_gap(last):.2f}",
        f"`{DEFAULT}()` there": f"{there:.2f}",
        "median": f"{np.median(last.sizes()):.2f}",
        "worst": f"{last.sizes().max():.2f}",
        "diverged": last.num_diverged(),
        "averaged: mean": f"{mean_gap(average):.2f}",
        "averaged: worst": f"{average.sizes().max():.2f}",
        "cost": f"{np.mean(costs):.2f}",
    }


# Tables by kind.


def by_kind() -> str:
    """Returns a page with a table for each kind of task, and the gaps by unit."""
    text = (
        "# By kind of task\n\nMeans over the tasks of a kind, ± the error over seeds. "
    )
    text += "Methods are there that have run on all tasks of the kind.\n"
    text += f"\n## Some of the test tasks\n\n{SOME}\n\n{subsets()}\n"
    text += f"\n## Fine-tuned texts of 500 examples\n\n{texts()}\n"
    for name in reversed(LISTS):
        tasks = recorded(name)
        for unit in ("accuracy", "dB"):
            some = [x for x in tasks if family_of(x).unit == unit]
            if some:
                text += f"\n## {name.capitalize()} tasks: gaps in {unit}\n\n"
                text += f"{gaps_in(some)}\n"
        for kind in figures.KINDS:
            some = [x for x in tasks if family_of(x).kind == kind]
            if some:
                text += f"\n## {name.capitalize()} tasks: {kind}\n\n{', '.join(some)}."
                text += f"\n\n{kind_table(some)}\n"
    return f"{text}\n{DIFFERENCES}\n{differences()}\n"


def gaps_in(tasks: Sequence[str]) -> str:
    """Returns a table of gaps in the score of tasks of one unit."""
    rows, places_of = [], places(tasks[0], "score")
    average = {x.method: x for x in profiles(tasks, "score", "average")}
    for x in profiles(tasks, "score", "last"):
        averaged = average[x.method]
        rows.append(
            {
                "method": x.title,
                "tasks": len(x.gaps),
                "mean gap": f"{mean_gap(x):.{places_of}f}",
                "worst": f"{x.sizes().max():.{places_of}f}",
                "averaged: mean": f"{mean_gap(averaged):.{places_of}f}",
                "averaged: worst": f"{averaged.sizes().max():.{places_of}f}",
            }
        )
    return table(rows)


def kind_table(tasks: Sequence[str]) -> str:
    """Returns the means over tasks of one kind and unit; best score first."""
    by_task = [{(x.method, x.iterate): x for x in all_entrants(t)} for t in tasks]
    best = [{x.key: x for x in entrants(t)} for t in tasks]
    unit, rows = family_of(tasks[0]).unit, []
    for method in (*UNTUNED, *HINDSIGHT):
        name, title = name_on_tasks(method)
        for iterate in ITERATES:
            found = best if method in HINDSIGHT else by_task
            some = [x[name, iterate] for x in found if (name, iterate) in x]
            if len(some) < len(tasks):
                continue
            note = ", best rates in hindsight" * (method in HINDSIGHT)
            cells = {"method": title + note, "iterate": ITERATES[iterate]}
            cells["seeds"] = str(min(len(x.runs) for x in some))
            cells |= {unit: mean_over_tasks(some, "score")}
            cells |= {"loss": mean_over_tasks(some, "loss")}
            cells["cost"] = f"{np.mean([x.cost for x in some]):.2f}"
            rows.append((-np.mean([x.mean() for x in some]), cells))
    return table([cells for _, cells in sorted(rows, key=lambda x: x[0])])


def mean_over_tasks(some: Sequence[Entrant], score: str) -> str:
    """Returns the mean, and its error over seeds where each task has two or more."""
    values = [np.array([*x.values(score).values()]) for x in some]
    if not all(np.all(np.isfinite(x)) for x in values):
        return "diverged"
    digits = places(some[0].task, score)
    text = f"{SIGNS[score] * np.mean([x.mean() for x in values]):.{digits}f}"
    if all(len(x) > 1 for x in values):
        error = np.linalg.norm([standard_error(x) for x in values]) / len(values)
        text += f" ± {error:.{digits}f}"
    return text


def differences() -> str:
    """Returns a table of each method's difference to the default on texts."""
    tasks = [x for name in LISTS for x in recorded(name) if family_of(x).kind == TUNING]
    ours = (DEFAULT, "last")
    pairs: dict[tuple[str, str], list[tuple[Entrant, Entrant]]] = {}
    for found in ({(x.method, x.iterate): x for x in all_entrants(t)} for t in tasks):
        for key, x in found.items():
            if ours in found and key != ours and {*x.runs} & {*found[ours].runs}:
                pairs.setdefault(key, []).append((x, found[ours]))
    rows = []
    for both in (x for x in pairs.values() if len(x) >= FEWEST_TASKS):
        found = {by: [float(np.mean(difference(*x, by))) for x in both] for by in SIGNS}
        one, _ = both[0]
        cells = {"method": one.title + one.note, "iterate": ITERATES[one.iterate]}
        cells["tasks"] = str(len(both))
        cells["accuracy"] = mean_text(found["score"], 3, "+")
        cells["log loss"] = mean_text([-x for x in found["loss"]], 3, "+")
        rows.append((-len(both), -np.mean(found["score"]), cells))
    rows.sort(key=lambda x: x[:2])
    return table([cells for *_, cells in rows]) if rows else "None so far."


# A task.


def task_page(task: str) -> str:
    """Returns a task's figure and tables; single rates are folded away."""
    rival = best_rival(task)
    made = sorted({f"{x['made']['commit']}, {x['made']['device']}" for x in read(task)})
    single = [x for x in all_entrants(task) if "@" in x.method]
    single.sort(key=lambda x: x.rate)
    best, rates = ([row(x, rival) for x in some] for some in (shown(task), single))
    edges = [x.title for x in shown(task) if x.note.endswith(AT_EDGE)]
    text = f"# {task}\n\n![{task}]({task}.png)\n\n{table(best)}\n"
    if edges:
        text += f"\nThe best rate is at the edge of its sweep: {', '.join(edges)}.\n"
    if rates:
        text += "\n<details><summary>Each learning rate</summary>\n\n"
        text += f"{table(rates)}\n\n</details>\n"
    return text + f"\nMade by commit, on device: {'; '.join(made)}.\n"


def row(entrant: Entrant, rival: Entrant | None) -> dict[str, str]:
    """Returns the cells of an entrant by the names of their columns."""
    unit, runs = family_of(entrant.task).unit, entrant.runs.values()
    training = [x["train_loss"]["end"] for x in runs]
    # A training loss may be rounded to 0.
    tiny = np.finfo(np.float32).tiny
    logs = [np.inf if x is None else np.log10(max(x, tiny)) for x in training]
    cost = f"{entrant.cost / entrant.num_tried:.2f}"

    def to_rival(score: str) -> str:
        if rival is None or rival[:3] == entrant[:3]:
            return "best rival" if rival else ""
        values = np.array(difference(entrant, rival, score))
        if not np.all(np.isfinite(values)):
            return "diverged"
        return mean_text(SIGNS[score] * values, places(entrant.task, score), "+")

    return {
        "method": entrant.title + entrant.note,
        "iterate": ITERATES[entrant.iterate],
        "seeds": str(len(runs)),
        unit: score_text(entrant, "score"),
        "loss": score_text(entrant, "loss"),
        "log10 training loss": mean_text(logs, 2),
        "early": score_text(entrant, "score", "early"),
        "cost": cost if entrant.num_tried == 1 else f"{entrant.num_tried} x {cost}",
        "at equal cost": score_text(entrant, "score", "equal_cost"),
        f"{unit}, difference": to_rival("score"),
        "loss, difference": to_rival("loss"),
    }


def updated(text: str, name: str, made: str) -> str:
    """Returns a page with the table between its markers made anew."""
    marked = TABLE.format(name)
    return re.sub(marked, lambda x: x[1] + made + x[2], text, flags=re.S)


def parts_table() -> str:
    """Returns decibels of tasks whose parts differ, and rates tuned for each part.

    Means over the seeds that all of a row's methods ran with; of rivals the better
    iterate.
    """
    rows = []
    for task in (x for name in LISTS for x in recorded(name)):
        found = all_entrants(task)
        if family_of(task).unit != "dB" or all(x.method != HAND_TUNED for x in found):
            continue
        (known,) = [x for x in found if x.key == (f"{DEFAULT}-num_steps", "last")]
        (unknown,) = [x for x in found if x.key == (DEFAULT, "average")]
        entrants_of = {
            f"`{DEFAULT}(num_steps=...)`": [known],
            f"`{DEFAULT}()`, averaged": [unknown],
            "AdamW, best rate": [x for x in found if x.key[0] == "adamw"],
            "Adam, best rates by part": [x for x in found if x.key[0] == HAND_TUNED],
            "Adam, gsplat's rates": [x for x in found if x.key[0] == PUBLISHED],
        }
        # A sweep has rates that ran with one seed only.
        of_each = [{*chain(*(x.runs for x in some))} for some in entrants_of.values()]
        seeds = set.intersection(*filter(None, of_each))
        scores = {
            title: max(
                float(np.mean([x.values("score")[seed] for seed in seeds]))
                for x in some
                if seeds <= {*x.runs}
            )
            for title, some in entrants_of.items()
            if some
        }
        best = max(scores.values())
        row = {"task": task, "seeds": str(len(seeds))}
        for title in entrants_of:
            mark = "**" * (scores.get(title) == best)
            row[title] = f"{mark}{scores[title]:.1f}{mark}" if title in scores else ""
        rows.append(row)
    return table(rows) if rows else "No runs so far."


def rates_table() -> str:
    """Returns how far behind AdamW's best rate its rates by `find_learning_rates` are.

    Beside other methods with nothing set, on the tasks that those rates ran on: the
    difference in log loss of last iterates.
    """
    rows: dict[str, dict[str, str]] = {}
    for name in LISTS:
        gaps: dict[str, list[float]] = {}
        for task in recorded(name):
            found = {x.method: x for x in all_entrants(task) if x.iterate == "last"}
            if HANDED_OVER not in found:
                continue
            sweep = [x for x in found.values() if x.key[0] == "adamw"]
            best = best_rate(sweep, "loss")
            for method, title in map(name_on_tasks, (HANDED_OVER, *BESIDE_RATES)):
                if method in found:
                    size = gap_between(found[method], best, "loss").size
                    gaps.setdefault(title, []).append(size)
        for title, sizes in gaps.items():
            column = f"{len(sizes)} {name} tasks: mean, median, worst"
            three = np.mean(sizes), np.median(sizes), np.max(sizes)
            rows.setdefault(title, {"method": title})
            rows[title][column] = ", ".join(f"{x:.2f}" for x in three)
    return table([*rows.values()]) if rows else "No runs so far."


def texts() -> str:
    """Returns means over the texts that all methods of the table ran on."""
    tasks = [x for name in LISTS for x in recorded(name) if family_of(x).kind == TUNING]
    found = {t: {(x.method, x.iterate): x for x in all_entrants(t)} for t in tasks}
    tasks = [t for t in tasks if all((x, "last") in found[t] for x in ON_TEXTS)]
    if not tasks:
        return "No runs so far."
    rows = []
    for method in ON_TEXTS:
        kind, _, rate = method.partition("@")
        title = METHODS[kind].title if kind in METHODS else f"{SWEPT[kind]}, {rate}"
        row = {"method": title}
        for iterate, prefix in (("last", ""), ("average", "average: ")):
            some = [found[task][method, iterate] for task in tasks]
            row[f"{prefix}accuracy"] = mean_over_tasks(some, "score")
            row[f"{prefix}log loss"] = mean_over_tasks(some, "loss")
        rows.append(row)
    return f"{table(rows)}\n\nMeans over {len(tasks)} tasks: {', '.join(tasks)}."


def short_summary() -> str:
    """Returns a table of ours, the best rivals that ran everywhere, and hindsight.

    Best by the mean gap over the test tasks. The smallest gaps of those that know
    nothing in hindsight are in bold, for the last iterate and, in brackets, for the
    average.
    """
    lists = [name for name in reversed(LISTS) if recorded(name)]
    by_name, averaged = (
        {x: {p.method: p for p in profiles(recorded(x), "loss", i)} for x in lists}
        for i in ITERATES
    )

    def ran(method: str) -> bool:
        """Whether a method ran on all tasks."""
        return all(
            method in by_name[x] and len(by_name[x][method].gaps) == len(recorded(x))
            for x in lists
        )

    order = [x for x in by_name[lists[0]] if ran(x)]
    ours = [x for x in order if x.startswith(DEFAULT)]
    rivals = [x for x in order if x not in (*ours, *HINDSIGHT)][:NUM_RIVALS]
    untuned = [x for x in order if x in ours or x in rivals]
    measures = {"mean gap": np.mean, "worst": np.max}
    gaps = {
        (x, f"{name} tasks: {measure}"): [
            float(value(found[name][x].sizes())) for found in (by_name, averaged)
        ]
        for x in order
        for name in lists
        for measure, value in measures.items()
    }

    def cell(method: str, column: str) -> str:
        texts = []
        for i, gap in enumerate(gaps[method, column]):
            is_least = gap == min(gaps[x, column][i] for x in untuned)
            mark = "**" * (is_least and method in untuned)
            texts.append(f"{mark}{gap:.2f}{mark}")
        return "{} [{}]".format(*texts)

    columns = list(dict.fromkeys(column for _, column in gaps))
    return table(
        [
            {"method": name_on_tasks(x)[1] + IN_HINDSIGHT * (x in HINDSIGHT)}
            | {column: cell(x, column) for column in columns}
            for x in (*untuned, *(x for x in order if x == "adamw"))
        ]
    )


def pages() -> dict[str, str]:
    """Returns the text of every page by its path in the results' folder."""
    found = {"README.md": page(), "by_kind.md": by_kind()}
    found["how_it_was_measured.md"] = f"{MEASURED}{commits_of_ours()}"
    tasks = [task for name in LISTS for task in recorded(name)]
    return found | {f"tasks/{task}.md": task_page(task) for task in tasks}


def marked() -> list[tuple[Path, str, str]]:
    """Returns the page, the name and the text of each table between markers."""
    return [
        (README, "profile", short_summary()),
        (GUIDE, "parts", parts_table()),
        (GUIDE, "rates", rates_table()),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    make_parser(__doc__).parse_args(argv)
    folder = protocol.RESULTS / "tasks"
    # Of pages of tasks whose records are gone nothing is to stay.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path, text in pages().items():
        (protocol.RESULTS / path).write_text(text)
    figures.profile().savefig(protocol.RESULTS / "profile.png", dpi=110)
    figures.summary().savefig(protocol.RESULTS / "summary.png", dpi=110)
    for task in (task for name in LISTS for task in recorded(name)):
        figures.one_task(task).savefig(folder / f"{task}.png", dpi=70)
    for path, name, made in marked():
        path.write_text(updated(path.read_text(), name, made))


if __name__ == "__main__":
    main()
