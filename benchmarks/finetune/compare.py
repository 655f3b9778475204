"""Runs methods on tasks over seeds, as many at once as there are cores.

Run ``python benchmarks/finetune/compare.py --tasks tweets-500-small --methods grid ours
--seeds 3``. Runs that exist, in the folder or in the result files, are not made again,
so it can be stopped and continued; ``--again`` makes those of the result files anew.
``tables.py``, ``plots.py`` and ``readme_tables.py`` make of them what one looks at.
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
RUNS = ROOT / "runs" / "finetune"

if TYPE_CHECKING:
    from run import Run


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    runs = wanted(arguments)
    known = set() if arguments.again else recorded(runs)
    missing = [
        run
        for run in runs
        if run not in known and not run.path(arguments.runs_dir).exists()
    ]
    print(f"{len(runs)} runs, {len(missing)} to make, in {arguments.runs_dir}")
    make_all(missing, arguments.runs_dir, arguments.jobs, arguments.first_core)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--tasks", nargs="+", required=True, help="such as tweets-500-small")
    add("--methods", nargs="+", required=True, help="names or families of methods.py")
    add("--seeds", type=int, default=3, help="seeds 0 to N - 1")
    add("--epochs", type=int, default=5)
    add("--batch-size", type=int, default=32)
    add("--dropout", action="store_true")
    add("--compute", default="float32", help="dtype of the forward pass")
    add("--jobs", type=int, default=os.cpu_count(), help="runs at once")
    add("--first-core", type=int, default=0, help="of those that runs are bound to")
    add("--again", action="store_true", help="also what the result files have")
    add("--runs-dir", type=Path, default=RUNS)
    return parser.parse_args(argv)


def wanted(arguments: argparse.Namespace) -> list["Run"]:
    """Returns the runs that the command line asks for, seed by seed."""
    from methods import methods_of
    from run import Run
    from task import Setup

    setup = Setup(arguments.batch_size, arguments.dropout, arguments.compute)
    return [
        Run(task, method, seed, arguments.epochs, setup)
        for task, seed, method in product(
            arguments.tasks, range(arguments.seeds), methods_of(arguments.methods)
        )
    ]


def recorded(runs: Sequence["Run"]) -> set["Run"]:
    """Returns those of the runs that the result files have."""
    from provenance import RESULTS
    from records import results

    def known(task: str) -> set[tuple[str, int]]:
        runs = results(RESULTS / "finetune" / f"{task}.json")
        return {(run["variant"], run["seed"]) for run in runs}

    by_task = {task: known(task) for task in {run.task for run in runs}}
    return {run for run in runs if (run.variant, run.seed) in by_task[run.task]}


def make_all(
    runs: Sequence["Run"], folder: Path, jobs: int, first_core: int = 0
) -> None:
    """Makes runs side by side, each on a core of its own; shows how far it is."""
    from rich.progress import Progress

    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    for core in range(first_core, first_core + jobs):
        cores.put(core % (os.cpu_count() or 1))
    with (
        ProcessPoolExecutor(jobs, context, keep_one_core, (cores,)) as pool,
        Progress() as progress,
    ):
        bar = progress.add_task("runs", total=len(runs))
        waiting: dict[Future[str], Run] = {
            pool.submit(make_and_write, run, folder): run for run in runs
        }
        while waiting:
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                run = waiting.pop(future)
                progress.print(f"{run.path(Path())}: {future.result()}")
                progress.advance(bar)


def keep_one_core(cores: "multiprocessing.Queue[int]") -> None:
    """Binds a worker to a core, so that runs do not slow each other down."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cores.get()})


def make_and_write(run: "Run", folder: Path) -> str:
    """Makes a run in a worker; returns a line about it."""
    from run import make_run, write

    record = make_run(run)
    write(record, run.path(folder))
    last = record["epochs"][-1]
    return (
        f"accuracy {last['accuracy']:.3f}, log loss {last['log_loss']:.3f}, "
        f"train loss {record['train_loss']:.3g}, {record['seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()
