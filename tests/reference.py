"""The line search once more, in plain NumPy float64, to compare the library with.

Written from the description of one step, not from the library, and kept as close to
that description as it goes: no tracing, no loops with a fixed carry, no safe operands.
Params are a list of arrays, and a list of as many group numbers goes with it.
"""

import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

Leaves = list[np.ndarray]
Loss = Callable[[Leaves], float]

EPS = float(np.finfo(np.float64).eps)


class Options(NamedTuple):
    """Hyper-parameters, under the library's names and with its defaults."""

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    momentum: Literal["none", "kept", "searched"] = "none"
    c: float = 0.5
    decrease_factor: float = 0.8
    increase_factor: float = 1.05
    init_step_size: float = 1e-3
    min_step_size: float = 1e-10
    max_step_size: float = 10.0
    max_trials: int = 10
    search: Literal["cycle", "joint", "each"] = "cycle"
    num_joint_steps: int = 6
    net: Literal["no_rise", "average", "off"] = "no_rise"
    rounding_ulps: float = 4.0
    relative_floor: float = 0.01
    lower_bound: float | None = 0.0
    weight_decay: float = 0.0


class Moments(NamedTuple):
    """Adam's running moments."""

    mean: Leaves
    square: Leaves
    num_batches: int  # good ones alone


class Search(NamedTuple):
    """What the search remembers from step to step."""

    step_size: np.ndarray  # f[G]
    bracketed: np.ndarray  # bool[G]
    known: np.ndarray  # bool[G], searched before
    average: float  # of the losses at params, infinite before the first good one
    num_steps: int  # on bad batches too


class Trial(NamedTuple):
    """One loss evaluation of a ray or of the net, and the bound it had to meet."""

    factor: float
    loss: float
    bound: float

    @property
    def passed(self) -> bool:
        return self.loss <= self.bound  # False for NaN


class Ray(NamedTuple):
    """A search along the directions of some groups."""

    moved: np.ndarray  # bool[G]
    bracketing: bool
    trials: list[Trial]
    factor: float  # of the moved groups' step sizes
    accepted: bool
    settled: bool


class Record(NamedTuple):
    """What one step did."""

    good: bool
    searchable: np.ndarray  # bool[G]
    replaced: np.ndarray  # bool[G], momentum that does not descend
    rays: list[Ray]
    net: list[Trial]
    found: np.ndarray  # f[G], the step sizes before their bounds
    step_size: np.ndarray  # f[G]
    applied_step_size: np.ndarray  # f[G]
    searched: np.ndarray  # bool[G]
    accepted: np.ndarray  # bool[G]
    num_trials: np.ndarray  # i[G]
    loss_average: float
    net_factor: float
    num_evaluations: int


class Directions(NamedTuple):
    """Where to search, and where to go with what the search finds."""

    searched: Leaves
    kept: Leaves
    replaced: np.ndarray  # bool[G]
    same: bool  # whether the two are the same by construction


def natural_order(labels: Sequence[str]) -> list[str]:
    """The different labels, numbers in them compared as numbers."""

    def key(label: str) -> list[tuple[bool, int, str]]:
        parts = re.findall(r"\d+|\D+", label)
        return [
            (not part.isdigit(), int(part) if part.isdigit() else 0, part)
            for part in parts
        ]

    return sorted(set(labels), key=key)


def init_moments(params: Leaves) -> Moments:
    zeros = [np.zeros_like(w) for w in params]
    return Moments(mean=zeros, square=zeros, num_batches=0)


def init_search(options: Options, num_groups: int) -> Search:
    return Search(
        step_size=np.full(num_groups, options.init_step_size),
        bracketed=np.zeros(num_groups, bool),
        known=np.zeros(num_groups, bool),
        average=np.inf,
        num_steps=0,
    )


def sum_by_group(groups: Sequence[int], num_groups: int, a: Leaves, b: Leaves):
    """Inner products of `a` and `b`, by group: f[G]."""
    sums = np.zeros(num_groups)
    for group, x, y in zip(groups, a, b, strict=True):
        sums[group] += np.sum(x * y)
    return sums


def moved(
    groups: Sequence[int], params: Leaves, step_size: np.ndarray, directions: Leaves
) -> Leaves:
    return [
        w + step_size[group] * d
        for group, w, d in zip(groups, params, directions, strict=True)
    ]


def is_good(value: float, grads: Leaves) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        squares = [np.sum(np.square(g)) for g in grads]
    return bool(np.isfinite(value) and np.all(np.isfinite(squares)))


def adam_directions(
    options: Options,
    groups: Sequence[int],
    num_groups: int,
    moments: Moments,
    grads: Leaves,
) -> tuple[Directions, Moments]:
    """Step 2: the moments with this gradient in them, and the two directions."""
    b1, b2 = options.b1, options.b2
    count = moments.num_batches + 1
    square = [
        b2 * v + (1 - b2) * g**2 for v, g in zip(moments.square, grads, strict=True)
    ]
    mean = [b1 * m + (1 - b1) * g for m, g in zip(moments.mean, grads, strict=True)]
    scale = [1 / (np.sqrt(v / (1 - b2**count)) + options.eps) for v in square]
    plain = [-p * g for p, g in zip(scale, grads, strict=True)]
    heavy = [-p * m / (1 - b1**count) for p, m in zip(scale, mean, strict=True)]
    descends = sum_by_group(groups, num_groups, grads, heavy) < 0
    mixed = [
        h if descends[group] else d
        for group, h, d in zip(groups, heavy, plain, strict=True)
    ]
    searched = mixed if options.momentum == "searched" else plain
    kept = heavy if options.momentum == "kept" else searched
    directions = Directions(
        searched=searched,
        kept=kept,
        replaced=~descends & (options.momentum == "searched"),
        same=options.momentum != "kept",
    )
    return directions, Moments(mean=mean, square=square, num_batches=count)


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


