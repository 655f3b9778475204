"""What must be set before JAX starts, and what tests share."""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec

import pytest


def is_known(flag: str) -> bool:
    """Tells whether this JAX starts with a flag of XLA's; it aborts on unknown ones."""
    environment = os.environ | {"XLA_FLAGS": flag}
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    return not subprocess.run(command, env=environment, capture_output=True).returncode


# Nearly all of the tests' time is compilation of programs that run for an instant.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Workers inherit what the first process has found out.
if "XLA_FLAGS" not in os.environ:
    # The sharding tests want eight devices.
    flags = ["--xla_force_host_platform_device_count=8"]
    for quick in (
        # Where there is this choice, as in JAX 0.10: a third of the time to compile.
        "--xla_cpu_use_fusion_emitters=false",
        # One module for LLVM instead of 32: two thirds of what is left.
        "--xla_cpu_parallel_codegen_split_count=1",
    ):
        flags += [quick] if is_known(quick) else []
    os.environ["XLA_FLAGS"] = " ".join(flags)

# Each of eight devices may wait in one collective operation while another one needs a
# thread. On a loaded machine XLA's eight threads then wait for ever, and it aborts. XLA
# takes the number of its threads from this variable.
os.environ.setdefault("NPROC", "16")

# Tests compile many a program that another test has compiled. Each process keeps its
# own: one that reads what another has half written warns.
COMPILED = tempfile.mkdtemp(prefix="optax-armijo-tests-")
os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": COMPILED,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}

EXAMPLES_NEED = (
    "diffrax",
    "flax",
    "matplotlib",
    "orbax",
    "rich",
    "safetensors",
    "sklearn",
    "transformers",
)
MISSING = [name for name in EXAMPLES_NEED if find_spec(name) is None]
collect_ignore = ["examples", "benchmarks"] if MISSING else []


def pytest_unconfigure() -> None:
    shutil.rmtree(COMPILED, ignore_errors=True)


def pytest_report_header() -> str:
    if MISSING:
        return f"tests of the examples are left out: no {', '.join(MISSING)}"
    return "tests of the examples are included"


@pytest.fixture
def x64():
    """Turns float64 on for one test and off again after it."""
    import jax

    before = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)
