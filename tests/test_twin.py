"""The library against its NumPy twin, step by step, in float64.

Both run 100 steps from the same params on the same mini-batches; the library inside
`jit` with JAX's gradients, the twin with gradients by hand. Here all searches, momenta,
groupings and transformations are run; `test_twin_limits.py` and
`test_twin_bad_values.py` run what is out of the ordinary.
"""

from typing import Any

import pytest
from twin_checks import check
from twin_runs import BIASES, BY_LEAF, WEIGHTS, Run

pytestmark = pytest.mark.usefixtures("x64")

# Two of the nine runs have no net: all groups are tested together there, and what is
# tested is what is kept.
NETS = {
    ("cycle", "none"): ("net shrinks",),
    ("cycle", "kept"): ("net shrinks", "net stops all"),
    ("cycle", "searched"): ("net shrinks", "momentum replaced", "backtracking fails"),
    ("joint", "none"): (),
    ("joint", "kept"): ("net shrinks",),
    ("joint", "searched"): ("momentum replaced",),
    ("each", "none"): ("net shrinks",),
    ("each", "kept"): ("net shrinks", "net stops all"),
    ("each", "searched"): ("net", "momentum replaced", "backtracking fails"),
}


@pytest.mark.parametrize(("search", "momentum"), NETS)
def test_every_search_with_every_momentum(search: str, momentum: str):
    # A large increase, else one search in ten alone refuses its first trial.
    options = {"search": search, "momentum": momentum, "increase_factor": 1.3}
    expected = NETS[search, momentum]
    count = check(
        Run(options),
        "bracketing",
        "bracketing rejects",
        "backtracking",
        "backtracking rejects",
        *expected,
    )
    assert bool(count["net"]) == bool({"net", "net shrinks"} & set(expected))


def test_the_defaults():
    check(Run({}), "bracketing rejects", "backtracking rejects", "net shrinks")


@pytest.mark.parametrize(
    ("net", "expected"), [("average", ("net", "net lets rise")), ("off", ())]
)
def test_other_nets(net: str, expected: tuple[str, ...]):
    count = check(Run({"net": net, "momentum": "kept"}), *expected)
    assert bool(count["net"]) == (net == "average")


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": "kept", "c": 0.2, "num_joint_steps": 11},
        {"momentum": "searched", "c": 0.7, "search": "each", "num_joint_steps": 0},
    ],
)
def test_other_hyperparameters(options: dict[str, Any]):
    others = {
        "b1": 0.8,
        "b2": 0.99,
        "eps": 1e-2,
        "decrease_factor": 0.5,
        "increase_factor": 2.0,
    }
    check(Run({**others, **options}), "net", "backtracking rejects")


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (("all",) * 6, {"momentum": "kept", "increase_factor": 1.3}),
        (BY_LEAF, {"momentum": "searched", "increase_factor": 1.3}),
    ],
)
def test_one_group_and_many(labels: tuple[str, ...], options: dict[str, Any]):
    check(Run(options, labels=labels), "net shrinks", "backtracking rejects")


@pytest.mark.parametrize(
    ("mask", "options", "expected"),
    [
        (WEIGHTS, {"weight_decay": 0.1, "momentum": "kept"}, ("net stops all",)),
        (BIASES, {"weight_decay": 30.0, "search": "each"}, ("decay to zero",)),
    ],
)
def test_weight_decay_with_a_mask(
    mask: tuple[bool, ...], options: dict[str, Any], expected: tuple[str, ...]
):
    check(Run(options, mask=mask), "net", "backtracking rejects", *expected)


@pytest.mark.parametrize("search", ["cycle", "joint", "each"])
def test_scale_by_armijo_after_sgd(search: str):
    run = Run({"search": search, "increase_factor": 1.1}, friction=0.0)
    check(run, "bracketing rejects", "backtracking rejects")


@pytest.mark.parametrize("search", ["cycle", "joint", "each"])
def test_scale_by_armijo_after_a_direction_that_may_climb(search: str):
    run = Run({"search": search}, friction=0.97)
    check(run, "no descent", "nothing searched", "backtracking rejects")
