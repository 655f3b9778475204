"""Two views of a photograph painted by the same Gaussians; one camera is unknown.

Run ``python examples/fit_camera.py``: shift, rotation and scale of the second camera
are found together with the Gaussians of `fit_gaussians.py`, and are a group of their
own. For comparison it runs Adam with gsplat's rates, which are for runs sixty times as
long, and at the best of nine rates. A figure shows all. Shapes: P points.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from command_line import start
from display import RUN_COLOURS, plot_fits, show_image
from fit_gaussians import HEIGHT, WIDTH, initial_params, paint
from fitting import Problem, decibels, fit_all, options_of, save
from jax.scipy.ndimage import map_coordinates
from matplotlib.figure import Figure
from rivals import GSPLAT, adamw, gsplat_adam, gsplat_rates, warm_up_and_cosine
from sklearn.datasets import load_sample_image

import optax_armijo

TRUE_CAMERA = np.array([0.15, -0.1, 0.2, 0.1], np.float32)
CENTRE = np.array([WIDTH, HEIGHT], np.float32) / (2 * HEIGHT)
PIXELS = 280  # of the photograph for a length of 1: both views lie inside
BATCH_SIZE = 1024
SWEPT_RATE = 0.1  # the best of 9 from 5e-4 to 2e-1, says the comparison
OURS, PUBLISHED, SWEPT = "armijo_adam", "Adam, gsplat's rates", "AdamW, swept rate"
PICTURE = Path("runs") / "camera.png"


def params_of(seed: int) -> dict[str, jax.Array]:
    """The Gaussians', and those of the camera, which begin at that of the first view.

    They are two shifts, a rotation, and the logarithm of the scale.
    """
    return initial_params(seed) | {"camera": jnp.zeros(4)}


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


def load_views(photograph: str = "flower.jpg") -> tuple[jax.Array, jax.Array]:
    """Points [2, P, 2] of both views, and the colours [2, P, 3] that are seen there."""
    image = jnp.asarray(load_sample_image(photograph) / 255.0, jnp.float32)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    points = jnp.asarray(np.stack([x, y], -1).reshape(-1, 2) / HEIGHT, jnp.float32)
    views = [sample(image, points), sample(image, seen(TRUE_CAMERA, points))]
    return jnp.stack([points, points]), jnp.stack(views)


def draw(runs: dict[str, Any], views: Any) -> Figure:
    """Plots the second view, its paintings, the cameras' frames, PSNR, step sizes."""
    rates = gsplat_rates(len(runs[OURS]["step_sizes"]))
    figure, above = plot_fits(runs, rates, "PSNR of both views, dB", 5)
    pictures = {"first view": views[1][0], "second view": views[1][1]}
    for name, run in runs.items():
        places = seen(run["params"]["camera"], views[0][1])
        pictures[name] = paint(run["params"], places)
    for axes, (name, picture) in zip(above, pictures.items(), strict=True):
        title = name.replace(", ", ",\n", 1)
        show_image(axes, title, np.reshape(picture, (HEIGHT, WIDTH, 3)))
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) * 2 * CENTRE
    cameras = [TRUE_CAMERA, *(run["params"]["camera"] for run in runs.values())]
    styles = zip((7, 5, 3, 1), ("0.8", *RUN_COLOURS), strict=True)
    for camera, (width, color) in zip(cameras, styles, strict=True):
        frame = HEIGHT * np.asarray(seen(camera, jnp.asarray(corners)))
        above[0].plot(*frame.T, color=color, linewidth=width)
    return figure


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Runs the command line; returns the PSNR of each at the end."""
    options, views = options_of(__doc__, 500, argv), load_views()
    each = np.arange(2)[:, None]
    problem = Problem(
        params_of,
        lambda params, at: view_error(params, *(x[each, at] for x in views)),
        lambda rng: rng.integers(0, HEIGHT * WIDTH, (2, BATCH_SIZE // 2)),
        lambda params: decibels(view_error(params, *views)),
        {"camera": TRUE_CAMERA},
    )
    optimizers = {
        OURS: optax_armijo.armijo_adam({name: name for name in GSPLAT}),
        PUBLISHED: gsplat_adam({name: name for name in GSPLAT}, options.steps),
        SWEPT: adamw(warm_up_and_cosine(SWEPT_RATE, options.steps)),
    }
    runs = fit_all(optimizers, problem, options)
    save(draw(runs, views), PICTURE)
    return {name: run["score"][-1] for name, run in runs.items()}


if __name__ == "__main__":
    start(main)
