"""The protocol: which runs are wanted, given those that were made.

1. Two seeds of every method. AdamW's rates, and those of AdamW at a constant rate,
   begin with three; while the best of a sweep is at its edge, the sweep goes on there.
   Best is meant by the score and by the loss, of the last iterate and of the average.
2. One rate for all tasks, of AdamW, schedule-free AdamW and MoMo-Adam: that with the
   smallest mean of log(loss) over the development tasks, of the last iterate. Those of
   5,000 examples, which take longest, are left out: the same texts with 500 count.
   These sweeps go on at their edges, too; elsewhere only the rate that was chosen runs.
3. Where parts differ in scale, Adam with a rate for each: `NUM_DRAWS` sets are drawn
   around the best single rate and tried with a seed of their own; the best is then a
   method.
4. Five seeds of whatever is within two standard errors of the best, and of ours.
"""

import functools
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from methods import (
    CONSTANT,
    FIRST_SHARED_RATES,
    HAND_TUNED,
    LBFGS,
    LORA_PLUS,
    METHODS,
    PUBLISHED,
    RATES,
    SHARED,
    SWEPT,
    hand_tuned,
    method_of,
)
from tasks import (
    LISTS,
    LORA,
    PICTURES,
    ROWS,
    TASKS,
    USUAL,
    Setup,
    family_of,
    make_task,
)

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "comparison"
RECORDS = RESULTS / "records"
FIRST_SEEDS, ALL_SEEDS = (0, 1), (0, 1, 2, 3, 4)
NUM_DRAWS, DRAW_SEED, DECADES = 50, 1000, 1.0
# The rates of 3-D Gaussian splatting, raised to a small scene, at three common factors.
GAUSSIANS = {"position": 1.6e-3, "log_scale": 5e-3, "rotation": 1e-3}
GAUSSIANS |= {"colour": 1e-2, "opacity": 5e-2}
DRAWN_FIRST = {"gaussians": GAUSSIANS}
FACTORS = (1.0, 4.0, 10.0)
Record = dict[str, Any]
SIGNS = {"score": 1.0, "loss": -1.0}  # what is better, larger or smaller
ITERATES = {"last": "last iterate", "average": "averaged"}


class Job(NamedTuple):
    """A run that is wanted.

    Attributes:
      task: name.
      method: name; a set of hand-tuned rates is ``hand_tuned@NUMBER``.
      seed: of params, rows and their order.
      setup: of the task.
    """

    task: str
    method: str
    seed: int
    setup: Setup = USUAL

    def make(self) -> Record:
        """Makes the run; returns its record."""
        from run import train

        kind, _, number = self.method.partition("@")
        if kind == HAND_TUNED:
            extra = draw(self.task, int(number)) if number else best_draw(self.task)
            method = hand_tuned(**extra)
        else:
            extra, method = {}, method_of(self.method)
        task = make_task(self.task, self.setup)
        price = json.loads((RECORDS / "prices.json").read_text())[self.task]
        setup = {k: v for k, v in self.setup._asdict().items() if v}
        head = {"method": self.method, "seed": self.seed, "setup": setup}
        return head | extra | train(task, method, self.seed, price)


def append(job: Job, record: Record) -> None:
    """Adds a record to its file, one a line; drawn rates have a file of their own."""
    is_draw = job.method.startswith(f"{HAND_TUNED}@")
    path = RECORDS / f"{job.task}{'-rates' if is_draw else ''}.jsonl"
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def read(task: str, setup: Setup = USUAL, kind: str = "") -> list[Record]:
    """Returns a task's records; `kind` ``"-rates"`` those of drawn rates."""
    path = RECORDS / f"{task}{kind}.jsonl"
    if not path.exists():
        return []
    records = parsed(path, path.stat().st_mtime_ns, path.stat().st_size)
    return [x for x in records if Setup(**x["setup"]) == setup]


@functools.cache
def parsed(path: Path, *changed: int) -> list[Record]:
    """Returns the records of a file, read once for each state that it was in."""
    del changed
    return [json.loads(line) for line in path.read_text().splitlines()]


def goodness(record: Record, iterate: str, score: str, when: str = "end") -> float:
    """Returns a score, the larger the better; -inf of a run that diverged."""
    value = record["scores"][when][iterate][score]
    return -np.inf if value is None else SIGNS[score] * value


