"""`finetune_sharded`: the steps of `finetune_bert`, over many devices and processes."""

import sys

import finetune_bert
import finetune_sharded
import jax
import numpy as np
import pytest
from example_runs import assert_refused, records
from processes import free_port, run_processes

pytestmark = pytest.mark.slow

SHORT = ["--epochs", "1"]


@pytest.fixture(scope="module")
def one(tiny, tmp_path_factory: pytest.TempPathFactory):
    """The folder of the run on one device, which the others are to repeat."""
    out = tmp_path_factory.mktemp("one")
    finetune_bert.main([*tiny, *SHORT, "--output-dir", str(out)])
    return out


@pytest.mark.parametrize("options", [[], ["--whole-params"]], ids=["split", "whole"])
def test_eight_devices_make_the_steps_of_one(options, tiny, one):
    if len(jax.devices()) != 8:
        pytest.skip("needs 8 devices: XLA_FLAGS was set before the tests could")
    expected = [step["loss"] for step in records(one, "step")]
    found = finetune_sharded.main([*tiny, *SHORT, *options])
    assert found == pytest.approx(expected, rel=1e-4)


def test_two_processes_make_the_steps_of_one(tiny, one):
    command = [sys.executable, finetune_sharded.__file__, *tiny, *SHORT]
    command += ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2"]
    command += ["--process-id"]
    first, second = run_processes([[*command, "0"], [*command, "1"]], num_devices=2)
    assert "epoch" not in second, "the first process tells"
    # Gloo writes lines of its own, at any time.
    lines = [x.split() for x in first.splitlines() if "[Gloo]" not in x]
    begin = next(i for i, x in enumerate(lines) if x[:1] == ["epoch"])
    header, row = lines[begin : begin + 2]
    assert header[-4:] == ["embeddings", "layer_0", "layer_1", "output"]
    (epoch,), steps = records(one, "epoch"), records(one, "step")
    loss = np.mean([step["loss"] for step in steps])
    expected = [1, loss, epoch["accuracy"], *steps[-1]["step_size"].values()]
    assert [float(x) for x in row] == pytest.approx(expected, rel=1e-2)


def test_rows_that_the_devices_do_not_divide_are_refused(tiny, capsys):
    if len(jax.devices()) != 8:
        pytest.skip("needs 8 devices: XLA_FLAGS was set before the tests could")
    argv = [*tiny, "--batch-size", "9"]
    assert_refused(finetune_sharded, argv, "--batch-size 9: not a multiple of", capsys)
