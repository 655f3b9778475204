"""What the parts of the NumPy twin share: records, and sums and moves by group.

Params are a list of arrays, and a list of as many group numbers goes with it.
"""

import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

Leaves = list[np.ndarray]
Loss = Callable[[Leaves], float]


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
    limit: np.ndarray  # f[G], of bracketing: where the search that failed began
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
