"""`armijo_adam` step by step against a NumPy twin written from its docstring.

Both run in float64. At every step losses, updates, step sizes and params must agree
to 1e-9, and the number of evaluations must be equal.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference_backtracking import Options, Step, run

import optax_armijo
from optax_armijo import Backtracking

NUM_STEPS = 80
SHAPES = {"a": (3,), "b": (2, 2), "c": (4,), "d": (1,)}
SCALES = {"a": 1.0, "b": 100.0, "c": 0.01, "d": 3.0}
THREE = {"a": "first", "b": "second", "c": "third", "d": "third"}
TWO = {"a": "first", "b": "second", "c": "second", "d": "first"}
ONE = dict.fromkeys(SHAPES, "all")
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


def hardly_below_zero(params, batch):
    value, grads = least_squares(params, batch)
    return value - 3.5, grads


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


def jax_loss(value_and_grad, params, batch):
    """The same losses in JAX, which finds the gradient."""
    x, y = batch
    z = x @ jnp.concatenate([jnp.ravel(p) for p in params.values()])
    if value_and_grad is least_squares:
        return jnp.mean((z - y) ** 2) / 2
    if value_and_grad is coarse:
        value = jnp.mean((z - y) ** 2) / 2
        return value + jax.lax.stop_gradient(jnp.round(value + 100) - value)
    if value_and_grad is below_zero:
        return jnp.mean((z - y) ** 2) / 2 - 6.0
    if value_and_grad is hardly_below_zero:
        return jnp.mean((z - y) ** 2) / 2 - 3.5
    return jnp.mean(jax.nn.softplus(-y * z))


def regression(num_rows=24, seed=0):
    """Params, and noisy mini-batches in whose columns scales differ by 10^4."""
    rng = np.random.default_rng(seed)
    scales = flatten({name: np.full(s, SCALES[name]) for name, s in SHAPES.items()})
    truth = rng.normal(size=len(scales))
    x = rng.normal(size=(NUM_STEPS, num_rows, len(scales)))
    y = x @ truth + 0.5 * rng.normal(size=x.shape[:2])
    start = scales * rng.normal(size=len(scales))
    params = split(start, {name: np.empty(s) for name, s in SHAPES.items()})
    return params, x / scales, y


def classification():
    """Six separable rows, params of zero, and steps enough to end near zero."""
    params, x, y = regression(num_rows=6, seed=1)
    params = {name: 0 * p for name, p in params.items()}
    num_steps = 3 * len(x)
    x = np.broadcast_to(x[:1], (num_steps, *x.shape[1:]))
    return params, x, np.sign(np.tile(y[:1], (num_steps, 1)))


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
    """Params of group "second" that first matter in the fourth batch, in few rows."""
    params, x, y = regression()
    x[:, :, 3:7] *= np.arange(24)[:, None] % 8 == 0
    x[:3, :, 3:7] = 0
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
    y[45] += 4
    for index, size in ((35, 1e2), (65, 1e160)):
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
    adam = {name: options[name] for name in ("b1", "b2", "eps") if name in options}
    search = {name: options[name] for name in options if name not in adam}
    tx = optax_armijo.armijo_adam(labels, linesearch=Backtracking(**search), **adam)

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


def check(labels, options, problem, value_and_grad) -> list[Step]:
    """Compares all steps, and returns the twin's."""
    steps = follow_twin(labels, options, problem, value_and_grad)
    moved, updates, state, value = follow(labels, options, problem, value_and_grad)
    expected = [step.num_evaluations for step in steps]
    np.testing.assert_array_equal(state.last.num_evaluations, expected)
    for of_jax, of_twin in (
        (value, [step.loss for step in steps]),
        (state.factor, [step.factor for step in steps]),
        (state.group_step_size, [step.step_sizes for step in steps]),
        (state.gradient_size, [step.gradient_size for step in steps]),
    ):
        np.testing.assert_allclose(of_jax, of_twin, rtol=1e-9, atol=0)
    for name in moved:
        for of_jax, of_twin in (
            (moved[name], [step.params[name] for step in steps]),
            (updates[name], [step.updates[name] for step in steps]),
        ):
            # Some of them pass through zero.
            atol = 1e-11 * np.max(np.abs(of_twin))
            np.testing.assert_allclose(of_jax, of_twin, rtol=1e-9, atol=atol)
    return steps


