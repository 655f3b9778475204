"""The library against its NumPy twin where starts, bounds and trials are at limits."""

from typing import Any

import pytest
from twin_checks import check
from twin_runs import Run

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("search", ["cycle", "each"])
@pytest.mark.parametrize("start", [1e-8, 1e3])
def test_starts_that_are_far_off(start: float, search: str):
    options = {
        "init_step_size": start,
        "max_step_size": 1e3,
        "search": search,
        "num_joint_steps": 0 if search == "each" else 6,
    }
    check(Run(options), "bracketing rejects", "backtracking rejects", "net")


@pytest.mark.parametrize(
    ("lower_bound", "max_trials", "expected"),
    [
        (None, 10, ("bracketing rejects",)),
        (None, 3, ("bracketing again", "bracketing unsettled")),
        (0.0, 3, ("bracketing again", "bracketing unsettled")),
        (1.4, 3, ("bracketing again", "bracketing below the bound")),
    ],
)
def test_lower_bounds(
    lower_bound: float | None, max_trials: int, expected: tuple[str, ...]
):
    options = {
        "momentum": "kept",
        "lower_bound": lower_bound,
        "max_trials": max_trials,
        "increase_factor": 1.5,
    }
    check(Run(options), *expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"max_trials": 1, "init_step_size": 0.2, "max_step_size": 30.0},
            ("bracketing fails", "nothing to move", "net stops all"),
        ),
        (
            {"max_trials": 2, "init_step_size": 0.2},
            ("bracketing unsettled", "net shrinks", "net stops all"),
        ),
        (
            {"max_trials": 3, "init_step_size": 1.0, "max_step_size": 1e3},
            ("backtracking fails", "bracketing again", "nothing to move"),
        ),
    ],
)
def test_few_trials(options: dict[str, Any], expected: tuple[str, ...]):
    others = {"momentum": "kept", "increase_factor": 1.5, "lower_bound": None}
    check(Run({**others, **options}), *expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"min_step_size": 0.05, "init_step_size": 0.1, "search": "each"},
            ("low bound",),
        ),
        # Bracketing ends where the next trial would be 2.2 times below the bound.
        (
            {"max_step_size": 0.02, "init_step_size": 0.02 / 5120},
            ("high bound", "increased in part"),
        ),
        ({"relative_floor": 0.9, "search": "each"}, ("relative floor",)),
        # Most of the decrease that is asked for is less than this tolerance.
        (
            {"rounding_ulps": 2e14, "search": "each", "momentum": "kept"},
            ("not increased", "net lets rise"),
        ),
    ],
)
def test_bounds_and_tolerances(options: dict[str, Any], expected: tuple[str, ...]):
    check(Run({"increase_factor": 1.1, **options}), *expected)
