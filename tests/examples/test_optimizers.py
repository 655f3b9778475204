"""The optimizers and groups of parameters that `finetune_bert` offers."""

import finetune_bert
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bert import BertClassifier
from flax import nnx
from rivals import adamw, lora_plus, warm_up_and_cosine
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


def test_lora_plus_is_adamw_at_two_rates():
    kernel, bias = jnp.ones((4, 3)), jnp.ones(3)
    params = {
        "query": {"lora_a": jnp.ones((4, 2)), "lora_b": jnp.ones((2, 4))},
        "head": {"kernel": kernel, "bias": bias},
    }
    labels = {
        "query": {"lora_a": "A", "lora_b": "B"},
        "head": {"kernel": "A", "bias": "B"},
    }
    rates = {"A": 2e-4, "B": 16 * 2e-4}
    two: dict = {k: adamw(warm_up_and_cosine(rate, 20)) for k, rate in rates.items()}
    assert_same_steps(lora_plus(2e-4, 20), optax.partition(two, labels), params)


def assert_same_steps(a, b, params) -> None:
    """Two optimizers move params alike; unknown arguments of `update` are allowed."""
    states, moved = [a.init(params), b.init(params)], [params, params]
    update = [jax.jit(tx.update) for tx in (a, b)]
    for _ in range(3):
        for i in range(2):
            grads = jax.tree.map(lambda p: p**2 - 2.0, moved[i])
            more = {"value": jnp.ones(())} if i == 0 else {}
            updates, states[i] = update[i](grads, states[i], moved[i], **more)
            moved[i] = optax.apply_updates(moved[i], updates)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), *moved)
