"""The command line of `finetune_bert`: its help, its defaults, and what goes wrong."""

import subprocess
import sys
from typing import Any

import finetune_bert
import options
import pytest
import settings
from example_runs import MAIN, assert_refused
from job import sizes_of
from pretrained import load_pretrained
from test_bert import TINY
from text_data import load_data


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
        (["--task", "mrpc"], "--train-file: --task mrpc does not read it"),
        (["--batch-size", "-1"], "--batch-size: '-1' is not an integer >= 1"),
        (["--train-size", "many"], "--train-size: 'many' is not an integer >= 0"),
        (["--output-dir", str(MAIN)], "--output-dir"),
    ],
    ids=lambda value: " ".join(value)[:25] if isinstance(value, list) else "",
)
def test_what_the_user_can_mend_is_one_line(
    tiny, tmp_path, capsys, monkeypatch, extra, message
):
    monkeypatch.setitem(sys.modules, "datasets", None)
    argv = [*tiny, "--output-dir", str(tmp_path / "run"), *extra]
    assert_refused(argv, message, capsys)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--task", "mrpc"], "--task mrpc needs --data-dir"),
        (["--task", "rte", "--data-dir", "none"], "--data-dir none: no such folder"),
        (["--task", "file"], "--task file needs --train-file"),
        (["--task", "bbc", "--validation-file", "x.csv"], "--task bbc does not read"),
    ],
)
def test_what_a_task_needs(argv, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert_refused([*argv, "--output-dir", str(tmp_path / "run")], message, capsys)


def test_a_file_to_train_on_is_trained_on():
    for flag in ("--train-file", "--train_file"):
        given = settings.parse_settings([flag, "mine.csv"])
        assert (given.task, str(given.train_file)) == ("file", "mine.csv")
    assert settings.parse_settings(["--train_file=mine.csv"]).task == "file"
    given = settings.parse_settings(["--train-file", "a.csv", "--validation-file", "b"])
    assert given.validation_size == 1000


@pytest.mark.parametrize(("rows", "expected"), [(120, 24), (9000, 1000), (3, 1)])
def test_a_file_without_another_gives_a_fifth_of_its_rows(rows, expected, tmp_path):
    lines = [f"text {i},{'ab'[i % 2]}" for i in range(rows)]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["text,label", *lines]))
    given = settings.parse_settings(["--train-file", str(path)])
    data = load_data("file", sizes_of(given), 0, train_file=path)
    assert len(data.validation) == expected
    assert len(data.train) == min(500, rows - expected)


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
