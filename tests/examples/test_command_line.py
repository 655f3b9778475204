"""The examples' command lines: their help, their defaults, and what goes wrong."""

import subprocess
import sys
from typing import Any

import finetune_bert
import finetune_lora
import finetune_sharded
import fit_bundle
import fit_camera
import fit_gaussians
import fit_neural_ode
import hand_over_rates
import pytest
import solve_inverse_problem
import train_digits
import train_language_model
import trial
from bert import load_pretrained
from example_runs import MAIN, assert_refused
from text_data import TWEETS
from tiny_bert import TINY
from wheels import need_wheel

FITS = (
    fit_bundle,
    fit_camera,
    fit_gaussians,
    fit_neural_ode,
    solve_inverse_problem,
)
PAGES = (*FITS, train_digits, train_language_model)
FINE_TUNERS = (
    finetune_bert,
    finetune_lora,
    finetune_sharded,
    hand_over_rates,
    trial,
)
BAD_FILE = MAIN + "/x.csv"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--epochs 0", "argument --epochs: '0' is not an integer >= 1"),
        ("--batch-size -1", "--batch-size: '-1' is not an integer >= 1"),
        ("--batch-size 21", "--batch-size 21: only 20 examples to train on"),
        ("--train-size many", "--train-size: 'many' is not an integer >= 0"),
        ("--validation-size 60", "--validation-size 60: there are "),
        ("--max-length 41", "--max-length 41: the model has 40 positions"),
        ("--num-layers 3", "--num-layers 3: the checkpoint has 2"),
        ("--task rock", "argument --task: invalid choice: 'rock'"),
        ("--task bbc", "--task bbc reads no --train-file"),
        ("--train_file nowhere.csv", "nowhere.csv: no such file"),
        (f"--train-file {MAIN}", "must end in .csv, .tsv or .jsonl"),
        (f"--train-file {BAD_FILE}", "cannot be read"),
        ("--validation-file nowhere.csv", "nowhere.csv: no such file"),
        ("--model ./nowhere", "--model ./nowhere: no such folder"),
        (f"--model {MAIN}", "is a file, not a checkpoint's folder"),
        ("--model .", "config.json: cannot be read"),
        ("--text-column body", "no column 'body'; it has: text, label (--text-column"),
        ("--label-column y", "no column 'y'; it has: text, label (--text-column"),
        ("--train-size 1", "--train-size 1: there are 2 labels"),
        ("--frobnicate", "unrecognized arguments: --frobnicate"),
    ],
)
@pytest.mark.parametrize("program", FINE_TUNERS, ids=lambda x: x.__name__)
def test_what_is_wrong_with_rows_or_model_is_one_line(
    program, tiny, tmp_path, capsys, monkeypatch, extra, message
):
    monkeypatch.chdir(tmp_path)
    assert_refused(program, [*tiny, *extra.split()], message, capsys)


