"""Models of distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from densities import Flow, friedman_rows, places, true_losses
from flax import nnx
from scipy.stats import multivariate_normal
from tasks import make_task


def test_a_flow_has_a_density():
    """It sums to 1 over the plane, as the true one does."""
    side = np.linspace(-8, 8, 401)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    model, cell = Flow(nnx.Rngs(0)), (side[1] - side[0]) ** 2
    for losses in (model(jnp.asarray(grid, jnp.float32)), true_losses(grid)):
        total = np.sum(np.exp(-np.asarray(losses))) * cell
        assert total == pytest.approx(1, abs=1e-3)


def test_the_score_of_a_flow_is_counted_from_the_truth():
    task, rows = make_task("flow"), places().at(slice(2000))
    params = task.init(0)
    loss = float(task.loss_fn(params, rows, jax.random.key(0)))
    found = task.evaluate(params)["loss"]
    assert found == pytest.approx(loss - np.mean(true_losses(rows.inputs)), rel=1e-4)


def test_digits_are_mixed_with_noise_that_is_new_in_each_step():
    task = make_task("denoising-digits")
    first, other = (next(task.batches(0, epoch)) for epoch in (0, 1))
    assert first.inputs.shape == (64, 64 + 16) and first.labels.shape == (64, 64)
    assert not np.any(first.labels == other.labels)
    # The first wave tells the share: the variances of both parts sum to 1.
    share = np.arccos(first.inputs[:, 64]) / np.pi
    digit = first.inputs[:, :64] - np.sin(np.pi / 2 * share)[:, None] * first.labels
    digit /= np.cos(np.pi / 2 * share)[:, None]
    is_clear = share < 0.9
    assert np.abs(digit[is_clear]).max() < 1.01


def test_a_process_is_scored_by_the_densities_of_other_rows():
    """The loss is that of a joint normal distribution of all rows."""
    task, (pool, validation, least) = make_task("process"), friedman_rows()
    params = {k: np.asarray(v, float) for k, v in task.init(0).items()}
    x = np.concatenate([pool.inputs, validation.inputs]).astype(float)
    apart = (x[:, None] - x) / np.exp(params["log_scales"])
    signal = np.exp(2 * params["log_amplitude"] - np.sum(apart**2, axis=2) / 2)
    noise = np.exp(2 * params["log_noise"]) + 1e-4
    n, constant = len(pool.labels), np.log(2 * np.pi) / 2
    covariance = signal[:n, :n] + noise * np.eye(n)
    joint = multivariate_normal.logpdf(pool.labels, np.zeros(n), covariance)
    batch = next(task.batches(0, 0))
    found = float(task.loss_fn(task.init(0), batch, jax.random.key(0)))
    assert found == pytest.approx(-joint / n - constant, rel=1e-3)

    gain = np.linalg.solve(covariance, signal[:n, n:])
    mean = pool.labels @ gain
    variance = np.diag(signal)[n:] + noise - np.sum(signal[:n, n:] * gain, axis=0)
    squares = (validation.labels - mean) ** 2 / variance
    expected = np.mean(squares + np.log(variance)) / 2 - least
    assert task.evaluate(task.init(0))["loss"] == pytest.approx(expected, rel=1e-3)
