"""What a whole run of many steps costs beside AdamW's, and its slowest steps.

Run ``python benchmarks/speed/long_run.py``: a thousand steps of fine-tuning, of AdamW,
of the default and of the loss alone in turn, in an order drawn anew for each step, so
that whatever else the machine does falls on all alike. The longer a run, the rarer the
trials.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("examples", "benchmarks", "benchmarks/comparison")
sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS]
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import jax  # noqa: E402
import numpy as np  # noqa: E402
from methods import method_of  # noqa: E402
from provenance import RESULTS, environment, write_result  # noqa: E402
from rich.progress import track  # noqa: E402
from tasks import TASKS, Task, make_task  # noqa: E402
from turns import shuffled  # noqa: E402

from optax_armijo.training import make_train_step  # noqa: E402

BASE, OURS, FORWARD = NAMES = "adamw@2e-04", "armijo_adam", "forward"
FIRST = 10  # steps that are no measure of later ones: compilation, the first search


class Timed(NamedTuple):
    """What was timed of each step, [N] each.

    Attributes:
      seconds: by method; `FORWARD` is the loss alone.
      evaluations: of the loss by the default, the gradient's included.
    """

    seconds: dict[str, np.ndarray]
    evaluations: np.ndarray


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", default="tweets-3-small", choices=TASKS)
    parser.add_argument("--steps", type=int, default=1000)
    arguments = parser.parse_args(argv)
    timed = time_steps(make_task(arguments.task), arguments.steps)
    record = summary(timed)
    print(record)
    settings = {"task": arguments.task, "steps": arguments.steps}
    write_result(
        RESULTS / "speed" / f"long_run-{arguments.task}.json",
        {**environment(settings), **record},
    )


def time_steps(task: Task, num_steps: int) -> Timed:
    """Makes the same steps of all in turn; each one's time ends when it is computed."""
    transforms = {x: method_of(x).make(task, num_steps) for x in (BASE, OURS)}
    steps = {name: make_train_step(task.loss_fn, tx) for name, tx in transforms.items()}
    states: dict[str, Any] = {}
    infos: dict[str, Any] = {}
    for name, tx in transforms.items():
        params = task.init(0)
        states[name] = params, jax.jit(tx.init)(params)
    forward, start = jax.jit(task.loss_fn), task.init(0)
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    evaluations = []
    for step in track(range(num_steps), "stepping", transient=True):
        epoch, i = divmod(step, task.steps_per_epoch)
        batch = list(task.batches(0, epoch))[i]
        key = jax.random.fold_in(jax.random.key(0), step)
        for name in shuffled(NAMES, step):
            began = time.perf_counter()
            if name == FORWARD:
                jax.block_until_ready(forward(start, batch, key))
            else:
                *states[name], metrics = steps[name](*states[name], batch, key)
                jax.block_until_ready((states[name], metrics.loss))
                infos[name] = metrics.info
            seconds[name].append(time.perf_counter() - began)
        evaluations.append(1 + int(infos[OURS].num_evaluations))
    return Timed(
        {name: np.array(x) for name, x in seconds.items()}, np.array(evaluations)
    )


def summary(timed: Timed) -> dict[str, float]:
    """Ratios to AdamW's; the tail in forward passes above AdamW's median step."""
    seconds = {name: x[FIRST:] for name, x in timed.seconds.items()}
    base, ours = seconds[BASE], seconds[OURS]
    forward = np.median(seconds[FORWARD])
    figures = {
        "base_step_seconds": np.median(base),
        "forward_ratio": forward / np.median(base),
        "mean_ratio": ours.mean() / base.mean(),
        "median_ratio": np.median(ours) / np.median(base),
        "p99_above_in_forward_passes": (np.percentile(ours, 99) - np.median(base))
        / forward,
        "base_p99_above_in_forward_passes": (np.percentile(base, 99) - np.median(base))
        / forward,
        "evaluations": timed.evaluations.mean(),
    }
    return {name: float(f"{x:.4g}") for name, x in figures.items()}


if __name__ == "__main__":
    main()