def wanted(
    tasks: Sequence[str],
    methods: Sequence[str],
    setup: Setup = USUAL,
    *,
    seeds: Sequence[int] | None = None,
) -> list[Job]:
    """Returns the runs to be made next, given the records that there are.

    A swept method stands for its rates. Seeds are those of the protocol where none are
    given.
    """
    first, wanted = seeds or FIRST_SEEDS, []
    shared = {x: shared_rates(x, setup) for x in methods if x in SHARED}
    for task in tasks:
        records = read(task, setup)
        names = [x for method in methods for x in expanded(task, method, records)]
        for method, found in shared.items():
            rates = found.rates
            if task not in chosen_on():
                rates = [found.best] * found.is_known
            names += [f"{SHARED[method][0]}@{x:.0e}" for x in rates]
        jobs = [Job(task, x, seed, setup) for seed in first for x in names]
        if HAND_TUNED in methods and family_of(task).parts:
            jobs += hand_tuning(task, records, first)
        if seeds is None and not missing(jobs, records):
            more = {*contenders(records, first)} & {*names, HAND_TUNED}
            more = sorted(more)
            jobs = [Job(task, x, seed, setup) for seed in ALL_SEEDS for x in more]
        wanted += missing(jobs, records)
    return list(dict.fromkeys(wanted))


def missing(jobs: Sequence[Job], records: Sequence[Record]) -> list[Job]:
    """Returns the jobs of a task that have left no record."""
    draws = read(jobs[0].task, kind="-rates") if jobs else []
    made = {(x["method"], x["seed"]) for x in [*records, *draws]}
    return [x for x in jobs if (x.method, x.seed) not in made]


def expanded(task: str, method: str, records: Sequence[Record]) -> list[str]:
    """Names the runs that stand for a method: a swept one at each of its rates."""
    family = family_of(task)
    runs_here = {
        LBFGS: family.low_noise,
        LORA_PLUS: family.kind == LORA,
        PUBLISHED: family.kind == PICTURES,
    }
    if not runs_here.get(method, True):
        return []
    if method in SWEPT:
        return [f"{method}@{x:.0e}" for x in grid(task, method, records)]
    return [method] if method in METHODS else []


class SharedRates(NamedTuple):
    """A sweep over all development tasks for one rate.

    Attributes:
      rates: that are tried.
      best: of these, on the tasks that have runs at all of them; 0 if none has.
      tasks: those.
      is_known: whether these are all of `chosen_on`.
    """

    rates: list[float]
    best: float
    tasks: list[str]
    is_known: bool


def chosen_on() -> list[str]:
    """Names the tasks on which one rate for all is chosen."""
    return [x for x in LISTS["development"] if family_of(x).kind != ROWS]


def shared_rates(method: str, setup: Setup = USUAL) -> SharedRates:
    """Returns the sweep for a method's one rate.

    Best is the smallest mean over tasks of the mean over seeds of log(loss).
    Shapes: T tasks, R rates.
    """
    kind, _ = SHARED[method]
    records = {task: read(task, setup) for task in chosen_on()}
    first, *_, last = (RATES.index(x) for x in FIRST_SHARED_RATES)
    while True:
        rates = RATES[first : last + 1]
        names = [f"{kind}@{x:.0e}" for x in rates]
        logs = {
            task: [mean_log_loss(x, n) for n in names] for task, x in records.items()
        }
        tasks = [task for task, row in logs.items() if not np.isnan(row).any()]
        if not tasks:
            return SharedRates([*rates], 0.0, tasks, False)
        means = np.mean([logs[task] for task in tasks], axis=0)  # of [T, R]
        best, old = int(np.argmin(means)), (first, last)
        is_known = len(tasks) == len(logs)
        if is_known:  # what is best on some tasks says little of the others
            first = max(0, first - (best == 0))
            last = min(len(RATES) - 1, last + (best == len(rates) - 1))
        if (first, last) == old:
            return SharedRates([*rates], rates[best], tasks, is_known)


def mean_log_loss(records: Iterable[Record], method: str) -> float:
    """Returns the mean of log(loss) of the last iterate, NaN of no runs.

    It is infinite of a run that diverged.
    """
    runs = [x for x in records if x["method"] == method]
    losses = [-goodness(x, "last", "loss") for x in runs]
    return float(np.mean(np.log(losses))) if losses else float("nan")


