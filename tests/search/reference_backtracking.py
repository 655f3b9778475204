"""Adam with a step size a group, in plain NumPy float64.

Nothing here comes from optax_armijo: the formulas are those of the docstring of
`Backtracking`, the numbers are written anew.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]
LossAfter = Callable[[np.ndarray, Arrays], float]  # of step sizes [G] and a direction
ValueAndGrad = Callable[[Arrays, Any], tuple[float, Arrays]]


class Options(NamedTuple):
    c: float = 0.6
    group_c: float = 0.5
    decrease_factor: float = 0.8
    search_growth: float = 1.2
    max_trials: int = 3
    loss_fraction: float | None = 0.05
    max_step_size: float | None = None
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8


class Ray(NamedTuple):
    """From params along a direction, on one batch."""

    direction: Arrays
    slope: np.ndarray  # [G], the decrease that is predicted for a unit step
    value: float
    tolerance: float
    loss_after: LossAfter


class Step(NamedTuple):
    event: str  # "moved", "bad" or "undone"
    loss: float  # at the start of the step
    updates: Arrays
    step_sizes: np.ndarray  # [G], without the factor, after the step
    factor: float  # after the step
    gradient_size: float  # the average, after the step
    num_evaluations: int
    params: Arrays  # after the step


def run(
    options: Options,
    labels: dict[str, str],
    params: Arrays,
    batches: Iterable[Any],
    value_and_grad: ValueAndGrad,
) -> list[Step]:
    """One step a batch; the labels name the group of each array."""
    twin, steps = Twin(options, labels, params), []
    with np.errstate(all="ignore"):
        for batch in batches:
            steps.append(twin.step(params, batch, value_and_grad))
            params = steps[-1].params
    return steps


class Twin:
    """What is known from the steps before; `k` counts good batches."""

    def __init__(self, options: Options, labels: dict[str, str], params: Arrays):
        names = sorted(set(labels.values()))
        self.options = options
        self.group = {name: names.index(labels[name]) for name in params}
        self.num_params = self.sums({n: np.ones(p.shape) for n, p in params.items()})
        self.m = self.v = {n: np.zeros(p.shape) for n, p in params.items()}
        self.usual = 1.0  # average size of gradients relative to the root of v
        self.eta = np.zeros(len(names))
        self.group_tested = np.zeros(len(names))  # k at the last test of its own
        self.last_move = np.zeros(len(names))
        self.k, self.tau, self.tested = 0, 1.0, 0  # k at the whole step's last test
        self.moved_last = self.has_searched = False
        self.lowest, self.average, self.deviation = math.inf, 0.0, 0.0

    def step(self, params: Arrays, batch: Any, value_and_grad: ValueAndGrad) -> Step:
        """Directions, safeguard, the groups' tests, the whole step's, memory."""
        o, k, num_evaluations = self.options, self.k + 1, 0
        value, g = value_and_grad(params, batch)

        def loss_after(sizes: np.ndarray, direction: Arrays) -> float:
            nonlocal num_evaluations
            num_evaluations += 1
            moved = self.updates(sizes, direction)
            loss = value_and_grad({n: params[n] + moved[n] for n in g}, batch)[0]
            return loss if math.isfinite(loss) else math.inf

        def finish(event: str, sizes: np.ndarray, direction: Arrays) -> Step:
            moved = self.updates(sizes, direction)
            after = {n: params[n] + moved[n] for n in g}
            eta, tau = self.eta.copy(), self.tau
            self.moved_last = bool(np.any(sizes))
            return Step(
                event, value, moved, eta, tau, self.usual, num_evaluations, after
            )

        scale, usual = self.clip(g, k)
        clipped = {n: scale * g[n] for n in g}
        m = {n: o.b1 * self.m[n] + (1 - o.b1) * clipped[n] for n in g}
        v = {n: o.b2 * self.v[n] + (1 - o.b2) * clipped[n] ** 2 for n in g}
        d = self.precondition({n: m[n] / bias(o.b1, k) for n in m}, v, k)
        p = self.precondition(clipped, v, k)
        slope = self.sums({n: -g[n] * d[n] for n in g})
        good = bool(np.all(np.isfinite([value, *slope, *self.sums(v)])))

        # Safeguard: was it the last step that led to such a loss?
        excess = value - self.average
        tolerance = 4 * 2.0**-52 * abs(value)
        far = k > 9 and excess > 3 * self.deviation + tolerance
        bad = not math.isfinite(value) or (not good and not self.moved_last)
        suspect = np.any(self.last_move) and (far or bad)
        if suspect:
            last = {n: self.m[n] / bias(o.b1, self.k) for n in g}
            last = self.precondition(last, self.v, self.k)
            move = -self.last_move
            loss = loss_after(move, last)
            self.lowest = min(self.lowest, loss)
            if math.isfinite(loss) and (bad or value - loss > excess / 2):
                self.tested = min(self.tested, int(self.k / o.search_growth))
                # The next step is tested, so it may grow by so much.
                growth = min(k / max(self.tested, 1), 8) * min(k, 10) / min(k - 1, 10)
                self.tau, self.last_move = self.tau / 4 / growth, 0 * self.last_move
                return finish("undone", move, last)
        if not good:
            return finish("bad", 0 * self.eta, d)

        plain = self.sums({n: -g[n] * p[n] for n in g})
        self.gradient = plain / self.num_params  # in size
        ray = Ray(p, plain, value, tolerance, loss_after)
        is_first = not np.any(self.eta)
        if is_first:
            self.find_first_sizes(params, ray)
        elif not suspect and np.any(k >= 8 * self.group_tested):
            self.compare_groups(k, ray)
        predicted = float(np.sum(self.eta * slope))
        by_loss = self.limit_by_loss(value, k, predicted)
        limit = min(by_loss, self.limit_by_size())
        applied = min(self.tau, limit)
        tests = k >= o.search_growth * self.tested and np.any(self.eta)
        if tests:
            growth = 1.0 if is_first or predicted <= 0 else k / max(self.tested, 1)
            grown = self.tau * min(growth, 8)
            begin = min(grown, limit)
            ray = Ray(d, slope, value, tolerance, loss_after)
            if by_loss < min(1 / 32, grown):  # does the loss go on below zero?
                far = loss_after(4 * value / predicted * self.eta, d)
                self.lowest = min(self.lowest, far)
            applied = self.test_whole(begin, predicted, ray)
            self.tested = k
        if not (tests and predicted > 0) and by_loss < self.tau:
            self.tau *= max((by_loss / self.tau) ** 0.1, o.decrease_factor)

        self.average = self.average + 0.1 * excess if k > 1 else value
        self.deviation += 0.1 * (abs(excess) - self.deviation) if k > 1 else 0.0
        self.lowest = min(self.lowest, value)
        self.last_move = applied * self.eta * min(k / 10, 1)
        self.k, self.m, self.v, self.usual = k, m, v, usual
        return finish("moved", self.last_move, d)

    def clip(self, g: Arrays, k: int) -> tuple[float, float]:
        """What to scale the gradient by, and the average size with this one in it."""
        if k == 1:
            return 1.0, 1.0
        squares = 0.0
        for name in g:
            root = np.sqrt(self.v[name] / bias(self.options.b2, self.k))
            some = root > 0
            squares += np.sum((g[name][some] / root[some]) ** 2)
        size = math.sqrt(squares / np.sum(self.num_params))
        if not math.isfinite(size):
            return 1.0, self.usual
        scale = min(1.0, 2 * max(1.0, self.usual) / size) if k > 5 and size else 1.0
        return scale, 0.9 * self.usual + 0.1 * scale * size

    def find_first_sizes(self, params: Arrays, ray: Ray) -> None:
        """In proportion to params; a bracket by fours, then halves, for the factor."""
        p, slope, value, tolerance, loss_after = ray
        root = self.root_mean_squares(params)
        known = np.where(slope > 0, root, 0)
        known = 0 * known if self.has_searched else known
        self.has_searched = bool(np.any(slope > 0))
        sizes = with_new_groups(known, slope, self.gradient, abs(value) or 1.0)
        most = np.max(known) if np.any(known) else math.inf
        capped = np.where(root == 0, np.minimum(sizes, most), sizes)
        uncapped, passed, failed, trial = sizes, 0.0, math.inf, 4.0**-4
        errors: list[float] = []
        for i in range(10 if np.any(slope > 0) else 0):
            loss = loss_after(trial * sizes, p)
            self.lowest = min(self.lowest, loss)
            predicted = trial * np.sum(sizes * slope)
            # A prediction that is hardly better at a 16th of the step: noise.
            errors.append(abs(value - loss - predicted))
            passes = value - loss >= self.options.c * predicted - tolerance
            # Are groups of zeros why the first trial fails?
            if i == 0 and not passes and np.any(capped != sizes):
                sizes = capped
                continue
            if i == 1 and failed == math.inf and passed == 0:
                if not passes:
                    sizes, failed, trial = uncapped, trial, trial / 16
                    errors.pop()
                    continue
                errors = errors[1:]
            is_noise = passed == 0 and len(errors) > 1
            is_noise = is_noise and errors[-1] >= errors[-2] / 20
            if is_noise and max(errors[-2:]) < abs(value) / 32:
                tolerance, failed = max(tolerance, 2 * max(errors[-2:])), math.inf
            if value - loss >= self.options.c * predicted - tolerance:
                passed = trial
            else:
                failed = trial
            if passed > 0 and failed <= 2.1 * passed:
                break
            if passed == 0:
                trial = trial / 16
            else:
                trial = min(4 * passed, math.sqrt(passed) * math.sqrt(failed))
        self.eta, self.tau = passed * sizes, 1.0

    def compare_groups(self, k: int, ray: Ray) -> None:
        """The groups' own tests, with nothing but that group moved."""
        p, slope, value, tolerance, loss_after = ray
        before = self.eta = with_new_groups(self.eta, slope, self.gradient, 0.0)
        after, density = before.copy(), self.root_mean_squares(p)
        due = (k >= 8 * self.group_tested) & (slope > 0) & (before > 0)
        longest_ago_first = np.argsort(self.group_tested, kind="stable")
        turns = [i for i in longest_ago_first if due[i]][:16]
        for i in turns if len(before) > 1 else []:
            is_new = self.group_tested[i] == 0
            trial = fitted = before[i] * (2 if is_new else 1)
            for _ in range(2 if is_new else 1):
                trial = fitted
                loss = loss_after(np.where(np.arange(len(before)) == i, trial, 0), p)
                self.lowest = min(self.lowest, loss)
                # With f(t) = f - slope t + a t^2 the test just passes at
                # t = (1 - group_c) slope / a, where a t^2 is what misses.
                predicted = trial * slope[i]
                if predicted > 16 * tolerance:
                    missing = max(1 - (value - loss) / predicted, 1e-3)
                    fitted = trial * (1 - self.options.group_c) / missing
                    fitted = min(max(fitted, trial / 16), 4 * trial)
                if abs(math.log(fitted / trial)) < 1:
                    break
            after[i] *= (fitted / before[i]) ** (0.75 if is_new else 0.5)
            if is_new:
                after[i] *= min(density[i], 1) or 1
            self.group_tested[i] = k
        # Along the gradient the predicted decrease of the whole step stays.
        both = (before * slope > 0) & (after * slope > 0)
        if np.any(both):
            self.tau *= np.sum((before * slope)[both]) / np.sum((after * slope)[both])
        self.eta = after

    def limit_by_loss(self, value: float, k: int, predicted: float) -> float:
        """The largest factor that `loss_fraction` allows."""
        fraction = self.options.loss_fraction
        if fraction is None or predicted <= 0 or value <= 0 or self.lowest < 0:
            return math.inf
        return fraction * max(32 / k, 1) * value / predicted

    def limit_by_size(self) -> float:
        """The largest factor that `max_step_size` allows."""
        bound = self.options.max_step_size
        if bound is None or not np.any(self.eta):
            return math.inf
        return bound / float(np.max(self.eta))

    def test_whole(self, begin: float, predicted: float, ray: Ray) -> float:
        """Backtracks; returns what is applied, and sets the factor to go on with."""
        o, factor = self.options, begin
        c = o.c if predicted > 0 else 2 - o.c
        accepted, better = False, False
        for trial in range(o.max_trials):
            factor *= o.decrease_factor if trial else 1
            loss = ray.loss_after(factor * self.eta, ray.direction)
            better = loss <= ray.value
            self.lowest = min(self.lowest, loss)
            accepted = ray.value - loss >= c * factor * predicted - ray.tolerance
            accepted |= loss == ray.value
            if accepted:
                break
        if predicted > 0 and not accepted:
            self.tau = o.decrease_factor * min(factor, self.tau)
        elif predicted > 0:
            self.tau = factor if factor < begin else max(begin, self.tau)
        return factor if accepted or better else 0.0

    def precondition(self, x: Arrays, v: Arrays, k: int) -> Arrays:
        """``-P x``."""
        b, eps = bias(self.options.b2, k), self.options.eps
        return {n: -x[n] * (1 / (np.sqrt(v[n] / b) + eps)) for n in x}

    def updates(self, sizes: np.ndarray, direction: Arrays) -> Arrays:
        """A group of size 0 stays, whatever its direction holds."""
        pairs = [(n, sizes[self.group[n]]) for n in direction]
        return {n: s * direction[n] if s else 0 * self.m[n] for n, s in pairs}

    def sums(self, xs: Arrays) -> np.ndarray:
        """Of all entries by group, [G]."""
        sums = np.zeros(max(self.group.values()) + 1)
        for name, x in xs.items():
            sums[self.group[name]] += np.sum(x)
        return sums

    def root_mean_squares(self, xs: Arrays) -> np.ndarray:
        return np.sqrt(self.sums({n: x**2 for n, x in xs.items()}) / self.num_params)


def with_new_groups(
    sizes: np.ndarray, slope: np.ndarray, gradient: np.ndarray, otherwise: float
) -> np.ndarray:
    """New groups get the predicted decrease of the (lower) median group.

    Where their gradient may be rounding, no more than the largest step size.
    """
    is_known = (sizes > 0) & (slope > 0)
    known = sorted((sizes * slope)[is_known])
    new = (known[(len(known) - 1) // 2] if known else otherwise) / slope
    if known:
        is_rounding = gradient <= 16 * 2.0**-52 * np.max(gradient)
        new = np.where(is_rounding, np.minimum(new, np.max(sizes[is_known])), new)
    return np.where((sizes <= 0) & (slope > 0), new, sizes)


def bias(b: float, k: int) -> float:
    return 1 - b**k
