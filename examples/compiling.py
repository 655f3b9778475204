"""Jitted functions that say when they compile."""

import sys
import time
from typing import Any

import jax


class Announced:
    """A jitted function that says so when it compiles, once for arguments of a shape.

    Example:
      >>> step = Announced(jax.jit(lambda x: 2.0 * x), "a step")
      >>> float(step(1.0)), float(step(2.0)), step.seconds > 0.0
      (2.0, 4.0, True)
    """

    def __init__(self, jitted: Any, name: str):
        self.jitted, self.name = jitted, name
        self.seconds = 0.0  # of the calls that compiled
        self.known: set[Any] = set()

    def __call__(self, *args: Any) -> Any:
        leaves = jax.tree.leaves(args)
        shapes = tuple(getattr(x, "shape", ()) for x in leaves)
        if shapes in self.known:
            return self.jitted(*args)
        # Not among the rows of a table, which may be read by a program.
        print(f"compiling {self.name} (Ctrl-C stops it)", file=sys.stderr, flush=True)
        start = time.perf_counter()
        result = self.jitted(*args)
        self.seconds += time.perf_counter() - start
        self.known.add(shapes)
        return result
