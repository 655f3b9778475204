"""Acceptance tests along nine directions, on the small network of the tests.

Run ``python benchmarks/directions/compare.py``. A figure is the mean over seeds of the
mean loss over the last pass, with the evaluations of the loss a step behind it. The
seeds are paired: all cells of the table see the same weights and batches.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for folder in ("benchmarks", "examples", "tests"):
    sys.path.insert(0, str(ROOT / folder))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402
from directions import DIRECTIONS  # noqa: E402
from provenance import RESULTS, environment, write_result  # noqa: E402
from rich.progress import track  # noqa: E402
from toys import network_loss, network_params  # noqa: E402

from optax_armijo import (  # noqa: E402
    armijo_info,
    one_group,
    policies,
    scale_by_armijo,
)

ACCEPTANCES = {
    "armijo": policies.armijo(),
    "smoothed": policies.smoothed(),
    "zhang_hager(0.9)": policies.zhang_hager(0.9),
    "window_max(4)": policies.window_max(4),
}
STEPS_A_PASS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="starts of the network")
    parser.add_argument("--steps", type=int, default=60, help="steps a run")
    arguments = parser.parse_args()
    rows = [
        row
        for direction in track(DIRECTIONS, description="directions")
        for row in compare(direction, arguments.seeds, arguments.steps)
    ]
    settings = {"seeds": list(range(arguments.seeds)), "steps": arguments.steps}
    result = {**environment(settings), "rows": rows}
    write_result(RESULTS / "directions.json", result)
    print(table(rows))


def compare(direction: str, num_seeds: int, num_steps: int) -> list[dict[str, Any]]:
    rows = []
    for name, acceptance in ACCEPTANCES.items():
        tx = optax.chain(
            DIRECTIONS[direction].transform,
            scale_by_armijo(one_group, acceptance=acceptance),
        )
        train = training(tx, num_steps)
        runs = [train(network_params(seed=seed)) for seed in range(num_seeds)]
        finals = [float(losses[-STEPS_A_PASS:].mean()) for losses, _ in runs]
        rows.append(
            {
                "direction": direction,
                "acceptance": name,
                "first_loss": statistics.fmean(float(x[0]) for x, _ in runs),
                "last_loss": statistics.fmean(finals),
                "standard_error": statistics.stdev(finals) / len(finals) ** 0.5,
                "evaluations": statistics.fmean(float(x.mean()) for _, x in runs),
            }
        )
    return rows


def training(tx: optax.GradientTransformationExtraArgs, num_steps: int) -> Any:
    def step_fn(carry: Any, step: jax.Array) -> tuple[Any, Any]:
        params, state = carry

        def loss_fn(params: Any) -> jax.Array:
            return network_loss(params, step)

        value, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = tx.update(
            grads, state, params, value=value, grad=grads, value_fn=loss_fn
        )
        evaluations = armijo_info(state).num_evaluations
        return (optax.apply_updates(params, updates), state), (value, evaluations)

    @jax.jit
    def train(params: Any) -> tuple[jax.Array, jax.Array]:
        steps = jnp.arange(num_steps)
        return jax.lax.scan(step_fn, (params, tx.init(params)), steps)[1]

    return train


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"| direction | {' | '.join(ACCEPTANCES)} |",
        "|---" * (1 + len(ACCEPTANCES)) + "|",
    ]
    for direction in DIRECTIONS:
        cells = [
            f"{row['last_loss']:.2f} ± {row['standard_error']:.2f}, "
            f"{row['evaluations']:.2f}"
            for row in rows
            if row["direction"] == direction
        ]
        lines.append(f"| {direction} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
