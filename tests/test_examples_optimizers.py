"""The optimizers and groups of parameters that `finetune_bert` offers."""

import finetune_bert
import jax
import numpy as np
import pytest
from bert import BertClassifier
from example_runs import records
from flax import nnx
from test_bert import TINY


def test_adamw_follows_its_schedule(tiny, tmp_path):
    argv = [*tiny, "--optimizer", "adamw", "--learning-rate", "2e-3", "--epochs", "4"]
    finetune_bert.main([*argv, "--output-dir", str(tmp_path)])
    rates = [step["step_size"]["all"] for step in records(tmp_path, "step")]
    assert len(rates) == 12
    assert max(rates) == rates[0] == pytest.approx(2e-3)
    assert sorted(rates, reverse=True) == rates
    assert 0.0 < rates[-1] < 1e-4


def test_average_changes_what_is_validated_and_no_step(tiny, tmp_path):
    runs = {}
    for flags in ([], ["--average"]):
        folder = tmp_path / ("averaged" if flags else "last")
        argv = [*tiny, *flags, "--epochs", "2", "--output-dir", str(folder)]
        finetune_bert.main(argv)
        losses = [step["loss"] for step in records(folder, "step")]
        runs[bool(flags)] = losses, records(folder, "epoch")[-1]["log_loss"]
    (losses, last), (same_losses, averaged) = runs[False], runs[True]
    np.testing.assert_allclose(same_losses, losses, rtol=1e-5)
    assert abs(averaged - last) > 1e-6


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
    found = finetune_bert.GROUPS[groups](params)
    assert set(jax.tree.leaves(found)) == labels
