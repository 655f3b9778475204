"""What each mechanism of the search is good for: runs without it, one at a time.

Run ``python benchmarks/ablation.py``. Each row is the search with one mechanism off:
the mean change of the log loss of the last iterate, paired by task and seed, on
development tasks with little noise, with much, and with noise that comes again, where
the length of the run is known; how many runs end at more than e times the loss; and the
float32 runs of the fuzz. The runs of all seeds are one program. ``--record NAME`` keeps
the figures in ``benchmarks/results/NAME.json``, and the table beside it.
"""

import argparse
import contextlib
import importlib
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("examples", "benchmarks", "benchmarks/comparison")
sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS]
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from cli import make_parser, positive, seeds, some_of  # noqa: E402
from methods import METHODS  # noqa: E402
from provenance import RESULTS, environment, write_result  # noqa: E402
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn  # noqa: E402
from tasks import DEVELOPMENT, Task, make_task  # noqa: E402

import optax_armijo  # noqa: E402
from optax_armijo.search import step, step_sizes  # noqa: E402

LITTLE = (
    *("digits-500", "regression-clean", "oscillator", "decay", "heat", "recurrent"),
    *("attention", "residual-clean"),
)
MUCH = (
    *("regression-fresh-noise", "regression-outliers", "residual-heavy-tails"),
    *("compartments", "regression-bad-batches", "factorization"),
)
# Noise that comes again, which a network can learn by heart.
AGAIN = ("regression-fixed-noise", "digits-mislabelled", "wine", "breast-cancer")
COLUMNS = {"little noise": LITTLE, "much noise": MUCH, "noise that comes again": AGAIN}
HUGE = 1e30
MOST = 3.0  # change of a log loss that counts, so that no single run rules the mean
FULL = "all of it"


class Ablation(NamedTuple):
    """A mechanism and how it is switched off.

    Attributes:
      name: what is missing, or what there is in its place.
      changes: new values of names of modules of `optax_armijo.search`.
      takes: constants, numbers of the state, and lines, where it can be counted.
    """

    name: str
    changes: dict[str, Any]
    takes: tuple[int, int, int] | None = None


def _with_schedule(move: Any, signal: Any, end_slope: Any, multiple: Any) -> jax.Array:
    del multiple
    return ERROR_OF(move, signal, end_slope, jnp.ones(()))


def _by_size(
    problem: Any, sizes: jax.Array, slope: jax.Array, is_first: jax.Array
) -> jax.Array:
    found = NEW_GROUPS(problem, sizes, slope, is_first)
    root = step_sizes.root_mean_squares(problem.grouping, problem.params, found.dtype)
    by_size = is_first & (root > 0) & jnp.isfinite(root) & (slope > 0)
    return jnp.where(by_size, root, found)


def _without_fading(signal: step_sizes.SignalStatistics) -> jax.Array:
    return jnp.maximum(signal.fraction, step_sizes.LEAST_AIMED_AT)


def _at_any_time(k: jax.Array, tested_at: jax.Array, num_steps: Any) -> jax.Array:
    del num_steps
    return TEST_DUE(k, tested_at, None)


ERROR_OF, NEW_GROUPS = step_sizes.error_of, step.with_new_groups
TEST_DUE = step._is_test_due
ABLATIONS = (
    Ablation(FULL, {}),
    Ablation(
        "a warm-up", {"step.WARM_UP_STEPS": 1, "step_sizes.WARM_UP_STEPS": 1}, (1, 0, 3)
    ),
    Ablation("tests after the first step", {"step.TESTED_EVERY": math.inf}, (4, 1, 20)),
    Ablation(
        "no tests before the middle: as often as later",
        {"step._is_test_due": _at_any_time},
        (0, 0, 4),
    ),
    Ablation(
        "measurements of phi: it is 1", {"step.MEASURED_EVERY": math.inf}, (4, 6, 45)
    ),
    Ablation("measurements by a twentieth: a fifth", {"step.MEASURED_EVERY": 1.2}),
    Ablation("units", {"step.with_unit": lambda old, *_: old}, (1, 2, 12)),
    Ablation("phi in the aim: C = p", {"step_sizes.aim": lambda _: 1.0}, (1, 0, 4)),
    Ablation(
        "kappa: 1",
        {"step_sizes.KAPPA_NOISE": 1, "step_sizes.KAPPA_EXACT": 1},
        (2, 0, 2),
    ),
    Ablation("the bound of the noise", {"step.shortening": lambda *_: 1.0}, (1, 0, 13)),
    Ablation(
        "step sizes that shrink with their steps",
        {"step.LEAST_APPLIED": 1 / HUGE},
        (1, 0, 5),
    ),
    Ablation(
        "the looser bound after 40 steps",
        {"step.LARGEST_NOISE_LATER": step_sizes.LARGEST_NOISE},
        (2, 0, 4),
    ),
    Ablation(
        "the second half's own rules",
        {"step._is_first_half": lambda _, num_steps: num_steps is not None},
        (1, 0, 2),
    ),
    Ablation("z without the schedule", {"step.error_of": _with_schedule}, (0, 1, 6)),
    Ablation(
        "longer first steps where little is promised",
        {"step.with_new_groups": _by_size},
        (0, 0, 4),
    ),
    Ablation("groups' own changes", {"step_sizes.OWN": 0}, (1, 0, 3)),
    Ablation("leaps", {"step_sizes.FAR_TOO_SHORT": 0}, (3, 2, 22)),
    Ablation(
        "leaps where the steps left promise little",
        {"step._steps_left_promise_little": lambda *_: False},
        (1, 0, 25),
    ),
    Ablation(
        "shrinking less while the loss falls",
        {"step_sizes.HELD_BELOW": 0},
        (4, 2, 16),
    ),
    Ablation("only growing at first", {"step.CLEAR": 2.0}, (1, 1, 25)),
    Ablation(
        "changes of all together that fade with k",
        {"step_sizes.FADING": math.inf},
        (1, 0, 2),
    ),
    Ablation(
        "steps rolled back on losses that are far too high",
        {"step.FAR": HUGE},
        (1, 2, 6),
    ),
    Ablation("half of a step at least is kept", {"step.LEAST_KEPT": 0}, (0, 0, 2)),
    Ablation("clipping", {"clipping.CLIP": HUGE}, (3, 1, 35)),
    Ablation("the least phi", {"step_sizes.LEAST_AIMED_AT": 0}, (1, 0, 1)),
    Ablation(
        "a least phi that fades: stays",
        {
            "step_sizes.likely_fraction": _without_fading,
            "step.likely_fraction": _without_fading,
        },
        (1, 0, 1),
    ),
)
KNOWN = {ablation.name: ablation for ablation in ABLATIONS}


