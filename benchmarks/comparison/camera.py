"""Two views of one photograph by the same Gaussians; a camera is unknown.

Shapes: P points.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fit_gaussians import HEIGHT, WIDTH, initial_params, paint
from jax.scipy.ndimage import map_coordinates
from parts import decibel_task
from sklearn.datasets import load_sample_image
from tasks import Setup, Task

TRUE_CAMERA = np.array([0.15, -0.1, 0.2, 0.1], np.float32)
CENTRE = np.array([WIDTH, HEIGHT], np.float32) / (2 * HEIGHT)
PIXELS = 280  # of the photograph for a length of 1: both views lie inside


def camera(photograph: str, *, setup: Setup) -> Task:
    """A picture painted by 150 Gaussians from two views, the second of them unknown.

    Shift, rotation and logarithm of the scale of the second camera are found together
    with the five parts of the Gaussians, and begin at zero. A step sees 512 random
    pixels of each view; validation is on all of both.
    """
    image = jnp.asarray(load_sample_image(photograph) / 255.0, jnp.float32)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    points = jnp.asarray(np.stack([x, y], -1).reshape(-1, 2) / HEIGHT, jnp.float32)
    colours = jnp.stack(
        [sample(image, points), sample(image, seen(TRUE_CAMERA, points))]
    )

    def init(seed: int) -> dict[str, jax.Array]:
        return initial_params(seed) | {"camera": jnp.zeros(4)}

    def loss(params: Any, at: jax.Array) -> jax.Array:
        return view_error(
            params, points[at], jnp.stack([colours[0][at[0]], colours[1][at[1]]])
        )

    return decibel_task(
        init,
        loss,
        lambda rng, size: rng.integers(0, len(points), (2, size // 2)),
        lambda params: view_error(params, jnp.stack([points, points]), colours),
        1.0,
        num_steps=500,
        batch_size=setup.batch_size or 1024,
    )


def seen(camera: Any, points: jax.Array) -> jax.Array:
    """Where points [P, 2] of the second view lie in the first.

    The camera [4] turns and scales them about the middle of the view, and shifts them.
    """
    cos, sin = jnp.cos(camera[2]), jnp.sin(camera[2])
    turn = jnp.exp(camera[3]) * jnp.array([[cos, sin], [-sin, cos]])
    return (points - CENTRE) @ turn + CENTRE + camera[:2]


def view_error(params: Any, points: jax.Array, colours: jax.Array) -> jax.Array:
    """Mean squared error of colours [2, P, 3] at points [2, P, 2] of the two views."""
    places = jnp.concatenate([points[0], seen(params["camera"], points[1])])
    return jnp.mean((paint(params, places) - colours.reshape(-1, 3)) ** 2)


def sample(image: jax.Array, points: jax.Array) -> jax.Array:
    """Colours [P, 3] of a photograph [rows, columns, 3] at points [P, 2].

    `CENTRE` is the middle of the photograph.
    """
    middle = (jnp.array(image.shape[1::-1]) - 1) / 2
    column, row = (middle + PIXELS * (points - CENTRE)).T
    return jax.vmap(lambda x: map_coordinates(x, [row, column], 1), -1, -1)(image)
