"""What a step costs beside Adam's: time, compilation, memory, loss evaluations.

Run ``python benchmarks/speed/cost.py``, on any device. On each problem the steps of all
methods are made in turn, so that whatever else the machine does falls on all alike;
figures are ratios of medians within one run. ``cost_tables.py`` writes the page.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median, mode
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import jax  # noqa: E402
import optax  # noqa: E402
from optax import contrib  # noqa: E402
from programs import Forward, Program, in_turn  # noqa: E402
from provenance import RESULTS, environment, write_result  # noqa: E402
from rich.progress import track  # noqa: E402
from timed_problems import PROBLEMS, Problem  # noqa: E402

from optax_armijo import Backtracking, armijo_adam, one_group, salsa  # noqa: E402

FIRST = 10  # steps that are made before any is timed: the first search and its like
GROUPS = (1, 8, 64)


def groups_of(number: int, params: Any) -> Any:
    """Labels that divide the leaves into so many groups, as even as they go."""
    leaves, treedef = jax.tree.flatten(params)
    labels = [i * min(number, len(leaves)) // len(leaves) for i in range(len(leaves))]
    return treedef.unflatten(labels)


def chained_after_adam(search: Any) -> optax.GradientTransformation:
    """Adam's direction searched by one of optax's searches, as users chain it."""
    return optax.chain(optax.scale_by_adam(), optax.scale(-1.0), search)


METHODS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "adam": partial(optax.adam, 1e-4),
    "armijo_adam": armijo_adam,
    "one_group": partial(armijo_adam, one_group),
    **{
        f"often, {n} groups": partial(
            armijo_adam,
            partial(groups_of, n),
            linesearch=Backtracking(search_growth=1.0001),
        )
        for n in GROUPS
    },
    "salsa": salsa,
    "adamw": partial(optax.adamw, 1e-4),
    "prodigy": contrib.prodigy,
    "schedule_free_adamw": contrib.schedule_free_adamw,
    "optax backtracking": lambda: chained_after_adam(
        optax.scale_by_backtracking_linesearch(max_backtracking_steps=15)
    ),
    "optax zoom": lambda: chained_after_adam(
        optax.scale_by_zoom_linesearch(max_linesearch_steps=15)
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--steps", type=int, default=20, help="of each that are timed")
    options = parser.parse_args()
    for name in options.problems:
        rows = measure(PROBLEMS[name](), options.methods, options.steps)
        slug = name.split(",")[0].lower().replace(" ", "_")
        record = {"problem": name, **environment(vars(options)), "rows": rows}
        write_result(RESULTS / "speed" / f"cost-{slug}.json", record)


def measure(problem: Problem, methods: list[str], steps: int) -> list[dict[str, Any]]:
    """Returns a row a method; the first is Adam's, to which the others are compared."""
    forward = Forward(problem)
    programs = {
        name: Program(problem, METHODS[name]())
        for name in track(methods, "compiling", transient=True)
    }
    together = [forward, *programs.values()]
    for step in track(range(FIRST + steps), "stepping", transient=True):
        in_turn(together, step)
    return [row(name, programs[name], programs["adam"], forward) for name in methods]


def row(name: str, program: Program, adam: Program, forward: Forward) -> dict[str, Any]:
    """What a method costs; times in seconds, memory in bytes.

    The machinery is (step - Adam's step) / (evaluations * forward), of the steps with
    the commonest number of evaluations above 0: it is 1 if a step costs what Adam's
    does and its evaluations of the loss, and nothing else.
    """
    seconds, evaluations = program.seconds[FIRST:], program.evaluations[FIRST:]
    adams, forwards = median(adam.seconds[FIRST:]), median(forward.seconds[FIRST:])
    above = [(x - adams) / forwards for x in seconds]
    searching = [n for n in evaluations if n]
    row = {
        "method": name,
        "step": median(seconds),
        "step_ratio": median(seconds) / adams,
        "evaluations": sum(evaluations) / len(evaluations),
        "forward": forwards,
        "spike": max(above),
        "first_evaluations": program.evaluations[0],
        "compile": program.compile_seconds,
        "compile_ratio": program.compile_seconds / adam.compile_seconds,
        "temporaries": program.temporaries,
        "temporaries_above": (program.temporaries - adam.temporaries) / size(adam),
        "state_above": program.state_size - adam.state_size,
    }
    if searching:
        usual = mode(searching)
        alike = [x for x, n in zip(above, evaluations, strict=True) if n == usual]
        row["machinery"] = median(alike) / usual
    print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
    return row


def size(program: Program) -> int:
    """Bytes of the params."""
    return sum(x.nbytes for x in jax.tree.leaves(program.params))


if __name__ == "__main__":
    main()
