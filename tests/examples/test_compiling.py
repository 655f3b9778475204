"""Compilation is announced, and Ctrl-C ends it."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import train_digits
from compiling import Announced


def test_a_program_is_announced_once_for_arguments_of_a_shape(capsys):
    step = Announced(jax.jit(lambda tree: 2.0 * tree["x"]), "a step")
    seconds = [step.seconds]
    for size in (3, 3, 4, 3):
        assert step({"x": jnp.ones(size)}).shape == (size,)
        seconds.append(step.seconds)
    out, err = capsys.readouterr()
    assert err.splitlines() == ["compiling a step (Ctrl-C stops it)"] * 2
    assert out == "", "the table is there"
    first, second, third = seconds[1], seconds[2], seconds[3]
    assert 0.0 < first == second < third == seconds[4]


@pytest.fixture
def heard():
    """Ctrl-C is heard by processes that the test starts, even if pytest ignores it."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.slow
@pytest.mark.usefixtures("heard")
def test_ctrl_c_ends_a_program_in_which_a_callback_loses_it():
    """As JAX's callback of the garbage collector does, when it comes in there."""
    program = """
import time, command_line
def main(argv):
    try:
        print("begun", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(60)
command_line.start(main)
"""
    folder = Path(str(train_digits.__file__)).parent
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=folder, **pipes) as process:
        assert process.stdout and process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        start = time.perf_counter()
        assert process.wait(timeout=60) == 130
        assert time.perf_counter() - start < 2.0
        assert process.stderr and process.stderr.read() == "stopped\n"


@pytest.mark.slow
@pytest.mark.usefixtures("heard")
def test_ctrl_c_ends_a_program_that_compiles_within_two_seconds(tmp_path):
    command = [sys.executable, str(train_digits.__file__)]
    pipes: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as process:
        assert process.stderr
        lines = iter(process.stderr.readline, "")
        assert any(line.startswith("compiling a training step") for line in lines)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        start = time.perf_counter()
        assert process.wait(timeout=60) == 130
        assert time.perf_counter() - start < 2.0
        assert process.stderr.read().endswith("stopped\n")