@pytest.mark.parametrize(
    ("program", "extra", "message"),
    [
        (finetune_bert, "--learning-rate 1e-3", "--learning-rate: armijo_adam has"),
        (finetune_bert, "--optimizer sgd", "--optimizer: invalid choice: 'sgd'"),
        (finetune_bert, "--resume --overwrite", "not allowed with argument --resume"),
        (finetune_bert, f"--output-dir {MAIN}", "--output-dir"),
        (finetune_lora, "--rank 0", "--rank: '0' is not an integer >= 1"),
        (finetune_lora, "--optimizer adamw", "--optimizer: invalid choice: 'adamw'"),
        (finetune_lora, "--learning-rate 1e-3", "--learning-rate: armijo_adam has"),
        (finetune_sharded, "--num-processes 2", "--process-id go together"),
        (finetune_sharded, "--process-id -1", "'-1' is not an integer >= 0"),
        (hand_over_rates, "--groups some", "--groups: invalid choice: 'some'"),
        (hand_over_rates, "--problem a.py", "--problem a.py takes no --task"),
        (hand_over_rates, f"--output-dir {MAIN}", "--output-dir"),
        (trial, "--seeds 0", "argument --seeds: '0' is not an integer >= 1"),
        (trial, "--seeds few", "argument --seeds: 'few' is not an integer >= 1"),
        (trial, "--rates 0", "argument --rates: '0' is not a number > 0"),
        (trial, "--rates fast", "argument --rates: 'fast' is not a number > 0"),
        (trial, "--optimizer=adamw", "unrecognized arguments: --optimizer=adamw"),
        (trial, f"--output-dir {MAIN}", "--output-dir"),
    ],
)
def test_what_is_wrong_with_own_options_is_one_line(
    program, extra, message, tiny, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert_refused(program, [*tiny, *extra.split()], message, capsys)


@pytest.mark.parametrize(
    ("page", "argv", "message"),
    [
        (train_digits, "--batch-size -1", "--batch-size: '-1' is not an integer >= 1"),
        (train_digits, "--batch-size 1438", "1438: only 1437 examples to train on"),
        (train_digits, "--epochs 0", "--epochs: '0' is not an integer >= 1"),
        (train_digits, "--seed x", "--seed: 'x' is not an integer >= 0"),
        (train_digits, "--rows 5", "unrecognized arguments: --rows 5"),
        (train_language_model, "--width 97", "--width 97: not a multiple of 4 heads"),
        (train_language_model, "--steps 0", "--steps: '0' is not an integer >= 1"),
        (train_language_model, "--batch-size -1", "'-1' is not an integer >= 1"),
        *((page, "--steps 0", "--steps: '0' is not an integer >= 1") for page in FITS),
        *((page, "--rates 1", "unrecognized arguments: --rates 1") for page in FITS),
    ],
)
def test_what_is_wrong_with_a_page_is_one_line(page, argv, message, capsys):
    assert_refused(page, argv.split(), message, capsys)


def test_sizes_larger_than_the_real_data_are_one_line(capsys):
    need_wheel(TWEETS)
    argv = ["--validation-size", "1000000"]
    assert_refused(finetune_lora, argv, "1000000: there are", capsys)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--task", "mrpc"], "--task mrpc needs --train-file with GLUE's .tsv"),
        (["--task", "rte", "--train-file", "no.tsv"], "no.tsv: no such file"),
        (["--task", "file"], "--task file needs --train-file"),
        (["--text-column", "x"], "--task tweets takes no --text-column or"),
        (["--task", "rte", "--label-column", "x"], "--task rte takes no --text-column"),
    ],
)
def test_what_a_task_needs(argv, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.chdir(tmp_path)
    assert_refused(finetune_bert, argv, message, capsys)


def test_a_file_to_train_on_is_trained_on():
    for argv in (["--train-file", "a.csv"], ["--train_file=a.csv"]):
        given = finetune_bert.options_of(argv)
        assert (given.task, str(given.train_file)) == ("file", "a.csv")
        _, runs = trial.runs_of([*argv, "--seeds", "2"])
        assert {(run.task, str(run.train_file)) for run in runs} == {("file", "a.csv")}
        assert len(runs) == 2 * (1 + len(trial.SWEEP))
        assert len({run.output_dir for run in runs}) == len(runs)


def test_hub_name(tiny, monkeypatch, tmp_path, capsys):
    def refuse(name: str, **options: Any) -> str:
        raise ConnectionError(f"cannot reach {name}\nfor many reasons")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    argv = [*tiny, "--model", "some/bert"]
    assert_refused(finetune_bert, argv, "not to be had from the hub: cannot", capsys)
    folder = tiny[tiny.index("--model") + 1]
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: folder)
    assert load_pretrained("some/bert").config.hidden_size == TINY.hidden_size


@pytest.mark.slow
def test_command_line_ends_with_code_2_and_no_traceback(tmp_path):
    command = [sys.executable, MAIN, "--task", "file", "--train-file", "none.csv"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "finetune_bert.py: none.csv: no such file\n"
    assert result.stdout == ""


@pytest.mark.parametrize("program", (*PAGES, *FINE_TUNERS), ids=lambda x: x.__name__)
def test_help_lists_the_defaults(program, capsys):
    with pytest.raises(SystemExit) as stop:
        program.main(["--help"])
    assert stop.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "(default 0)" in printed, "of the seed"
    expected = {
        trial: (
            "5e-05 0.0001 0.0002 0.0005",
            "runs of each",
            "runs/trial",
            "default 500",
        ),
        finetune_bert: ("default 5)", "default minilm", "default armijo_adam"),
        finetune_lora: ("default 8)", "default armijo_adam", "default 0.0002"),
    }
    for text in expected.get(program, ()):
        assert text in printed


def test_defaults_are_the_small_protocol():
    default = finetune_bert.options_of([])
    assert (default.task, default.model) == ("tweets", "minilm")
    assert (default.train_size, default.epochs) == (500, 5)
    assert (default.optimizer, default.groups) == ("armijo_adam", "layer")


def test_lora_plus_alone_has_a_rate():
    options = finetune_lora.options_of([])
    assert (options.rank, options.learning_rate) == (8, None)
    options = finetune_lora.options_of(["--optimizer", "lora_plus"])
    assert options.learning_rate == 2e-4


def test_adamw_begins_at_the_rate_that_a_trial_compares_with():
    assert finetune_bert.options_of(["--optimizer", "adamw"]).learning_rate == 1e-4
    assert trial.COMMON_RATE == 1e-4 and trial.COMMON_RATE in trial.SWEEP


def test_all_runs_of_a_trial_are_averaged_and_only_rates_differ():
    _, runs = trial.runs_of(["--train-file", "a.csv"])
    assert [run.learning_rate for run in runs] == [None, 5e-5, 1e-4, 2e-4, 5e-4]
    own = {"optimizer", "learning_rate", "output_dir"}
    same = [{k: v for k, v in vars(run).items() if k not in own} for run in runs]
    assert all(x == same[0] for x in same) and same[0]["average"]
