"""Paints a photograph by 150 Gaussians: five kinds of params, and no learning rates.

Run ``python examples/fit_gaussians.py``: each kind gets a step size of its own, which
the line search finds. For comparison it runs Adam with a rate for each kind, the best
of 53 sets that were tried. A figure shows both. Shapes: P pixels, G Gaussians.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from command_line import start
from display import plot_fits, show_image
from fitting import Problem, decibels, fit_all, options_of, save
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

import optax_armijo

HEIGHT, WIDTH, NUM_GAUSSIANS, BATCH_SIZE = 60, 64, 150, 1024
RATES = {"position": 0.00451, "log_scale": 0.0943, "rotation": 0.00434}
RATES |= {"colour": 0.0378, "opacity": 0.0549}
PICTURE = Path("runs") / "gaussians.png"
OURS, HAND_TUNED = "armijo_adam", "Adam, hand-tuned rates"


def initial_params(seed: int) -> dict[str, jax.Array]:
    """Small grey Gaussians at random places."""
    keys, size = jax.random.split(jax.random.key(seed), 3), (NUM_GAUSSIANS,)
    return {
        "position": jax.random.uniform(keys[0], (*size, 2)),
        "log_scale": jnp.full((*size, 2), np.log(0.05), jnp.float32),
        "rotation": jax.random.uniform(keys[1], size, maxval=np.pi),
        "colour": 0.1 * jax.random.normal(keys[2], (*size, 3)),
        "opacity": jnp.full(size, -1.0),
    }


def paint(params: dict[str, jax.Array], points: jax.Array) -> jax.Array:
    """Colours [P, 3] at points [P, 2]; the first Gaussian is in front."""
    offset = points[:, None] - params["position"][None]  # [P, G, 2]
    cos, sin = jnp.cos(params["rotation"]), jnp.sin(params["rotation"])
    scale = jnp.exp(params["log_scale"])
    along = (offset[..., 0] * cos + offset[..., 1] * sin) / scale[:, 0]
    across = (offset[..., 1] * cos - offset[..., 0] * sin) / scale[:, 1]
    alpha = jax.nn.sigmoid(params["opacity"]) * jnp.exp(-(along**2 + across**2) / 2)
    through = jnp.cumprod(1.0 - alpha + 1e-6, axis=1)
    behind = jnp.concatenate([jnp.ones_like(through[:, :1]), through[:, :-1]], axis=1)
    return (alpha * behind) @ jax.nn.sigmoid(params["colour"])


def painting_error(
    params: dict[str, jax.Array], points: jax.Array, colours: jax.Array
) -> jax.Array:
    """Mean squared error of the colours [P, 3] at points [P, 2]."""
    return jnp.mean((paint(params, points) - colours) ** 2)


def load_pixels(photograph: str = "flower.jpg") -> tuple[jax.Array, jax.Array]:
    """Points [P, 2] and their colours [P, 3] of a small photograph of scikit-learn."""
    image = load_sample_image(photograph)[::7, ::10][:HEIGHT, :WIDTH] / 255.0
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    points = np.stack([x, y], -1).reshape(-1, 2) / HEIGHT
    return jnp.asarray(points, jnp.float32), jnp.asarray(image.reshape(-1, 3), "f4")


def draw(runs: dict[str, Any], pixels: tuple[jax.Array, jax.Array]) -> Figure:
    """Plots the photograph, both paintings, PSNR and step sizes."""
    figure, above = plot_fits(runs, RATES, "PSNR, dB", 3)
    pictures = {"photograph": pixels[1]}
    pictures |= {name: paint(run["params"], pixels[0]) for name, run in runs.items()}
    for axes, (name, picture) in zip(above, pictures.items(), strict=True):
        show_image(axes, name, np.reshape(picture, (HEIGHT, WIDTH, 3)))
    return figure


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Runs the command line; returns the PSNR of both at the end."""
    options = options_of(__doc__, 500, argv)
    hand_tuned = optax.partition(
        {k: optax.adam(v) for k, v in RATES.items()}, {k: k for k in RATES}
    )
    optimizers = {OURS: optax_armijo.armijo_adam(), HAND_TUNED: hand_tuned}
    pixels = load_pixels()
    problem = Problem(
        initial_params,
        lambda params, at: painting_error(params, pixels[0][at], pixels[1][at]),
        lambda rng: rng.integers(0, len(pixels[0]), BATCH_SIZE),
        lambda params: decibels(painting_error(params, *pixels)),
    )
    runs = fit_all(optimizers, problem, options)
    save(draw(runs, pixels), PICTURE)
    return {name: run["score"][-1] for name, run in runs.items()}


if __name__ == "__main__":
    start(main)
