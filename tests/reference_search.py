"""The NumPy twin's searches along rays, its net, and the bounds of its step sizes."""

from collections.abc import Callable

import numpy as np
from reference_base import Options, Ray, Search, Trial

EPS = float(np.finfo(np.float64).eps)


def init_search(options: Options, num_groups: int) -> Search:
    return Search(
        step_size=np.full(num_groups, options.init_step_size),
        bracketed=np.zeros(num_groups, bool),
        limit=np.full(num_groups, np.inf),
        known=np.zeros(num_groups, bool),
        average=np.inf,
        num_steps=0,
    )


def turns(options: Options, num_steps: int, searchable: np.ndarray) -> list[np.ndarray]:
    """Step 5: the groups that move along each ray of this step."""
    if is_joint(options, num_steps, searchable.size):
        return [searchable] if searchable.any() else []
    alone = [row & searchable for row in np.eye(searchable.size, dtype=bool)]
    if options.search == "cycle":
        alone = [alone[(num_steps - options.num_joint_steps) % searchable.size]]
    return [row for row in alone if row.any()]


def is_joint(options: Options, num_steps: int, num_groups: int) -> bool:
    return (
        options.search == "joint"
        or num_groups == 1
        or num_steps < options.num_joint_steps
    )


def search_ray(
    options: Options,
    line: Callable[[float], float],
    value: float,
    search: Search,
    slopes: np.ndarray,
    ray: np.ndarray,
) -> Ray:
    """Step 6: searches for a factor of the step sizes of the groups in `ray`."""
    slope = float(np.sum((search.step_size * slopes)[ray]))
    tolerance = options.rounding_ulps * EPS * abs(value)
    cap = options.max_step_size / float(np.max(search.step_size[ray]))

    def trial(t: float) -> Trial:
        return Trial(t, line(t), value - options.c * t * slope + tolerance)

    if np.all(search.bracketed[ray]):
        visible = options.c * options.increase_factor * slope > tolerance
        start = min(options.increase_factor if visible else 1.0, cap)
        return backtrack(options, trial, ray, start)
    largest = cap
    if options.lower_bound is not None and value > options.lower_bound:
        largest = min(cap, (value - options.lower_bound) / (options.c * slope))
    largest = min(largest, float(np.min((search.limit / search.step_size)[ray])))
    return bracket(options, trial, ray, largest)


def backtrack(
    options: Options, trial: Callable[[float], Trial], ray: np.ndarray, start: float
) -> Ray:
    t, trials = start, []
    while len(trials) < options.max_trials:
        trials.append(trial(t))
        if trials[-1].passed:
            return Ray(ray, False, trials, factor=t, accepted=True, settled=True)
        t *= options.decrease_factor
    return Ray(ray, False, trials, factor=t, accepted=False, settled=False)


def bracket(
    options: Options, trial: Callable[[float], Trial], ray: np.ndarray, largest: float
) -> Ray:
    passed, failed, trials, settled = 0.0, largest, [], False
    t = min(max(1.0, largest * 4.0**-9), largest * 4.0**-4)
    while len(trials) < options.max_trials and not settled:
        trials.append(trial(t))
        if trials[-1].passed:
            passed = t
        else:
            failed = t
        if passed > 0:
            t = min(4 * passed, float(np.sqrt(passed * failed)))
        else:
            t *= 4.0 ** -len(trials)
        settled = passed > 0 and failed <= 2.1 * passed
    accepted = passed > 0
    return Ray(ray, True, trials, passed if accepted else t, accepted, settled)


def cast_net(
    options: Options, line: Callable[[float], float], value: float, average: float
) -> tuple[float, list[Trial]]:
    """Step 8: halves the whole step until the loss is low enough; 0 if it never is."""
    highest = max(value, average) if options.net == "average" else value
    bound = highest + options.rounding_ulps * EPS * abs(highest)
    factor, trials = 1.0, []
    while len(trials) < options.max_trials:
        trials.append(Trial(factor, line(factor), bound))
        if trials[-1].passed:
            return factor, trials
        factor *= 0.5
    return 0.0, trials


def bounded(options: Options, step_size: np.ndarray) -> np.ndarray:
    """Step 9: the step sizes as they are stored."""
    floor = options.relative_floor * np.median(step_size)
    return np.clip(
        np.maximum(step_size, floor), options.min_step_size, options.max_step_size
    )
