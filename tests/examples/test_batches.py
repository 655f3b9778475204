"""The examples' batches, and scores averaged over them; the doctests of modules."""

import doctest

import batches
import bert
import display
import fit_bundle
import jax
import numpy as np
import pytest
import trial_report
from bert import BertClassifier
from flax import nnx
from tiny_bert import TINY
from training import evaluate


def encoded(lengths: list[int]) -> list[batches.Encoded]:
    return [
        batches.Encoded(
            np.full(length, 5 + i % 9, np.int32), np.zeros(length, np.int32), i % 2
        )
        for i, length in enumerate(lengths)
    ]


def test_few_shapes_and_every_row_once_an_epoch():
    lengths = np.random.default_rng(0).integers(1, 129, 200).tolist()
    seen = list(batches.train_batches(encoded(lengths), 7, 128, seed=0, epoch=0))
    assert len({batch.input_ids.shape for batch in seen}) <= 3
    real = [batch.attention_mask[batch.weights > 0].sum(axis=1) for batch in seen]
    assert sorted(np.concatenate(real)) == sorted(lengths)


def test_length_is_the_least_that_fits():
    (batch,) = batches.eval_batches(encoded([33, 5]), 2, 128)
    assert batch.input_ids.shape == (2, 64)
    (batch,) = batches.eval_batches(encoded([33, 5]), 2, 48)
    assert batch.input_ids.shape == (2, 48)
    assert len(jax.tree.leaves(batch)) == 5, "it is a pytree"


def test_order_comes_from_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[int]:
        rows = encoded(list(range(1, 30)))
        every = batches.train_batches(rows, 4, 64, seed, epoch)
        return [int(n) for batch in every for n in batch.attention_mask.sum(axis=1)]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2) != order(1, 2)


def test_rows_that_fill_up_a_batch_do_not_count():
    model = nnx.split(BertClassifier(TINY, 2, nnx.Rngs(0)), nnx.Param)
    rows = encoded([3, 9, 17, 4, 22])
    one, four = (evaluate(*model, batches.eval_batches(rows, n, 32)) for n in (1, 4))
    assert four["accuracy"] == one["accuracy"]
    assert four == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize("module", [bert, display, fit_bundle, trial_report])
def test_doctests_of_the_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
