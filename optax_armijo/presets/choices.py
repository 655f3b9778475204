"""The policies by their names, and the set that a search goes by."""

from typing import NamedTuple

from optax_armijo.presets import selection, start
from optax_armijo.presets.acceptance import armijo
from optax_armijo.presets.frequency import adaptive, every
from optax_armijo.presets.merging import separate
from optax_armijo.presets.policies import (
    Acceptance,
    Frequency,
    Merging,
    Selection,
    Shrink,
    Start,
    resolve,
)
from optax_armijo.presets.shrink import constant

STARTS = {"grow": start.grow, "keep": start.keep, "reset": start.reset}
SELECTIONS = {
    "cycle": selection.cycle,
    "joint": selection.joint,
    "weighted": selection.weighted,
}
FREQUENCIES = {"every": every, "adaptive": adaptive}


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
    acceptance: Acceptance | None = None,
    start: str | Start = "grow",
    search: str | Selection = "cycle",
    frequency: str | Frequency = "every",
    merging: Merging | None = None,
) -> Policies:
    """Returns the policies given, by themselves or by name.

    Raises:
      ValueError: what is neither a policy of its kind nor the name of one.
    """
    return Policies(
        acceptance=armijo() if acceptance is None else acceptance,
        start=resolve("start", start, Start, STARTS),
        shrink=constant(),
        search=resolve("search", search, Selection, SELECTIONS),
        frequency=resolve("frequency", frequency, Frequency, FREQUENCIES),
        merging=separate() if merging is None else merging,
    )
