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
if "XLA_FLAGS" not in os.environ:
    # The sharding tests want eight devices.
    flags = ["--xla_force_host_platform_device_count=8"]
    # Where there is this choice, as in JAX 0.10, it compiles in a third of the time.
    quick = "--xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = " ".join([*flags, quick] if is_known(quick) else flags)

# Tests compile many a program that another test has compiled. Each process keeps its
# own: one that reads what another has half written warns.
COMPILED = tempfile.mkdtemp(prefix="optax-armijo-tests-")
os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": COMPILED,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}

EXAMPLES_NEED = (
    "flax",
    "matplotlib",
    "orbax",
    "rich",
    "safetensors",
    "sklearn",
    "transformers",
)
MISSING = [name for name in EXAMPLES_NEED if find_spec(name) is None]
NEED_THEM = [
    "test_bert.py",
    "test_benchmark*.py",
    "test_comparison.py",
    "test_examples*.py",
    "example_runs.py",
]
collect_ignore_glob = NEED_THEM if MISSING else []

# Their assertions are to show values, as those of test files do.
pytest.register_assert_rewrite("example_runs")


# Models of BERT's size, several devices and processes: for the leg `slow` of .ci/run.
SLOW = (
    "test_bert.py",
    "test_compiled_programs.py",
    "test_examples.py",
    "test_examples_export.py",
    "test_examples_sharded.py",
    "test_many_devices.py",
    "test_processes.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in SLOW:
            item.add_marker(pytest.mark.slow)


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


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a run of `finetune_bert` that takes seconds."""
    from example_runs import write_tiny

    return write_tiny(tmp_path_factory.mktemp("tiny"))
