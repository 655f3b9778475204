"""Runs the candidate for the default, and compares it with the records of others.

``python benchmarks/comparison/candidate.py --tasks digits-500,heat --seeds 0,1`` makes
the runs that are missing, one after another, and adds them to
``benchmarks/results/candidate.jsonl``. It prints how far the candidate, the default and
AdamW's best rate are from the best of all records, in log(loss / best loss): below zero
is better than all. Choose on development tasks; test tasks judge once. With ``--fuzz``
it runs `fuzz.py` instead, and keeps ``benchmarks/results/fuzz-candidate.json``.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("examples", "benchmarks", "benchmarks/comparison")
sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS]
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import fuzz  # noqa: E402
from cli import make_parser, seeds, some_of  # noqa: E402
from methods import Method  # noqa: E402
from next_batch import next_batch  # noqa: E402
from protocol import RECORDS, Record  # noqa: E402
from rich.progress import track  # noqa: E402
from standings import DEFAULT, Entrant, gap_between, profiles, with_best  # noqa: E402
from tasks import LISTS, TASKS, make_task  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "candidate.jsonl"
NAME = "next_batch"
CANDIDATE = Method(
    lambda _, num_steps: next_batch(num_steps=num_steps),
    "candidate",
    num_evaluations=lambda state: int(state.num_evaluations),
)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    if arguments.fuzz:
        return run_fuzz()
    tasks = [x for name in arguments.tasks for x in LISTS.get(name, [name])]
    prices = json.loads((RECORDS / "prices.json").read_text())
    made = {(x["task"], x["seed"]) for x in records()}
    wanted = [(x, seed) for x in tasks for seed in arguments.seeds]
    missing = [x for x in wanted if x not in made]
    for task, seed in track(missing, "runs", disable=not missing):
        from run import train

        found = train(make_task(task), CANDIDATE, seed, prices[task])
        head = {"task": task, "method": NAME, "seed": seed}
        with RESULTS.open("a") as file:
            file.write(json.dumps(head | found) + "\n")
    for line in lines(tasks):
        print(line)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add, tasks = parser.add_argument, some_of([*LISTS, *TASKS])
    text = "names of tasks or of their lists, default: development"
    add("--tasks", type=tasks, default=["development"], metavar="A,B", help=text)
    add("--seeds", type=seeds, default=[0], metavar="0,1", help="default: 0")
    add("--fuzz", action="store_true", help="run small hard problems in place of tasks")
    return parser.parse_args(argv)


def run_fuzz() -> None:
    """The default and the candidate, without and with the length of the run."""
    fuzz.FORMS["next_batch"] = next_batch
    fuzz.FORMS["next_batch-500"] = lambda: next_batch(num_steps=500)
    forms = ["--forms", "armijo_adam,next_batch,next_batch-500"]
    precisions = ["--precisions", "float32,bfloat16"]
    fuzz.main([*forms, *precisions, "--record", "fuzz-candidate"])


def records() -> list[Record]:
    """The candidate's records so far."""
    text = RESULTS.read_text() if RESULTS.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def lines(tasks: Sequence[str]) -> list[str]:
    """A line a task that has run, then means, medians and largest gaps over tasks."""
    found, rows = records(), []
    for task in tasks:
        runs = {x["seed"]: x for x in found if x["task"] == task}
        if runs:
            _, best = with_best(task, "loss")
            sizes = [
                gap_between(Entrant(task, NAME, x, runs, ""), best, "loss").size
                for x in ("last", "average")
            ]
            others = profiles([task], "loss", "last", [DEFAULT, "adamw"])
            known = {x.method: x.gaps[task].size for x in others}
            sizes += [known.get(x, np.nan) for x in (DEFAULT, "adamw")]
            scores = [x["scores"]["end"]["last"]["score"] for x in runs.values()]
            cost = float(np.mean([x["cost"] for x in runs.values()]))
            rows.append((task, len(runs), np.mean(scores), cost, *sizes))
    text = [f"{'task':24} seeds  score  cost   last average default AdamW, best rate"]
    for name, number, score, cost, *sizes in rows:
        shown = " ".join(f"{x:7.2f}" for x in sizes)
        text.append(f"{name:24} {number:5} {score:6.3f} {cost:5.2f} {shown}")
    if not rows:
        return text
    gaps = np.array([row[4:] for row in rows])  # [T, 4]
    for name, function in (("mean", np.nanmean), ("median", np.nanmedian)):
        text.append(f"{name:43}" + " ".join(f"{x:7.2f}" for x in function(gaps, 0)))
    text.append(f"{'worst':43}" + " ".join(f"{x:7.2f}" for x in np.nanmax(gaps, 0)))
    return text


if __name__ == "__main__":
    main()
