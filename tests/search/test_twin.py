"""`armijo_adam` step by step against a NumPy twin written from its docstrings.

Both run in float64. At every step losses, updates, step sizes, the signal fraction and
params must agree to 1e-9 (in long runs to 1e-6), and the number of evaluations must be
equal.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference_next_batch import Options, Step, run

import optax_armijo

NUM_STEPS = 80
SHAPES = {"a": (3,), "b": (2, 2), "c": (4,), "d": (1,)}
SCALES = {"a": 1.0, "b": 100.0, "c": 0.01, "d": 3.0}
THREE = {"a": "first", "b": "second", "c": "third", "d": "third"}
TWO = {"a": "first", "b": "second", "c": "second", "d": "first"}
ONE = dict.fromkeys(SHAPES, "all")
NETWORK = {"w1": "hidden", "b1": "hidden", "w2": "head", "b2": "head"}
SPOILT = [3, 30, 50]
TWENTY = {f"w{i:02}": f"group {i:02}" for i in range(20)}

Batch = tuple[np.ndarray, np.ndarray]


def split(flat: Any, like: dict[str, Any]) -> dict[str, Any]:
    """Cuts a vector into arrays of the shapes of `like`."""
    parts, start = {}, 0
    for name, array in like.items():
        parts[name] = flat[start : start + array.size].reshape(array.shape)
        start += array.size
    return parts


def flatten(params: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.ravel(p) for p in params.values()])


def least_squares(params, batch):
    """Half the mean square of the residuals."""
    x, y = batch
    residuals = x @ flatten(params) - y
    grad = x.T @ residuals / len(y)
    return float(np.mean(residuals**2) / 2), split(grad, params)


def below_zero(params, batch):
    """The same, less a constant."""
    value, grads = least_squares(params, batch)
    return value - 6.0, grads


def coarse(params, batch):
    """The same and a hundred, rounded, as a loss in low precision comes."""
    value, grads = least_squares(params, batch)
    return float(np.round(value + 100)), grads


def logistic(params, batch):
    """Mean of ``log(1 + exp(-y z))`` with targets y of 1 and -1."""
    x, y = batch
    margins = y * (x @ flatten(params))
    grad = -x.T @ (y / (1 + np.exp(margins))) / len(y)
    return float(np.mean(np.logaddexp(0, -margins))), split(grad, params)


def network(params, batch):
    """The mean square of what a layer of tanh is off by."""
    x, y = batch
    h = np.tanh(x @ params["w1"] + params["b1"])
    off = h @ params["w2"] + params["b2"] - y
    back = 2 * off / len(y)
    below = np.outer(back, params["w2"]) * (1 - h**2)
    grads = {
        "w1": x.T @ below,
        "b1": below.sum(axis=0),
        "w2": h.T @ back,
        "b2": np.sum(back, keepdims=True),
    }
    return float(np.mean(off**2)), grads


def jax_loss(value_and_grad, params, batch):
    """The same losses in JAX, which finds the gradient."""
    x, y = batch
    if value_and_grad is network:
        h = jnp.tanh(x @ params["w1"] + params["b1"])
        return jnp.mean((h @ params["w2"] + params["b2"] - y) ** 2)
    z = x @ jnp.concatenate([jnp.ravel(p) for p in params.values()])
    if value_and_grad is logistic:
        return jnp.mean(jax.nn.softplus(-y * z))
    value = jnp.mean((z - y) ** 2) / 2
    if value_and_grad is coarse:
        return value + jax.lax.stop_gradient(jnp.round(value + 100) - value)
    return value - 6.0 if value_and_grad is below_zero else value


def regression(num_rows=24, seed=0, num_steps=NUM_STEPS):
    """Params, and noisy mini-batches in whose columns scales differ by 10^4."""
    rng = np.random.default_rng(seed)
    scales = flatten({name: np.full(s, SCALES[name]) for name, s in SHAPES.items()})
    truth = rng.normal(size=len(scales))
    x = rng.normal(size=(num_steps, num_rows, len(scales)))
    y = x @ truth + 0.5 * rng.normal(size=x.shape[:2])
    start = scales * rng.normal(size=len(scales))
    params = split(start, {name: np.empty(s) for name, s in SHAPES.items()})
    return params, x / scales, y


def nonlinear():
    """A small network, and mini-batches of what it can fit but for noise."""
    rng = np.random.default_rng(2)
    params = {
        "w1": rng.normal(size=(2, 5)),
        "b1": np.zeros(5),
        "w2": 0.5 * rng.normal(size=5),
        "b2": np.zeros(1),
    }
    x = rng.normal(size=(NUM_STEPS, 16, 2))
    y = np.sin(2 * x[..., 0]) * x[..., 1] + 0.1 * rng.normal(size=x.shape[:2])
    return params, x, y


def exact():
    """The same mini-batch at every step: no noise."""
    params, x, y = regression()
    return params, np.broadcast_to(x[:1], x.shape), np.broadcast_to(y[:1], y.shape)


def classification():
    """Six separable rows, params of zero, and steps enough to end near zero."""
    params, x, y = regression(num_rows=6, seed=1)
    params = {name: 0 * p for name, p in params.items()}
    x = np.broadcast_to(x[:1], x.shape)
    return params, x, np.sign(np.tile(y[:1], (len(x), 1)))


def many_groups():
    """Twenty groups of one param, of which one is zero and one often unused."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(NUM_STEPS, 32, 20))
    x[::2, :, 7] = 0
    y = np.sum(x, axis=2) + 0.5 * rng.normal(size=x.shape[:2])
    scales = 2.0 ** np.arange(-10, 10)
    params = {
        name: s * rng.normal(size=1) for name, s in zip(TWENTY, scales, strict=True)
    }
    return params | {"w03": np.zeros(1)}, x / scales, y


