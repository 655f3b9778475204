"""Would a cheaper trial do? Fewer rows, bfloat16, two step sizes at once or in turn.

Run ``python benchmarks/speed/cheaper_trials.py``. A trial is the loss after a step of
Adam's size in the gradient's signs; it is timed on all rows, on half of them, with
params and activations in bfloat16, and for two step sizes, in one batched evaluation
and one after the other within a program, as a search makes them.
The time of a trial is a ratio to that of the plain one, of medians within one run; its
error is that of the decrease which it finds, in parts of the plain one's.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from provenance import RESULTS, environment, write_result  # noqa: E402
from rich.progress import track  # noqa: E402
from timed_problems import PROBLEMS, Problem  # noqa: E402
from turns import median_seconds  # noqa: E402

PLAIN, BATCHED, IN_TURN = "all rows", "two at once", "two in turn"
STEP_SIZE = 1e-4
WARM_UP = 2  # rounds
Loss = Callable[[Any, Any], jax.Array]  # of params and batch


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    rows = []
    for name, make in track(PROBLEMS.items(), "timing", transient=True):
        rows += [{"problem": name, **row} for row in measure(make(), rounds)]
    record = {**environment({"rounds": rounds}), "rows": rows}
    write_result(RESULTS / "speed" / "cheaper_trials.json", record)


def measure(problem: Problem, rounds: int) -> list[dict[str, Any]]:
    """Returns a row a kind of trial."""
    grads = jax.grad(problem.loss_fn)(problem.params, problem.batch)
    params, direction = problem.params, jax.tree.map(lambda g: -jnp.sign(g), grads)
    kinds = kinds_of(problem)
    losses = {kind: loss_after_step(trial.loss_fn) for kind, trial in kinds.items()}
    losses[BATCHED] = jax.vmap(losses[PLAIN], in_axes=(0, None, None, None))
    losses[IN_TURN] = in_turn(losses[PLAIN])
    programs = {kind: jax.jit(loss) for kind, loss in losses.items()}
    inputs = {
        kind: (jnp.array(STEP_SIZE), params, direction, trial.batch)
        for kind, trial in kinds.items()
    }
    both = STEP_SIZE * jnp.array([1.0, 2.0])
    inputs[BATCHED] = inputs[IN_TURN] = (both, params, direction, problem.batch)
    calls = {kind: partial(programs[kind], *inputs[kind]) for kind in programs}
    medians = median_seconds(calls, WARM_UP, rounds)
    found = {
        kind: float(programs[kind](0.0, *inputs[kind][1:]))
        - float(programs[kind](*inputs[kind]))
        for kind in kinds
    }
    rows = []
    for kind in programs:
        ratio = medians[kind] / (inputs[kind][0].size * medians[PLAIN])
        row: dict[str, Any] = {"trial": kind, "time_ratio": ratio}
        if kind in found:
            row["error"] = found[kind] / found[PLAIN] - 1
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
        rows.append(row)
    return rows


def kinds_of(problem: Problem) -> dict[str, Problem]:
    """The problem as it is, on half of its rows, and in bfloat16."""
    num_rows = len(jax.tree.leaves(problem.batch)[0])
    half = jax.tree.map(lambda x: x[: num_rows // 2], problem.batch)

    def narrow(params: Any, batch: Any) -> jax.Array:
        params, batch = jax.tree.map(to_bfloat16, (params, batch))
        return problem.loss_fn(params, batch).astype(jnp.float32)

    return {
        PLAIN: problem,
        "half the rows": problem._replace(batch=half),
        "bfloat16": problem._replace(loss_fn=narrow),
    }


def loss_after_step(loss_fn: Loss) -> Callable[..., jax.Array]:
    def loss(
        step_size: jax.Array, params: Any, direction: Any, batch: Any
    ) -> jax.Array:
        moved = jax.tree.map(lambda x, d: x + step_size * d, params, direction)
        return loss_fn(moved, batch)

    return loss


def in_turn(loss: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def losses(step_sizes: jax.Array, *inputs: Any) -> jax.Array:
        return jax.lax.map(lambda step_size: loss(step_size, *inputs), step_sizes)

    return losses


def to_bfloat16(x: jax.Array) -> jax.Array:
    return x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x


if __name__ == "__main__":
    main()
