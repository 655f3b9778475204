"""Writes `schedule_free_plus.json`: trajectories of the published ScheduleFree+.

Made with ``pip install torch numpy`` and the published code at `COMMIT`, ``pip install
git+https://github.com/facebookresearch/schedule_free@COMMIT`` (no release has it), and,
from the repository's root, ``python tests/data/schedule_free_plus_reference.py``.

The loss of step t is a sum over leaves, :math:`s / 2 ||w - a_t||^2`, with noisy targets
a. In the run with every option the learning rate grows linearly to 1 over the warm-up.
The published code keeps the corrected average of the gradients' norms where the plain
one belongs, and corrects it once more in the next step; this is undone here.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
COMMIT = "70785b53e778d0e872c0bbb75ff4ee54ee10c291"
SHAPES = {"first": (3, 2), "second": (2, 2), "bias": (2,)}
SCALES = {"first": 1.0, "second": 3.0, "bias": 0.5}
NUM_STEPS, WARMUP = 20, 5
RUNS: dict[str, dict[str, float]] = {
    "defaults": {},
    "options": {
        "b1": 0.8,
        "b2": 0.9,
        "eps": 1e-6,
        "weight_decay": 2.0,
        "sf_beta1": 0.8,
        "sf_beta1_max": 0.95,
        "sf_beta1_anneal_steps": 12,
        "c_warmup": 4,
        "r": 2.0,
        "polyak_beta": 0.7,
        "weight_lr_power": 1.5,
    },
}
Arrays = dict[str, np.ndarray]


def trajectory(
    start: Arrays, targets: list[Arrays], b1: float = 0.9, b2: float = 0.95, **options
) -> dict[str, Any]:
    """Runs the published optimizer; returns the points after each step."""
    import torch  # pyright: ignore[reportMissingImports]
    from schedulefree import (  # pyright: ignore[reportMissingImports]
        AdamCScheduleFreePlusPaper,
    )

    params = {k: torch.nn.Parameter(torch.tensor(x)) for k, x in start.items()}
    optimizer = AdamCScheduleFreePlusPaper(params.values(), betas=(b1, b2), **options)
    points = {"train": [], "eval": []}
    for step, target in enumerate(targets):
        optimizer.train()
        if options:
            optimizer.param_groups[0]["lr"] = min(1.0, (step + 1) / WARMUP)
        value = 0.0
        for name, param in params.items():
            off = param.detach().numpy() - target[name]
            value += SCALES[name] / 2 * float(np.sum(off**2))
            param.grad = torch.tensor(np.float32(SCALES[name]) * off)
        optimizer.step_func(value)
        group = optimizer.param_groups[0]
        group["grad_l1_ema"] *= 1 - group["polyak_beta"] ** group["k"]
        points["train"].append(plain({k: x.data.numpy() for k, x in params.items()}))
        optimizer.eval()
        points["eval"].append(plain({k: x.data.numpy() for k, x in params.items()}))
    return points


def plain(arrays: Arrays) -> dict[str, Any]:
    """Arrays of float32 as nested lists, with the digits that determine them."""
    return {k: np.vectorize(lambda x: float(f"{x:.9g}"))(x) for k, x in arrays.items()}


def write() -> None:
    """Writes the file."""
    import torch  # pyright: ignore[reportMissingImports]

    rng = np.random.default_rng(0)

    def draw(scale: float) -> Arrays:
        return {
            k: (scale * rng.standard_normal(shape)).astype(np.float32)
            for k, shape in SHAPES.items()
        }

    start, centre = draw(1.0), draw(1.0)
    noise = [draw(0.3) for _ in range(NUM_STEPS)]
    targets = [{k: centre[k] + x[k] for k in x} for x in noise]
    runs = {
        name: {"settings": options} | trajectory(start, targets, **options)
        for name, options in RUNS.items()
    }
    content = {
        "source": "github.com/facebookresearch/schedule_free, "
        "schedulefree/adamc_schedulefree_plus_paper.py",
        "commit": COMMIT,
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "scales": SCALES,
        "warmup": WARMUP,
        "start": plain(start),
        "targets": [plain(x) for x in targets],
        "runs": runs,
    }
    text = json.dumps(content, default=np.ndarray.tolist)
    (HERE / "schedule_free_plus.json").write_text(text + "\n")


if __name__ == "__main__":
    write()
