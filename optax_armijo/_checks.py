"""Checks of arguments: each message has the name, the allowed range and the value."""

import math
from collections.abc import Sequence
from typing import Any

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

    A traced value, as ``optax.inject_hyperparams`` gives, is not known yet and passes.
    """
    if isinstance(value, Tracer):
        return
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a number; got {value!r}") from error
    if not (
        math.isfinite(number)
        and above < number < below
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


def check_order(low_name: str, low: Any, high_name: str, high: Any) -> None:
    """Raises ValueError when ``low > high``."""
    if isinstance(low, Tracer) or isinstance(high, Tracer):
        return
    if low > high:
        raise ValueError(
            f"{low_name} must not be above {high_name}; got {low_name}={low!r} and "
            f"{high_name}={high!r}"
        )
