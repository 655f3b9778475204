"""The policies by their names, and the set that a search goes by."""

from typing import NamedTuple

from optax_armijo import (
    _acceptance,
    _expected,
    _frequency,
    _merging,
    _nonmonotone,
    _selection,
    _shrink,
    _smoothed,
    _start,
)
from optax_armijo._policies import (
    Acceptance,
    Frequency,
    Merging,
    Selection,
    Shrink,
    Start,
    resolve,
)

ACCEPTANCES = {
    "armijo": _acceptance.armijo,
    "smoothed": _smoothed.smoothed,
    "zhang_hager": _nonmonotone.zhang_hager,
    "window_max": _nonmonotone.window_max,
    "approximate": _acceptance.approximate,
    "measure": _acceptance.measure,
}
STARTS = {
    "grow": _start.grow,
    "keep": _start.keep,
    "reset": _start.reset,
    "polyak": _start.polyak,
    "quadratic": _start.quadratic_start,
    "expected": _expected.expected,
}
SHRINKS = {"constant": _shrink.constant, "quadratic": _shrink.quadratic}
SELECTIONS = {
    "cycle": _selection.cycle,
    "joint": _selection.joint,
    "each": _selection.each,
    "weighted": _selection.weighted,
}
FREQUENCIES = {
    "every": _frequency.every,
    "thinning": _frequency.thinning,
    "adaptive": _frequency.adaptive,
}
MERGINGS = {"separate": _merging.separate, "combine": _merging.combine}


class Policies(NamedTuple):
    """One policy of each kind."""

    acceptance: Acceptance
    start: Start
    shrink: Shrink
    search: Selection
    frequency: Frequency
    merging: Merging


def choose_policies(
    *,
    acceptance: str | Acceptance = "armijo",
    start: str | Start = "grow",
    shrink: str | Shrink = "constant",
    search: str | Selection = "cycle",
    frequency: str | Frequency = "every",
    merging: str | Merging = "separate",
) -> Policies:
    """Returns the policies given, by themselves or by name.

    Raises:
      ValueError: what is neither a policy of its kind nor the name of one.
    """
    return Policies(
        acceptance=resolve("acceptance", acceptance, Acceptance, ACCEPTANCES),
        start=resolve("start", start, Start, STARTS),
        shrink=resolve("shrink", shrink, Shrink, SHRINKS),
        search=resolve("search", search, Selection, SELECTIONS),
        frequency=resolve("frequency", frequency, Frequency, FREQUENCIES),
        merging=resolve("merging", merging, Merging, MERGINGS),
    )
