"""Imports the package, and fails if that loads more than JAX, optax and itself do."""

import sys

import jax  # noqa: F401
import optax  # noqa: F401

before = set(sys.modules)

import optax_armijo  # noqa: E402

loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
others = loaded - set(sys.stdlib_module_names) - {"jax", "optax", "optax_armijo"}
print(optax_armijo.__version__, optax_armijo.__file__)
if others:
    sys.exit(f"import optax_armijo loads more: {', '.join(sorted(others))}")
