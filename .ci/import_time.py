"""Imports the installed package, and fails if that takes 50 ms beyond JAX and optax."""

import subprocess
import sys

LIMIT_MS = 50
RUNS = 7

# JAX leaves so many objects behind that one pass of the garbage collector over them
# takes longer than the import in which it happens to fall: `freeze` exempts them.
MEASURE = """
import gc, time
import jax, optax
gc.collect()
gc.freeze()
start = time.perf_counter()
import optax_armijo
print(1e3 * (time.perf_counter() - start))
"""


def run(code: str) -> str:
    command = [sys.executable, "-P", "-c", code]  # -P: not what lies here
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


print(run("import optax_armijo as x; print(x.__version__, x.__file__)"), end="")
fastest = min(float(run(MEASURE)) for _ in range(RUNS))
print(f"import: {fastest:.1f} ms beyond jax and optax, the fastest of {RUNS}")
sys.exit(fastest >= LIMIT_MS)
