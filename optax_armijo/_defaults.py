"""Which acceptance, start and the like go with which momentum, where none are given."""

from typing import Any

from optax_armijo._types import Momentum

# Trials on rows that the direction has not seen are noisy and unbiased: each measures,
# the mean decides, and ever fewer are enough.
HELD_OUT: dict[str, Any] = {
    "c": 0.7,
    "net": "off",
    "acceptance": "measure",
    "start": "expected",
    "search": "joint",
    "frequency": "thinning",
}

# Trials on the rows that the direction came from: each must pass by itself.
IN_SAMPLE: dict[str, Any] = {
    "c": 0.5,
    "net": "no_rise",
    "acceptance": "armijo",
    "start": "grow",
    "search": "cycle",
    "frequency": "every",
}


def fill_in(momentum: Momentum, **given: Any) -> dict[str, Any]:
    """Returns `given`, each None replaced by what goes with `momentum`."""
    defaults = HELD_OUT if momentum == "held_out" else IN_SAMPLE
    return {k: defaults[k] if v is None else v for k, v in given.items()}
