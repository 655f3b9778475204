"""Adam's moments and directions in the NumPy twin."""

from collections.abc import Sequence

import numpy as np
from reference_base import Directions, Leaves, Moments, Options, sum_by_group


def init_moments(params: Leaves) -> Moments:
    zeros = [np.zeros_like(w) for w in params]
    return Moments(mean=zeros, square=zeros, num_batches=0)


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
