"""The runs that compare the library with its NumPy twin, and the twin's side."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import problems
import reference
from reference_adam import init_moments
from reference_base import Options, Record, natural_order
from reference_search import init_search

NUM_STEPS = 100


# The order of first appearance, of the alphabet and of the numbers are all different.
BY_LAYER = ("layer_9", "layer_9", "layer_10", "layer_10", "layer_2", "layer_2")
BY_LEAF = problems.NAMES
WEIGHTS = (True, False, True, False, True, False)
BIASES = (False, True, False, True, False, True)


class History(NamedTuple):
    """A run, by step."""

    value: np.ndarray  # f[T]
    params: list[np.ndarray]  # f[T, ...], after each step
    loss_average: np.ndarray  # f[T]
    step_size: np.ndarray  # f[T, G]
    applied_step_size: np.ndarray  # f[T, G]
    searched: np.ndarray  # bool[T, G]
    accepted: np.ndarray  # bool[T, G]
    num_trials: np.ndarray  # i[T, G]
    net_factor: np.ndarray  # f[T]
    num_evaluations: np.ndarray  # i[T]


class Run(NamedTuple):
    """What to run, and how."""

    options: dict[str, Any]
    labels: tuple[str, ...] = BY_LAYER
    batches: problems.Batch = problems.make_batches(NUM_STEPS)
    radius: float = np.inf
    outside: float = np.inf  # the loss where params are longer than that
    friction: float | None = None  # of heavy-ball SGD, None for Adam
    mask: tuple[bool, ...] | None = None


def meddled(
    at: Sequence[int], loss_offset: float = 0.0, grad_scale: float = 1.0
) -> problems.Batch:
    """The batches, with another loss or gradient at some steps."""
    batches = problems.make_batches(NUM_STEPS)
    hit = np.isin(np.arange(NUM_STEPS), at)
    return batches._replace(
        loss_offset=np.where(hit, loss_offset, 0.0),
        grad_scale=np.where(hit, grad_scale, 1.0),
    )


def twin(run: Run) -> tuple[History, list[Record]]:
    """Follows the twin."""
    options = Options(**run.options)
    names = natural_order(run.labels)
    groups = [names.index(label) for label in run.labels]
    mask = run.mask if run.mask is not None else (False,) * len(groups)
    params = problems.make_params()
    moments = init_moments(params)
    search = init_search(options, len(names))
    trace = [np.zeros_like(w) for w in params]
    history, records = [], []
    for i in range(NUM_STEPS):
        batch = problems.Batch(*(leaf[i] for leaf in run.batches))

        def loss(params: list[np.ndarray], batch: problems.Batch = batch) -> float:
            return problems.loss(params, batch, run.radius, run.outside)

        value = loss(params) + float(batch.loss_offset)
        grads = problems.gradient(params, batch)
        grads[0] = grads[0] * batch.grad_scale
        if run.friction is not None:
            trace = [g + run.friction * v for g, v in zip(grads, trace, strict=True)]
            direction = [-v for v in trace]
            params, search, record = reference.scaled_step(
                options, groups, search, params, value, grads, direction, loss
            )
        else:
            params, moments, search, record = reference.armijo_adamw_step(
                options, groups, mask, moments, search, params, value, grads, loss
            )
        facts = {name: getattr(record, name) for name in History._fields[2:]}
        history.append(History(value=np.asarray(value), params=params, **facts))
        records.append(record)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *history), records
