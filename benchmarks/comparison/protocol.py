"""What the comparison wants to be run, given what has been: the protocol.

1. Two seeds of every method. AdamW's rates, and those of AdamW at a constant rate,
   begin with three; while the best of a sweep is at its edge, the sweep goes on there.
   Best is meant by the score and by the loss, of the last iterate and of the average.
2. Where parts differ in scale, Adam with a rate a part: `NUM_DRAWS` sets are drawn
   around the best single rate and tried with a seed of their own; the best is then a
   method.
3. Five seeds of whatever is within two standard errors of the best, and of ours.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from methods import HAND_TUNED, METHODS, RATES, SWEPT
from tasks import USUAL, Setup, first_rates, make_task, parts_of

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "benchmarks" / "results" / "comparison"
NUM_DRAWS, DRAW_SEED, DECADES = 50, 1000, 1.0
# The rates of 3-D Gaussian splatting, raised to a small scene, at three common factors.
PUBLISHED_RATES = {
    "gaussians": {
        "position": 1.6e-3,
        "log_scale": 5e-3,
        "rotation": 1e-3,
        "colour": 1e-2,
        "opacity": 5e-2,
    }
}
FACTORS = (1.0, 4.0, 10.0)
Record = dict[str, Any]
SIGNS = {"score": 1.0, "loss": -1.0}  # what is better, larger or smaller


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

    @property
    def path(self) -> Path:
        """The file of the record."""
        is_draw = self.method.startswith(f"{HAND_TUNED}@")
        return RECORDS / f"{self.task}{'-rates' if is_draw else ''}.jsonl"

    def make(self) -> Record:
        """Makes the run; returns its record."""
        from methods import hand_tuned, method_of
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
    """Adds a record to its file, one a line."""
    job.path.parent.mkdir(parents=True, exist_ok=True)
    with job.path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def read(task: str, setup: Setup = USUAL, kind: str = "") -> list[Record]:
    """Returns a task's records; `kind` ``"-rates"`` those of drawn rates."""
    path = RECORDS / f"{task}{kind}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines]
    return [x for x in records if Setup(**x["setup"]) == setup]


def wanted(
    tasks: Sequence[str],
    methods: Sequence[str],
    setup: Setup = USUAL,
    *,
    seeds: Sequence[int] | None = None,
    first: Sequence[int] = (0, 1),
    every: Sequence[int] = (0, 1, 2, 3, 4),
) -> list[Job]:
    """Returns the runs to be made next, given the records that there are.

    Args:
      tasks: names.
      methods: names; a swept one stands for its rates.
      setup: of the tasks.
      seeds: of all methods; None follows the protocol.
      first: the protocol's first seeds.
      every: its seeds of contenders.
    """
    jobs = []
    for task in tasks:
        records = read(task, setup)
        names = [x for method in methods for x in expanded(task, method, records)]
        jobs += [Job(task, x, seed, setup) for seed in seeds or first for x in names]
        if HAND_TUNED in methods and parts_of(task):
            jobs += hand_tuning(task, records, seeds or first)
        if seeds is None and not missing(jobs, task, records):
            more = {*contenders(records, first)} & {*names, HAND_TUNED}
            jobs += [Job(task, x, seed, setup) for seed in every for x in sorted(more)]
        jobs = [x for x in jobs if x.task != task] + missing(jobs, task, records)
    return list(dict.fromkeys(jobs))


def missing(jobs: Iterable[Job], task: str, records: Sequence[Record]) -> list[Job]:
    """Returns the jobs of a task that have left no record."""
    draws = read(task, kind="-rates")
    made = {(x["method"], x["seed"]) for x in [*records, *draws]}
    return [x for x in jobs if x.task == task and (x.method, x.seed) not in made]


def expanded(task: str, method: str, records: Sequence[Record]) -> list[str]:
    """Names the runs that stand for a method: a swept one at each of its rates."""
    if method in METHODS:
        return [method]
    if method in SWEPT:
        return [f"{method}@{x:.0e}" for x in grid(task, method, records)]
    return []


def grid(task: str, method: str, records: Sequence[Record]) -> list[float]:
    """Returns the rates of a sweep: the first three, and on where the best is an edge.

    Shapes: R rates.
    """
    ends = [RATES.index(x) for x in (first_rates(task)[0], first_rates(task)[-1])]
    while True:
        rates = RATES[ends[0] : ends[1] + 1]
        means = [mean_scores(records, f"{method}@{x:.0e}") for x in rates]
        if not all(means):
            return list(rates)
        best = {
            max(range(len(rates)), key=lambda i: SIGNS[k] * means[i][iterate, k])
            for k in SIGNS
            for iterate in ("last", "average")
        }
        old = list(ends)
        if 0 in best:
            ends[0] = max(0, ends[0] - 1)
        if len(rates) - 1 in best:
            ends[1] = min(len(RATES) - 1, ends[1] + 1)
        if ends == old:
            return list(rates)