@contextlib.contextmanager
def without(ablation: Ablation) -> Iterator[None]:
    """Switches a mechanism off, for functions that are traced within."""
    old = []
    for path, value in ablation.changes.items():
        module_name, name = path.split(".")
        module = importlib.import_module(f"optax_armijo.search.{module_name}")
        old.append((module, name, getattr(module, name)))
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in old:
            setattr(module, name, value)


def train(name: str, task_name: str, seeds: Sequence[int]) -> list[list[float]]:
    """Returns log losses of validation rows, [seeds, (last iterate, average)]."""
    with without(KNOWN[name]):
        return log_losses(make_task(task_name), seeds)


def log_losses(task: Task, seeds: Sequence[int]) -> list[list[float]]:
    """The same of a task, by one program for all seeds: it compiles once.

    Shapes: N steps, R seeds.
    """
    from run import all_batches

    num_steps = task.num_epochs * task.steps_per_epoch
    method = METHODS["armijo_adam-num_steps"]
    tx = method.make(task.labels, num_steps)
    tx = optax_armijo.average_iterates(tx, interpolation=0)
    # It donates nothing, as nothing may be donated within a larger program.
    train_step = optax_armijo.make_train_step(task.loss_fn, tx, donate=False)

    @jax.jit
    def trained(params: Any, batches: Any) -> Any:
        keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))

        def one_step(carry: Any, number_and_batch: Any) -> tuple[Any, None]:
            (params, opt_state), (number, batch) = carry, number_and_batch
            now = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            return jax.vmap(train_step)(params, opt_state, batch, now)[:2], None

        start = params, jax.vmap(tx.init)(params)
        numbered = jnp.arange(num_steps), batches
        return jax.lax.scan(one_step, start, numbered)[0]

    def loss_of(params: Any, i: int) -> float:
        return task.evaluate(jax.tree.map(lambda x: x[i], params))["loss"]

    runs = zip(*(all_batches(task, seed) for seed in seeds), strict=True)
    batches = stacked([stacked(one) for one in runs])  # of [N, R, ...]
    params, opt_state = trained(stacked([task.init(seed) for seed in seeds]), batches)
    ends = params, optax_armijo.averaged_params(opt_state, params)
    losses = np.array([[loss_of(end, i) for end in ends] for i in range(len(seeds))])
    return np.where(np.isfinite(losses), np.log(losses).round(5), np.inf).tolist()


def stacked(trees: Sequence[Any]) -> Any:
    """Stacks trees of arrays along a new first axis."""
    return jax.tree.map(lambda *x: np.stack([*map(np.asarray, x)]), *trees)


def fuzzed(name: str) -> dict[str, list[int]]:
    """Returns counts of runs by form: near Adam, all, and those that ended higher.

    Near is within a factor of two of the decrease of the best Adam.
    """
    import fuzz

    options = argparse.Namespace(
        kinds=list(fuzz.KINDS), seeds=16, steps=500, batch_size=16
    )
    float32 = fuzz.PRECISIONS["float32"]
    adams = fuzz.program(lambda rate: optax.adam(rate), float32, options)
    best = fuzz.decreases(fuzz.best_of([adams(x) for x in fuzz.ADAM_RATES])).clip(0)
    counts = {}
    with without(KNOWN[name]):
        for form in ("armijo_adam", "num_steps"):
            tx = fuzz.FORMS[form](options.steps)
            ends = fuzz.program(lambda _: tx, float32, options)(0)  # noqa: B023
            found = fuzz.decreases(ends)
            is_near = found >= best / fuzz.FACTOR
            counts[form] = [int(x) for x in (is_near.sum(), is_near.size)]
            counts[form].append(int(np.sum(found < 0)))
    return counts


