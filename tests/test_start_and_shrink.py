"""Where searches begin, and how refused trials shrink."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import LABELS, network_params, run

import optax_armijo
from optax_armijo import armijo_adam, armijo_info, policies, scale_by_armijo
from optax_armijo.policies import Opening

quick = settings(max_examples=50, deadline=None)


def opening(step_size, *, value=1.0, ray_slopes=(1.0,), factor=2.0):
    return Opening(
        step_size=jnp.asarray(step_size, jnp.float32),
        init_step_size=jnp.float32(0.125),
        increase_factor=jnp.float32(factor),
        value=jnp.float32(value),
        ray_slopes=jnp.asarray(ray_slopes, jnp.float32),
    )


def first(start, now):
    return start.first(start.init(len(now.step_size), jnp.float32), now).tolist()


def test_keep_grow_and_reset_begin_where_they_say():
    now = opening([0.25, 1.0], ray_slopes=(1.0, 1.0))
    assert first(policies.keep(), now) == [0.25, 1.0]
    assert first(policies.grow(), now) == [0.5, 2.0]
    assert first(policies.reset(), now) == [0.125, 0.125]


@pytest.mark.parametrize(
    ("unsearched", "moves_by", "keeps"),
    [("keep", 0.25, 0.25), ("grow", 0.5, 0.5), ("grow_once", 0.5, 0.25)],
)
def test_what_moves_without_a_search(unsearched, moves_by, keeps):
    rest = policies.grow(unsearched=unsearched).rest((), opening([0.25]))
    assert [x.tolist() for x in rest] == [[moves_by], [keeps]]


@quick
@given(st.floats(-2.0, 5.0), st.floats(1e-3, 1e3), st.floats(0.05, 2.0))
def test_polyak_is_room_over_slope_within_bounds(value, slope, c_p):
    start = policies.polyak(-1.0, c_p=c_p, min_start=1e-3, max_start=2.0)
    expected = np.clip(max(value + 1.0, 0.0) / (c_p * slope), 1e-3, 2.0)
    now = opening([0.5], value=value, ray_slopes=(slope,))
    np.testing.assert_allclose(first(start, now), [expected], rtol=1e-5)


def test_polyak_remembers_backtracks_and_forgets_one_a_search():
    start = policies.polyak(decrease_factor=0.5)
    backtracks = start.init(1, jnp.float32)
    seen = []
    for num_trials in (4, 1, 1, 1, 3):
        outcome = policies.Outcome(
            *(jnp.ones(1) for _ in range(8)), c=jnp.float32(0.5)
        )._replace(searched=jnp.array([True]), num_trials=jnp.array([num_trials]))
        backtracks = start.update(backtracks, outcome)
        seen.append(int(backtracks[0]))
    assert seen == [2, 1, 0, 0, 1]


@quick
@given(st.floats(0.1, 10.0), st.floats(0.05, 0.95), st.floats(0.01, 1.0))
def test_the_quadratic_finds_the_best_point_of_a_quadratic(curvature, c, part):
    """f(t) = -t + q t^2: minimum at 1 / 2q, Armijo passes up to (1 - c) / q."""
    step_size = part / curvature
    ratio = 1 - curvature * step_size
    best = min(0.5, 1 - c) / curvature
    factor = 1 / policies.quadratic(1e-6).factor(
        jnp.float32(ratio), jnp.float32(c), jnp.float32(1.0)
    )
    if best < step_size:
        np.testing.assert_allclose(step_size / factor, best, rtol=1e-3)


def test_a_quadratic_start_lands_on_the_minimum_in_the_second_step():
    def f(w, step):
        return jnp.sum((w - 3.0) ** 2)

    tx = optax.chain(
        optax.sgd(1.0),
        scale_by_armijo(start="quadratic", init_step_size=0.2, lower_bound=None),
    )
    history = run(tx, jnp.zeros(1), f, num_steps=4)
    np.testing.assert_allclose(history[-1].params, [3.0], atol=1e-3)


def test_quadratic_shrinking_needs_one_trial_where_constant_needs_many():
    def f(w, step):
        return jnp.sum(w**2)

    def num_trials(shrink):
        start = policies.keep(brackets_first=False)
        tx = optax.chain(
            optax.sgd(1.0),
            scale_by_armijo(
                start=start,
                shrink=shrink,
                init_step_size=4.0,
                decrease_factor=0.9,
                max_trials=30,
            ),
        )
        (step,) = run(tx, jnp.ones(1), f, num_steps=1)
        info = armijo_info(step.state)
        assert bool(info.accepted[0])
        return int(info.num_trials[0]), float(step.updates[0])

    trials, update = num_trials("quadratic")
    assert trials == 2
    assert update == pytest.approx(-1.0)  # to the minimum
    assert num_trials("constant")[0] == 21  # 4 * 0.9^20 is the first below 1 / 2


@pytest.mark.parametrize("decrease_factor", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("ratio", [-np.inf, -1e30, -1.0, 0.4, 0.9, 1.0, 5.0])
def test_quadratic_shrinking_is_safeguarded(ratio, decrease_factor):
    factor = policies.quadratic(0.1).factor(
        jnp.float32(ratio), jnp.float32(0.5), jnp.float32(decrease_factor)
    )
    assert min(0.1, decrease_factor) - 1e-6 <= float(factor) <= decrease_factor + 1e-6


@pytest.mark.parametrize("start", ["keep", "grow", "reset", "polyak", "quadratic"])
def test_a_schedule_caps_every_step(start):
    cap = optax.linear_schedule(1e-3, 2e-2, 10)
    tx = armijo_adam(LABELS, start=start, init_step_size=1e-3, max_step_size=cap)
    for step, entry in enumerate(run(tx, network_params(), num_steps=12)):
        applied = armijo_info(entry.state).applied_step_size
        assert float(jnp.max(applied)) <= np.asarray(cap(step)) * (1 + 1e-6)


def test_a_schedule_on_top_scales_what_was_found():
    """Warm-up is optax's own: chain it behind."""
    warmup = optax.linear_schedule(0.0, 1.0, 4)
    plain = run(armijo_adam(LABELS), network_params(), num_steps=1)[0].updates
    tx = optax.chain(armijo_adam(LABELS), optax.scale_by_schedule(warmup))
    history = run(tx, network_params(), num_steps=3)
    assert float(optax.tree.norm(history[0].updates)) == 0
    assert float(optax.tree.norm(history[2].updates)) > 0
    assert float(optax.tree.norm(plain)) > 0


