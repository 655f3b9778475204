"""One run: an optimizer on a task with a seed, and what it measures.

Every run keeps the average of its iterates by `average_iterates`, which leaves the run
itself alone: so one run gives the scores of its last iterate and of the average.
"""

import itertools
import math
import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from methods import Method, adamw_constant
from provenance import commit
from tasks import Task

import optax_armijo
from optax_armijo.training import make_train_step

PACKAGES = ("jax", "optax", "flax", "numpy")
EARLY_EPOCHS = 2  # of five or ten; one of two
CURVE_POINTS = 40


def train(task: Task, method: Method, seed: int, price: float) -> dict[str, Any]:
    """Trains and validates: early, when a run of AdamW would be over, and at the end.

    Args:
      task: to train on.
      method: that is to be measured.
      seed: of params, rows and their order.
      price: of an evaluation of the loss, in steps of AdamW.

    Returns:
      A record, as JSON can hold it.
    """
    num_steps = task.num_epochs * task.steps_per_epoch
    tx = optax_armijo.average_iterates(method.make(task.labels, num_steps))
    step_fn, key = make_train_step(task.loss_fn, tx), jax.random.key(seed)
    params = task.init(seed)
    opt_state = jax.jit(tx.init)(params)
    losses, trials, sizes, labels = [], [], [], []
    scores: dict[str, Any] = {}
    early = min(EARLY_EPOCHS, task.num_epochs - 1)
    start, validating, cost = time.perf_counter(), 0.0, 0.0

    def validate() -> dict[str, Any]:
        nonlocal validating
        begin = time.perf_counter()
        average = optax_armijo.averaged_params(opt_state, params)
        last = method.eval_params(opt_state.inner, params)
        found = {"last": task.evaluate(last), "average": task.evaluate(average)}
        validating += time.perf_counter() - begin
        return found

    for step, batch in enumerate(all_batches(task, seed)):
        # The same dropout masks in the same step, whatever the method.
        params, opt_state, metrics = step_fn(
            params, opt_state, batch, jax.random.fold_in(key, step)
        )
        losses.append(float(metrics.loss))
        info = metrics.info
        trials.append(0 if info is None else int(info.num_evaluations))
        if info is not None:
            labels = info.labels
            sizes.append(np.asarray(info.applied_step_size, float))
        cost += 1 + price * trials[-1]
        if "equal_cost" not in scores and cost >= num_steps:
            scores["equal_cost"] = validate()
        if step + 1 == early * task.steps_per_epoch:
            scores["early"] = validate()
    scores["end"] = validate() if cost > num_steps else scores["equal_cost"]
    epochs = [np.mean(x) for x in np.split(np.array(losses), task.num_epochs)]
    record = {
        "scores": scores,
        "train_loss": {"early": epochs[early - 1], "end": epochs[-1]},
        "loss_curve": block_means(np.array(losses)),
        "steps": num_steps,
        "evaluations": sum(trials),
        "cost": cost / num_steps,
        "seconds": time.perf_counter() - start - validating,
        "step_size": dict(
            zip(labels, map(block_means, np.array(sizes).T), strict=True)
        ),
        "made": origin(),
    }
    return as_json(record)


def all_batches(task: Task, seed: int) -> Iterator[Any]:
    for epoch in range(task.num_epochs):
        yield from task.batches(seed, epoch)


def price_of(task: Task, repeats: int = 9) -> float:
    """Measures an evaluation of the loss in steps of AdamW: a ratio of medians."""
    tx = adamw_constant(1e-4).make(task.labels, 1)
    step_fn = make_train_step(task.loss_fn, tx)
    loss_fn = jax.jit(task.loss_fn)
    params, key = task.init(0), jax.random.key(0)
    opt_state = tx.init(params)
    times: dict[str, list[float]] = {"evaluation": [], "step": []}
    # A first step of each compiles.
    batches = itertools.cycle(all_batches(task, 0))
    for i, batch in zip(range(repeats + 1), batches, strict=False):
        start = time.perf_counter()
        jax.block_until_ready(loss_fn(params, batch, key))
        middle = time.perf_counter()
        params, opt_state, _ = jax.block_until_ready(
            step_fn(params, opt_state, batch, key)
        )
        if i:
            times["evaluation"].append(middle - start)
            times["step"].append(time.perf_counter() - middle)
    return float(np.median(times["evaluation"]) / np.median(times["step"]))


def block_means(values: Any) -> list[float]:
    """Returns a curve of `CURVE_POINTS` points at most, each a mean of steps."""
    blocks = np.array_split(np.array(values), min(CURVE_POINTS, len(values)))
    return [float(np.mean(block)) for block in blocks]


def origin() -> dict[str, str]:
    """Returns commit, versions and device."""
    device = jax.devices()[0]
    return {
        "commit": commit(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "device": f"{device.platform}: {device.device_kind}",
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
