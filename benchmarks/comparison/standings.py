"""Where each method stands: its scores, and its gap to the best in hindsight.

Everything here is computed from records. The best in hindsight of a task is the best of
all methods, rates and iterates that have run on it.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import protocol
from methods import (
    HAND_TUNED,
    LBFGS,
    LORA_PLUS,
    METHODS,
    PUBLISHED,
    SHARED,
    SHARED_TITLES,
    SWEPT,
)
from protocol import FIRST_SEEDS, SIGNS, Record, read, shared_rates, standard_error
from tasks import LISTS, family_of

DEFAULT = "armijo_adam"
AT_EDGE = ", **at the edge**"
# By measure, and by unit: a loss e^10 = 22,000 times the best, and what that is in dB.
LARGEST_GAPS = {"loss": 10.0, "accuracy": 1.0, "dB": 43.4}
# The rows of the profile: what needs nothing set, then what is known in hindsight.
HINDSIGHT = ("adamw", HAND_TUNED, LORA_PLUS)
UNTUNED = (*METHODS, *SHARED)
# Their last iterate is an average already.
AVERAGED = (
    "schedule_free_adamw",
    "schedule_free_plus",
    "schedule_free_plus_warmup",
)


class Entrant(NamedTuple):
    """A method on a task, and which of its iterates is kept.

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

    @property
    def cost(self) -> float:
        """In runs of AdamW, those of the sweep included."""
        return self.num_tried * float(np.mean([x["cost"] for x in self.runs.values()]))

    def values(self, score: str, when: str = "end") -> dict[int, float]:
        """Returns a score by seed, the larger the better; -inf if a run diverged."""
        return {
            seed: protocol.goodness(run, self.iterate, score, when)
            for seed, run in self.runs.items()
        }

    def merits(self, score: str) -> dict[int, float]:
        """Returns a score, or -log(loss), by seed; -inf if a run diverged."""
        values = self.values(score)
        return (
            {k: -np.log(-x) for k, x in values.items()} if score == "loss" else values
        )

    def mean(self, score: str = "score") -> float:
        """Returns the mean over seeds, the larger the better."""
        return float(np.mean([*self.values(score).values()]))


def all_entrants(task: str) -> list[Entrant]:
    """Returns every method and iterate of a task, each learning rate by itself.

    Where the default has run, only its seeds count, for all: means over other seeds are
    of other initial params, rows and orders.
    """
    runs: dict[str, dict[int, Record]] = {}
    records = read(task)
    seeds = {x["seed"] for x in records if x["method"] == DEFAULT}
    for record in records:
        if not seeds or record["seed"] in seeds:
            runs.setdefault(record["method"], {})[record["seed"]] = record
    return [
        Entrant(task, method, iterate, runs[method], *described(task, method))
        for method in runs
        for iterate in protocol.ITERATES
        if iterate == "last" or method.partition("@")[0] not in AVERAGED
    ]


def described(task: str, method: str) -> tuple[str, str, int]:
    """Returns the title, the note and the number of runs tried of a method."""
    kind, _, rate = method.partition("@")
    if kind == HAND_TUNED:
        number = len(read(task, kind="-rates"))
        return "Adam, hand-tuned rates", f", best of {number} sets", number
    if rate:
        return (SHARED_TITLES | SWEPT)[kind], f", {rate}", 1
    return METHODS[kind].title if kind in METHODS else f"`{method}`", "", 1


def entrants(task: str, by: str = "score") -> list[Entrant]:
    """Returns the entrants of a task, of each sweep the best rate; best ones first."""
    rates: dict[tuple[str, str], list[Entrant]] = {}
    found = []
    for x in all_entrants(task):
        if x.key[0] in SWEPT:
            rates.setdefault(x.key, []).append(x)
        else:
            found.append(x)
    found += [best_rate(x, by) for x in rates.values()]
    return sorted(found, key=lambda x: -x.mean(by))


def shown(task: str) -> list[Entrant]:
    """Returns the rows of a task's table: the best rates by score, and by loss."""
    best = [x for x in entrants(task) if "@" not in x.method or x.key[0] in SWEPT]
    known = {(x.method, x.iterate) for x in best}
    best += [
        x
        for x in entrants(task, "loss")
        if x.key[0] in SWEPT and (x.method, x.iterate) not in known
    ]
    return sorted(best, key=Entrant.mean, reverse=True)


def best_rate(sweep: list[Entrant], by: str) -> Entrant:
    """Returns the best of a sweep; says where it lies at the edge of what was tried."""
    sweep = sorted(sweep, key=lambda x: x.rate)
    best = max(sweep, key=lambda x: x.mean(by))
    note = f", best of {len(sweep)} rates{' by loss' * (by == 'loss')}{best.note}"
    note += AT_EDGE * (best in (sweep[0], sweep[-1]))
    return best._replace(note=note, num_tried=len(sweep))


def best_rival(task: str) -> Entrant | None:
    """Returns the best of the methods that are not ours, by mean score."""
    return next((x for x in entrants(task) if not x.method.startswith(DEFAULT)), None)


def recorded(name: str) -> list[str]:
    """Returns the tasks of a list that have runs of the default."""
    return [
        task for task in LISTS[name] if any(x["method"] == DEFAULT for x in read(task))
    ]


