"""The optimizers and groups of parameters that `finetune_bert` offers."""

from typing import Any

import finetune_bert
import jax
import jax.numpy as jnp
import numpy as np
import optimizers
import pytest
import settings
from bert import BertClassifier
from example_runs import records
from flax import nnx
from test_bert import TINY


def test_adamw_follows_its_schedule(tiny, tmp_path):
    argv = [*tiny, "--optimizer", "adamw", "--learning-rate", "2e-3", "--epochs", "4"]
    assert finetune_bert.main([*argv, "--output-dir", str(tmp_path)]) == 0
    rates = [step["step_size"]["all"] for step in records(tmp_path, "step")]
    assert len(rates) == 12
    assert rates[0] == pytest.approx(2e-3)
    assert rates[:1] + sorted(rates[1:], reverse=True) == rates
    assert 0.0 < rates[-1] < 1e-4


def test_average_changes_what_is_validated_and_no_step(tiny, tmp_path):
    runs = {}
    for flags in ([], ["--average"]):
        folder = tmp_path / ("averaged" if flags else "last")
        argv = [*tiny, *flags, "--epochs", "2", "--output-dir", str(folder)]
        assert finetune_bert.main(argv) == 0
        losses = [step["loss"] for step in records(folder, "step")]
        runs[bool(flags)] = losses, records(folder, "epoch")[-1]["log_loss"]
    (losses, last), (same_losses, averaged) = runs[False], runs[True]
    np.testing.assert_allclose(same_losses, losses, rtol=1e-5)
    assert abs(averaged - last) > 1e-6


def test_armijo_adamw_decays_matrices_alone():
    argv = ["--optimizer", "armijo_adamw", "--groups", "one", "--weight-decay", "0.5"]
    optimizer = optimizers.make_optimizer(settings.parse_settings(argv), num_steps=1)
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}

    def loss(params: Any) -> jax.Array:
        return (params["w"][0] ** 2).sum() + (params["b"][0] ** 2).sum()

    value, grads = jax.value_and_grad(loss)(params)
    state = optimizer.transform.init(params)
    updates: Any  # optax's type for a tree has no items
    updates, state = optimizer.transform.update(
        grads, state, params, value=value, value_fn=loss
    )
    facts = optimizers.step_facts(optimizer, state, 0)
    size = facts["applied_step_size"]["all"]
    assert size > 0.0 and facts["num_evaluations"] >= 1
    np.testing.assert_allclose(updates["w"][1], -0.5 * size, rtol=1e-5)
    np.testing.assert_array_equal(updates["b"][1], 0.0)


@pytest.mark.parametrize(
    ("groups", "labels"),
    [
        ("layer", {"embeddings", "layer_0", "layer_1", "output"}),
        ("one", {"all"}),
        ("depth", {"embeddings", "depth_0", "depth_1", "output"}),
        ("attention", {"query", "key", "value", "rest"}),
    ],
)
def test_groups_of_bert(groups, labels):
    params = nnx.state(BertClassifier(TINY, 2, nnx.Rngs(0)), nnx.Param)
    found = optimizers.LABEL_FUNCTIONS[groups](params)
    assert set(jax.tree.leaves(found)) == labels
