"""`finetune_sharded`: the run of `finetune_bert`, over many devices and processes."""

import sys

import finetune_bert
import finetune_sharded
import jax
import numpy as np
import pytest
from example_runs import records
from test_processes import free_port, run_processes

SHORT = ["--epochs", "1", "--no-dropout"]


@pytest.fixture(scope="module")
def steps(tiny, tmp_path_factory: pytest.TempPathFactory):
    """The steps of the run that those over devices are to repeat."""
    out = tmp_path_factory.mktemp("one")
    assert finetune_bert.main([*tiny, *SHORT, "--output-dir", str(out)]) == 0
    return records(out, "step")


def assert_same_steps(folder, expected):
    found = records(folder, "step")
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine["loss"], theirs["loss"], rtol=1e-4)
        for group, size in theirs["step_size"].items():
            np.testing.assert_allclose(mine["step_size"][group], size, rtol=1e-3)
        assert mine["num_trials"] == theirs["num_trials"]
    assert len(records(folder, "epoch")) == 1


@pytest.mark.parametrize("options", [[], ["--whole-params"]], ids=["split", "whole"])
def test_eight_devices_make_the_steps_of_one(options, tiny, steps, tmp_path):
    if len(jax.devices()) != 8:
        pytest.skip("needs 8 devices: XLA_FLAGS was set before the tests could")
    out = ["--output-dir", str(tmp_path)]
    assert finetune_sharded.main([*tiny, *SHORT, *options, *out]) == 0
    assert_same_steps(tmp_path, steps)


def test_two_processes_make_the_steps_of_one(tiny, steps, tmp_path):
    command = [sys.executable, finetune_sharded.__file__, *tiny, *SHORT]
    command += ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2"]
    command += ["--output-dir", str(tmp_path), "--process-id"]
    run_processes([[*command, "0"], [*command, "1"]], num_devices=2)
    assert_same_steps(tmp_path, steps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "9"], "--batch-size 9: not a multiple of"),
        (["--num-processes", "2"], "--process-id go together"),
        (["--resume"], "there are no checkpoints"),
        (["--num-processes", "0"], "--num-processes: '0' is not an integer >= 1"),
        (["--process-id", "-1"], "--process-id: '-1' is not an integer >= 0"),
    ],
)
def test_what_cannot_be_is_refused(options, message, tiny, capsys):
    if len(jax.devices()) != 8:
        pytest.skip("needs 8 devices: XLA_FLAGS was set before the tests could")
    assert finetune_sharded.main([*tiny, *options]) == 2
    assert message in capsys.readouterr().err
