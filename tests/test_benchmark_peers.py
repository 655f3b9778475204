"""The benchmark beside PyTorch: what needs no PyTorch, and PLASLS where that is."""

import json

import cost_tables
import jax
import numpy as np
import peer_jax
import peers
import pytest
from bert import BertClassifier
from flax import nnx
from peer_figures import Record, at, figures, in_adams_steps
from peer_groups import by_layer, turn
from peer_process import Step
from peer_weights import from_weights, to_weights
from published_problem import NAMES, PARAMS, RECORD, numpy_problems
from transformers import BertConfig

EPOCH = 4


def record(ratio: float, num_steps: int = 12) -> Record:
    """Steps of `ratio` times the pace of a machine that slows; losses fall by 1."""
    paces = [1.0] * EPOCH + [2.0] * (num_steps - EPOCH)
    steps = [Step(100.0 - i, i % 3, ratio * pace) for i, pace in enumerate(paces)]
    peak = int(ratio * 100e6)
    return Record(
        steps, 1.0, peak, 70_000_000, 60_000_000, {"accuracy": 0.5, "log_loss": 1.0}
    )


@pytest.fixture(scope="module")
def result():
    adam, method = record(1.0), record(2.0)
    rows = [
        {"method": name, "framework": "JAX", **figures(x, adam, EPOCH)}
        for name, x in {"optax.adam": adam, "twice": method}.items()
    ]
    versions = dict.fromkeys(("jax", "python", "torch", "SaLSA-Optimizer"), "1")
    made = {"device": "cpu", "commit": "abc", "versions": versions}
    return {
        "task": "toy",
        "epoch": EPOCH,
        "settings": {"steps": 12},
        **made,
        "rows": rows,
    }


def test_a_machine_that_slows_down_slows_the_unit_down_as_well():
    adam, method = record(1.0), record(2.0)
    assert in_adams_steps(adam.seconds, adam.seconds, EPOCH) == list(range(1, 13))
    ends = in_adams_steps(method.seconds, adam.seconds, EPOCH)
    assert ends == list(range(2, 26, 2))


def test_at_equal_time_a_step_twice_as_long_is_made_half_as_often(result):
    adam, twice = result["rows"]
    assert twice["mean_ratio"] == twice["median_ratio"] == 2
    assert adam["equal_time_loss"] == adam["train_loss"] == 100 - (8 + 9 + 10 + 11) / 4
    assert twice["equal_time_loss"] == 100 - (2 + 3 + 4 + 5) / 4
    assert at(99.0, [1.0, 2.0], [5.0, 4.0]) == 4.0


def test_evaluations_are_counted_over_all_steps(result):
    row = result["rows"][1]
    assert row["evaluations"] == 1 and row["most_evaluations"] == 2


def test_a_method_brings_its_frameworks_adam_along():
    assert peers.with_their_adams(["plasls"]) == [
        ("peer_jax", "optax.adam"),
        ("peer_jax", "plasls"),
    ]
    assert peers.METHODS["peer_jax"] == tuple(peer_jax.METHODS)


def test_methods_that_begin_from_different_losses_are_refused():
    peers.check_same_start({"a": 1.0, "b": 1.00005})
    with pytest.raises(ValueError, match="a 1.000000, b 1.001000"):
        peers.check_same_start({"a": 1.0, "b": 1.001})


def test_groups_are_embeddings_layers_and_what_is_above():
    names = [
        "bert.embeddings.LayerNorm.bias",
        "bert.encoder.layer.0.output.dense.weight",
        "bert.encoder.layer.10.output.LayerNorm.weight",
        "bert.encoder.layer.0.output.dense.bias",
        "bert.pooler.dense.weight",
        "classifier.bias",
    ]
    groups = by_layer(names)
    assert list(groups) == ["embeddings", "0", "10", "output"]
    assert groups["0"] == names[1:4:2] and groups["output"] == names[4:]


def test_weights_under_their_other_names_come_back_as_they_were():
    config = BertConfig(
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
    )
    model = BertClassifier(config, 3, nnx.Rngs(0), pooler=True)
    params = nnx.state(model, nnx.Param)
    weights = to_weights(params)
    assert weights["classifier.weight"].shape == (3, 8)
    back = from_weights(weights, jax.tree.map(np.zeros_like, params))
    for new, old in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(new, old)


def test_the_page_has_the_section_if_the_benchmark_was_run(
    result, tmp_path, monkeypatch
):
    monkeypatch.setattr(cost_tables, "FOLDER", tmp_path)
    cost_tables.main()
    assert "PyTorch" not in (tmp_path / "README.md").read_text()
    (tmp_path / "peers.json").write_text(json.dumps(result))
    cost_tables.main()
    page = (tmp_path / "README.md").read_text()
    assert (
        "\n| twice | JAX | 2.00 | 2.00 | 1.00 | 2 | 140 | +100 | +100 | 90.500" in page
    )
    assert "Adam's step takes 2.00 s in JAX." in page


def test_the_picture_is_drawn(result, tmp_path):
    peers.draw(result).savefig(tmp_path / "peers.png")


def test_plasls_in_pytorch_walks_the_published_path():
    torch = pytest.importorskip("torch")
    from peer_plasls import PLASLS

    params = [torch.nn.Parameter(torch.tensor(p)) for p in PARAMS]
    groups = [params[i : i + 2] for i in range(0, len(NAMES), 2)]
    optimizer = PLASLS(groups, c=0.6, init_step_size=3.0)
    losses, step_sizes, trials = [], [], []

    def step(loss_fn, value_and_grad):
        calls = 0

        def closure(backwards=False):
            nonlocal calls
            calls += 1
            arrays = [p.detach().numpy() for p in params]
            if not backwards:
                return torch.tensor(loss_fn(arrays), dtype=torch.float64)
            value, grads = value_and_grad(arrays)
            for p, grad in zip(params, grads, strict=True):
                p.grad = torch.tensor(grad)
            return torch.tensor(value, dtype=torch.float64)

        losses.append(optimizer.step(closure).item())
        step_sizes.append(optimizer.step_sizes)
        trials.append(calls - 1)

    for problem in numpy_problems():
        step(*problem)
    published = RECORD["runs"]["plasls"]
    np.testing.assert_allclose(losses, published["loss"], rtol=1e-9)
    np.testing.assert_allclose(step_sizes, published["step_sizes"], rtol=1e-9)
    assert trials == published["num_trials"]


def test_turns_go_round_after_the_joint_steps():
    assert [turn(step, 6, 2) for step in (0, 5, 6, 7, 8)] == [None, None, 0, 1, 0]
