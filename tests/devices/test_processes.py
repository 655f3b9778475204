"""Several processes, as on many hosts: they step in agreement with one process."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from many_devices import NETWORK, on_one_device
from process_worker import NUM_STEPS
from processes import free_port, run_processes

from optax_armijo import armijo_adam

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("process_worker.py")


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
