"""What must be set before JAX starts, and what tests share."""

import os

import pytest

# The sharding tests want eight devices.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
# Nearly all of the tests' time is compilation of programs that run for an instant.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


@pytest.fixture
def x64():
    """Turns float64 on for one test and off again after it."""
    import jax

    before = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)