def late_group():
    """Params of group "second" that are zero till the fourth batch, in few rows."""
    params, x, y = regression()
    params["b"] = np.zeros(SHAPES["b"])
    x[:, :, 3:7] *= np.arange(24)[:, None] % 8 == 0
    x[:3, :, 3:7] = 0
    return params, x, y


def late_start():
    """Nothing has a gradient in the first two batches."""
    params, x, y = regression()
    x[:2] = 0
    return params, x, y


def small_by_chance():
    """Group "second" is zero, and the first residuals hardly depend on its columns."""
    params, x, y = regression()
    params["b"] = np.zeros(SHAPES["b"])
    residuals, rows = y[0] - x[0] @ flatten(params), x[0][:, 3:7]
    y[0] -= (1 - 1e-4) * rows @ np.linalg.lstsq(rows, residuals, rcond=None)[0]
    return params, x, y


def bad_batches():
    """NaN, an outlier, and steps that lead to a high and to an infinite loss.

    What blames a step is a row that the params before it fit, and those after it not.
    """
    params, x, y = regression(num_rows=64)
    y[0] = np.nan
    y[20, 3] = np.nan
    y[45] += 20
    for index, size in ((35, 1e3), (65, 1e160)):
        problem = params, x[:index], y[:index]
        steps = follow_twin(THREE, {}, problem, least_squares)
        before, after = (flatten(step.params) for step in steps[-2:])
        row = after - before
        x[index, 0] = size * row / np.sum(row**2)
        y[index, 0] = x[index, 0] @ before
    return params, x, y


def spoilt_batches():
    """The gradient of three batches is 100 times as large, and so is their loss."""
    params, x, y = regression(num_rows=64)
    x[SPOILT] *= 10
    y[SPOILT] *= 10
    return params, x, y


def follow_twin(labels, options, problem, value_and_grad) -> list[Step]:
    params, x, y = problem
    batches = zip(x, y, strict=True)
    return run(Options(**options), labels, params, batches, value_and_grad)


def follow(labels, options, problem, value_and_grad) -> tuple[Any, ...]:
    """Params, updates, state and loss of all steps of `armijo_adam`."""
    tx = optax_armijo.armijo_adam(labels, **options)

    def step_fn(carry, batch):
        params, state = carry

        def loss_fn(params):
            return jax_loss(value_and_grad, params, batch)

        value, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = tx.update(grads, state, params, value=value, value_fn=loss_fn)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, updates, state, value)

    @jax.jit
    def run_all(params, *batches):
        return jax.lax.scan(step_fn, (params, tx.init(params)), batches)[1]

    return jax.device_get(run_all(*jax.tree.map(jnp.asarray, problem)))


def check(labels, options, problem, value_and_grad, rtol=1e-9) -> list[Step]:
    """Compares all steps, and returns the twin's."""
    steps = follow_twin(labels, options, problem, value_and_grad)
    moved, updates, state, value = follow(labels, options, problem, value_and_grad)
    expected = [step.num_evaluations for step in steps]
    np.testing.assert_array_equal(state.last.num_evaluations, expected)
    for of_jax, of_twin, atol in (
        (value, [step.loss for step in steps], 0),
        (state.step_size, [step.step_sizes for step in steps], 0),
        (state.gradient_size, [step.gradient_size for step in steps], 0),
        (jax.vmap(_fraction)(state.signal), [step.fraction for step in steps], rtol),
    ):
        np.testing.assert_allclose(of_jax, of_twin, rtol=rtol, atol=atol)
    for name in moved:
        for of_jax, of_twin in (
            (moved[name], [step.params[name] for step in steps]),
            (updates[name], [step.updates[name] for step in steps]),
        ):
            # Some of them pass through zero.
            atol = 1e-2 * rtol * np.max(np.abs(of_twin))
            np.testing.assert_allclose(of_jax, of_twin, rtol=rtol, atol=atol)
    return steps