def test_keeping_never_steps_further_than_before():
    tx = armijo_adam(LABELS, start=policies.keep(brackets_first=False), search="joint")
    sizes = [
        float(armijo_info(entry.state).step_size[0])
        for entry in run(tx, network_params(), num_steps=15)
    ]
    assert all(b <= a for a, b in zip(sizes, sizes[1:], strict=False))


def test_resetting_begins_every_search_anew():
    tx = armijo_adam(
        LABELS, start="reset", search="joint", init_step_size=0.5, decrease_factor=0.5
    )
    for entry in run(tx, network_params(), num_steps=8):
        info = armijo_info(entry.state)
        expected = 0.5 * 0.5 ** (int(info.num_trials[0]) - 1)
        assert float(info.step_size[0]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: policies.polyak(c_p=0.0), r"c_p .* \(0, inf\); got 0.0"),
        (lambda: policies.polyak(min_start=2.0, max_start=1.0), "min_start=2.0"),
        (
            lambda: policies.grow(unsearched="no"),  # pyright: ignore[reportArgumentType]
            "unsearched must be .* got 'no'",
        ),
        (lambda: policies.quadratic(1.0), r"lowest .* \(0, 1\); got 1.0"),
        (lambda: policies.quadratic_start(highest=0.5), r"highest .* \[1, inf\)"),
        (lambda: policies.smoothed(1.0), r"decay .* \[0, 1\); got 1.0"),
        (lambda: policies.zhang_hager(1.1), r"decay .* \[0, 1\]; got 1.1"),
        (lambda: policies.window_max(0), r"size .* \[1, inf\); got 0"),
        (lambda: policies.approximate(-1.0), r"epsilon .* got -1.0"),
        (lambda: policies.every(0), r"k .* \[1, inf\); got 0"),
        (lambda: policies.adaptive(0), r"max_interval .* got 0"),
        (lambda: policies.weighted(base=0.0), r"base .* got 0.0"),
        (lambda: policies.combine(-1.0), r"threshold .* got -1.0"),
        (
            lambda: policies.combine(1e-3, split_above=1e-4),
            r"split_above .* got 0.0001",
        ),
    ],
)
def test_bad_arguments_of_policies_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("argument", "kind"),
    [
        ("acceptance", "Acceptance"),
        ("start", "Start"),
        ("shrink", "Shrink"),
        ("search", "Selection"),
        ("frequency", "Frequency"),
        ("merging", "Merging"),
    ],
)
@pytest.mark.parametrize("given", ["nonsense", 3, policies.Trial])
def test_what_is_no_policy_raises_with_the_names_allowed(argument, kind, given):
    for make in (optax_armijo.armijo_adam, scale_by_armijo, optax_armijo.armijo_adamw):
        with pytest.raises(ValueError, match=f"{argument} must be one of .*{kind}"):
            make(**{argument: given})


def test_injected_numbers_reach_the_policies():
    """Traced hyper-parameters, as inject_hyperparams makes them, may change."""

    @jax.jit
    def factor(c):
        return policies.quadratic().factor(jnp.float32(-1.0), c, jnp.float32(0.9))

    assert float(factor(0.5)) == pytest.approx(0.25)
    assert float(factor(0.75)) == pytest.approx(0.125)
