"""Bundle adjustment: points in space and the cameras that saw them, found together.

Run ``python examples/fit_bundle.py``: positions, rotations, translations and one focal
length are four kinds of params in four units, each with a step size of its own. For
comparison it runs AdamW at the best of five rates. A figure shows how far both are from
what the cameras saw. Shapes: N observations, C cameras, P points.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from command_line import start
from display import plot_fits
from fitting import Problem, decibels, fit_all, options_of, save
from matplotlib.figure import Figure
from rivals import adamw, warm_up_and_cosine

import optax_armijo

NUM_POINTS, NUM_CAMERAS, DISTANCE = 150, 12, 6.0  # the points fill a cube of side 2
TRUE_FOCAL, FIRST_FOCAL, NOISE = 800.0, 600.0, 1.0  # pixels
OFF_BY = {"points": 0.1, "rotations": 0.03, "translations": 0.1}  # at first
PIXELS = 250.0  # in which differences are measured
BATCH_SIZE, NUM_VALIDATION = 32, NUM_POINTS * NUM_CAMERAS // 5
SWEPT_RATE = 0.02  # the best of a sweep from 5e-3 to 1e-1, says the comparison
OURS, SWEPT = "armijo_adam", "AdamW, swept rate"
PICTURE = Path("runs") / "bundle.png"


class Scene(NamedTuple):
    """What is to be found.

    Attributes:
      points: where they are.  # [P, 3]
      rotations: of the cameras: axes times angles.  # [C, 3]
      translations: of the points in front of each camera.  # [C, 3]
      focal: focal length of all cameras, in pixels.  # []
    """

    points: Any
    rotations: Any
    translations: Any
    focal: Any


def project(scene: Scene, pairs: jax.Array) -> jax.Array:
    """Where cameras see points: pairs of their numbers [N, 2] -> pixels [N, 2]."""
    camera, point = pairs[:, 0], pairs[:, 1]
    turned = jax.vmap(rotate)(scene.rotations[camera], scene.points[point])
    x, y, z = (turned + scene.translations[camera]).T
    return scene.focal * jnp.stack([x, y], axis=1) / jnp.maximum(z, 0.1)[:, None]


def rotate(rotation: Any, point: Any) -> jax.Array:
    """Rodrigues' formula: a point [3] turned around an axis times its angle [3].

    Example:
      >>> [round(float(x), 3) for x in rotate([0.0, 0.0, np.pi / 2], [1.0, 0.0, 0.0])]
      [-0.0, 1.0, 0.0]
    """
    rotation, point = jnp.asarray(rotation), jnp.asarray(point)
    angle = jnp.sqrt(jnp.sum(rotation**2) + 1e-12)
    axis = rotation / angle
    along = axis * jnp.dot(axis, point) * (1 - jnp.cos(angle))
    return point * jnp.cos(angle) + jnp.cross(axis, point) * jnp.sin(angle) + along


def reprojection_error(scene: Scene, pairs: Any, pixels: Any) -> jax.Array:
    """Mean squared distance from pixels [N, 2] that were seen, in units of `PIXELS`."""
    return jnp.mean(((project(scene, jnp.asarray(pairs)) - pixels) / PIXELS) ** 2)


def truth() -> Scene:
    """Cameras on an arc, that look at the middle of the points."""
    rng = np.random.default_rng(0)
    angles = np.linspace(-1.2, 1.2, NUM_CAMERAS)
    rotations = np.stack([0.2 * np.sin(3 * angles), angles, 0 * angles], axis=1)
    translations = np.tile([0.0, 0.0, DISTANCE], (NUM_CAMERAS, 1))
    points = rng.uniform(-1, 1, (NUM_POINTS, 3))
    return Scene(points, rotations, translations, np.array(TRUE_FOCAL))


def first_estimate(seed: int) -> Scene:
    """The truth, except for errors of `OFF_BY` and another focal length."""
    rng = np.random.default_rng(seed)
    scene = truth()
    off = {
        name: getattr(scene, name) + size * rng.normal(size=getattr(scene, name).shape)
        for name, size in OFF_BY.items()
    }
    first = scene._replace(focal=np.array(FIRST_FOCAL), **off)
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), first)


def observations() -> tuple[np.ndarray, np.ndarray]:
    """Numbers of cameras and points, int32 [N, 2], and pixels, float32 [N, 2]."""
    rng = np.random.default_rng(1)
    pairs = np.stack(
        np.meshgrid(np.arange(NUM_CAMERAS), np.arange(NUM_POINTS), indexing="ij"),
        axis=-1,
    ).reshape(-1, 2)
    pairs = rng.permutation(pairs).astype(np.int32)
    pixels = np.asarray(project(jax.tree.map(jnp.asarray, truth()), jnp.asarray(pairs)))
    return pairs, (pixels + NOISE * rng.normal(size=pixels.shape)).astype("f4")


def draw(runs: dict[str, Any], first: Scene, pairs: Any, pixels: Any) -> Figure:
    """Plots errors of the validation, their decibels, and step sizes by step."""
    figure, above = plot_fits(runs, {SWEPT: SWEPT_RATE}, "validation, dB", 3)
    scenes = {"first estimate": first}
    scenes |= {name: Scene(**run["params"]) for name, run in runs.items()}
    for axes, (name, scene), most in zip(
        above, scenes.items(), (80, 10, 10), strict=True
    ):
        off = np.asarray(project(scene, jnp.asarray(pairs))) - pixels
        size = np.sqrt(np.mean(off**2))
        axes.plot(*np.clip(off, -most, most).T, ".", color="0.3", markersize=3)
        axes.set(title=f"{name}: {size:.1f} pixels off")
        axes.set(xlim=(-most, most), ylim=(-most, most), aspect="equal")
    return figure


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Runs the command line; returns the score of each at the end."""
    options, (pairs, pixels) = options_of(__doc__, 450, argv), observations()
    seen = [(x[:NUM_VALIDATION], x[NUM_VALIDATION:]) for x in (pairs, pixels)]
    validation, pool = zip(*seen, strict=True)
    power = np.mean((validation[1] / PIXELS) ** 2)
    problem = Problem(
        lambda seed: first_estimate(seed)._asdict(),
        lambda params, at: reprojection_error(
            Scene(**params), *(jnp.asarray(x)[at] for x in pool)
        ),
        lambda rng: rng.integers(0, len(pool[0]), BATCH_SIZE),
        lambda params: decibels(
            reprojection_error(Scene(**params), *validation), power
        ),
        {"focal": TRUE_FOCAL},
    )
    optimizers = {
        OURS: optax_armijo.armijo_adam(num_steps=options.steps),
        SWEPT: adamw(warm_up_and_cosine(SWEPT_RATE, options.steps)),
    }
    runs = fit_all(optimizers, problem, options)
    save(draw(runs, first_estimate(options.seed), *validation), PICTURE)
    return {name: run["score"][-1] for name, run in runs.items()}


if __name__ == "__main__":
    start(main)
