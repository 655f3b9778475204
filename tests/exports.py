"""A CPU machine exports a step for accelerators; what such a program must not have."""

from typing import Any

import jax
import pytest

PLATFORMS = ("tpu", "cuda")


def abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def exported(step: Any, *arguments: Any) -> Any:
    """Exports a jitted step; skips where JAX cannot."""
    export = pytest.importorskip("jax.export", reason="this JAX has no jax.export")
    return export.export(step, platforms=PLATFORMS)(*abstract(arguments))


def assert_for_accelerators(result: Any, num_loops: int) -> None:
    """Search and net are loops on the device: the program needs no host."""
    assert result.platforms == PLATFORMS
    text = result.mlir_module()
    assert text.count("stablehlo.while") == num_loops
    assert "callback" not in text
    assert "infeed" not in text and "outfeed" not in text
