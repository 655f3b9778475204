"""What must be set before JAX starts, and what tests share."""

import os
from importlib.util import find_spec

import pytest

# The sharding tests want eight devices.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
# Nearly all of the tests' time is compilation of programs that run for an instant.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

EXAMPLES_NEED = ("flax", "matplotlib", "orbax", "rich", "safetensors", "transformers")
MISSING = [name for name in EXAMPLES_NEED if find_spec(name) is None]
collect_ignore_glob = ["test_bert.py", "test_examples*.py"] if MISSING else []


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
