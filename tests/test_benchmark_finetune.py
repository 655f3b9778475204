"""The fine-tuning comparison on a toy task: runs, records, result files, pictures."""

import json
import subprocess
import sys
from pathlib import Path

import by_group
import compare
import from_scratch
import jax
import jax.numpy as jnp
import numpy as np
import plots
import pytest
import readme_tables
import records
import run as run_module
import tables
from methods import GRID, METHODS, OURS, methods_of
from run import Run, make_run, write
from task import Setup, Task
from tasks import make_task
from toys import network_loss, network_params

NAME = "toy-8-small"


def toy_task(name, setup):
    """Eight batches, of which the seed says where they begin."""
    del name, setup

    def evaluate(params, num_rows):
        loss = float(network_loss(params, 0))
        return {"accuracy": 1.0 / (1.0 + loss), "log_loss": loss, "rows": num_rows or 9}

    return Task(
        init=lambda seed: network_params(),
        loss_fn=lambda params, batch, key: network_loss(params, batch),
        batches=lambda seed, epoch: (jnp.asarray(seed + i) for i in range(4)),
        steps_per_epoch=4,
        evaluate=evaluate,
        num_rows=(8, 9),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds runs of three methods on the toy task."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "make_task", toy_task)
        for method in ("armijo_adam", "by_layer", "adamw-1e-03"):
            for seed in (0, 1) if method == "armijo_adam" else (0,):
                run = Run(NAME, method, seed)
                write(make_run(run), run.path(folder / "runs"))
    return folder


def test_a_record_holds_curves_and_where_it_comes_from(folder):
    path = Run(NAME, "armijo_adam", 1).path(folder / "runs")
    record = json.loads(path.read_text())
    assert len(record["loss"]) == len(record["evaluations"]) == 20
    assert np.shape(record["step_size"]) == (20, len(record["groups"]))
    assert [x["rows"] for x in record["epochs"]] == [1000] * 4 + [
        9
    ]  # all rows at the end
    assert record["made"]["settings"]["seed"] == 1
    assert {"commit", "versions", "device"} <= record["made"].keys()
    assert not list(folder.glob("**/*.part"))


def test_tables_and_plots_come_from_the_folder_and_from_the_result_files(
    folder, monkeypatch
):
    monkeypatch.setattr(tables, "GRID", ("adamw-1e-03",))
    results = folder / "results"
    options = ["--results-dir", str(results)]
    tables.main(["--runs-dir", str(folder / "runs"), *options])
    first = (results / "README.md").read_text()
    overall, row = [x for x in first.splitlines() if x.startswith("| `armijo_adam`")]
    runs = records.results(results / f"{NAME}.json")
    ours = [x["accuracy"][-1] for x in runs if x["variant"].startswith("armijo")]
    assert f"| 2 | {np.mean(ours):.3f} ± " in row
    assert f" | {np.mean(ours):.3f} | " in overall
    assert "| AdamW, the best of seven learning rates in hindsight |" in first
    tables.main(["--from-results", *options])
    assert (results / "README.md").read_text() == first
    plots.main(options)
    for name in ("curves", "rates", "step_sizes"):
        assert (results / f"{NAME}-{name}.png").stat().st_size > 5_000


def test_the_tables_of_the_readme_are_those_of_the_result_files():
    text = readme_tables.README.read_text()
    assert len(readme_tables.TABLE.findall(text)) == len(readme_tables.MAKERS)
    emptied = readme_tables.TABLE.sub(r"\1\3", text)
    assert readme_tables.updated(emptied) == readme_tables.updated(text) == text


def test_the_readmes_tables_need_nothing_on_the_path_but_their_own_folder():
    folder = Path(readme_tables.__file__).parent
    command = [sys.executable, "-c", "import readme_tables; print(readme_tables.ROOT)"]
    run = subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    )
    assert run.stdout.strip() == str(readme_tables.ROOT)


def test_what_the_result_files_have_is_not_made_again(folder, monkeypatch):
    tables.main(
        ["--runs-dir", str(folder / "runs"), "--results-dir", str(folder / "finetune")]
    )
    monkeypatch.setattr("provenance.RESULTS", folder)
    options = ["--tasks", NAME, "--methods", "ours", "--seeds", "3"]
    wanted = compare.wanted(compare.parse(options))
    known = compare.recorded(wanted)
    assert {(x.method, x.seed) for x in known} == {("armijo_adam", i) for i in (0, 1)}
    assert len(wanted) == 3 * len(OURS)


def test_each_form_of_ours_is_ranked_as_if_it_were_the_only_one():
    accuracy = {
        "armijo_adam": 0.9,
        "armijo_adam-averaged": 0.8,
        "armijo_adam-from_scratch-averaged": 0.7,
        "prodigy": 0.6,
        "dog": 0.75,
    }
    means = {k: {"accuracy": v, "log_loss": 1.0 - v} for k, v in accuracy.items()}
    texts = tables.with_choices("tweets-8-small", means)
    digits = tables.with_choices("digits-8", means)
    for task, recommended, dog in ((texts, 1, 2), (digits, 2, 1)):
        ranks = {k: v.rank for k, v in tables.standings({"toy": task}).items()}
        assert ranks["armijo_adam"] == {"accuracy": 1, "log_loss": 1}
        assert ranks["armijo_adam-averaged"]["accuracy"] == 1
        assert ranks["armijo_adam-from_scratch-averaged"]["accuracy"] == 2
        assert ranks[tables.RECOMMENDED]["accuracy"] == recommended
        assert ranks["dog"]["accuracy"] == dog
        assert ranks["prodigy"]["accuracy"] == 3


