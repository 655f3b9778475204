"""One run: an optimizer on a task with a seed, and the record that it leaves."""

import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from methods import METHODS
from provenance import environment
from task import EPOCH_ROWS, Setup
from tasks import make_task

from optax_armijo.training import TrainMetrics, make_train_step


class Run(NamedTuple):
    """Which run; `path` says where its record lies."""

    task: str
    method: str
    seed: int
    epochs: int = 5
    setup: Setup = Setup()

    @property
    def variant(self) -> str:
        """The method, with what epochs and set-up change of the usual ones."""
        changes = [
            f"{name}={value}"
            for name, value in self.setup._asdict().items()
            if value != Setup._field_defaults[name]
        ]
        changes += [f"epochs={self.epochs}"] * (self.epochs != 5)
        return ", ".join([self.method, *changes])

    def path(self, folder: Path) -> Path:
        """``folder/task/variant-seed.json``."""
        slug = self.variant.replace(", ", "-")
        return folder / self.task / f"{slug}-{self.seed}.json"


def make_run(run: Run) -> dict[str, Any]:
    """Trains and validates; returns the record, as JSON can hold it."""
    task = make_task(run.task, run.setup)
    num_steps = run.epochs * task.steps_per_epoch
    method = METHODS[run.method]
    tx = method.make(num_steps)
    params = task.init(run.seed)
    opt_state = jax.jit(tx.init)(params)
    step_fn = make_train_step(task.loss_fn, tx)
    key = jax.random.key(run.seed)
    epochs: list[dict[str, float]] = []
    facts: list[dict[str, Any]] = []
    seconds: list[float] = []
    for epoch in range(run.epochs):
        for batch in task.batches(run.seed, epoch):
            start = time.perf_counter()
            # The same masks in the same step, whatever the method.
            mask_key = jax.random.fold_in(key, len(seconds))
            params, opt_state, metrics = step_fn(params, opt_state, batch, mask_key)
            facts.append(step_facts(metrics))
            seconds.append(time.perf_counter() - start)
        rows = None if epoch == run.epochs - 1 else EPOCH_ROWS
        epochs.append(task.evaluate(method.eval_params(opt_state, params), rows))
    losses = [fact["loss"] for fact in facts]
    record = {
        "task": run.task,
        "method": run.method,
        "seed": run.seed,
        "loss": losses,
        "epochs": epochs,
        "train_loss": float(np.mean(losses[-task.steps_per_epoch :])),
        "evaluations": [fact["evaluations"] for fact in facts],
        "groups": facts[-1].get("labels", []),
        "step_size": [fact["step_size"] for fact in facts if "step_size" in fact],
        # The first step of each shape compiles; a median does not see it.
        "step_seconds": float(np.median(seconds)),
        "seconds": float(np.sum(seconds)),
        "num_rows": task.num_rows,
        "made": environment(run._asdict() | {"setup": run.setup._asdict()}),
    }
    return as_json(record)


def step_facts(metrics: TrainMetrics) -> dict[str, Any]:
    """What is kept of a step; waits for it."""
    loss = float(metrics.loss)
    if metrics.info is None:
        return {"loss": loss, "evaluations": 0}
    info = jax.device_get(metrics.info)
    return {
        "loss": loss,
        "evaluations": int(info.num_evaluations),
        "step_size": info.applied_step_size.tolist(),
        "labels": info.labels,
    }


def as_json(value: Any) -> Any:
    """Rounds numbers to five digits, and writes those that are not finite as null."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def write(record: dict[str, Any], path: Path) -> None:
    """Writes a record at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    half.write_text(json.dumps(record) + "\n")
    half.replace(path)
