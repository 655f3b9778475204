"""Who goes first? Drawn anew for every step; and what each takes."""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def shuffled(names: Sequence[T], step: int) -> list[T]:
    """Returns the names in the order of step number `step`, the same in every run.

    The place is worth some percent of a step: what is first, or comes after a program
    that held little memory, is ahead.
    """
    order = np.random.default_rng(step).permutation(len(names))
    return [names[i] for i in order]


def median_seconds(
    calls: dict[str, Callable[[], Any]], warm_up: int, rounds: int
) -> dict[str, float]:
    """Makes the calls in turn, and returns the median time of each after `warm_up`."""
    import jax  # not above: the processes of PyTorch in peers.py are to hold no JAX

    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm_up + rounds):
        for name in shuffled(list(calls), turn):
            began = time.perf_counter()
            jax.block_until_ready(calls[name]())
            seconds[name].append(time.perf_counter() - began)
    return {name: median(x[warm_up:]) for name, x in seconds.items()}