def work(name: str, task_name: str, seeds: Sequence[int]) -> Any:
    """A job of a worker: runs on a task, or of the fuzz where the task is ``fuzz``."""
    return fuzzed(name) if task_name == "fuzz" else train(name, task_name, seeds)


def summary(found: dict[str, dict[str, Any]], name: str, tasks: Sequence[str]) -> str:
    """The change of the log loss of the last iterate, with its standard error."""
    pairs = [
        np.subtract(found[name][task], found[FULL][task])[:, 0]
        for task in tasks
        if task in found[name]
    ]
    if not pairs:
        return "–"
    change = np.nan_to_num(np.concatenate(pairs), nan=MOST).clip(-MOST, MOST)
    error = np.std(change, ddof=1) / np.sqrt(change.size) if change.size > 1 else np.nan
    return f"{np.mean(change):+.2f} ± {error:.2f}"


def num_worse(found: dict[str, dict[str, Any]], name: str) -> int:
    """Runs that end at more than e times the loss."""
    tasks = [task for task in found[name] if task != "fuzz"]
    pairs = [np.subtract(found[name][task], found[FULL][task]) for task in tasks]
    return int(sum(np.sum(~(pair[:, 0] <= 1)) for pair in pairs))


def table(
    found: dict[str, dict[str, Any]], takes: Mapping[str, Sequence[int] | None]
) -> str:
    """A Markdown table, a row a mechanism; `takes` is as in `Ablation`."""
    tasks = [task for task in found[FULL] if task != "fuzz"]
    others = [task for task in tasks if task not in LITTLE + MUCH + AGAIN]
    columns = COLUMNS | {"other tasks": others}
    columns = {key: xs for key, xs in columns.items() if {*xs} & {*tasks}}
    heads = ["without", "takes", *columns, "more than e times"]
    has_fuzz = "fuzz" in found[FULL]
    heads += ["fuzz", "with `num_steps`"] if has_fuzz else []
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, of_tasks in found.items():
        numbers = takes.get(name)
        cells = [name, ", ".join(map(str, numbers)) if numbers else "–"]
        cells += [summary(found, name, xs) for xs in columns.values()]
        cells.append(str(num_worse(found, name)))
        if has_fuzz:
            for near, _, higher in of_tasks["fuzz"].values():
                cells.append(f"{near}" + f", {higher} higher" * (higher > 0))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    parser, names = make_parser(__doc__), list(KNOWN)
    tasks = [*LITTLE, *MUCH, *AGAIN, "fuzz"]
    add = parser.add_argument
    text = "development tasks, and fuzz; default: those of the table, and fuzz"
    known = some_of([*DEVELOPMENT, "fuzz"])
    add("--tasks", type=known, default=tasks, metavar="A,B", help=text)
    text = "mechanisms that are switched off; default: each"
    add("--without", type=some_of(names), default=names, metavar="A,B", help=text)
    add("--seeds", type=seeds, default=[0, 1, 2], metavar="0,1")
    text = "runs at once, default: one a core"
    add("--jobs", type=positive, default=os.cpu_count(), help=text)
    text = "keep them in results/NAME.json and NAME.md; default ablation"
    add("--record", nargs="?", const="ablation", metavar="NAME", help=text)
    options = parser.parse_args(argv)
    mechanisms = list(dict.fromkeys([FULL, *options.without]))
    found: dict[str, dict[str, Any]] = {name: {} for name in mechanisms}
    shown = *Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()
    context, start = multiprocessing.get_context("spawn"), time.perf_counter()
    with (
        ProcessPoolExecutor(options.jobs, context) as pool,
        Progress(*shown) as progress,
    ):
        jobs = {
            pool.submit(work, name, task, options.seeds): (name, task)
            for task in options.tasks
            for name in mechanisms
        }
        bar = progress.add_task("runs", total=len(jobs))
        for future in as_completed(jobs):
            name, task = jobs[future]
            found[name][task] = future.result()
            progress.advance(bar)
    takes = {name: KNOWN[name].takes for name in mechanisms}
    print(table(found, takes))
    if options.record:
        minutes = round((time.perf_counter() - start) / 60, 1)
        made = environment(vars(options)) | {"minutes": minutes}
        path = RESULTS / f"{options.record}.json"
        write_result(path, made | {"takes": takes, "log_losses": found})
        path.with_suffix(".md").write_text(table(found, takes), encoding="utf-8")


if __name__ == "__main__":
    main()
