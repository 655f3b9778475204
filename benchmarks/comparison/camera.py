"""Two views of one photograph by the same Gaussians; a camera is unknown."""

import numpy as np
from fit_camera import HEIGHT, WIDTH, load_views, params_of, view_error
from parts import decibel_task
from tasks import Setup, Task


def camera(photograph: str, *, setup: Setup) -> Task:
    """A picture painted by 150 Gaussians from two views, the second of them unknown.

    Shift, rotation and logarithm of the scale of the second camera are found together
    with the five parts of the Gaussians, and begin at zero. A step sees 512 random
    pixels of each view; validation is on all of both.
    """
    views, each = load_views(photograph), np.arange(2)[:, None]
    return decibel_task(
        params_of,
        lambda params, at: view_error(params, *(x[each, at] for x in views)),
        lambda rng, size: rng.integers(0, HEIGHT * WIDTH, (2, size // 2)),
        lambda params: view_error(params, *views),
        1.0,
        num_steps=500,
        batch_size=setup.batch_size or 1024,
    )
