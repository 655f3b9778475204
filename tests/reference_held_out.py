"""The NumPy twin of the default: trials on rows that their direction has not seen."""

import functools
from typing import NamedTuple

import numpy as np
import problems
from reference_base import Options, Trial
from reference_search import EPS, bracket

B1, B2, ADAM_EPS = 0.9, 0.999, 1e-8
C, DECAY, LOWEST, HIGHEST, PART = 0.7, 0.9, 0.8, 1.25, 0.25
CURVATURE_DECAY, FURTHER, SURE = 0.8, 2.0, 2.0


class Step(NamedTuple):
    """What a step did."""

    params: list[np.ndarray]
    step_size: float
    num_evaluations: int


def run(params: list[np.ndarray], batches: list[problems.Batch]) -> list[Step]:
    """Trains on each of the batches in turn."""
    mean = [np.zeros_like(w) for w in params]
    square = [np.zeros_like(w) for w in params]
    slopes, bends = [], []  # of all steps, and of those with a trial
    losses: list[float] = []
    step_size, target = np.nan, np.nan
    since_trial, steps = 0, []
    for k, batch in enumerate(batches, start=1):
        value, grads = problems.loss(params, batch), problems.gradient(params, batch)
        losses.append(value)
        before = mean
        mean = [B1 * m + (1 - B1) * g for m, g in zip(mean, grads, strict=True)]
        square = [B2 * v + (1 - B2) * g**2 for v, g in zip(square, grads, strict=True)]
        scale = [1 / (np.sqrt(v / (1 - B2**k)) + ADAM_EPS) for v in square]
        step = [-p * m / (1 - B1**k) for p, m in zip(scale, mean, strict=True)]

        line = functools.partial(loss_along, params, batch)
        if k == 1:
            step_size, evaluations = first_step_size(step, grads, value, line)
        else:
            unseen = [
                -p * m / (1 - B1 ** (k - 1)) for p, m in zip(scale, before, strict=True)
            ]
            slope = -sum(np.vdot(g, d) for g, d in zip(grads, unseen, strict=True))
            step_size *= change(target, step_size)
            tried = np.nan
            evaluations = 0
            since_trial += 1
            if since_trial >= min(10, (k - 1) / 10):
                since_trial = 0
                room = max(value, average(losses))
                trial = line(unseen, step_size)
                evaluations = 1
                while trial > value + room + 4 * EPS * value:
                    step_size *= 0.8
                    trial = line(unseen, step_size)
                    evaluations += 1
                bend = trial - value + step_size * slope
                bends.append(2 * bend / step_size**2)
                tried = step_size
            slopes.append(slope)
            target = new_target(slopes, bends, tried, target)
        params = [w + step_size * d for w, d in zip(params, step, strict=True)]
        steps.append(Step(params, step_size, evaluations))
    return steps


def loss_along(
    params: list[np.ndarray],
    batch: problems.Batch,
    direction: list[np.ndarray],
    t: float,
) -> float:
    point = [w + t * d for w, d in zip(params, direction, strict=True)]
    return problems.loss(point, batch)


def first_step_size(step, grads, value, line) -> tuple[float, int]:
    """A part of what the batch's own rows allow."""
    slope = -sum(np.vdot(g, d) for g, d in zip(grads, step, strict=True))
    options = Options(c=C)
    start = options.init_step_size
    largest = min(options.max_step_size, value / (C * slope)) / start

    def trial(t: float):
        bound = value - C * t * start * slope + 4 * EPS * value
        return Trial(t, line(step, t * start), bound)

    ray = bracket(options, trial, np.ones(1, bool), largest)
    return PART * ray.factor * start, len(ray.trials)


def change(target: float, step_size: float) -> float:
    """By what the step size changes on its way to `target`, if there is one."""
    return (
        1.0 if np.isnan(target) else float(np.clip(target / step_size, LOWEST, HIGHEST))
    )


def new_target(
    slopes: list[float], bends: list[float], tried: float, target: float
) -> float:
    """Where the means say that the step size should be; `tried` is NaN without a trial.

    Where the loss has not bent up, twice as far as was tried, if that surely descends.
    """
    if not bends:
        return np.nan
    slope, bend = faded_mean(slopes, DECAY), faded_mean(bends, CURVATURE_DECAY)
    if slope <= 0:
        return 0.0
    if bend > 0:
        return 2 * (1 - C) * slope / bend
    if len(slopes) == 1 or slope <= SURE * standard_error(slopes):
        return np.nan
    return target if np.isnan(tried) else FURTHER * tried


def standard_error(measured: list[float]) -> float:
    """That of their mean, weighted by age."""
    weights = DECAY ** np.arange(len(measured))[::-1]
    weights /= np.sum(weights)
    share = np.sum(weights**2)
    spread = weights @ (np.array(measured) - faded_mean(measured, DECAY)) ** 2
    return float(np.sqrt(spread * share / (1 - share)))


def faded_mean(measured: list[float], decay: float) -> float:
    """The mean of what was measured, weighted by its age."""
    weights = decay ** np.arange(len(measured))[::-1]
    return float(weights @ np.array(measured) / np.sum(weights))


def average(losses: list[float]) -> float:
    ages = np.arange(len(losses))[::-1]
    return float(np.sum((1 - DECAY) * DECAY**ages * np.abs(losses)))
