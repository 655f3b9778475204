"""The library against its NumPy twin on losses and gradients that are no help."""

from typing import Any

import numpy as np
import pytest
from twin_checks import check
from twin_runs import BY_LEAF, Run, meddled

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize(
    ("momentum", "poison"),
    [
        ("none", {"loss_offset": np.nan}),
        ("kept", {"loss_offset": np.inf}),
        ("searched", {"grad_scale": np.nan}),
        ("none", {"grad_scale": 1e200}),  # finite, but its square is not
    ],
)
def test_bad_batches_change_nothing_but_the_turn(
    momentum: str, poison: dict[str, float]
):
    run = Run({"momentum": momentum}, batches=meddled([0, 3, 40, 41], **poison))
    assert check(run, "bad batch", "net", "backtracking rejects")["bad batch"] == 4


@pytest.mark.parametrize("outside", [np.inf, np.nan])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"search": "cycle"}, ("backtracking rejects",)),
        ({"search": "each", "momentum": "kept"}, ("net shrinks",)),
        (
            {"max_trials": 3, "lower_bound": None, "momentum": "kept"},
            ("bracketing again", "backtracking fails"),
        ),
    ],
)
def test_trials_without_a_finite_loss(
    options: dict[str, Any], expected: tuple[str, ...], outside: float
):
    # Starts so long that the first trial often leaves the ball, params never.
    options = {"increase_factor": 30.0, "decrease_factor": 0.3, **options}
    run = Run(options, radius=20.0, outside=outside)
    assert check(run, "loss not finite", *expected)["loss not finite"] >= 5


def test_a_group_without_a_gradient():
    options = {"momentum": "searched", "num_joint_steps": 2}
    batches = meddled([1, 2, 3, *range(12, 18)], grad_scale=0.0)
    run = Run(options, labels=BY_LEAF, batches=batches)
    check(run, "no descent", "nothing searched", "momentum replaced")