def skip(search: Search) -> tuple[Search, Record]:
    """Step 1, on a bad batch: only the turns go on."""
    none = np.zeros(search.step_size.size, bool)
    record = Record(
        good=False,
        searchable=none,
        replaced=none,
        rays=[],
        net=[],
        found=search.step_size,
        step_size=search.step_size,
        applied_step_size=0.0 * search.step_size,
        searched=none,
        accepted=none,
        num_trials=0 * none,
        loss_average=search.average,
        net_factor=1.0,
        num_evaluations=0,
    )
    return search._replace(num_steps=search.num_steps + 1), record


def search_step(
    options: Options,
    groups: Sequence[int],
    search: Search,
    params: Leaves,
    value: float,
    grads: Leaves,
    directions: Directions,
    loss: Loss,
) -> tuple[np.ndarray, Search, Record]:
    """Steps 3 to 9 on a good batch: the step sizes to move by, state and record."""
    num_groups = search.step_size.size
    slopes = -sum_by_group(groups, num_groups, grads, directions.searched)
    searchable = slopes > 0
    first = np.isinf(search.average)
    average = value if first else 0.9 * search.average + 0.1 * value

    rays = []
    for ray in turns(options, search.num_steps, searchable):
        base = np.where(ray, search.step_size, 0.0)

        def line(t: float, base: np.ndarray = base) -> float:
            return loss(moved(groups, params, t * base, directions.searched))

        rays.append(search_ray(options, line, value, search, slopes, ray))

    found, bracketed = search.step_size.copy(), search.bracketed.copy()
    searched, accepted = np.zeros((2, num_groups), bool)
    num_trials = np.zeros(num_groups, int)
    for ray in rays:
        found[ray.moved] *= ray.factor
        bracketed[ray.moved] = ray.settled
        searched[ray.moved] = True
        accepted[ray.moved] = ray.accepted
        num_trials[ray.moved] = len(ray.trials)

    # What is not searched now moves by what an earlier search found.
    moves = searchable & np.where(searched, accepted, search.known)
    applied = np.where(moves, found, 0.0)
    tested_already = directions.same and is_joint(options, search.num_steps, num_groups)
    net_factor, net = 1.0, []
    if options.net != "off" and not tested_already and np.any(applied > 0):
        whole = applied

        def whole_line(factor: float) -> float:
            return loss(moved(groups, params, factor * whole, directions.kept))

        net_factor, net = cast_net(options, whole_line, value, average)
    applied = net_factor * applied

    step_size = bounded(options, found)
    record = Record(
        good=True,
        searchable=searchable,
        replaced=directions.replaced,
        rays=rays,
        net=net,
        found=found,
        step_size=step_size,
        applied_step_size=applied,
        searched=searched,
        accepted=accepted,
        num_trials=num_trials,
        loss_average=average,
        net_factor=net_factor,
        num_evaluations=sum(len(ray.trials) for ray in rays) + len(net),
    )
    known = search.known | searched
    state = Search(step_size, bracketed, known, average, search.num_steps + 1)
    return applied, state, record


def armijo_adamw_step(
    options: Options,
    groups: Sequence[int],
    mask: Sequence[bool],
    moments: Moments,
    search: Search,
    params: Leaves,
    value: float,
    grads: Leaves,
    loss: Loss,
) -> tuple[Leaves, Moments, Search, Record]:
    """One step of Adam; with `weight_decay` it decays the leaves in `mask`."""
    if not is_good(value, grads):
        search, record = skip(search)
        return params, moments, search, record
    num_groups = search.step_size.size
    directions, moments = adam_directions(options, groups, num_groups, moments, grads)
    applied, search, record = search_step(
        options, groups, search, params, value, grads, directions, loss
    )
    new_params = moved(groups, params, applied, directions.kept)
    decay = np.minimum(applied * options.weight_decay, 1.0)
    new_params = [
        new - decay[group] * old if decays else new
        for group, decays, new, old in zip(
            groups, mask, new_params, params, strict=True
        )
    ]
    return new_params, moments, search, record


def scaled_step(
    options: Options,
    groups: Sequence[int],
    search: Search,
    params: Leaves,
    value: float,
    grads: Leaves,
    direction: Leaves,
    loss: Loss,
) -> tuple[Leaves, Search, Record]:
    """One step along a direction that somebody else chose."""
    if not (is_good(value, grads) and is_good(value, direction)):
        search, record = skip(search)
        return params, search, record
    none = np.zeros(search.step_size.size, bool)
    directions = Directions(direction, direction, none, same=True)
    applied, search, record = search_step(
        options, groups, search, params, value, grads, directions, loss
    )
    return moved(groups, params, applied, direction), search, record
