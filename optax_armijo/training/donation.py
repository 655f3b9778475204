"""An array donated twice: an error that names its leaves, and no cost without one."""

import functools
from typing import Any

from optax_armijo.labels.paths import paths_and_leaves


def names_shared_arrays(jitted: Any, *names: str) -> Any:
    """Returns a function that tells which of the leaves it donates are one array.

    Args:
      jitted: the function, which donates its first arguments.
      names: of these arguments.
    """

    @functools.wraps(jitted)
    def call(*args: Any) -> Any:
        try:
            return jitted(*args)
        except Exception as error:  # its type is another in each version of JAX
            if "donate the same buffer twice" not in str(error):
                raise
            raise ValueError(
                f"{' and '.join(names)} are donated and must hold each array once; "
                f"got {_shared(dict(zip(names, args, strict=False)))}. Copy one of the "
                "two, or say donate=False"
            ) from error

    for name in ("lower", "trace", "eval_shape", "clear_cache", "_cache_size"):
        if hasattr(jitted, name):
            setattr(call, name, getattr(jitted, name))
    return call


def _shared(donated: dict[str, Any]) -> str:
    first: dict[int, str] = {}
    for path, leaf in paths_and_leaves(donated):
        where = "/".join(path)
        if id(leaf) in first:
            return f"one array as '{first[id(leaf)]}' and '{where}'"
        first[id(leaf)] = where
    return "two leaves that share a buffer"
