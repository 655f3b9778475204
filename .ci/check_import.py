"""Imports the package, and fails if that loads more than JAX, optax and itself do.

Prints how long the import takes. It is not a limit: a busy machine takes twice as long.
"""

import subprocess
import sys

RUNS = 7

# JAX leaves so many objects behind that one pass of the garbage collector over them
# takes longer than the import in which it happens to fall: `freeze` exempts them.
MEASURE = """
import gc, sys, time
import jax, optax
gc.collect()
gc.freeze()
before, start = set(sys.modules), time.perf_counter()
import optax_armijo
print(1e3 * (time.perf_counter() - start))
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(loaded - set(sys.stdlib_module_names) - {"jax", "optax", "optax_armijo"}))
"""


def run(code: str) -> list[str]:
    command = [sys.executable, "-P", "-c", code]  # -P: not what lies here
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    return done.stdout.splitlines()


print(*run("import optax_armijo as x; print(x.__version__, x.__file__)"))
times, others = zip(*(run(MEASURE) for _ in range(RUNS)), strict=True)
fastest = min(map(float, times))
print(f"import: {fastest:.1f} ms beyond jax and optax, the fastest of {RUNS}")
if any(others):
    sys.exit(f"import optax_armijo loads {others[0]}, too")
