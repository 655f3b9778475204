"""Several processes side by side, as on many hosts."""

import os
import socket
import subprocess
from pathlib import Path

TESTS = Path(__file__).parent
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
    flags["PYTHONPATH"] = str(TESTS)  # what stands in its folders needs the toys
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
