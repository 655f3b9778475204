"""One run: an optimizer on a task with a seed, and what it measures.

Every run keeps the average of its iterates by `average_iterates`. So one run gives the
scores of its last iterate and of the average. The average does not change a run, except
for methods whose params may follow it.
"""

import itertools
import math
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from methods import CONSTANT, Method, method_of
from provenance import environment
from tasks import Task

import optax_armijo
from optax_armijo.training import learning_rates

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
    start, validating, cost = time.perf_counter(), 0.0, 0.0
    params, key = jax.tree.map(strong, task.init(seed)), jax.random.key(seed)
    if method.finds_rates:
        keyed = with_keys(all_batches(task, seed), key)
        found = learning_rates.search(task.loss_fn, params, keyed)
        cost = learning_rates.NUM_STEPS + price * found.num_evaluations
        tx = method.make(found.rates, num_steps)
    else:
        tx = method.make(task.labels, num_steps)
    if method.follows:
        tx = optax_armijo.average_iterates(tx)
    else:
        tx = optax_armijo.average_iterates(tx, interpolation=0)
    step_fn = optax_armijo.make_train_step(task.loss_fn, tx)
    opt_state = jax.jit(tx.init)(params)
    losses, trials, sizes, labels = [], [], [], []
    scores: dict[str, Any] = {}
    early = min(EARLY_EPOCHS, task.num_epochs - 1)

    def validate() -> dict[str, Any]:
        nonlocal validating
        begin = time.perf_counter()
        average = optax_armijo.averaged_params(opt_state, params)
        last = method.eval_params(opt_state.inner, params)
        found = {"last": task.evaluate(last), "average": task.evaluate(average)}
        validating += time.perf_counter() - begin
        return found

    for step, batch in enumerate(with_keys(all_batches(task, seed), key)):
        params, opt_state, metrics = step_fn(params, opt_state, *batch)
        losses.append(float(metrics.loss))
        info = metrics.info
        if info is None:
            trials.append(method.num_evaluations(opt_state.inner))
        else:
            trials.append(int(info.num_evaluations))
            labels = info.labels
            sizes.append(np.asarray(info.applied_step_size, float))
        cost += 1 + price * trials[-1] + method.num_gradients(opt_state.inner)
        if "equal_cost" not in scores and cost >= num_steps:
            scores["equal_cost"] = validate()
        if step + 1 == early * task.steps_per_epoch:
            scores["early"] = validate()
    scores["end"] = validate() if cost > num_steps else scores["equal_cost"]
    epochs = [np.mean(x) for x in np.split(np.array(losses), task.num_epochs)]
    curves = map(block_means, np.array(sizes).T)
    made = environment({})
    return as_json(
        {
            "scores": scores,
            "train_loss": {"early": epochs[early - 1], "end": epochs[-1]},
            "loss_curve": block_means(losses),
            "steps": num_steps,
            "evaluations": sum(trials),
            "cost": cost / num_steps,
            "seconds": time.perf_counter() - start - validating,
            "step_size": dict(zip(labels, curves, strict=True)),
            "made": {
                "commit": made["commit"],
                **made["versions"],
                "device": made["device"],
            },
        }
    )


def strong(x: jax.Array) -> jax.Array:
    """Without a weak type, which an update would end: all would be compiled again."""
    return jax.lax.convert_element_type(x, x.dtype)


def all_batches(task: Task, seed: int) -> Iterator[Any]:
    for epoch in range(task.num_epochs):
        yield from task.batches(seed, epoch)


def with_keys(
    batches: Iterator[Any], key: jax.Array
) -> Iterator[tuple[Any, jax.Array]]:
    """The same dropout masks in the same step, whatever the method."""
    for step, batch in enumerate(batches):
        yield batch, jax.random.fold_in(key, step)


def price_of(task: Task, repeats: int = 9) -> float:
    """Measures an evaluation of the loss in steps of AdamW: a ratio of medians."""
    tx = method_of(f"{CONSTANT}@1e-4").make(task.labels, 1)
    step_fn = optax_armijo.make_train_step(task.loss_fn, tx)
    loss_fn = jax.jit(task.loss_fn)
    params, key = task.init(0), jax.random.key(0)
    opt_state = tx.init(params)
    batches, times = itertools.cycle(all_batches(task, 0)), []
    # The first of each compiles.
    for batch in itertools.islice(batches, repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(loss_fn(params, batch, key))
        middle = time.perf_counter()
        params, opt_state, _ = jax.block_until_ready(
            step_fn(params, opt_state, batch, key)
        )
        times.append((middle - start, time.perf_counter() - middle))
    evaluation, step = np.median(times[1:], axis=0)
    return float(evaluation / step)


def block_means(values: Any) -> list[float]:
    """Returns a curve of `CURVE_POINTS` points at most, each a mean of steps."""
    blocks = np.array_split(np.array(values), min(CURVE_POINTS, len(values)))
    return [float(np.mean(block)) for block in blocks]


def as_json(value: Any) -> Any:
    """Rounds numbers to five digits, and writes those that are not finite as null."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
