"""Makes the runs of the comparison that are missing, and shows progress.

``python benchmarks/comparison/compare.py --tasks development`` follows all of the
protocol, which ``protocol.py`` describes. It may be stopped at any time and resumes
where it was. Records are lines of ``benchmarks/results/comparison/TASK.jsonl``;
``report.py`` makes tables and figures of them.
"""

import argparse
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("examples", "benchmarks", "benchmarks/comparison")
sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS]
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from cli import make_parser, positive, seeds, some_of  # noqa: E402
from methods import HAND_TUNED, METHODS, SHARED, SWEPT  # noqa: E402
from protocol import RECORDS, Job, append, wanted  # noqa: E402
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn  # noqa: E402
from tasks import LISTS, TASKS, Setup, make_task  # noqa: E402


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser, methods = make_parser(__doc__), [*METHODS, *SWEPT, *SHARED, HAND_TUNED]
    add, tasks = parser.add_argument, some_of([*LISTS, *TASKS])
    text = "names of tasks or of their lists, default: development"
    add("--tasks", type=tasks, default=["development"], metavar="A,B", help=text)
    text = "default: all"
    add("--methods", type=some_of(methods), default=methods, metavar="A,B", help=text)
    text = "default: the protocol's, two or five"
    add("--seeds", type=seeds, metavar="0,1", help=text)
    add("--batch-size", type=positive, help="default: the task's own")
    add("--dropout", action="store_true", help="train with it")
    add("--compute", choices=("float32", "bfloat16"), default="float32")
    add("--prices", action="store_true", help="measure them, and nothing else")
    text = "runs at once, default: one a core"
    add("--jobs", type=positive, default=os.cpu_count(), help=text)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    tasks = [x for name in arguments.tasks for x in LISTS.get(name, [name])]
    setup = Setup(arguments.batch_size, arguments.dropout, arguments.compute)

    if arguments.prices:
        return measure_prices(tasks)
    # What is wanted depends on what was found: a best rate at the edge of its grid
    # extends it, and a contender gets more seeds.
    make_all(
        lambda: wanted(tasks, arguments.methods, setup, seeds=arguments.seeds),
        arguments.jobs,
    )


def measure_prices(tasks: Sequence[str]) -> None:
    """Measures what evaluations cost on each task; nothing else should run."""
    from run import price_of

    path = RECORDS / "prices.json"
    prices = json.loads(path.read_text()) if path.exists() else {}
    for name in tasks:
        prices[name] = round(price_of(make_task(name)), 3)
        print(f"{name}: {prices[name]}")
        path.write_text(json.dumps(dict(sorted(prices.items())), indent=1) + "\n")


def make_all(missing: Callable[[], list[Job]], jobs: int) -> None:
    """Makes jobs side by side until none is missing, each on a core of its own."""
    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    for core in range(jobs):
        cores.put(core % (os.cpu_count() or 1))
    shown = *Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()
    with (
        ProcessPoolExecutor(jobs, context, start_worker, (cores,)) as pool,
        Progress(*shown) as progress,
    ):
        bar, done, pending = progress.add_task("runs"), 0, {}
        while True:
            todo = [x for x in missing() if x not in pending.values()]
            for job in todo[: jobs - len(pending)]:
                pending[pool.submit(make_and_append, job)] = job
            progress.update(bar, total=done + len(todo) + len(pending), completed=done)
            if not pending:
                break
            for future in wait(pending, return_when=FIRST_COMPLETED)[0]:
                job = pending.pop(future)
                progress.print(f"{job.task} {job.method} {job.seed}: {future.result()}")
                done += 1


def start_worker(cores: "multiprocessing.Queue[int]") -> None:
    """Binds a worker to a core, for even timings, and ends it with the command."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cores.get()})
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Ends this worker when the command is killed; else it would go on unseen."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def make_and_append(job: Job) -> str:
    """Makes a run in a worker; returns a line about it."""
    record = job.make()
    append(job, record)
    return json.dumps(record["scores"]["end"])


if __name__ == "__main__":
    main()
