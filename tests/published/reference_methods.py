"""Published line searches in plain NumPy float64, written from their descriptions.

`run(method, params, groups, problems)` walks a path; a method is a NamedTuple of its
options. A search that uses up its trials raises an AssertionError.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Arrays = list[np.ndarray]
Loss = Callable[[Arrays], float]
ValueAndGrad = Callable[[Arrays], tuple[float, Arrays]]
Problems = Sequence[tuple[Loss, ValueAndGrad]]  # one a step, of its mini-batch
Moments = tuple[int, Arrays, Arrays, Arrays]  # count, m, v, and the largest v so far
Directed = tuple[Moments, Arrays, Arrays]  # the next moments, P g and P m_hat


class Step(NamedTuple):
    loss: float  # at the start of the step
    step_sizes: list[float]  # one a group, after the step
    num_trials: int  # losses computed beyond the gradient's own
    params: Arrays  # after the step


class Geometry(NamedTuple):
    """How a gradient becomes a direction: "sgd", "adam" or "amsgrad"."""

    kind: str = "adam"
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    offset: int = 0  # added to the count, from 1, in both bias corrections


SGD = Geometry("sgd")
ADAM = Geometry("adam")
AMSGRAD = Geometry("amsgrad", b2=0.99)


def zero_moments(params: Arrays) -> Moments:
    """Before the first step."""
    zeros = [np.zeros_like(p) for p in params]
    return 0, zeros, zeros, zeros


def directions(geometry: Geometry, moments: Moments, grads: Arrays) -> Directed:
    """Moments with grads in them, and the two directions; SGD has no momentum."""
    kind, b1, b2, eps, offset = geometry
    count, m, v, vmax = moments
    m = [b1 * a + (1 - b1) * g for a, g in zip(m, grads, strict=True)]
    v = [b2 * a + (1 - b2) * g * g for a, g in zip(v, grads, strict=True)]
    vmax = [np.maximum(a, b) for a, b in zip(vmax, v, strict=True)]
    moments = count + 1, m, v, vmax
    if kind == "sgd":
        return moments, grads, grads
    power, squares = count + 1 + offset, vmax if kind == "amsgrad" else v
    scales = [np.sqrt(a / (1 - b2**power)) + eps for a in squares]
    plain = [g / a for g, a in zip(grads, scales, strict=True)]
    momentum = [b / (1 - b1**power) / a for b, a in zip(m, scales, strict=True)]
    return moments, plain, momentum


def average(decay: float, old: Any, new: Any) -> Any:
    """One step of an exponential moving average, of numbers or arrays."""
    return decay * old + (1 - decay) * new


def inner(left: Arrays, right: Arrays) -> list[float]:
    """The inner product of each array with its partner."""
    return [float(np.sum(a * b)) for a, b in zip(left, right, strict=True)]


def move(params: Arrays, eta: float | np.ndarray, direction: Arrays) -> Arrays:
    """A step against a direction, with one step size or one an array."""
    etas = np.broadcast_to(eta, len(params))
    return [p - e * d for p, e, d in zip(params, etas, direction, strict=True)]


def shrunk(eta: float, trials: int, method: "Method") -> tuple[float, int]:
    """The next step size, after one that was not accepted, and its number."""
    assert trials < method.max_trials, f"no step size accepted in {trials} trials"
    return eta * method.shrink, trials + 1


class Polyak(NamedTuple):
    """PoNoS: where a search starts, and a mean of the losses so far to test against."""

    memory: bool = True  # backtracks, one free a step, cut the starts that follow
    c: float = 0.1
    f_star: float = 0.0
    smallest: float = 1e-6
    largest: float = 10.0
    xi: float = 1.0


class Armijo(NamedTuple):
    """f(w - eta P g) <= f(w) - c eta <g, P g>, all arrays together."""

    geometry: Geometry = ADAM
    momentum: bool = True  # the step goes along P m_hat with the eta found, else P g
    c: float = 0.3
    shrink: float = 0.9
    growth: float = 2 ** (1 / 500)
    init: float = 3.0
    max_trials: int = 100
    polyak: Polyak | None = None  # in place of growth and init

    def steps(self, params: Arrays, groups: list[int], problems: Problems):
        moments, eta, cuts, q, mean = zero_moments(params), self.init, 0, 0.0, 0.0
        for loss, value_and_grad in problems:
            f, grads = value_and_grad(params)
            moments, plain, momentum = directions(self.geometry, moments, grads)
            slope = sum(inner(grads, plain))
            start, bound = eta * self.growth, f
            if self.polyak:
                memory, c, f_star, smallest, largest, xi = self.polyak
                start = (f - f_star) / (c * slope) * self.shrink ** (cuts * memory)
                start = min(max(start, smallest), largest)
                q, mean = xi * q + 1, (xi * q * mean + f) / (xi * q + 1)
                bound = max(mean, f)
            eta, trials = start, 1
            while not loss(move(params, eta, plain)) <= bound - self.c * eta * slope:
                eta, trials = shrunk(eta, trials, self)
            cuts = max(cuts + trials - 2, 0)
            params = move(params, eta, momentum if self.momentum else plain)
            yield Step(f, [eta], trials, params)


ADAMSLS = Armijo()  # arXiv 2403.18506
SLS = Armijo(SGD, momentum=False, c=0.1, init=1.0)  # arXiv 1905.09997
AMSGRAD_SLS = Armijo(AMSGRAD, momentum=False, c=0.1, init=1.0)  # arXiv 2006.06835
PONOS = Armijo(SGD, c=0.5, shrink=0.5, polyak=Polyak())  # arXiv 2306.12747, or ADAM


class Plasls(NamedTuple):
    """arXiv 2403.18506, a step size a group: joint steps, then one searched in turn.

    In the released code groups before the searched one have moved when it is tested.
    """

    form: str = "code"  # or "paper": nobody has moved
    smooth: float = 0.0
    debias: bool = True
    geometry: Geometry = ADAM
    c: float = 0.6
    shrink: float = 0.9
    growth: float = 2 ** (1 / 500)
    init: float = 3.0
    joint_steps: int = 6
    max_trials: int = 100

    def steps(self, params: Arrays, groups: list[int], problems: Problems):
        order = np.arange(max(groups) + 1)
        moments, etas = zero_moments(params), np.full(order.size, self.init)
        h = s = counts = np.zeros(order.size)
        for t, (loss, value_and_grad) in enumerate(problems):
            f, grads = value_and_grad(params)
            moments, plain, momentum = directions(self.geometry, moments, grads)
            etas = etas * self.growth
            turn = max(t - self.joint_steps, 0) % order.size
            searched = (order == turn) | (t < self.joint_steps)
            moved = etas * (order < turn) * (self.form == "code")
            before = move(params, moved[groups], momentum)
            slopes = np.bincount(groups, inner(grads, plain)) * searched
            counts = counts + searched
            bias = self.debias * self.smooth ** np.maximum(counts, 1)
            weights = searched / (1 - bias)
            s = np.where(searched, average(self.smooth, s, slopes), s)
            eta, trials = etas[turn], 1
            while True:
                drop = f - loss(move(before, (eta * searched)[groups], plain))
                new_h = average(self.smooth, h, drop * slopes / np.sum(slopes))
                if weights @ new_h >= self.c * eta * (weights @ s):
                    break
                eta, trials = shrunk(eta, trials, self)
            h, etas = np.where(searched, new_h, h), np.where(searched, eta, etas)
            params = move(params, etas[groups], momentum)
            yield Step(f, etas.tolist(), trials, params)


class Salsa(NamedTuple):
    """arXiv 2407.20650: both sides of the test averaged, searches as often as needed.

    A search keeps its trial; else growth * the stored size along P m_hat (it stays).
    """

    use_mv: bool = False  # trials and all steps along P m_hat
    negative: str = "raise"  # use_mv, <g, P m_hat> <= 0: or step along P g, or "invert"
    equal: bool = True  # a trial whose loss equals f is accepted
    geometry: Geometry = Geometry(offset=1)  # as released; the paper's is ADAM; or SGD
    weight_decay: float = 0.0
    c: float = 0.5
    shrink: float = 0.8
    growth: float = 1.1
    init: float = 1.0
    smooth: float = 0.9
    fast: float = 0.9
    slow: float = 0.99
    first_average: float = 1e-8
    forced_steps: int = 9
    max_interval: int = 10
    max_trials: int = 100

    def steps(self, params: Arrays, groups: list[int], problems: Problems):
        moments, eta, h, s, since = zero_moments(params), self.init, 0.0, 0.0, 0
        fast = slow = self.first_average
        for t, (loss, value_and_grad) in enumerate(problems):
            f, grads = value_and_grad(params)
            moments, plain, momentum = directions(self.geometry, moments, grads)
            direction = momentum if self.use_mv else plain
            slope = sum(inner(grads, direction))
            if self.use_mv and slope <= 0 and self.negative != "invert":
                assert self.negative == "plain", f"momentum slope {slope} at step {t}"
                direction, momentum, slope = plain, plain, sum(inner(grads, plain))
            params = [(1 - self.weight_decay * eta * (t > 0)) * p for p in params]
            since, ratio = since + 1, max(fast / slow, slow / fast)
            due = since >= self.max_interval or since * (ratio - 1) >= 1
            if t >= self.forced_steps and not due:
                params = move(params, eta * self.growth, momentum)
                yield Step(f, [eta], 0, params)
                continue
            s = average(self.smooth, s, slope)
            c = 1 / self.c if self.negative == "invert" and s <= 0 else self.c
            eta, trials = eta * self.growth, 1
            while True:
                trial = loss(move(params, eta, direction))
                new_h = average(self.smooth, h, f - trial)
                if new_h >= c * eta * s or (self.equal and trial == f):
                    break
                eta, trials = shrunk(eta, trials, self)
            h, since, params = new_h, 0, move(params, eta, direction)
            fast, slow = average(self.fast, fast, eta), average(self.slow, slow, eta)
            yield Step(f, [eta], trials, params)


# arXiv 2403.18519: a search a step, c inverted where s <= 0
KENSLS = Salsa(True, "invert", False, ADAM, c=0.1, shrink=0.9, growth=1 / 0.999)
KENSLS = KENSLS._replace(init=0.1, smooth=0.99, max_interval=1)
Method = Armijo | Plasls | Salsa


def run(
    method: Method, params: Arrays, groups: Sequence[int], problems: Problems
) -> list[Step]:
    """One step a problem. Only Plasls tells groups apart; `groups` has one an array."""
    params = [np.asarray(p, np.float64) for p in params]
    return list(method.steps(params, list(groups), problems))
