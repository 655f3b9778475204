"""Bundle adjustment: points in space, and the cameras that saw them.

Shapes: N observations, C cameras, P points.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from classification import Rows
from regressions import regression_task
from small_models import held_out, shuffled
from tasks import Setup, Task

NUM_POINTS, NUM_CAMERAS, DISTANCE = 150, 12, 6.0  # the points fill a cube of side 2
TRUE_FOCAL, FIRST_FOCAL, NOISE = 800.0, 600.0, 1.0  # pixels
OFF_BY = {"points": 0.1, "rotations": 0.03, "translations": 0.1}  # at first
PICTURE = 250.0  # pixels, in which differences are measured


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


def bundle(*, setup: Setup) -> Task:
    """150 points seen by twelve cameras of one unknown focal length.

    Observations are off by a pixel; a fifth is for validation. Points and cameras begin
    near the truth, as after a first estimate, and the focal length of 800 at 600.
    """
    pool, validation = held_out(observations(), NUM_POINTS * NUM_CAMERAS // 5)

    def loss_fn(params: Scene, batch: Any, key: jax.Array | None = None) -> jax.Array:
        seen = project(params, jnp.asarray(batch.inputs))
        return jnp.mean(((seen - batch.labels) / PICTURE) ** 2)

    batch_size = setup.batch_size or 32
    return regression_task(
        first_estimate,
        *(loss_fn, shuffled(pool, batch_size), validation),
        steps_per_epoch=len(pool.labels) // batch_size,
        power=float(np.mean((validation.labels / PICTURE) ** 2)),
    )


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


def truth() -> Scene:
    """Cameras on an arc, that look at the middle of the points."""
    rng = np.random.default_rng(0)
    angles = np.linspace(-1.2, 1.2, NUM_CAMERAS)
    rotations = np.stack([0.2 * np.sin(3 * angles), angles, 0 * angles], axis=1)
    translations = np.tile([0.0, 0.0, DISTANCE], (NUM_CAMERAS, 1))
    points = rng.uniform(-1, 1, (NUM_POINTS, 3))
    return Scene(points, rotations, translations, np.array(TRUE_FOCAL))


def first_estimate(seed: int) -> Scene:
    """The truth, but for errors of `OFF_BY` and another focal length."""
    rng = np.random.default_rng(seed)
    scene = truth()
    off = {
        name: getattr(scene, name) + size * rng.normal(size=getattr(scene, name).shape)
        for name, size in OFF_BY.items()
    }
    first = scene._replace(focal=np.array(FIRST_FOCAL), **off)
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), first)


def observations() -> Rows:
    """Numbers of cameras and points, int32 [N, 2], and pixels, float32 [N, 2]."""
    rng = np.random.default_rng(1)
    pairs = np.stack(
        np.meshgrid(np.arange(NUM_CAMERAS), np.arange(NUM_POINTS), indexing="ij"),
        axis=-1,
    ).reshape(-1, 2)
    pairs = rng.permutation(pairs).astype(np.int32)
    pixels = np.asarray(project(jax.tree.map(jnp.asarray, truth()), jnp.asarray(pairs)))
    return Rows(pairs, (pixels + NOISE * rng.normal(size=pixels.shape)).astype("f4"))
