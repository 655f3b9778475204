"""Runs the library and its NumPy twin, and checks that they agree.

Counts and flags must be equal, numbers agree to 1e-9. Each run also says which events
it is there to exercise, so that none of them can go untested unnoticed.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import problems
from reference_base import Options, Record
from twin_library import library
from twin_runs import Run, twin

RTOL = 1e-9


def events(run: Run, values: np.ndarray, records: Sequence[Record]) -> Counter[str]:
    """Counts what happened in a run, under the names that the tests ask for."""
    options = Options(**run.options)
    count = Counter[str]()
    known = np.zeros(len(set(run.labels)), bool)  # whether ever searched

    def add(name: str, happened: bool | np.bool_) -> None:
        count[name] += int(happened)

    for value, record in zip(values, records, strict=True):
        tests = [*record.net, *(test for ray in record.rays for test in ray.trials)]
        accepted = any(ray.accepted for ray in record.rays)
        add("loss not finite", any(not np.isfinite(test.loss) for test in tests))
        add("bad batch", not record.good)
        add("no descent", record.good and not record.searchable.all())
        add("nothing searched", record.good and not record.rays)
        add("nothing to move", record.good and not (record.net or accepted))
        add("momentum replaced", record.replaced.any())
        for ray in record.rays:
            kind = "bracketing" if ray.bracketing else "backtracking"
            add(kind, True)
            add(kind + " rejects", not all(trial.passed for trial in ray.trials))
            add(kind + " fails", not ray.accepted)
            add("bracketing again", ray.bracketing and known[ray.moved].all())
            add("bracketing unsettled", ray.accepted and not ray.settled)
            below = options.lower_bound is not None and value <= options.lower_bound
            add("bracketing below the bound", ray.bracketing and below)
            start = np.inf if ray.bracketing else ray.trials[0].factor
            add("not increased", start == 1)
            add("increased in part", 1 < start < options.increase_factor)
            known |= ray.moved
        add("net", bool(record.net))
        add("net shrinks", 0 < record.net_factor < 1)
        add("net stops all", record.net_factor == 0)
        rises = [test.passed and test.loss > value * (1 + 1e-6) for test in record.net]
        add("net lets rise", any(rises))
        decay = options.weight_decay * record.applied_step_size
        add("decay to zero", np.any(decay > 1))
        floor = options.relative_floor * np.median(record.found)
        add("relative floor", np.any(record.step_size == floor))
        add("low bound", np.any(record.found < options.min_step_size))
        add("high bound", np.any(record.step_size == options.max_step_size))
    return count


def narrowest(values: np.ndarray, records: Sequence[Record]) -> float:
    """How near a test came to its bound at the nearest, relative to the loss."""
    margins = [
        abs(test.loss - test.bound) / abs(value)
        for value, record in zip(values, records, strict=True)
        for trials in (record.net, *(ray.trials for ray in record.rays))
        for test in trials
        if np.isfinite(test.loss)
    ]
    return min(margins)


def check(run: Run, *expected: str) -> Counter[str]:
    """Compares a run of both and returns its events, of which some must have come."""
    ours, (theirs, records) = library(run), twin(run)
    count = events(run, theirs.value, records)
    missing = [name for name in expected if not count[name]]
    assert not missing, f"the run never met {missing}, only {dict(+count)}"
    # Nearer than that rounding decides, and equal counts are luck.
    assert narrowest(theirs.value, records) > 10 * RTOL
    for name in ("searched", "accepted", "num_trials", "num_evaluations"):
        np.testing.assert_array_equal(
            getattr(ours, name), getattr(theirs, name), err_msg=name
        )
    for name in (
        "value",
        "loss_average",
        "step_size",
        "applied_step_size",
        "net_factor",
    ):
        np.testing.assert_allclose(
            getattr(ours, name), getattr(theirs, name), rtol=RTOL, err_msg=name
        )
    for name, a, b in zip(problems.NAMES, ours.params, theirs.params, strict=True):
        atol = RTOL * float(np.max(np.abs(b)))  # entries may cross zero
        np.testing.assert_allclose(a, b, rtol=RTOL, atol=atol, err_msg=name)
    return count
