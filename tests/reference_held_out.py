"""The NumPy twin of the default: trials on rows that their direction has not seen."""

import functools
from typing import NamedTuple

import numpy as np
import problems
from reference_base import Options, Trial
from reference_search import EPS, bracket

B1, B2, ADAM_EPS = 0.9, 0.999, 1e-8
C, DECAY, LOWEST, HIGHEST, PART = 0.7, 0.9, 0.8, 1.25, 0.25
PAST_DECAY, FURTHER, SURE, CHANGED, PACE = 0.99, 2.0, 3.0, 4.0, 1.0
FLOOR, CAUTION = 0.01, 1.0


class Step(NamedTuple):
    """What a step did."""

    params: list[np.ndarray]
    step_size: float
    num_evaluations: int


def run(params: list[np.ndarray], batches: list[problems.Batch]) -> list[Step]:
    """Trains on each of the batches in turn."""
    mean = [np.zeros_like(w) for w in params]
    square = [np.zeros_like(w) for w in params]
    slopes, bends = [], []  # a step; a bend is NaN without a trial
    losses: list[float] = []
    step_size, longest, tried, targets = np.nan, np.nan, np.nan, (np.nan, np.nan)
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
            longest = step_size
        else:
            unseen = [
                -p * m / (1 - B1 ** (k - 1)) for p, m in zip(scale, before, strict=True)
            ]
            slope = -sum(np.vdot(g, d) for g, d in zip(grads, unseen, strict=True))
            walked = step_size
            step_size *= change(targets, step_size, losses[1:-1])
            bend = np.nan
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
                bend = 2 * (trial - value + step_size * slope) / step_size**2
                tried = step_size
            slopes.append(slope)
            bends.append(bend)
            longest = step_size if evaluations > 1 else max(longest, step_size)
            begin = walked if fall_of(losses[1:]) > CHANGED else None
            targets = new_targets(slopes, bends, tried, begin)
            targets = tuple(np.maximum(targets, FLOOR * longest))
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


def change(
    targets: tuple[float, float], step_size: float, losses: list[float]
) -> float:
    """By what the step size changes on its way to the target, if there is one.

    `losses` are those of the batches that the targets know of.
    """
    target, sure_target = targets
    if np.isnan(target):
        return 1.0
    fall = fall_of(losses)
    limit = (1 + 1 / len(losses)) ** PACE
    least = limit**-0.5 if fall > CHANGED else 1 / limit
    low = LOWEST if fall < -CHANGED else max(LOWEST, least)
    high = min(HIGHEST, limit)
    factor = float(np.clip(target / step_size, low, high))
    if sure_target > factor * step_size:
        factor = min(sure_target / step_size, HIGHEST)
    return factor


def fall_of(losses: list[float]) -> float:
    """By how many standard errors the mean loss is below what it was."""
    if len(losses) < 2:
        return 0.0
    fall = faded_mean(losses, PAST_DECAY) - faded_mean(losses, DECAY)
    return fall / standard_error(losses)


def new_targets(
    slopes: list[float], bends: list[float], tried: float, begin: float | None
) -> tuple[float, float]:
    """Where the means say that the step size should be, and where it surely may be.

    While the loss falls, that is beyond where the slopes were met, `begin`. Not further
    than twice the last trial, and there if the loss has not bent up so far and surely
    descends.
    """
    if np.all(np.isnan(bends)):
        return np.nan, np.nan
    slope, bend = faded_mean(slopes, DECAY), faded_mean(bends, DECAY)
    error = standard_error(slopes) if len(slopes) > 1 else np.inf
    sure_slope = slope - SURE * error
    furthest = FURTHER * tried
    if begin is not None:
        slope -= CAUTION * error
    if bend > 0:
        sharpest = np.sqrt(faded_mean(list(np.square(bends)), DECAY))
        longest = (begin or 0) + 2 * (1 - C) * slope / bend
        surely = 2 * (1 - C) * max(sure_slope, 0) / sharpest
        return min(longest, furthest), min(surely, furthest)
    if sure_slope > 0:
        return furthest, furthest
    return (np.nan if slope > 0 else 0.0), 0.0


def standard_error(measured: list[float]) -> float:
    """That of their mean, weighted by age."""
    weights = DECAY ** np.arange(len(measured))[::-1]
    weights /= np.sum(weights)
    share = np.sum(weights**2)
    spread = weights @ (np.array(measured) - faded_mean(measured, DECAY)) ** 2
    return float(np.sqrt(spread * share / (1 - share)))


def faded_mean(measured: list[float], decay: float) -> float:
    """The mean of what was measured, weighted by its age; NaN was not."""
    values = np.array(measured)
    weights = decay ** np.arange(len(measured))[::-1] * ~np.isnan(values)
    return float(weights @ np.nan_to_num(values) / np.sum(weights))


def average(losses: list[float]) -> float:
    ages = np.arange(len(losses))[::-1]
    return float(np.sum((1 - DECAY) * DECAY**ages * np.abs(losses)))