OTHERS: dict[str, Any] = dict(
    c=0.3,
    group_c=0.4,
    decrease_factor=0.5,
    search_growth=1.5,
    max_trials=5,
    b1=0.8,
    b2=0.99,
    eps=1e-4,
)
TABLE = [
    ("one group", ONE, {}),
    ("three groups", THREE, {}),
    ("no loss_fraction", TWO, {"loss_fraction": None}),
    ("rare tests", TWO, {"loss_fraction": None, "search_growth": 9.0}),
    ("max_step_size", THREE, {"max_step_size": 0.05}),
    ("other numbers", TWO, OTHERS),
]


@pytest.mark.parametrize(
    ("labels", "options"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_noisy_regression(labels, options, x64):
    steps = check(labels, options, regression(), least_squares)
    default = follow_twin(labels, {}, regression(), least_squares)
    assert (steps[-1].loss != default[-1].loss) == bool(options)
    assert steps[-1].loss < steps[0].loss


def test_a_loss_that_goes_to_zero(x64):
    steps = check(THREE, {}, classification(), logistic)
    unlimited = {"loss_fraction": None}
    others = follow_twin(THREE, unlimited, classification(), logistic)
    assert steps[-1].loss < 1e-3
    assert steps[-1].factor < 0.9 * others[-1].factor


def test_a_loss_below_zero(x64):
    steps = check(TWO, {}, regression(), below_zero)
    assert steps[0].loss > 0 > steps[-1].loss


def test_a_loss_that_goes_on_below_zero_by_itself(x64):
    """The bound shortens steps as if zero were the end, until a trial is below it."""
    params, x, y = regression()
    batch = params, np.broadcast_to(x[:1], x.shape), np.broadcast_to(y[:1], y.shape)
    steps = check(ONE, {"loss_fraction": 0.1}, batch, hardly_below_zero)
    losses = np.array([step.loss for step in steps])
    assert np.sum((losses > 0) & (losses < 0.1)) > 8 and losses[-1] < 0


def test_a_loss_too_coarse_for_the_first_trials(x64):
    steps = check(THREE, {}, regression(), coarse)
    exact = follow_twin(THREE, {}, regression(), least_squares)
    # Without the allowance for noise the bracket would fall to where nothing moves.
    assert np.all(steps[0].step_sizes >= exact[0].step_sizes / 4)
    assert steps[-1].loss < steps[0].loss


def test_twenty_groups(x64):
    steps = check(TWENTY, {"loss_fraction": 0.1}, many_groups(), least_squares)
    assert steps[-1].loss < 0.1 * steps[0].loss


def test_a_group_without_a_first_gradient(x64):
    steps = check(THREE, {}, late_group(), least_squares)
    assert [step.step_sizes[1] > 0 for step in steps[:4]] == [False] * 3 + [True]


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
    assert steps[45].num_evaluations > 0


@pytest.mark.parametrize("labels", [ONE, THREE], ids=["one group", "three groups"])
def test_spoilt_batches_are_clipped(labels, x64):
    """From the sixth step on, to twice the average size, or twice 1."""
    steps = check(labels, {}, spoilt_batches(), least_squares)
    assert {step.event for step in steps} == {"moved"}
    first, *others = SPOILT
    assert steps[first].gradient_size > 5 * steps[first - 1].gradient_size
    for index in others:
        before, after = (step.gradient_size for step in steps[index - 1 : index + 1])
        expected = 0.9 * before + 0.1 * 2 * max(before, 1)
        np.testing.assert_allclose(after, expected, rtol=1e-12)
