"""Tasks with unknown constants: equations, swings, a drug and a camera."""

import camera
import fit_camera
import fit_neural_ode
import jax
import jax.numpy as jnp
import numpy as np
import physics
import pytest
import solve_inverse_problem as rod
import tasks
from fit_camera import CENTRE, PIXELS, TRUE_CAMERA, seen
from fit_gaussians import initial_params, paint
from tasks import make_task

EQUATIONS = {
    "heat": (rod.exact, rod.residual, rod.TRUE_HEAT, 0.0),
    "burgers": (
        *(physics.burgers_exact, physics.burgers_residual),
        *(physics.TRUE_BURGERS, -1.0),
    ),
}
KEY = jax.random.key(0)


@pytest.mark.parametrize("name", EQUATIONS)
def test_exact_solutions_satisfy_their_equations(name):
    exact, residual, constants, low = EQUATIONS[name]
    at = np.random.default_rng(0).uniform((0.0, low), 1, (50, 2)).astype(np.float32)

    @jax.jit
    @jax.vmap
    def check(at):
        others = {key: 2 * value for key, value in constants.items()}
        parts = jnp.stack(rod.derivatives(exact, at))
        return parts, residual(constants, exact, at), residual(others, exact, at)

    parts, left, wrong = check(at)
    assert np.abs(parts).max(0).min() > 1
    assert np.abs(left).max() < 1e-3 < 0.1 < np.abs(wrong).max()


def test_the_rod_is_known_at_its_edges():
    x = jnp.linspace(0, 1, 5)
    first = jax.vmap(lambda x: rod.exact(jnp.array([0.0, x])))(x)
    np.testing.assert_allclose(first, np.sin(np.pi * x), atol=1e-6)
    for end in (0.0, 1.0):
        at = jnp.array([0.7, end])
        assert float(rod.exact(at)) == pytest.approx(0, abs=1e-5)


def test_one_wave_overtakes_the_other():
    def falls(time, x):
        at = jnp.stack([jnp.full(len(x), time), x], -1)
        return -np.diff(jax.vmap(physics.burgers_exact)(at)) / np.diff(x)

    x = jnp.linspace(-1, 1, 101)
    for time, tops in ((0.0, 2), (1.0, 1)):  # the steepest places
        slopes = falls(time, x)
        assert slopes.min() > -1e-4
        inner = slopes[1:-1]
        is_top = (inner > 0.1) & (inner > slopes[:-2]) & (inner > slopes[2:])
        assert is_top.sum() == tops


@pytest.mark.parametrize("name", EQUATIONS)
def test_at_the_truth_an_equation_leaves_the_noise(name, monkeypatch):
    exact, _, constants, low = EQUATIONS[name]
    field = jnp.vectorize(exact, signature="(n)->()")

    def output(layers, x):
        return field((x + 1) / 2 * jnp.array([1, 1 - low]) + jnp.array([0, low]))[
            ..., None
        ]

    monkeypatch.setattr(physics, "output", output)
    params = constants | {"network": []}
    task = getattr(physics, name)(setup=tasks.USUAL)
    loss = jax.jit(task.loss_fn)(params, next(task.batches(0, 0)), KEY)
    assert float(loss) == pytest.approx(0.02**2, rel=0.25)
    assert task.evaluate(params)["score"] > 80


@pytest.mark.slow
def test_at_the_truth_swings_leave_the_noise(monkeypatch):
    push = fit_neural_ode.push
    monkeypatch.setattr(fit_neural_ode, "output", lambda _, state: push(state)[None])
    params = fit_neural_ode.TRUE_SWING | {"network": []}
    task = make_task("neural_ode")
    loss = jax.jit(task.loss_fn)(params, np.arange(32), KEY)
    assert float(loss) == pytest.approx(0.02**2, rel=0.15)
    assert task.evaluate(params)["score"] > 50


@pytest.mark.slow
def test_at_the_truth_the_solver_finds_the_sum_of_exponentials():
    score = make_task("compartments").evaluate(physics.TRUE_RATES)["score"]
    assert score > 50
    noisy, clean = (
        physics.drawn_patients(np.random.default_rng(1), 100, noise)
        for noise in (0.1, 0.0)
    )
    np.testing.assert_array_equal(noisy[..., :2], clean[..., :2])
    assert (noisy - clean)[..., 2].std() == pytest.approx(0.1, rel=0.1)


def test_the_true_camera_maps_the_second_view_onto_the_first(monkeypatch):
    rows, columns = np.mgrid[:427, :640]
    middle = np.array([639, 426]) / 2
    places = (np.stack([columns, rows], -1).reshape(-1, 2) - middle) / PIXELS + CENTRE
    params = jax.tree.map(lambda x: x[:6], initial_params(0))
    params |= {"log_scale": jnp.full((6, 2), -1.5), "opacity": jnp.full(6, 2.0)}
    params |= {"colour": jax.random.normal(KEY, (6, 3))}
    image = jax.jit(paint)(params, jnp.asarray(places, jnp.float32))
    image = 255 * np.asarray(image).reshape(427, 640, 3)
    monkeypatch.setattr(fit_camera, "load_sample_image", lambda name: image)
    task = camera.camera("synthetic", setup=tasks.USUAL)
    at = next(task.batches(0, 0))
    for found, bounds in ((TRUE_CAMERA, (0, 1e-7)), (np.zeros(4), (1e-3, 1))):
        found = params | {"camera": jnp.asarray(found, jnp.float32)}
        for loss in (task.loss_fn(found, at, KEY), task.evaluate(found)["loss"]):
            assert bounds[0] <= loss <= bounds[1]


def test_both_views_lie_inside_the_photograph():
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * 2 * CENTRE
    for found in (np.zeros(4), TRUE_CAMERA):
        places = seen(found, jnp.asarray(corners)) - CENTRE
        assert np.all(PIXELS * np.abs(places) < np.array([639, 426]) / 2)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "name",
    [
        *("heat", "burgers", "camera-flower"),
        pytest.param("neural_ode", marks=SLOW),
        pytest.param("compartments", marks=SLOW),
    ],
)
def test_a_task_can_be_trained_in_all_of_its_parts(name):
    task = make_task(name)
    params, (first, *others) = task.init(0), task.batches(0, 0)
    assert len(others) == task.steps_per_epoch - 1
    # A weak type would be gone after an update, and all would be compiled again.
    assert not any(x.weak_type for x in jax.tree.leaves(params) if x.ndim == 0)
    loss, grads = jax.jit(jax.value_and_grad(task.loss_fn))(params, first, KEY)
    assert np.isfinite(loss)
    for leaf in jax.tree.leaves(grads):
        assert np.all(np.isfinite(leaf)) and np.any(leaf)
    if name not in ("neural_ode", "compartments"):  # compiled slowly, and tested above
        assert all(np.isfinite(x) for x in task.evaluate(params).values())
    np.testing.assert_array_equal(next(task.batches(0, 0)), first)
    for other in (next(task.batches(1, 0)), next(task.batches(0, 1)), others[0]):
        assert not np.array_equal(other, first)
    parts = {*jax.tree.leaves(task.labels(params))}
    assert parts == {*tasks.family_of(name).parts} == {*params}