def test_schemes_by_group_are_paired_by_seed_with_their_one_group_form():
    def runs(variant, *accuracies, groups="ab"):
        return [
            {
                "variant": variant,
                "seed": seed,
                "step_size": dict.fromkeys(groups, [1.0]),
                "accuracy": [0.1, accuracy, accuracy],
                "log_loss": [1.0, 1.0, 1.0 - accuracy],
            }
            for seed, accuracy in enumerate(accuracies)
        ]

    record = [
        *runs("one_group", 0.5, 0.6, groups="a"),
        *runs("by_layer", 0.6, 0.72, 0.9),
        *runs("adamsls", 0.9, 0.8, groups="a"),
        *runs("plasls", 0.9, 0.8, groups="a"),  # a network without layers
    ]
    lines = by_group.section({"toy": record}).splitlines()
    (row,) = [x for x in lines if "toy" in x]  # the third seed has no pair
    assert "| toy | 2 | **+0.110 ± 0.010** | **+0.110 ± 0.010** | **-0.110 " in row
    assert by_group.section({"toy": runs("by_layer", 0.6)}) == ""


def test_new_runs_replace_old_ones_in_a_result_file():
    old = [{"variant": "a", "seed": 0, "x": 1}, {"variant": "a", "seed": 1, "x": 1}]
    new = [{"variant": "a", "seed": 1, "x": 2}]
    assert [x["x"] for x in records.merged(old, new)] == [1, 2]


def test_a_group_far_below_the_others_for_long_is_named():
    sizes = np.ones((60, 4))
    sizes[5:, 1] = 1e-4  # 55 steps
    sizes[20:, 2] = 1e-4  # 40 steps
    record = {"step_size": sizes.tolist(), "groups": ["a", "b", "c", "d"]}
    assert records.collapsed_groups(record) == ["b"]
    record["step_size"] = []
    assert records.collapsed_groups(record) == []


def test_a_curve_has_the_mean_of_all_steps():
    curve = records.block_means(np.arange(400.0))
    assert len(curve) == records.CURVE_POINTS
    assert np.mean(curve) == pytest.approx(199.5)


def test_names_and_families_of_methods():
    assert methods_of(["grid", "salsa", "salsa"]) == [*GRID, "salsa"]
    with pytest.raises(ValueError, match="got 'adam'"):
        methods_of(["adam"])


@pytest.mark.parametrize("name", GRID)
def test_a_grid_run_neither_begins_nor_ends_with_a_step_of_zero(name):
    tx = METHODS[name].make(20)
    params = jnp.ones((2, 2))
    state = tx.init(params)
    sizes = []
    for _ in range(20):
        updates, state = tx.update(params, state, params)
        sizes.append(float(np.abs(np.asarray(updates)).max()))
    rate = float(name.removeprefix("adamw-"))
    assert min(sizes) > 0
    assert max(sizes) == pytest.approx(rate, rel=0.02)


def test_a_variant_names_what_is_not_usual():
    run = Run(NAME, "salsa", 2, setup=Setup(batch_size=8))
    assert run.variant == "salsa, batch_size=8"
    assert run.path(folder=compare.RUNS).name == "salsa-batch_size=8-2.json"


def test_digits_are_held_out_and_drawn_by_the_seed():
    task = make_task("digits-100", Setup(batch_size=32))
    assert task.num_rows == (100, from_scratch.HELD_OUT_DIGITS)
    epochs = [[list(task.batches(seed, 0)) for seed in (0, 1)] for _ in range(2)]
    jax.tree.map(np.testing.assert_array_equal, *epochs)
    assert len(epochs[0][0]) == task.steps_per_epoch == 3
    assert not np.array_equal(epochs[0][0][0].targets, epochs[0][1][0].targets)
    params, batch = task.init(0), epochs[0][0][0]
    loss, grads = jax.value_and_grad(task.loss_fn)(params, batch, jax.random.key(0))
    assert float(loss) == pytest.approx(np.log(10), abs=0.3)
    assert all(np.any(x) for x in jax.tree.leaves(grads))
    whole = task.evaluate(params, None)
    assert 0 <= whole["accuracy"] < 0.3
    assert whole != task.evaluate(params, 100)


def test_a_language_model_predicts_the_byte_that_follows():
    text = np.arange(1000).astype(np.uint8)
    inputs, targets = from_scratch.windows(text, 5)
    assert inputs.shape == targets.shape == (5, from_scratch.CONTEXT)
    np.testing.assert_array_equal(inputs + np.uint8(1), targets)  # 0 follows 255


def test_a_task_from_scratch_has_no_dropout():
    with pytest.raises(ValueError, match="dropout must be False"):
        make_task("digits-100", Setup(dropout=True))
