"""Regressions by other losses than squares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from other_losses import (
    LEVELS,
    NUM_ROWS,
    cox_loss,
    exposed,
    half_deviance,
    normal_loss,
    normal_rows,
    pairwise_hinge,
    patients,
    quantile_loss,
    queries,
    spread,
)
from scipy.stats import norm, poisson
from tasks import make_task


def test_counts_are_scored_by_the_deviance_of_poisson():
    """Half of it is the likelihoods' log ratio; a constant rate scores 0 dB."""
    log_rate, labels = np.array([-1.0, 0.5, 2.0]), np.array([[0, 3], [4, 2], [70, 10]])
    mean = labels[:, 1] * np.exp(log_rate)
    ratio = poisson.logpmf(labels[:, 0], labels[:, 0]) - poisson.logpmf(
        labels[:, 0], mean
    )
    found = half_deviance(log_rate, labels)
    assert float(found) == pytest.approx(np.mean(ratio), rel=1e-5)
    task = make_task("event-counts")
    params = jax.tree.map(jnp.zeros_like, task.init(0))
    counts, exposure = exposed().labels[: NUM_ROWS // 4].T
    params["last"]["bias"] = jnp.full(1, np.log(counts.sum() / exposure.sum()))
    assert task.evaluate(params)["score"] == pytest.approx(0, abs=1e-4)


def test_quantiles_of_a_sample_minimize_their_loss():
    """And score 0 dB, since they are the constant that outputs are compared with."""
    labels = spread().labels[: NUM_ROWS // 4]
    best = np.tile(np.quantile(labels[:, 0], LEVELS), (len(labels), 1))
    for i in range(3):
        for off in (-0.1, 0.1):
            other = best + off * (np.arange(3) == i)
            assert quantile_loss(other, labels) > quantile_loss(best, labels)
    task = make_task("quantiles")
    params = jax.tree.map(jnp.zeros_like, task.init(0))
    params["last"]["bias"] = jnp.asarray(best[0], jnp.float32)
    assert task.evaluate(params)["score"] == pytest.approx(0, abs=1e-4)


def test_the_likelihood_of_cox_is_that_of_who_dies_next():
    labels = patients().labels[:30]
    log_hazard = np.random.default_rng(0).normal(size=30)
    found, deaths = 0.0, np.flatnonzero(labels[:, 1])
    for i in deaths:
        at_risk = labels[:, 0] >= labels[i, 0]
        found += np.log(np.sum(np.exp(log_hazard[at_risk]))) - log_hazard[i]
    assert 5 < len(deaths) < 30
    expected = found / len(deaths)
    assert float(cox_loss(log_hazard, labels)) == pytest.approx(expected, rel=1e-5)


def test_a_normal_distribution_is_scored_by_how_likely_the_truth_is():
    """The best constant scores 0 dB, and the truth is the least loss."""
    y, mean, log_deviation = normal_rows().labels[: NUM_ROWS // 4].T
    expected = -norm.logpdf(y, mean, np.exp(log_deviation)) - np.log(2 * np.pi) / 2
    truth = np.stack([mean, log_deviation], axis=1)
    least = float(normal_loss(truth, y[:, None]))
    assert least == pytest.approx(np.mean(expected), rel=1e-4) and least < 0
    task = make_task("normal")
    params = jax.tree.map(jnp.zeros_like, task.init(0))
    constant = [np.mean(y), np.log(np.std(y))]
    params["last"]["bias"] = jnp.asarray(constant, jnp.float32)
    found = task.evaluate(params)
    assert found["score"] == pytest.approx(0, abs=1e-4)
    above = float(normal_loss(np.array([constant]), y[:, None])) - least
    assert found["loss"] == pytest.approx(above, rel=1e-4)


def test_documents_are_ordered_in_pairs_of_a_query():
    rows = queries().at(slice(3))
    scores = np.random.default_rng(0).normal(size=rows.labels.shape)
    losses = [
        max(0, 1 - scores[query, i] + scores[query, j])
        for query, grades in enumerate(rows.labels)
        for i, j in np.argwhere(grades[:, None] > grades)
    ]
    found = float(pairwise_hinge(scores, rows.labels))
    assert found == pytest.approx(np.mean(losses), rel=1e-5)
    batch = next(make_task("ranking").batches(0, 0))
    assert batch.inputs.shape == (8, 10, 12) and batch.labels.shape == (8, 10)