def name_on_tasks(method: str) -> tuple[str, str]:
    """Returns a method's name in the records, and its title with the rate in it."""
    if method not in SHARED:
        title = METHODS[method].title if method in METHODS else ""
        return method, title or {**SWEPT, HAND_TUNED: "Adam, hand-tuned rates"}[method]
    (kind, title), found = SHARED[method], shared_rates(method)
    return f"{kind}@{found.best:.0e}", f"{title}, {found.best:.0e}"


def is_swept(method: str, task: str) -> bool:
    """Whether a method with one rate for all tasks has a place on this one.

    While runs of its sweep are missing, only on tasks that have them all: elsewhere
    there may be runs at its rate since that happens to be good there.
    """
    found = shared_rates(method)
    return found.is_known or task in found.tasks


class Gap(NamedTuple):
    """How far a method is from the best of a task.

    Attributes:
      size: log(loss / best loss), or best score - score, paired by seed; at most
        that of `LARGEST_GAPS`, which a run that diverged has.
      num_diverged: its runs that did.
      cost: of a run, in runs of AdamW.
    """

    size: float
    num_diverged: int
    cost: float


class Profile(NamedTuple):
    """A method's gaps by task.

    Attributes:
      method: its name.
      title: in tables.
      gaps: by task, of those that it has run on.
    """

    method: str
    title: str
    gaps: dict[str, Gap]

    def sizes(self) -> np.ndarray:
        return np.array([x.size for x in self.gaps.values()])

    def num_diverged(self) -> int:
        return sum(x.num_diverged for x in self.gaps.values())


def profiles(
    tasks: Sequence[str], measure: str, iterate: str, methods: Iterable[str] = ()
) -> list[Profile]:
    """Returns the gaps of each method on the tasks, smallest mean first.

    Those that run on some kinds of task alone come after these, and last what is known
    in hindsight.

    Args:
      tasks: names.
      measure: ``loss``, for the logarithm of its ratio, or ``score``.
      iterate: ``last``, or ``average`` for the average of the iterates.
      methods: names; without any those of `UNTUNED` and `HINDSIGHT`.
    """
    by_task = {task: with_best(task, measure) for task in tasks}
    found = []
    for method in methods or (*UNTUNED, *HINDSIGHT):
        name, title = name_on_tasks(method)
        last = name.partition("@")[0] in AVERAGED
        key, gaps = (name, "last" if last else iterate), {}
        for task, (entrants_of, best) in by_task.items():
            if method in SHARED and not is_swept(method, task):
                continue
            swept = [x for x in entrants_of if x.key == key and key[0] in SWEPT]
            if swept:  # by its best rate
                one = best_rate(swept, measure)
            else:
                same = [x for x in entrants_of if (x.method, x.iterate) == key]
                one = same[0] if same else None
            if one:
                gaps[task] = gap_between(one, best, measure)
        if gaps:
            found.append(Profile(method, title, gaps))

    def place(x: Profile) -> tuple[bool, bool, float]:
        return x.method in HINDSIGHT, x.method in (LBFGS, PUBLISHED), mean_gap(x)

    return sorted(found, key=place)


def with_best(task: str, measure: str) -> tuple[list[Entrant], Entrant]:
    """Returns all entrants of a task and the best of those that ran on most seeds."""
    found = all_entrants(task)
    first = {*FIRST_SEEDS}
    most = max(len(first & {*x.runs}) for x in found)
    full = [x for x in found if len(first & {*x.runs}) == most]

    def merit(x: Entrant) -> float:
        values = x.merits(measure)
        return float(np.mean([values[seed] for seed in sorted(first & {*x.runs})]))

    return found, max(full, key=merit)


def gap_between(one: Entrant, best: Entrant, measure: str) -> Gap:
    """Returns the mean over the seeds of both of the difference in merit."""
    own, other = one.merits(measure), best.merits(measure)
    seeds = sorted({*own} & {*other}) or sorted(own)
    default = float(np.mean([*other.values()]))
    unit = measure if measure == "loss" else family_of(one.task).unit
    sizes = [
        min(other.get(seed, default) - own[seed], LARGEST_GAPS[unit]) for seed in seeds
    ]
    diverged = int(np.sum(~np.isfinite([*own.values()])))
    return Gap(float(np.mean(sizes)), diverged, one.cost)


def mean_gap(profile: Profile) -> float:
    """Returns the mean over tasks."""
    return float(profile.sizes().mean())


def difference(one: Entrant, other: Entrant, by: str) -> list[float]:
    """Returns by how much one is ahead, by the seeds of both."""
    own, theirs = one.values(by), other.values(by)
    return [own[seed] - theirs[seed] for seed in sorted({*own} & {*theirs})]


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


def score_text(entrant: Entrant, score: str, when: str = "end") -> str:
    """Returns the mean of a score over seeds for a table."""
    values = [SIGNS[score] * x for x in entrant.values(score, when).values()]
    return mean_text(values, places(entrant.task, score))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table of rows with the same columns."""
    lines = [[*rows[0]], ["---"] * len(rows[0]), *([*x.values()] for x in rows)]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)
