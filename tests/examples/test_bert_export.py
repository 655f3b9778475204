"""The train step of the examples' BERT, exported on a CPU machine for accelerators."""

import jax
import numpy as np
import pytest
from batches import Batch
from bert import BertClassifier
from exports import assert_for_accelerators, exported
from flax import nnx
from training import mean_loss
from transformers import BertConfig

from optax_armijo import armijo_adam, make_train_step

pytestmark = pytest.mark.slow

ROWS, LENGTH, CLASSES = 32, 64, 3
# MiniLM's sizes; no weight of them is ever made.
CONFIG = BertConfig(
    hidden_size=384,
    intermediate_size=1536,
    num_attention_heads=12,
    num_hidden_layers=6,
)


def empty_batch():
    ids = np.zeros((ROWS, LENGTH), np.int32)
    return Batch(
        input_ids=ids,
        attention_mask=ids,
        token_type_ids=ids,
        labels=np.zeros(ROWS, np.int32),
        weights=np.zeros(ROWS, np.float32),
    )


def test_the_step_of_berts_fine_tuning_is_exported_for_accelerators():
    model = nnx.eval_shape(lambda: BertClassifier(CONFIG, CLASSES, nnx.Rngs(0)))
    graphdef, params = nnx.split(model, nnx.Param)
    tx = armijo_adam()
    step = make_train_step(
        lambda params, *batch: mean_loss(nnx.merge(graphdef, params), *batch), tx
    )
    state = params, jax.eval_shape(tx.init, params)
    key = jax.eval_shape(lambda: jax.random.key(0))
    result = exported(step, *state, empty_batch(), key)
    assert_for_accelerators(result, num_loops=1)