def hand_tuning(
    task: str, records: Sequence[Record], seeds: Sequence[int]
) -> list[Job]:
    """The drawn sets of rates, and when these are made, the best one over seeds."""
    sweep = [Job(task, x, seeds[0]) for x in expanded(task, SWEPT[1], records)]
    if missing(sweep, task, records):
        return []  # the sets are drawn around the best single rate
    number = NUM_DRAWS + len(FACTORS) * (task.split("-")[0] in PUBLISHED_RATES)
    draws = [Job(task, f"{HAND_TUNED}@{i}", DRAW_SEED) for i in range(number)]
    if missing(draws, task, records):
        return draws
    return [Job(task, HAND_TUNED, seed) for seed in seeds]


def draw(task: str, number: int) -> dict[str, Any]:
    """Returns a set of rates and whether they follow a cosine.

    The first sets have the proportions that are published for such a model, if any. The
    others are drawn uniformly in the logarithm, within ten times the best single rate
    and a tenth of it.
    """
    records, parts = read(task), parts_of(task)
    rates = grid(task, SWEPT[1], records)
    means = [mean_scores(records, f"{SWEPT[1]}@{x:.0e}") for x in rates]
    centre = rates[int(np.argmax([x["last", "score"] for x in means]))]
    published = PUBLISHED_RATES.get(task.split("-")[0])
    if published and number < len(FACTORS):
        rates_of = {k: x * FACTORS[number] for k, x in published.items()}
        return {"rates": rates_of, "cosine": False}
    rng = np.random.default_rng(number)
    drawn = centre * 10 ** rng.uniform(-DECADES, DECADES, len(parts))
    rates_of = {k: float(f"{x:.3g}") for k, x in zip(parts, drawn, strict=True)}
    return {"rates": rates_of, "cosine": bool(rng.integers(2))}


def best_draw(task: str) -> dict[str, Any]:
    """Returns the set with the best score, as it was drawn."""
    best = max(
        read(task, kind="-rates"),
        key=lambda x: finite(x["scores"]["end"]["last"]["score"], -1),
    )
    return {"rates": best["rates"], "cosine": best["cosine"]}


def mean_scores(records: Iterable[Record], method: str) -> dict[Any, float]:
    """Returns a method's means at the end by iterate and score; empty without runs."""
    runs = [x["scores"]["end"] for x in records if x["method"] == method]
    return {
        (iterate, k): float(np.mean([finite(x[iterate][k], -SIGNS[k]) for x in runs]))
        for iterate in ("last", "average")
        for k in SIGNS
        if runs
    }


def finite(value: float | None, sign: float) -> float:
    """Returns a value, and the infinity of a sign for None, a run that came apart."""
    return sign * np.inf if value is None else value


def contenders(records: Sequence[Record], seeds: Iterable[int]) -> list[str]:
    """Names the methods within two standard errors of the best on these seeds.

    By score or by loss, by the last iterate or by the average. The error is that of the
    difference, paired by seed; two seeds tell little of it, so no error is taken to be
    smaller than the median one of all methods.
    """
    seeds, found = set(seeds), set()
    for k, sign in SIGNS.items():
        values: dict[tuple[str, str], dict[int, float]] = {}
        for x in records:
            if x["seed"] not in seeds:
                continue
            for iterate in ("last", "average"):
                value = finite(x["scores"]["end"][iterate][k], -sign)
                values.setdefault((x["method"], iterate), {})[x["seed"]] = sign * value
        if not values:
            continue
        table = {key: np.array([x[s] for s in sorted(x)]) for key, x in values.items()}
        best = max(table.values(), key=np.mean)
        if not np.all(np.isfinite(best)):
            continue  # every method came apart
        same = {key: best - x for key, x in table.items() if len(x) == len(best)}
        finite_ = {key: x for key, x in same.items() if np.all(np.isfinite(x))}
        errors = {
            key: np.std(x, ddof=1) / len(x) ** 0.5 if len(x) > 1 else 0.0
            for key, x in finite_.items()
        }
        usual = np.median([x for x in errors.values()])
        found |= {
            method
            for (method, iterate), x in finite_.items()
            if np.mean(x) <= 2 * max(errors[method, iterate], usual)
        }
    return sorted(found | {x for x in METHODS if x.startswith("armijo")})
