"""`armijo_adam` in NumPy, from its docstrings: plain loops over groups and leaves.

All numbers are float64. A group is named by its label; leaves by their names.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Tree = dict[str, np.ndarray]
Numbers = dict[str, float]
ValueAndGrad = Callable[[Tree, Any], tuple[float, Tree]]
ALL = "all groups together"


@dataclass
class Options:
    """The arguments of `armijo_adam`."""

    num_steps: int | None = None
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8


@dataclass
class Step:
    """What a step came to; `params` are those after it."""

    loss: float
    params: Tree
    updates: Tree
    step_sizes: list[float]
    num_evaluations: int
    gradient_size: float
    fraction: float
    event: str  # moved, still, bad or undone
    scale: float  # of the gradient, by clipping
    tested: bool


@dataclass
class Memory:
    """What one step leaves to the next."""

    mu: Tree
    nu: Tree
    sizes: Numbers
    count: int = 0
    gradient_size: float = 1.0
    direction: Tree = field(default_factory=dict)  # of the last good mini-batch
    moved_by: Numbers = field(default_factory=dict)
    promised: Numbers = field(default_factory=dict)
    multiple: float = 1.0
    stood_still: bool = True
    unit: float = 0.0
    unit_weight: float = 0.0
    measurements: int = 0
    signal: float = 0.0
    predicted: float = 0.0
    curvature: float = 0.0
    recent_signal: float = 0.0
    recently: float = 0.0
    measured_at: int = 0
    early_fraction: float = 1.0
    num_errors: int = 0
    error: Numbers = field(default_factory=dict)
    square: Numbers = field(default_factory=dict)
    average: float = 0.0
    deviation: float = 0.0
    halved: int = 0
    long_log: float = 0.0
    short_log: float = 0.0
    tested_at: int = 0

    def raw_fraction(self) -> float:
        if not self.measurements:
            return 1.0
        return max(min(self.signal / max(self.predicted, 0.1), 1.0), -1.0)

    def fraction(self) -> float:
        return max(self.raw_fraction(), 0.0)

    def likely_fraction(self) -> float:
        """The fraction, but at least what few measurements leave open."""
        return max(self.fraction(), 0.6 / max(self.measurements, 20))

    def aim(self) -> float:
        """What the curvature over the promise should be."""
        return (0.5 + 1.1 * self.fraction()) * self.likely_fraction()


def inner(x: Tree, y: Tree, names: Iterable[str]) -> float:
    return float(sum(np.sum(x[name] * y[name]) for name in names))


def finite(loss: float) -> float:
    return float(loss) if np.isfinite(loss) else np.inf


def is_due_since(at: int, k: int, growth: float) -> bool:
    """Whether k has grown by as much; in float32, as that rounds."""
    return bool(np.float32(k) >= np.float32(growth) * np.float32(at))


def clip(
    memory: Memory, grads: Tree, leaves: dict[str, list[str]], b2: float
) -> tuple[float, float]:
    """The scale of the gradient, and the average of sizes with this one in it."""
    k, ratios = memory.count + 1, []
    for names in leaves.values():
        moment = sum(float(np.sum(memory.nu[name])) for name in names)
        moment /= 1 - b2 ** max(memory.count, 1)
        square = sum(float(np.sum(grads[name] ** 2)) for name in names)
        ratios.append(square / moment if moment > 0 else 0.0)
    size, average = np.sqrt(np.mean(ratios)), memory.gradient_size
    if not np.isfinite(size):
        return 1.0, average
    limit, scale = 2 * max(average, 1.0), 1.0
    if k >= 6 and size > limit:
        scale, size = limit / size, limit
    return scale, average if k == 1 else 0.9 * average + 0.1 * size


def measure(
    memory: Memory, signal: float, curvature: float, promised: float, k: int
) -> None:
    """Takes a measurement into the averages, in units of the average promise."""
    if not np.isfinite(signal):
        return
    unit = memory.unit / memory.unit_weight if memory.unit_weight else 1.0
    if unit <= 0:
        signal, curvature, promised, unit = 0.0, 0.0, 0.0, 1.0
    memory.measurements += 1
    slow = max(0.1, 1 / memory.measurements)
    quick = max(0.5, 1 / memory.measurements)
    memory.signal += slow * (signal / unit - memory.signal)
    memory.predicted += slow * (promised / unit - memory.predicted)
    memory.curvature += quick * (curvature / unit - memory.curvature)
    memory.recent_signal += quick * (signal / unit - memory.recent_signal)
    memory.recently += quick * (promised / unit - memory.recently)
    memory.measured_at = k


def average_errors(memory: Memory, errors: Numbers) -> None:
    """Takes z of another step into the averages."""
    for name, z in errors.items():
        memory.error[name] = (memory.error.get(name, 0.0) + z) / 2
        memory.square[name] = 0.9 * memory.square.get(name, 0.0) + 0.1 * z**2
    memory.num_errors += 1


def promise_of(memory: Memory) -> float:
    """What a whole step truly promises."""
    kept = memory.likely_fraction() * memory.recently
    return kept * memory.unit / memory.unit_weight / memory.multiple


def is_far_too_short(memory: Memory, loss: float, k: int) -> bool:
    is_flat = abs(memory.curvature) < 0.05 * memory.recent_signal
    is_early = k <= 40 and 0 < k * promise_of(memory) < loss / 2
    return is_flat and (is_early or memory.halved > 0)


def changes(
    memory: Memory, groups: list[str], loss: float, k: int, num_steps: int | None
) -> Numbers:
    """What is added to the logarithm of each step size."""
    number, t = memory.num_errors, {}
    for name in [ALL, *groups]:
        mean = memory.error[name] / (1 - 0.5**number)
        square = memory.square[name] / (1 - 0.9**number)
        spread = np.sqrt(square / min(number, 3))
        t[name] = min(max(mean / spread, -1.0), 1.0) if spread > 0 else 0.0
    aimed_at = memory.aim() * memory.recently
    slope = memory.likely_fraction() * memory.recently
    raises_loss = memory.curvature > 2 * slope
    leaps = is_far_too_short(memory, loss, k)
    if num_steps and k <= 40 and left_of(k, num_steps) >= 0.5:
        doubles = memory.curvature < slope
        leaps |= doubles and 0 < (num_steps - k) * promise_of(memory) < loss / 2
    if leaps and k > 10 and memory.measured_at == k - 1:
        return dict.fromkeys(groups, 0.7)
    is_short = memory.curvature < aimed_at
    power = (memory.long_log - memory.short_log) / (1 / 2 - 1 / 8)
    holds = k > 50 and memory.curvature * memory.multiple < 6 * slope
    shrinks = min(max(1 - power, 0.0), 1.0) if holds else 1.0
    if t[ALL] > 0:
        of_all = t[ALL] * min(0.1, 6 / k) if k > 20 and not raises_loss else 0.0
    else:
        is_long = num_steps and num_steps > 100 and left_of(k, num_steps) >= 0.5
        stays = is_long and k > 20 and memory.early_fraction > 0.5 and power >= 0.25
        of_all = 0.0 if is_short or stays else t[ALL] * shrinks * min(0.25, 6 / k)
    own = {name: t[name] * 0.2 / np.sqrt(k) for name in groups}
    mean = sum(own.values()) / len(own)
    return {name: of_all + own[name] - mean for name in groups}


def begin_groups(
    sizes: Numbers, slopes: Numbers, roots: Numbers, loss: float
) -> Numbers:
    """Step sizes for groups that have none: see `with_new_groups`."""
    is_first = not any(size > 0 for size in sizes.values())
    if is_first:
        sizes = {x: root if slopes[x] >= 0 else 0.0 for x, root in roots.items()}
    promises = sorted(sizes[x] * slopes[x] for x in sizes if sizes[x] * slopes[x] > 0)
    largest = max(sizes.values())

    def begun(slope: float) -> float:
        if promises:
            return min(promises[(len(promises) - 1) // 2] / slope, largest)
        return largest or (abs(loss) or 1.0) / slope

    def lifted(size: float, slope: float) -> float:
        promise = promises[(len(promises) - 1) // 2]
        return min(max(promise / (size * slope), 1.0), 3.0) * size

    found = dict(sizes)
    for x, size in sizes.items():
        if size <= 0 and slopes[x] > 0:
            found[x] = begun(slopes[x])
        elif is_first and size * slopes[x] > 0:
            found[x] = lifted(size, slopes[x])
    return found


def bracket(loss_at: Callable[[float], float], loss: float, promised: float) -> Any:
    """The largest factor that passes with c = .8, or 0; and how many were tried."""
    tolerance = 4 * np.finfo(float).eps * abs(loss)
    loss_at(0.0)  # which is the loss, if the function is that of the value
    trial, passed, failed, number = 0.01, 0.0, np.inf, 0
    while number < 20 and not (passed > 0 and failed <= 2.1 * passed):
        number += 1
        if loss - loss_at(trial) >= 0.8 * trial * promised - tolerance:
            passed = max(passed, trial)
        else:
            failed = min(failed, trial)
        if passed == 0:
            trial /= 16
        elif failed == np.inf:
            trial = 4 * passed
        else:
            trial = np.sqrt(passed * failed)
    return passed, number


def backtrack(loss_at: Callable[[float], float], loss: float, promised: float) -> Any:
    """The factor that was tried last, the loss there, if it passed, how many."""
    tolerance = 4 * np.finfo(float).eps * abs(loss)
    required = promised - 0.9 * abs(promised)
    factor, there = 1.0, loss
    for number in range(1, 11):
        factor = 0.5 ** (number - 1)
        there = loss_at(factor)
        decreases = loss - there >= factor * required - tolerance
        if there == loss or decreases:
            return factor, there, True, number
    loss_at(0.0)
    return 0.0, there, False, 10


def left_of(k: int, num_steps: int | None) -> float:
    """The part of the run that is left after the warm-up."""
    if num_steps is None:
        return np.inf
    return min(max((num_steps - k + 1) / max(1, num_steps - 20), 0.0), 1.0)


def schedule(k: int, num_steps: int | None) -> float:
    return min(k / 20, 1.0, left_of(k, num_steps))


def run(
    options: Options,
    labels: dict[str, str],
    params: Tree,
    batches: Iterable[Any],
    value_and_grad: ValueAndGrad,
) -> list[Step]:
    """All steps of a run, one a mini-batch."""
    groups = sorted(set(labels.values()))
    memory = Memory(
        mu={name: np.zeros_like(p) for name, p in params.items()},
        nu={name: np.zeros_like(p) for name, p in params.items()},
        sizes=dict.fromkeys(groups, 0.0),
        moved_by=dict.fromkeys(groups, 0.0),
        promised=dict.fromkeys(groups, 0.0),
        direction={name: np.zeros_like(p) for name, p in params.items()},
    )
    steps = []
    for batch in batches:
        with np.errstate(all="ignore"):
            step = one_step(
                options, labels, groups, memory, params, batch, value_and_grad
            )
        params = step.params
        steps.append(step)
    return steps


def one_step(
    options: Options,
    labels: dict[str, str],
    groups: list[str],
    memory: Memory,
    params: Tree,
    batch: Any,
    value_and_grad: ValueAndGrad,
) -> Step:
    b1, b2, num_evaluations = options.b1, options.b2, 0
    leaves = {group: [x for x in labels if labels[x] == group] for group in groups}
    loss, grads = value_and_grad(params, batch)

    def loss_after(sizes: Numbers, along: Tree) -> float:
        nonlocal num_evaluations
        num_evaluations += 1
        moved = {
            x: p + sizes[labels[x]] * along[x] if sizes[labels[x]] != 0 else p
            for x, p in params.items()
        }
        return finite(value_and_grad(moved, batch)[0])

    # Adam's direction.
    k = memory.count + 1
    scale, gradient_size = clip(memory, grads, leaves, b2)
    mu, nu, along = {}, {}, {}
    for name, grad in grads.items():
        mu[name] = b1 * memory.mu[name] + (1 - b1) * scale * grad
        nu[name] = b2 * memory.nu[name] + (1 - b2) * (scale * grad) ** 2
        root = np.sqrt(nu[name] / (1 - b2**k)) + options.eps
        along[name] = -mu[name] / (1 - b1**k) / root
        along[name][~np.isfinite(nu[name])] = np.nan
    slopes = {group: -inner(grads, along, leaves[group]) for group in groups}
    is_good = np.isfinite(loss) and all(map(np.isfinite, slopes.values()))

    # Were step sizes too short or too long, by the signal fraction so far?
    last, promised = memory.moved_by, sum(memory.promised.values())
    end_slopes = {
        x: scale * last[x] * inner(grads, memory.direction, leaves[x]) for x in groups
    }
    has_moved = any(size != 0 for size in last.values())
    counts = bool(is_good and has_moved)
    likely, sizes, leapt = memory.likely_fraction(), dict(memory.sizes), False
    if counts:
        warmed = memory.multiple if k > 21 else 1.0
        errors = {ALL: 0.0}
        for x in groups:
            curvature = memory.raw_fraction() * memory.promised[x] + end_slopes[x]
            aimed_at = memory.aim() * memory.promised[x]
            errors[x] = aimed_at - curvature / memory.multiple
            errors[ALL] += aimed_at - curvature / warmed
        if memory.measurements:
            average_errors(memory, errors)
            change = changes(memory, groups, loss, k, options.num_steps)
            sizes = {x: size * np.exp(change[x]) for x, size in sizes.items()}
            leapt = is_far_too_short(memory, loss, k)
            leapt &= set(change.values()) == {0.7}

    # What was the last step worth, and was it to blame for a loss that is far too high?
    measures = counts and scale >= 1
    measure_now = measures and is_due_since(memory.measured_at, k, 1.05)
    excess = loss - memory.average
    is_bad = not np.isfinite(loss) or (not is_good and memory.stood_still)
    rounding = 4 * np.finfo(float).eps * abs(loss)
    is_far = k > 10 and excess > 30 * memory.deviation + rounding
    is_suspect = has_moved and (is_far or is_bad)
    undoes, before = False, np.inf
    if measure_now or is_suspect:
        backward = {group: -size for group, size in last.items()}
        before = loss_after(backward, memory.direction)
        to_blame = is_bad or loss - before > excess / 2
        undoes = is_suspect and np.isfinite(before) and to_blame
    if counts:
        memory.unit = 0.9 * memory.unit + 0.1 * abs(promised)
        memory.unit_weight = 0.9 * memory.unit_weight + 0.1
    if measures and np.isfinite(before):
        decrease, end_slope = before - loss, sum(end_slopes.values())
        measure(
            memory,
            signal=2 * decrease + end_slope,
            curvature=2 * (decrease + end_slope) / memory.multiple,
            promised=promised,
            k=k,
        )
    if counts and 20 < k <= 50:
        behind = memory.fraction() - memory.early_fraction
        memory.early_fraction += behind / (k - 20)

    if leapt and not undoes:
        memory.halved = max(0, memory.halved - 1)
        # What the averages would be, had all of these steps been as long.
        memory.curvature *= np.exp(2 * 0.7)
        memory.recent_signal *= np.exp(0.7)
        memory.recently *= np.exp(0.7)

    event, applied, tested = "bad", dict.fromkeys(groups, 0.0), False
    updates = {name: np.zeros_like(p) for name, p in params.items()}
    if undoes:
        event = "undone"
        for name in params:
            updates[name] = -last[labels[name]] * memory.direction[name]
        # The warm-up goes on, but the next step is shorter than this one was.
        shorter = 0.5 * min(k - 1, 20) / min(k, 20)
        memory.sizes = {x: shorter * size for x, size in memory.sizes.items()}
        memory.moved_by = dict.fromkeys(groups, 0.0)
        memory.tested_at = 0
        memory.halved += 1
    elif is_good:
        is_first = not any(size > 0 for size in memory.sizes.values())
        roots = {}
        for x in groups:
            squares = sum(np.sum(params[name] ** 2) for name in leaves[x])
            roots[x] = float(np.sqrt(squares / sum(params[y].size for y in leaves[x])))
        sizes = begin_groups(sizes, slopes, roots, loss)

        def scaled(factor: float) -> Numbers:
            return {x: factor * size for x, size in sizes.items()}

        if is_first:
            whole, factor = sum(sizes[x] * slopes[x] for x in groups), 0.0
            if tested := bool(whole > 0):
                factor, _ = bracket(
                    lambda factor: loss_after(scaled(factor), along), loss, whole
                )
                memory.tested_at = k
            sizes = scaled(factor)
        multiple = schedule(k, options.num_steps)
        promise = multiple * sum(sizes[x] * slopes[x] for x in groups)
        noise = likely * (1 - likely) * abs(promise)
        falls = options.num_steps is not None
        most = (0.2 if falls and k > 40 else 0.05) * loss
        shorter = 1.0
        if loss > 0 and noise > most:
            shorter = most / noise
            multiple, promise = shorter * multiple, shorter * promise
        factor = 1.0
        waits = memory.tested_at > 0 and k > 10 and left_of(k, options.num_steps) >= 0.5
        is_due = is_due_since(memory.tested_at, k, 1.2) and not (falls and waits)
        is_due = is_due and not is_suspect
        if not is_first and is_due and promise != 0:
            tested = True
            factor, _, _, _ = backtrack(
                lambda factor: loss_after(scaled(factor * multiple), along),
                loss,
                promise,
            )
            memory.tested_at = k
        applied = scaled(factor * multiple)
        event = "moved" if any(applied.values()) else "still"
        for name in params:
            if applied[labels[name]] != 0:
                updates[name] = applied[labels[name]] * along[name]
        kept = (factor if promise > 0 else 1.0) * min(8 * shorter, 1.0)
        memory.sizes = scaled(max(kept, 0.5))
        memory.moved_by, memory.multiple, memory.direction = applied, multiple, along
        memory.promised = {x: scale * applied[x] * slopes[x] for x in groups}
        memory.mu, memory.nu, memory.count = mu, nu, k
        memory.gradient_size = gradient_size
        if k == 1:
            memory.average, memory.deviation = loss, 0.0
        else:
            memory.deviation = 0.9 * memory.deviation + 0.1 * abs(excess)
            memory.average = 0.9 * memory.average + 0.1 * loss
        if loss > 0:
            if memory.long_log == memory.short_log == 0:  # anew
                memory.long_log = memory.short_log = np.log(loss)
            memory.long_log += min(1, 2 / k) * (np.log(loss) - memory.long_log)
            memory.short_log += min(1, 8 / k) * (np.log(loss) - memory.short_log)
        else:
            memory.long_log, memory.short_log = 0.0, 0.0
    memory.stood_still = not undoes and not any(applied.values())
    return Step(
        loss=loss,
        params={name: p + updates[name] for name, p in params.items()},
        updates=updates,
        step_sizes=[memory.sizes[x] for x in groups],
        num_evaluations=num_evaluations,
        gradient_size=memory.gradient_size,
        fraction=memory.fraction(),
        event=event,
        scale=scale,
        tested=tested,
    )
