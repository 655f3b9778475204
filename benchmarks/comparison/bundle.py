"""Bundle adjustment, as in the example."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from classification import Rows
from fit_bundle import (
    NUM_VALIDATION,
    PIXELS,
    Scene,
    first_estimate,
    observations,
    reprojection_error,
)
from regressions import held_out, regression_task, shuffled
from tasks import Setup, Task


def bundle(*, setup: Setup) -> Task:
    """150 points seen by twelve cameras of one unknown focal length.

    Observations are off by a pixel; a fifth is for validation. Points and cameras begin
    near the truth, as after a first estimate, and the focal length of 800 at 600.
    """
    pool, validation = held_out(Rows(*observations()), NUM_VALIDATION)

    def loss_fn(params: Scene, batch: Any, key: jax.Array | None = None) -> jax.Array:
        return reprojection_error(params, jnp.asarray(batch.inputs), batch.labels)

    batch_size = setup.batch_size or 32
    return regression_task(
        first_estimate,
        *(loss_fn, shuffled(pool, batch_size), validation),
        steps_per_epoch=len(pool.labels) // batch_size,
        power=float(np.mean((validation.labels / PIXELS) ** 2)),
    )
