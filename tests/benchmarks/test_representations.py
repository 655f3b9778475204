"""Representations of pictures, digits, nodes of a graph, and customers."""

import jax
import numpy as np
import pytest
from flax import nnx
from representations import (
    CLASSES,
    CODE,
    NUM_LABELLED,
    NUM_NODES,
    NUM_OTHERS,
    NUM_PAIRS,
    Pairing,
    communities,
    divergence,
)
from scipy.stats import norm
from tasks import make_task


def test_divergence_is_the_mean_log_ratio_of_densities():
    mean, log_scale = np.array([[0.5, -1.0]]), np.array([[0.3, -0.4]])
    rng = np.random.default_rng(0)
    x = mean + np.exp(log_scale) * rng.normal(size=(200_000, 2))
    ratio = norm.logpdf(x, mean, np.exp(log_scale)) - norm.logpdf(x)
    expected = np.mean(np.sum(ratio, axis=1))
    assert float(divergence(mean, log_scale)[0]) == pytest.approx(expected, rel=0.01)


def test_digits_come_with_fresh_noise_in_each_epoch():
    task = make_task("variational-digits")
    first, other = (next(task.batches(0, epoch)) for epoch in (0, 1))
    assert first.labels.shape == (32, CODE)
    assert not np.any(first.labels == other.labels)


def test_edges_are_normalized_and_link_classes():
    edges, features, classes = communities()
    np.testing.assert_array_equal(edges, edges.T)
    # The largest eigenvalue of D^-1/2 A D^-1/2 with loops is 1.
    assert np.max(np.linalg.eigvalsh(edges)) == pytest.approx(1, abs=1e-5)
    is_same, is_link = classes[:, None] == classes, edges > 0
    assert np.mean(is_link[is_same]) > 3 * np.mean(is_link[~is_same])
    assert features.shape[0] == NUM_NODES and len(np.unique(classes)) == CLASSES


def test_nodes_are_labelled_or_validated():
    task = make_task("graph")
    batches = [*task.batches(0, 0)]
    assert len(batches) == task.steps_per_epoch
    assert len(np.unique(batches[0].inputs)) == NUM_LABELLED
    params = jax.tree.map(np.zeros_like, task.init(0))
    assert task.evaluate(params)["loss"] == pytest.approx(np.log(CLASSES), rel=1e-5)


def test_a_place_has_its_colour():
    task = make_task("picture-china")
    batch = next(task.batches(0, 0))
    assert batch.inputs.shape == (64, 2) and batch.labels.shape == (64, 3)
    assert 0 <= batch.labels.min() and batch.labels.max() <= 1


def test_views_are_told_apart_among_those_of_their_batch():
    task, pair = make_task("contrastive-digits"), Pairing(nnx.Rngs(0))
    batch = next(task.batches(0, 0))
    assert batch.inputs.shape == batch.labels.shape == (NUM_PAIRS, 64)
    x, y = (np.asarray(pair.encoder(z)) for z in batch)
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    right, left = (
        np.mean(np.log(np.exp(z).sum(axis=1)) - np.diag(z)) for z in (x @ y.T, y @ x.T)
    )
    found = float(task.loss_fn(nnx.state(pair), batch, jax.random.key(0)))
    assert found == pytest.approx((right + left) / 2, rel=1e-4)


def test_what_a_batch_does_not_name_has_no_gradient():
    task = make_task("purchases")
    batch, params = next(task.batches(0, 0)), task.init(0)
    assert batch.labels.shape == (64, 1 + NUM_OTHERS)
    grads = jax.grad(task.loss_fn)(params, batch, jax.random.key(0))
    moved = np.flatnonzero(np.any(np.asarray(grads["customers"]) != 0, axis=1))
    np.testing.assert_array_equal(moved, np.unique(batch.inputs))
    guess = jax.tree.map(np.zeros_like, params)
    assert task.evaluate(guess)["score"] == pytest.approx(0, abs=1e-4)
