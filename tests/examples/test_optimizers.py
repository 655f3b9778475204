"""The optimizers and groups of parameters that `finetune_bert` offers."""

import finetune_bert
import jax
import pytest
from bert import BertClassifier
from flax import nnx
from tiny_bert import TINY


def test_adamw_warms_up_and_comes_down():
    argv = ["--optimizer", "adamw", "--learning-rate", "2e-3"]
    options = finetune_bert.options_of(argv)
    for num_steps, warmup in ((12, 1), (80, 8)):
        _, schedule = finetune_bert.make_optimizer(options, num_steps)
        rates = [float(schedule(i)) for i in range(num_steps)]
        assert max(rates) == rates[warmup - 1] == pytest.approx(2e-3)
        assert sorted(rates[:warmup]) == rates[:warmup]
        assert sorted(rates[warmup:], reverse=True) == rates[warmup:]
        assert 0.0 < rates[-1] < 1e-4 and rates[0] > 0.0


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
