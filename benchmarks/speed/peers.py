"""Beside what exists in PyTorch: time, memory and loss, from the same weights.

Run ``python benchmarks/speed/peers.py``, after ``pip install -e '.[peers]'``. It
fine-tunes the main job by each method, on the CPU: PyTorch's Adam, the SaLSA-Optimizer
of PyPI and a PLASLS loop; optax's Adam, ours and the same two methods in JAX. Each has
a process of its own, and their steps are made in turn, so that whatever else the
machine does falls on all alike. Figures are ratios to the same framework's Adam.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("examples", "benchmarks", "benchmarks/comparison")
sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS]

# No JAX here: each process imports this file, and PyTorch's are to hold PyTorch alone.
from cost_tables import peer_table  # noqa: E402
from peer_figures import Record, figures, smoothed  # noqa: E402
from peer_process import Peer, Step  # noqa: E402
from provenance import RESULTS, environment, write_result  # noqa: E402
from rich.progress import track  # noqa: E402
from turns import shuffled  # noqa: E402

# The module of a framework's methods, and these; the first is Adam.
METHODS = {
    "peer_torch": ("torch.optim.Adam", "SaLSA-Optimizer", "PLASLS"),
    "peer_jax": (
        *("optax.adam", "armijo_adam", "armijo_adam-one_group"),
        *("salsa", "plasls"),
    ),
}
FRAMEWORKS = {"peer_torch": "PyTorch", "peer_jax": "JAX"}
LINES = {"PyTorch": "--", "JAX": "-"}
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
    "OMP_WAIT_POLICY": "PASSIVE",  # PyTorch's threads must not spin in others' turns
    "TRANSFORMERS_VERBOSITY": "error",
}
PATH = RESULTS / "speed" / "peers.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    everything = [method for methods in METHODS.values() for method in methods]
    parser.add_argument("--methods", nargs="+", default=everything, choices=everything)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--task", default="tweets-3", help="of the comparison")
    parser.add_argument("--output", type=Path, default=PATH)
    options = parser.parse_args()
    os.environ |= ENVIRONMENT
    # Before JAX makes this process large: the peak of a process counts its parent's.
    peers = [Peer(*chosen) for chosen in with_their_adams(options.methods)]
    import peer_job

    job, task = peer_job.make_job(options.task, options.steps)
    for peer in track(peers, "building"):
        peer.prepare(job)
    steps = steps_in_turn(peers, options.steps)
    records: dict[str, Record] = {}
    for peer in track(peers, "validating"):
        peak, weights = peer.finish()
        records[peer.method] = Record(
            steps=steps[peer.method],
            compiling=peer.compiling,
            peak=peak,
            built=peer.built,
            imported=peer.imported,
            scores=peer_job.scores(task, weights),
        )
    rows = rows_of(peers, records, task.steps_per_epoch)
    settings = {"steps": options.steps, "task": options.task}
    made = environment(settings, "torch", "SaLSA-Optimizer")
    result = {"task": job.task, "epoch": task.steps_per_epoch, **made, "rows": rows}
    write_result(options.output, result)
    draw(result).savefig(options.output.with_suffix(".png"), dpi=110)
    print(peer_table(result))


def with_their_adams(methods: Sequence[str]) -> list[tuple[str, str]]:
    """The methods with their modules, and of each framework that has some its Adam."""
    return [
        (module, method)
        for module, own in METHODS.items()
        for method in own
        if method in methods or (method == own[0] and {*own} & {*methods})
    ]


def steps_in_turn(peers: Sequence[Peer], num_steps: int) -> dict[str, list[Step]]:
    """Has all make their steps, one after the other in every round."""
    steps: dict[str, list[Step]] = {peer.method: [] for peer in peers}
    for number in track(range(num_steps), "stepping"):
        for peer in shuffled(peers, number):
            steps[peer.method].append(peer.step(number))
        if number == 0:
            check_same_start({method: made[0].loss for method, made in steps.items()})
    return steps


def check_same_start(losses: dict[str, float]) -> None:
    """Checks that all methods found the same loss before their first step.

    Raises:
      ValueError: they did not, so they have not the same model, weights or batch.
    """
    if max(losses.values()) - min(losses.values()) > 1e-4:
        found = ", ".join(f"{method} {loss:.6f}" for method, loss in losses.items())
        raise ValueError(f"the loss before the first step must be the same: {found}")


def rows_of(
    peers: Sequence[Peer], records: dict[str, Record], epoch: int
) -> list[dict[str, Any]]:
    """A row a method, beside the Adam of its framework; an epoch is so many steps."""
    return [
        {
            "method": peer.method,
            "framework": FRAMEWORKS[peer.module],
            **figures(records[peer.method], records[METHODS[peer.module][0]], epoch),
        }
        for peer in peers
    ]


def draw(result: dict[str, Any]) -> Any:
    """Training loss, a mean over an epoch, against time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
    figure, axis = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
    epoch = result["epoch"]
    for row in result["rows"]:
        losses, style = row["curve"]["loss"], LINES[row["framework"]]
        label = f"{row['method']}, {row['framework']}"
        axis.plot(row["curve"]["time"], smoothed(losses, epoch), style, label=label)
    axis.axvline(result["settings"]["steps"], color="0.6", linewidth=1)
    axis.set(
        xlabel="time, in mean steps of the same framework's Adam",
        ylabel=f"training loss, mean of {epoch} steps",
        yscale="log",
    )
    axis.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    main()
