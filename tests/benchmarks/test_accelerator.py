"""The benchmark of a step's cost: what it measures at its tiniest size, and writes."""

import json
from types import SimpleNamespace

import accelerator
import jax
import numpy as np
import pytest
from accelerator import SIZES, batch_of, bert, figures

import optax_armijo


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The record of a run."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerator, "RESULTS", folder)
        accelerator.main(["--size", "tiny", "--steps", "3", "--batch-size", "2"])
    (path,) = folder.glob("*.json")
    record = json.loads(path.read_text())
    assert path.with_suffix(".md").read_text() == accelerator.report(record)
    return record


@pytest.mark.slow
def test_a_run_has_a_row_a_method_for_each_dtype(made):
    rows = {(x["dtype"], x["method"]): x for x in made["rows"]}
    assert [*rows] == [
        (dtype, method)
        for dtype in ("float32", "bfloat16")
        for method in ("adamw_constant@1e-04", "armijo_adam")
    ]
    for (_, method), row in rows.items():
        is_ours = method == "armijo_adam"
        # The first steps search; the loss is traced for its gradient and in one loop.
        assert (row["evaluations"] > 0) == is_ours
        assert row["num_traces"] == (2 if is_ours else 1)
        assert row["compile_seconds"] > 0 and row["memory"] > 4 * 60_000
        assert row["first_mean_ratio"] == row["mean_ratio"]
    assert made["settings"]["batch_size"] == 2 and made["settings"]["size"] == "tiny"
    assert {"commit", "versions", "device", "peak_memory"} <= made.keys()


@pytest.mark.slow
def test_a_table_shows_each_row_and_where_it_was_made(made):
    text = accelerator.report(made)
    assert text.startswith("BERT, tiny: 0.1 million weights, batches of 2 x 8 tokens")
    assert f"on {made['device']}, " in text and f"with JAX {jax.__version__}," in text
    lines = [x for x in text.splitlines() if x.startswith("|")]
    assert len(lines) == 6 and len({x.count("|") for x in lines}) == 1
    assert (
        lines[2].startswith("| float32 | adamw_constant@1e-04 |")
        and "| 1.000 |" in lines[2]
    )


@pytest.mark.parametrize(
    "path", sorted(accelerator.RESULTS.glob("accelerator-*.json")), ids=lambda x: x.stem
)
def test_the_page_shows_what_was_recorded(path):
    table, page = path.with_suffix(".md"), accelerator.ROOT / "docs" / "speed.md"
    assert table.read_text() == accelerator.report(json.loads(path.read_text()))
    link = f"](../benchmarks/results/{table.name})<!-- include -->"
    assert link in page.read_text()


def test_ratios_are_to_adamws_steps_and_the_tail_is_in_forward_passes():
    base = [2.0] * 200
    slow = [3.0] * 80 + [2.0] * 110 + [7.0] * 10
    program = SimpleNamespace(seconds=slow, evaluations=[2] * 80 + [0] * 120)
    program.compile_seconds, program.memory, program.num_traces = 1.0, None, 3
    found = figures(program, base, [0.5, 1.0, 9.0])  # pyright: ignore
    assert found["median_ratio"] == 1.0 and found["forward_ratio"] == 0.5
    assert found["first_mean_ratio"] == 1.5
    assert found["mean_ratio"] == pytest.approx((240 + 220 + 70) / 400, rel=1e-3)
    assert found["p99_above"] == 5.0
    assert found["first_evaluations"] == 2.0 and found["evaluations"] == 0.8


def test_each_step_has_rows_of_its_own_and_labels_can_be_learned():
    size = SIZES["base"]
    tokens, labels = batch_of(0, size)
    assert tokens.shape == (32, 128) and tokens.max() < size.vocabulary
    np.testing.assert_array_equal(tokens, batch_of(0, size)[0])
    assert not np.array_equal(tokens, batch_of(1, size)[0])
    assert 0.7 < np.mean(tokens[:, 1] == labels) < 1


def test_dropout_is_real_and_its_masks_are_those_of_the_key():
    loss_fn, params = bert(SIZES["tiny"], "float32")
    loss_fn, batch = jax.jit(loss_fn), batch_of(0, SIZES["tiny"])
    one, again, other = (
        float(loss_fn(params, batch, jax.random.key(seed))) for seed in (0, 0, 1)
    )
    assert one == again != other


def test_the_step_is_exported_for_a_tpu_and_a_gpu():
    loss_fn, params = bert(SIZES["tiny"], "bfloat16")
    tx = optax_armijo.armijo_adam()
    step = jax.jit(optax_armijo.make_train_step(loss_fn, tx, donate=False))
    arguments = params, tx.init(params), batch_of(0, SIZES["tiny"]), jax.random.key(0)
    exported = jax.export.export(step, platforms=["tpu", "cuda"])(*arguments)
    assert exported.platforms == ("tpu", "cuda")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--size", "huge"),
        ("--steps", "0"),
        ("--batch-size", "many"),
        ("--methods", "salsa,sgd"),
        ("--dtypes", "float8"),
    ],
)
def test_a_bad_option_is_one_line_and_nothing_is_run(
    option, value, capsys, monkeypatch
):
    monkeypatch.setattr(accelerator, "measure", None)
    with pytest.raises(SystemExit) as stopped:
        accelerator.main([option, value])
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and not printed.out
    assert printed.err.count("\n") == 1
    assert option in printed.err and value.split(",")[-1] in printed.err
