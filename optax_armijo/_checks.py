"""Checks of arguments. Messages give the name, the allowed range and the value."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optax
from jax.core import Tracer


def check_range(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
    is_integer: bool = False,
) -> None:
    """Raises ValueError unless the number lies in the range.

    A traced value, as from ``optax.inject_hyperparams``, is not known yet and passes.
    """
    if isinstance(value, Tracer):
        return
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a number; got {value!r}") from error
    if isinstance(value, bool | np.bool_ | str):
        raise ValueError(f"{name} must be a number; got {value!r}")
    with np.errstate(over="ignore", under="ignore"):
        computed = float(np.float32(number))  # 1 - 1e-9 is 1, and 1e-50 is 0
    if not (
        math.isfinite(number)
        and above < computed < below
        and at_least <= number <= at_most
        and (not is_integer or number == int(number))
    ):
        low, high = max(above, at_least), min(below, at_most)
        left = "[" if math.isfinite(at_least) else "("
        right = "]" if math.isfinite(at_most) else ")"
        raise ValueError(
            f"{name} must be {'an integer' if is_integer else 'a finite number'} in "
            f"{left}{low:g}, {high:g}{right}; "
            f"got {value!r}"
        )


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raises ValueError unless the value is one of the choices."""
    if value not in choices:
        allowed = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be one of {allowed}; got {value!r}")


def check_callable(name: str, value: Any) -> None:
    """Raises TypeError unless the value is a function."""
    if not callable(value):
        raise TypeError(f"{name} must be a function; got {type(value).__name__}")


def as_transformation(name: str, tx: Any) -> optax.GradientTransformationExtraArgs:
    """Returns an optax transformation that takes extra arguments.

    Raises:
      TypeError: another object, such as the function that makes one.
    """
    if not (hasattr(tx, "init") and hasattr(tx, "update")):
        made_by = getattr(tx, "__name__", "")
        hint = f"; call it: {made_by}()" if made_by else ""
        raise TypeError(
            f"{name} must be an optax transformation; got {type(tx).__name__}{hint}"
        )
    return optax.with_extra_args_support(tx)


def check_order(low_name: str, low: Any, high_name: str, high: Any) -> None:
    """Raises ValueError when ``low > high``."""
    if isinstance(low, Tracer) or isinstance(high, Tracer):
        return
    if low > high:
        raise ValueError(
            f"{low_name} must not be above {high_name}; got {low_name}={low!r} and "
            f"{high_name}={high!r}"
        )
