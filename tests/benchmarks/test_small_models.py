"""Small models: of tables, words, sequences, ratings; an autoencoder."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import (
    NUM_ITEMS,
    NUM_RATINGS,
    NUM_WORDS,
    TABLES,
    RadialBasis,
    lookups,
    marked_sequences,
    rated,
    split,
)
from tasks import FAMILIES, TASKS, make_task
from text_data import BBC, TWEETS
from wheels import need_wheel

SMALL = [
    name
    for name, (family, *_) in TASKS.items()
    if FAMILIES[family].module == "small_models"
]


@pytest.mark.parametrize("name", SMALL)
def test_an_epoch_has_other_rows_in_an_order_of_its_own(name):
    if name.startswith("word-counts"):
        need_wheel(TWEETS if name.endswith("tweets") else BBC)
    task = make_task(name)
    first, again, other = ([*task.batches(0, epoch)] for epoch in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert len(first) == task.steps_per_epoch
    rows = np.concatenate([batch.inputs for batch in first])
    assert not np.array_equal(rows, np.concatenate([x.inputs for x in other]))
    assert task.evaluate(task.init(0))["loss"] > 0


@pytest.mark.parametrize("name", TABLES)
def test_columns_are_standardized_and_rows_are_apart(name):
    load, num_validation = TABLES[name]
    data: Any = load()
    pool, validation = split(data.data, data.target, num_validation)
    assert len(validation.labels) == num_validation
    columns = np.concatenate([pool.inputs, validation.inputs])
    np.testing.assert_allclose(columns.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(columns.std(axis=0), 1, rtol=1e-5)
    assert len(np.unique(columns, axis=0)) == len(data.data)


def test_ratings_can_be_told_but_for_their_noise():
    """Means of users and of items explain a part; rare items are rated rarely."""
    pairs, ratings = rated()
    assert pairs.shape == (NUM_RATINGS, 2) and ratings.shape == (NUM_RATINGS, 1)
    counts = np.bincount(pairs[:, 1], minlength=NUM_ITEMS)
    assert counts[0] > 1000 and np.median(counts) < 50
    left = ratings[:, 0] - ratings.mean()
    for column in pairs.T:
        sums = np.bincount(column, left)
        left = left - (sums / np.maximum(np.bincount(column), 1))[column]
    assert 0.5**2 < left.var() < ratings.var()


def test_a_sequence_has_two_marks_and_the_sum_of_their_numbers():
    inputs, sums = marked_sequences()
    numbers, marks = inputs[..., 0], inputs[..., 1]
    assert set(np.unique(marks)) == {0, 1} and np.all(marks.sum(axis=1) == 2)
    assert marks.mean(axis=0).min() > 0.15  # any place may be marked
    marked = numbers[marks == 1].reshape(-1, 2)
    np.testing.assert_allclose(marked.sum(axis=1), sums[:, 0], rtol=1e-5)


def test_a_radial_basis_is_its_weight_at_a_centre_and_less_around_it():
    params = RadialBasis(np.array([[1.0, 2.0]]), np.array([0.5]), np.array([3.0]), 0.25)
    x = np.array([[1.0, 2.0], [1.0, 2.0 + np.exp(0.5)]])
    expected = [[3.25], [0.25 + 3 * np.exp(-0.5)]]
    np.testing.assert_allclose(params(jnp.asarray(x)), expected, rtol=1e-6)


def test_words_are_counted_in_rows_of_unit_length():
    need_wheel(BBC)
    batch = next(make_task("word-counts").batches(0, 0))
    assert batch.inputs.shape == (32, NUM_WORDS) and batch.inputs.min() == 0
    np.testing.assert_allclose(np.linalg.norm(batch.inputs, axis=1), 1, rtol=1e-5)


def test_a_query_is_nearest_to_the_key_whose_value_is_asked_for():
    rows = lookups()
    queries, keys = rows.inputs[:, :1, :-1], rows.inputs[:, 1:, :-1]
    nearest = np.argmin(np.sum((keys - queries) ** 2, axis=2), axis=1)
    values = rows.inputs[np.arange(len(nearest)), 1 + nearest, -1]
    assert np.mean(np.isclose(values**2, rows.labels[:, 0], atol=1e-6)) > 0.999
