"""The examples' batches."""

import batches
import jax
import numpy as np
import pytest
from bert import BertClassifier
from flax import nnx
from test_bert import TINY
from training import TrainState, evaluate, make_eval_step


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


def test_order_comes_from_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[int]:
        rows = encoded(list(range(1, 30)))
        every = batches.train_batches(rows, 4, 64, seed, epoch)
        return [int(n) for batch in every for n in batch.attention_mask.sum(axis=1)]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2) != order(1, 2)


@pytest.mark.parametrize("batch_size", [4, 7])
def test_rows_that_fill_up_a_batch_do_not_count(batch_size):
    graphdef, params = nnx.split(BertClassifier(TINY, 2, nnx.Rngs(0)), nnx.Param)
    rows, step = encoded([3, 9, 17, 4, 22]), make_eval_step(graphdef)
    one = evaluate(step, params, batches.eval_batches(rows, 1, 32))
    some = evaluate(step, params, batches.eval_batches(rows, batch_size, 32))
    assert some.accuracy == one.accuracy
    assert some.log_loss == pytest.approx(one.log_loss, rel=1e-5)


def test_batch_is_a_pytree_and_so_is_the_state():
    (batch,) = batches.eval_batches(encoded([3]), 1, 32)
    assert len(jax.tree.leaves(TrainState(batch, batch))) == 10
