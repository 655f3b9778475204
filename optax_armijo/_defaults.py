"""Which momentum, acceptance, start and the like go together, where none are given."""

from typing import Any

# One batch's trial is a noisy measurement: all are taken, the mean decides, and ever
# fewer are enough. It is meant for rows that the direction has not seen.
BY_THE_MEAN: dict[str, Any] = {
    "momentum": "held_out",
    "c": 0.7,
    "net": "off",
    "acceptance": "measure",
    "start": "expected",
    "search": "joint",
    "frequency": "thinning",
}

# Each batch's trial must pass on that batch: the rows that the direction came from.
BY_EACH_BATCH: dict[str, Any] = {
    "momentum": "none",
    "c": 0.5,
    "net": "no_rise",
    "acceptance": "armijo",
    "start": "grow",
    "search": "cycle",
    "frequency": "every",
}


def fill_in(**given: Any) -> dict[str, Any]:
    """Returns `given`, each None replaced by what goes with the rest.

    A start or an acceptance that is given says by its kind what the rest is; if both
    are left open, momentum does.

    Example:
      >>> fill_in(momentum=None, acceptance=None, start=None, c=None)["c"]
      0.7
      >>> fill_in(momentum=None, acceptance="smoothed", start=None)["momentum"]
      'none'
      >>> fill_in(momentum="searched", acceptance=None, start="expected")["acceptance"]
      'measure'
    """
    policies = [(name, given[name]) for name in ("acceptance", "start")]
    kinds = [_is_mean(name, policy) for name, policy in policies if policy is not None]
    by_momentum = given["momentum"] in (None, BY_THE_MEAN["momentum"])
    is_mean = all(kinds) if kinds else by_momentum
    defaults = BY_THE_MEAN if is_mean else BY_EACH_BATCH
    return {k: defaults[k] if v is None else v for k, v in given.items()}


def _is_mean(name: str, policy: Any) -> bool:
    return policy == BY_THE_MEAN[name] or getattr(policy, "is_mean", False)
