"""Bundle adjustment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fit_bundle import (
    NOISE,
    NUM_CAMERAS,
    NUM_POINTS,
    observations,
    project,
    rotate,
    truth,
)
from scipy.spatial.transform import Rotation
from tasks import family_of, make_task


def test_points_turn_as_in_scipy():
    rng = np.random.default_rng(0)
    for rotation, point in rng.normal(size=(5, 2, 3)):
        expected = Rotation.from_rotvec(rotation).apply(point)
        np.testing.assert_allclose(rotate(rotation, point), expected, atol=1e-5)
    # The angle has a gradient where there is none.
    slope = jax.jacobian(rotate)(jnp.zeros(3), jnp.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(slope[:, 2], [0, 1, 0], atol=1e-5)


def test_every_camera_sees_every_point_but_for_noise():
    pairs, pixels = observations()
    assert len(np.unique(pairs, axis=0)) == NUM_POINTS * NUM_CAMERAS
    scene = jax.tree.map(jnp.asarray, truth())
    error = np.asarray(project(scene, jnp.asarray(pairs))) - pixels
    assert np.std(error) == pytest.approx(NOISE, rel=0.05)


def test_the_truth_is_far_better_than_the_first_estimate():
    task = make_task("bundle")
    scene = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), truth())
    best, first = task.evaluate(scene), task.evaluate(task.init(0))
    assert best["loss"] < 1e-2 * first["loss"]
    assert set(task.labels(scene)) == set(family_of("bundle").parts)
