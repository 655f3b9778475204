"""The published methods, step by step: against released code, and against NumPy twins.

Both runs are in float64 on one small problem; step sizes and losses must agree to 1e-9
and the number of trials must be equal, at every step.
"""

import numpy as np
import optax
import pytest
from published_problem import (
    GROUPS,
    LABELS,
    NAMES,
    NUM_STEPS,
    PARAMS,
    RECORD,
    numpy_problems,
    trajectory,
)
from reference_methods import (
    ADAM,
    ADAMSLS,
    AMSGRAD_SLS,
    KENSLS,
    PONOS,
    SGD,
    SLS,
    Geometry,
    Method,
    Plasls,
    Polyak,
    Salsa,
    run,
)

import optax_armijo as oa


def check(tx, losses, step_sizes, num_trials, final):
    params, (value, step_size, evaluations, accepted, searched) = trajectory(tx)
    np.testing.assert_array_equal(evaluations, num_trials)
    np.testing.assert_allclose(step_size, step_sizes, rtol=1e-9)
    np.testing.assert_allclose(value, losses, rtol=1e-9)
    np.testing.assert_array_equal(accepted, searched)
    for name, expected in zip(NAMES, final, strict=True):
        np.testing.assert_allclose(params[name], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["adamsls", "plasls", "salsa"])
def test_methods_follow_the_released_code(name, x64):
    tx = {
        "adamsls": oa.adamsls(c=0.3, init_step_size=3.0),
        "plasls": oa.plasls(LABELS, c=0.6, init_step_size=3.0),
        "salsa": oa.salsa(),
    }[name]
    published = RECORD["runs"][name]
    assert len(published["loss"]) == NUM_STEPS == 80
    final = [published["final"][name] for name in NAMES]
    check(
        tx,
        published["loss"],
        published["step_sizes"],
        published["num_trials"],
        final,
    )


_PAPER_PLASLS = Plasls(form="paper", c=0.1, init=0.1)
_HEAVY_AMSGRAD = AMSGRAD_SLS._replace(momentum=True)
_SALSA_MV = Salsa(use_mv=True, negative="plain")

# A method of the library, and its twin: (name, library, twin).
TABLE: list[tuple[str, optax.GradientTransformationExtraArgs, Method]] = [
    ("adamsls", oa.adamsls(), ADAMSLS._replace(c=0.1, init=0.1)),
    (
        "adamsls by epoch",
        oa.adamsls(n_batches_per_epoch=4, c=0.3, init_step_size=3.0),
        ADAMSLS._replace(growth=2 ** (1 / 4)),
    ),
    (
        "adamsls smoothed",
        oa.adamsls(smoothing=0.999, init_step_size=3.0, c=0.5),
        Plasls(smooth=0.999, c=0.5, joint_steps=10**9),
    ),
    ("plasls", oa.plasls(LABELS), Plasls(c=0.1, init=0.1)),
    ("plasls, paper", oa.plasls(LABELS, form="paper"), _PAPER_PLASLS),
    (
        "plasls, paper, bold",
        oa.plasls(LABELS, form="paper", init_step_size=3.0, c=0.6),
        Plasls(form="paper"),
    ),
    (
        "plasls, smoothed",
        oa.plasls(LABELS, smoothing=0.9, init_step_size=3.0, c=0.5),
        Plasls(smooth=0.9, c=0.5),
    ),
    (
        "plasls, paper, smoothed",
        oa.plasls(LABELS, form="paper", smoothing=0.999, c=0.5),
        Plasls(form="paper", smooth=0.999, c=0.5, init=0.1),
    ),
    ("salsa", oa.salsa(), Salsa()),
    ("salsa, paper", oa.salsa(form="paper"), Salsa(geometry=ADAM)),
    ("salsa, use_mv", oa.salsa(use_mv=True), _SALSA_MV),
    (
        "salsa, use_mv, paper",
        oa.salsa(use_mv=True, form="paper"),
        _SALSA_MV._replace(geometry=ADAM),
    ),
    ("salsa, decay", oa.salsa(weight_decay=0.1), Salsa(weight_decay=0.1)),
    (
        "salsa, use_mv, decay",
        oa.salsa(use_mv=True, weight_decay=0.1),
        _SALSA_MV._replace(weight_decay=0.1),
    ),
    ("salsa, sgd", oa.salsa(direction="sgd"), Salsa(geometry=SGD)),
    (
        "salsa, every step",
        oa.salsa(frequency="every"),
        Salsa(max_interval=1),
    ),
    ("kensls", oa.kensls(), KENSLS),
    (
        "kensls, bold",
        oa.kensls(init_step_size=3.0, c=0.3),
        KENSLS._replace(init=3.0, c=0.3),
    ),
    ("sls", oa.sls(), SLS),
    (
        "sls, bold",
        oa.sls(init_step_size=30.0, n_batches_per_epoch=4, c=0.5),
        SLS._replace(init=30.0, growth=2 ** (1 / 4), c=0.5),
    ),
    (
        "sls, keep",
        oa.sls(start="keep", init_step_size=30.0),
        SLS._replace(init=30.0, growth=1.0),
    ),
    ("amsgrad_sls", oa.amsgrad_sls(), AMSGRAD_SLS),
    (
        "amsgrad_sls, bold",
        oa.amsgrad_sls(n_batches_per_epoch=4, c=0.5, b2=0.9),
        AMSGRAD_SLS._replace(
            growth=2 ** (1 / 4), c=0.5, geometry=Geometry("amsgrad", b2=0.9)
        ),
    ),
    ("amsgrad_sls, momentum", oa.amsgrad_sls(momentum="kept"), _HEAVY_AMSGRAD),
    ("ponos", oa.ponos(), PONOS),
    ("ponos, adam", oa.ponos(direction="adam"), PONOS._replace(geometry=ADAM)),
    (
        "ponos, forgetful",
        oa.ponos(remembers_backtracks=False, averaging=0.5, lowest_loss=-0.5),
        PONOS._replace(polyak=Polyak(memory=False, xi=0.5, f_star=-0.5)),
    ),
]


@pytest.mark.parametrize(
    ("tx", "twin"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_methods_follow_their_twins(tx, twin, x64):
    if isinstance(twin, Plasls) and twin.joint_steps > NUM_STEPS:
        steps = run(twin, PARAMS, [0] * len(GROUPS), numpy_problems())
    else:
        steps = run(twin, PARAMS, GROUPS, numpy_problems())
    check(
        tx,
        [step.loss for step in steps],
        [step.step_sizes for step in steps],
        [step.num_trials for step in steps],
        steps[-1].params,
    )