def grid(task: str, method: str, records: Sequence[Record]) -> list[float]:
    """Returns the rates of a sweep: the first three, and on where the best is an edge.

    Shapes: R rates.
    """
    first, *_, last = (RATES.index(x) for x in family_of(task).first_rates)
    while True:
        rates = RATES[first : last + 1]
        means = [mean_scores(records, f"{method}@{x:.0e}") for x in rates]
        if not all(means):
            return list(rates)
        # By each score of each iterate the first of the best, among [R] means.
        best = {int(np.argmax([x[key] for x in means])) for key in means[0]}
        old = first, last
        first = max(0, first - (0 in best))
        last = min(len(RATES) - 1, last + (len(rates) - 1 in best))
        if (first, last) == old:
            return list(rates)


def hand_tuning(
    task: str, records: Sequence[Record], seeds: Sequence[int]
) -> list[Job]:
    """The drawn sets of rates, and when these are made, the best one over seeds."""
    sweep = [Job(task, x, seeds[0]) for x in expanded(task, CONSTANT, records)]
    if missing(sweep, records):
        return []  # the sets are drawn around the best single rate
    number = NUM_DRAWS + len(FACTORS) * (TASKS[task][0] in DRAWN_FIRST)
    draws = [Job(task, f"{HAND_TUNED}@{i}", DRAW_SEED) for i in range(number)]
    if missing(draws, records):
        return draws
    return [Job(task, HAND_TUNED, seed) for seed in seeds]


def draw(task: str, number: int) -> dict[str, Any]:
    """Returns a set of rates and whether they follow a cosine.

    The first sets have the proportions of `DRAWN_FIRST`, if any. The
    others are drawn uniformly in the logarithm, within ten times the best single rate
    and a tenth of it.
    """
    published, parts = DRAWN_FIRST.get(TASKS[task][0]), family_of(task).parts
    if published and number < len(FACTORS):
        rates = {part: x * FACTORS[number] for part, x in published.items()}
        return {"rates": rates, "cosine": False}
    records = read(task)
    single = grid(task, CONSTANT, records)
    means = [mean_scores(records, f"{CONSTANT}@{x:.0e}") for x in single]
    centre = single[int(np.argmax([x["last", "score"] for x in means]))]
    rng = np.random.default_rng(number)
    drawn = centre * 10 ** rng.uniform(-DECADES, DECADES, len(parts))
    rates = {part: float(f"{x:.3g}") for part, x in zip(parts, drawn, strict=True)}
    return {"rates": rates, "cosine": bool(rng.integers(2))}


def best_draw(task: str) -> dict[str, Any]:
    """Returns the set with the best score, as it was drawn."""
    draws = read(task, kind="-rates")
    best = max(draws, key=lambda x: goodness(x, "last", "score"))
    return {"rates": best["rates"], "cosine": best["cosine"]}


def mean_scores(records: Iterable[Record], method: str) -> dict[tuple[str, str], float]:
    """Returns a method's goodness by iterate and score, in the mean; empty if none."""
    runs = [x for x in records if x["method"] == method]
    return {
        (iterate, score): float(np.mean([goodness(x, iterate, score) for x in runs]))
        for iterate in ITERATES
        for score in SIGNS
        if runs
    }


def contenders(records: Sequence[Record], seeds: Iterable[int]) -> list[str]:
    """Names ours and the methods within two standard errors of the best on these seeds.

    By score or by loss, by the last iterate or by the average. The error is that of the
    difference, paired by seed; two seeds tell little of it, so no error is taken to be
    smaller than the median one of all methods.
    """
    found = {x for x in METHODS if x.startswith("armijo")}
    for score in SIGNS:
        by_seed: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
        for run in (x for x in records if x["seed"] in seeds):
            for iterate in ITERATES:
                value = goodness(run, iterate, score)
                by_seed[run["method"], iterate][run["seed"]] = value
        values = {key: [x[s] for s in sorted(x)] for key, x in by_seed.items()}
        best = max(values.values(), key=np.mean, default=[])
        # How far others are behind, seed by seed; not those that diverged.
        behind = {
            key: np.subtract(best, x)
            for key, x in values.items()
            if len(x) == len(best) and np.all(np.isfinite([x, best]))
        }
        errors = {key: standard_error(x) for key, x in behind.items()}
        usual = np.median([*errors.values()]) if errors else 0.0
        found |= {
            method
            for (method, iterate), x in behind.items()
            if np.mean(x) <= 2 * max(errors[method, iterate], usual)
        }
    return sorted(found)


def standard_error(x: np.ndarray) -> float:
    """Returns that of a mean; 0 of a single value, which tells nothing of it."""
    return float(np.std(x, ddof=1) / len(x) ** 0.5) if len(x) > 1 else 0.0
