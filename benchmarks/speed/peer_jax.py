"""The methods in JAX, stepped as `make_train_step` steps them."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from batches import Batch
from peer_process import Job, Step
from peer_weights import from_weights, to_weights
from tasks import make_task

from optax_armijo import armijo_adam, make_train_step, one_group, plasls, salsa

METHODS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "optax.adam": partial(optax.adam, 1e-4),
    "armijo_adam": armijo_adam,
    "armijo_adam-one_group": partial(armijo_adam, one_group),
    "salsa": salsa,
    "plasls": plasls,
}


class Trainer:
    """Params, state and step of one method; each shape of batch has its program."""

    def __init__(self, method: str, job: Job):
        task = make_task(job.task)
        transform = METHODS[method]()
        self.batches = job.batches
        self.params = from_weights(job.weights, task.init(0))
        self.opt_state = jax.jit(transform.init)(self.params)
        self.key = jax.random.key(0)  # of dropout, which the task is without
        step = make_train_step(task.loss_fn, transform)
        of_each_shape = {shape_of(batch): batch for batch in job.batches}
        start = time.perf_counter()
        self.programs = {
            shape: step.lower(*self.arguments(batch)).compile()
            for shape, batch in of_each_shape.items()
        }
        self.compiling = time.perf_counter() - start

    def arguments(self, batch: Batch) -> tuple[Any, ...]:
        return self.params, self.opt_state, batch, self.key

    def step(self, number: int) -> Step:
        """Makes a step; its time ends when it is computed."""
        batch = self.batches[number]
        start = time.perf_counter()
        made = self.programs[shape_of(batch)](*self.arguments(batch))
        self.params, self.opt_state, metrics = jax.block_until_ready(made)
        seconds = time.perf_counter() - start
        evaluations = 0 if metrics.info is None else int(metrics.info.num_evaluations)
        return Step(float(metrics.loss), evaluations, seconds)

    def weights(self) -> dict[str, np.ndarray]:
        return to_weights(self.params)


def shape_of(batch: Batch) -> tuple[int, ...]:
    return batch.input_ids.shape
