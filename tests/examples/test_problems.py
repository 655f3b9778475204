"""A trial of a loss of one's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trial
from command_line import tell
from example_runs import assert_refused
from problems import read_own
from run_folder import read

OWN = """
import jax.numpy as jnp
import numpy as np
X = np.random.default_rng(0).normal(size=(24, 3)).astype("f4")
Y = X @ np.array([1.0, -2.0, 0.5], "f4")
def init(seed):
    return {"w": jnp.full(3, 0.1 * (seed + 1))}
def loss(params, batch):
    x, y = batch
    return jnp.mean((x @ params["w"] - y) ** 2)
def batches(seed, epoch):
    order = np.random.default_rng((seed, epoch)).permutation(16)
    for i in order.reshape(4, 4):
        yield X[i], Y[i]
"""
SCORED = OWN + "def evaluate(params): return loss(params, (X[16:], Y[16:]))\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", [OWN, SCORED], ids=["training loss", "evaluate"])
@pytest.mark.slow
def test_trial_of_a_loss_of_ones_own(text, tmp_path, capsys):
    path, out = write(tmp_path, text), tmp_path / "out"
    argv = ["--problem", str(path), "--epochs", "3", "--rates", "1e-3", "1e-2"]
    assert tell(trial.main, [*argv, "--output-dir", str(out)]) == 0
    printed = capsys.readouterr()
    begin = printed.out.splitlines()[0]
    assert begin == f"{path}: 4 steps an epoch", "before there is a run"
    assert printed.err.count("compiling a step of adamw") == 1
    runs = [read(x) for x in out.iterdir() if x.is_dir()]
    assert {sum(x["kind"] == "step" for x in run) for run in runs} == {12}
    what = "loss" if text is SCORED else "train loss"
    assert f"of 3 AdamWs in {what} (" in printed.out
    assert "One seed has no standard error: repeat it with --seeds 3." in printed.out
    page = (out / "report.html").read_text()
    assert f"<tr><th>method<th>{what}<th>runs<th>" in page
    if text is SCORED:
        options = trial.runs_of(argv)[1][0]
        (loss,) = read_own(options).evaluate({"w": np.zeros(3, "f4")}).values()
        assert loss > runs[0][-1]["loss"] or loss > runs[-1][-1]["loss"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def init(seed): return 0",
            "mine.py: no loss(params, batch); needs init(seed)",
        ),
        (OWN.replace("jnp.mean", ""), "mine.py: loss has the shape (4,), must be ()"),
        (
            OWN + "def batches(seed, epoch): return []",
            "mine.py: batches(0, 0) has none",
        ),
    ],
)
def test_what_is_wrong_with_ones_own_file_is_one_line(
    text: str, message: str, tmp_path, capsys: Any
):
    argv = ["--problem", str(write(tmp_path, text))]
    argv += ["--output-dir", str(tmp_path / "out")]
    assert_refused(trial, argv, message, capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--problem", "none.py"], "--problem none.py: no such Python file (.py)"),
        (["--problem", "a.py", "--task", "bbc"], "--problem a.py takes no --task"),
        (["--problem", "a.py", "--train-file", "x.csv"], "takes no --train-file"),
        (["--problem", "a.py", "--text-column", "x"], "takes no --text-column"),
    ],
)
def test_what_goes_with_a_file_of_ones_own(
    argv, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert_refused(trial, argv, message, capsys)