def _fraction(signal):
    return signal.fraction


OTHERS: dict[str, Any] = dict(b1=0.8, b2=0.99, eps=1e-4)
TABLE = [
    ("one group", ONE, {}),
    ("two groups", TWO, {}),
    ("three groups", THREE, {}),
    ("num_steps", TWO, {"num_steps": NUM_STEPS}),
    ("the first half of a long run", TWO, {"num_steps": 2 * NUM_STEPS}),
    ("a run that goes on", TWO, {"num_steps": NUM_STEPS // 2}),
    ("other numbers", TWO, OTHERS),
]
each_row = pytest.mark.parametrize(
    ("labels", "options"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)


@each_row
def test_noisy_regression(labels, options, x64):
    steps = check(labels, options, regression(), least_squares)
    default = follow_twin(labels, {}, regression(), least_squares)
    assert (steps[-1].loss != default[-1].loss) == bool(options)
    assert steps[-1].loss < 0.5 * steps[0].loss
    assert any(0 < step.fraction < 1 for step in steps) and steps[-1].fraction < 1


@pytest.mark.parametrize("num_steps", [None, NUM_STEPS, 2 * NUM_STEPS])
def test_a_small_network(num_steps, x64):
    options = {"num_steps": num_steps}
    steps = check(NETWORK, options, nonlinear(), network, rtol=1e-6)
    losses = [step.loss for step in steps]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


@pytest.mark.parametrize("num_steps", [None, NUM_STEPS, 2 * NUM_STEPS])
def test_without_noise(num_steps, x64):
    steps = check(TWO, {"num_steps": num_steps}, exact(), least_squares, rtol=1e-6)
    assert steps[-1].fraction > 0.9
    assert steps[-1].loss < 0.3 * steps[0].loss


def test_a_loss_that_goes_to_zero(x64):
    steps = check(THREE, {}, classification(), logistic, rtol=1e-6)
    assert steps[-1].loss < 0.05


def test_a_loss_below_zero(x64):
    steps = check(TWO, {}, regression(), below_zero)
    assert steps[0].loss > 0 > steps[-1].loss


def test_a_loss_too_coarse_for_the_first_trials(x64):
    steps = check(THREE, {}, regression(), coarse)
    assert steps[-1].loss < steps[0].loss


def test_twenty_groups(x64):
    steps = check(TWENTY, {}, many_groups(), least_squares)
    assert steps[-1].loss < 0.3 * steps[0].loss


def test_a_group_without_a_first_gradient(x64):
    steps = check(THREE, {}, late_group(), least_squares)
    assert [step.step_sizes[1] > 0 for step in steps[:4]] == [False] * 3 + [True]


def test_where_nothing_descends_there_is_no_first_step(x64):
    steps = check(THREE, {}, late_start(), least_squares)
    assert [step.event for step in steps[:3]] == ["still", "still", "moved"]
    assert [step.num_evaluations > 0 for step in steps[:3]] == [False, False, True]


def test_zeros_whose_first_gradient_is_small_by_chance(x64):
    steps = check(THREE, {}, small_by_chance(), least_squares)
    first = steps[0].step_sizes
    # By the predicted decrease of the others it would be far beyond theirs.
    assert first[1] == max(first[0], first[2])


def test_bad_batches_and_steps_that_are_undone(x64):
    """The loss of batch 45 is high too, but no step is to blame for it."""
    steps = check(THREE, {}, bad_batches(), least_squares)
    events = {i: step.event for i, step in enumerate(steps) if step.event != "moved"}
    assert events == {0: "bad", 20: "bad", 35: "undone", 65: "undone"}
    assert steps[45].num_evaluations > 0 and steps[45].loss > 10 * steps[44].loss
    for i in (35, 65):
        np.testing.assert_allclose(
            flatten(steps[i].params), flatten(steps[i - 2].params), rtol=1e-12
        )


@pytest.mark.parametrize("labels", [ONE, THREE], ids=["one group", "three groups"])
def test_spoilt_batches_are_clipped(labels, x64):
    """From the sixth step on, to twice the average size, or twice 1."""
    steps = check(labels, {}, spoilt_batches(), least_squares)
    assert [i for i, step in enumerate(steps) if step.scale < 1 and i in SPOILT] == [
        30,
        50,
    ]
    for index in SPOILT[1:]:
        before, after = (step.gradient_size for step in steps[index - 1 : index + 1])
        expected = 0.9 * before + 0.1 * 2 * max(before, 1)
        if steps[index].event == "moved":
            np.testing.assert_allclose(after, expected, rtol=1e-12)
        else:  # such a step counts as undone, and the size stays
            assert after == before
