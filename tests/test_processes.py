"""Several processes, as on many hosts: they step in agreement with one process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from many_devices import NETWORK, on_one_device
from process_worker import NUM_STEPS

from optax_armijo import armijo_adam

WORKER = Path(__file__).with_name("process_worker.py")
SECONDS = 300


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_processes(commands, *, num_devices) -> list[str]:
    """Runs commands side by side; returns what each wrote, or shows what went wrong.

    None of them outlives this call, whatever happens.
    """
    count = f"--xla_force_host_platform_device_count={num_devices}"
    others = [f for f in os.environ.get("XLA_FLAGS", "").split() if "_count=" not in f]
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join([count, *others])}
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | flags,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    try:
        outputs = [process.communicate(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    errors = "\n".join(error[-2000:] for _, error in outputs)
    assert not any(process.returncode for process in processes), errors
    return [output for output, _ in outputs]


def test_processes_step_in_agreement_with_one():
    num_processes, num_devices, names = 2, 2, ["data parallel", "fully sharded"]
    if not hasattr(jax.config, "jax_cpu_collectives_implementation"):
        pytest.skip("this JAX has no collectives between processes on CPUs")
    address = f"127.0.0.1:{free_port()}"
    commands = [
        [sys.executable, str(WORKER), address, str(num_processes), str(i), *names]
        for i in range(num_processes)
    ]
    outputs = run_processes(commands, num_devices=num_devices)
    runs = [json.loads(output.splitlines()[-1]) for output in outputs]
    tx = armijo_adam(NETWORK.labels)
    expected = on_one_device(NETWORK, tx, NUM_STEPS)
    for run in runs:
        assert run == runs[0] and list(run) == names
        for record in run.values():
            assert record["num_devices"] == num_processes * num_devices
            assert record["num_own_devices"] == num_devices
            np.testing.assert_allclose(record["losses"], expected.losses, rtol=1e-4)
            np.testing.assert_allclose(
                record["step_sizes"], expected.step_sizes, rtol=1e-4
            )
            np.testing.assert_array_equal(record["num_trials"], expected.num_trials)
