"""The line search once more, in plain NumPy float64, to compare the library with.

Written from the description of one step, not from the library, and kept as close to
that description as it goes: no tracing, no loops with a fixed carry, no safe operands.
Here are whole steps; their parts are in `reference_adam.py` and `reference_search.py`,
and `reference_base.py` has what all of them share.
"""

from collections.abc import Sequence

import numpy as np
from reference_adam import adam_directions
from reference_base import (
    Directions,
    Leaves,
    Loss,
    Moments,
    Options,
    Record,
    Search,
    moved,
    sum_by_group,
)
from reference_search import bounded, cast_net, is_joint, search_ray, turns


def is_good(value: float, grads: Leaves) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        squares = [np.sum(np.square(g)) for g in grads]
    return bool(np.isfinite(value) and np.all(np.isfinite(squares)))


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
    limit = search.limit.copy()
    searched, accepted = np.zeros((2, num_groups), bool)
    num_trials = np.zeros(num_groups, int)
    for ray in rays:
        found[ray.moved] *= ray.factor
        bracketed[ray.moved] = ray.settled
        if ray.accepted:
            limit[ray.moved] = np.inf
        else:
            # A size that was right before bounds the searches after it has failed.
            right = ray.moved & search.bracketed
            limit[right] = search.step_size[right]
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
    state = Search(step_size, bracketed, limit, known, average, search.num_steps + 1)
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
