"""The candidate for the default: what it measures, and what it does with it."""

import json
from pathlib import Path
from typing import Any

import candidate
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from candidate import lines, main
from next_batch import (
    HALF,
    LARGEST_NOISE,
    MEASURED_EVERY,
    OWN,
    SIGNAL_DECAY,
    UNIT_DECAY,
    UP,
    WARM_UP,
    Errors,
    NextBatchState,
    _change,
    _is_due,
    _schedule,
    _shortening,
    _with_measurement,
    _with_unit,
    next_batch,
)
from standings import with_best

from optax_armijo import make_train_step

CURVATURE = np.array([1.0, 4.0, 0.25, 2.0, 0.5, 1.5], np.float32)
LABELS = {"first": "first", "second": "second"}


def params_like(x: Any) -> dict[str, jax.Array]:
    return {"first": jnp.asarray(x[:2]), "second": jnp.asarray(x[2:])}


def quadratic(params: dict[str, jax.Array], noise: jax.Array, *_: Any) -> jax.Array:
    """0.5 <w, H w> + <noise, w>, a quadratic whose slope alone differs by batch."""
    w = jnp.concatenate([params["first"], params["second"]])
    return 0.5 * jnp.sum(CURVATURE * w * w) + jnp.sum(noise * w)


def run(
    noises: Any, num_steps: int | None = None
) -> tuple[list[np.ndarray], list[NextBatchState]]:
    """The points before each step and after the last, and the states after each."""
    tx = next_batch(LABELS, num_steps)
    step = make_train_step(quadratic, tx)
    params = params_like(np.array([2.0, -1.0, 3.0, 1.0, -2.0, 1.0], np.float32))
    state, points, states = tx.init(params), [], []
    for noise in noises:
        points.append(np.concatenate([params["first"], params["second"]]))
        params, state, _ = step(params, state, jnp.asarray(noise), jax.random.key(0))
        states.append(jax.tree.map(np.asarray, state))
    points.append(np.concatenate([params["first"], params["second"]]))
    return points, states


def test_signal_is_the_slope_on_the_next_batch() -> None:
    """On a quadratic S = 2 d + s is exact, whatever the batch, as is C = <u, H u>."""
    rng = np.random.default_rng(0)
    noises = rng.normal(0, 0.3, (5, 6)).astype(np.float32)
    points, states = run(noises)
    signals, promises, unit = [], [], 0.0
    for k in range(1, 5):
        update = (points[k] - points[k - 1]).astype(float)
        slope = CURVATURE * points[k - 1] + noises[k]
        own = CURVATURE * points[k - 1] + noises[k - 1]
        # In units of the average promise: exponential, without a bias.
        unit = UNIT_DECAY * unit + (1 - UNIT_DECAY) * abs(own @ update)
        scale = unit / (1 - UNIT_DECAY**k)
        signals.append(-slope @ update / scale)
        promises.append(-own @ update / scale)
        measured = states[k].measured
        # The first measurements weigh the same.
        assert measured.signal == pytest.approx(np.mean(signals), rel=1e-3)
        assert measured.predicted == pytest.approx(np.mean(promises), rel=1e-3)
    assert SIGNAL_DECAY > 1 - 1 / 5


def test_signal_fraction_of_a_known_noise() -> None:
    """Without noise it is 1; where noise is nearly all of the gradient, near 0."""
    _, exact = run(np.zeros((12, 6), np.float32))
    assert exact[-1].measured.fraction == pytest.approx(1, abs=1e-3)
    rng = np.random.default_rng(1)
    _, noisy = run(rng.normal(0, 30, (60, 6)).astype(np.float32))
    assert noisy[-1].measured.fraction < 0.3


def test_first_measurements_do_not_rule_for_good() -> None:
    """What a step promises falls by orders of magnitude, and phi follows the noise."""
    state: Any = next_batch(LABELS).init(params_like(np.ones(6)))
    measured, yes = state.measured, jnp.asarray(True)
    for k in range(1, 301):
        promised, at = jnp.float32(np.exp(-k / 20)), jnp.asarray(k)
        measured = _with_unit(measured, yes, promised)
        if _is_due(at, measured.at, MEASURED_EVERY):
            signal = jnp.where(k <= 20, 0, promised)  # until then all is noise
            numbers = {"signal": signal, "curvature": signal, "predicted": promised}
            measured = _with_measurement(measured, yes, **numbers, k=at)
        assert k > 20 or measured.fraction == 0
    assert measured.fraction > 0.5


def test_step_sizes_grow_while_steps_are_too_short() -> None:
    count = jnp.asarray(20)
    errors = Errors(count, jnp.ones(3), jnp.ones(3))
    change = _change(errors, count, jnp.asarray(False))
    chex.assert_trees_all_close(change, jnp.full(2, UP), rtol=1e-5)
    too_long = errors._replace(mean=-jnp.ones(3))
    assert np.all(_change(too_long, count, jnp.asarray(False)) < 0)
    # The measured curvature has the last word.
    kept = _change(too_long, count, jnp.asarray(True))
    chex.assert_trees_all_close(kept, jnp.zeros(2), atol=1e-6)


def test_groups_part_around_their_mean() -> None:
    mean = jnp.array([0.0, 1.0, -1.0])
    errors = Errors(jnp.asarray(1000), mean, jnp.ones(3))
    change = _change(errors, jnp.asarray(2), jnp.asarray(False))
    assert change[0] - change[1] == pytest.approx(2 * OWN, rel=1e-5)
    assert change[0] + change[1] == pytest.approx(0, abs=1e-6)


def test_a_step_promises_no_more_noise_than_a_part_of_the_loss() -> None:
    value, promised = jnp.asarray(2.0), jnp.asarray(50.0)
    shortened = promised * _shortening(promised, jnp.asarray(0.5), value)
    assert 0.25 * float(shortened) == pytest.approx(LARGEST_NOISE * 2.0, rel=1e-5)
    # Neither without noise, nor where the loss is below zero or little is promised.
    assert _shortening(promised, jnp.asarray(1.0), value) == 1
    assert _shortening(promised, jnp.asarray(0.5), -value) == 1
    assert _shortening(jnp.asarray(0.1), jnp.asarray(0.5), value) == 1


def test_an_oscillation_counts_as_no_signal() -> None:
    """As many steps go uphill as down: their slopes cancel, whatever p was."""
    state: Any = next_batch(LABELS).init(params_like(np.ones(6)))
    measured, yes = state.measured, jnp.asarray(True)
    for k in range(1, 41):
        promised = jnp.float32((-1) ** k)
        numbers = {"signal": promised, "curvature": promised, "predicted": promised}
        measured = _with_unit(measured, yes, promised)
        measured = _with_measurement(measured, yes, **numbers, k=jnp.asarray(k))
    assert abs(measured.predicted) < 0.1
    assert measured.raw_fraction < 0.6


def test_schedule_falls_as_far_as_noise_demands() -> None:
    last = jnp.asarray(110)
    assert _schedule(last, jnp.asarray(0.0), 110) == pytest.approx(0.01)
    assert _schedule(last, jnp.asarray(0.5), 110) == pytest.approx(0.1)
    assert _schedule(last, jnp.asarray(1.0), 110) == 1
    assert _schedule(last, jnp.asarray(0.0), None) == 1
    assert _schedule(jnp.asarray(1), jnp.asarray(0.0), 110) == 1 / WARM_UP


def test_it_finds_the_minimum_of_a_quadratic() -> None:
    points, states = run(np.zeros((300, 6), np.float32), 300)
    assert np.sum(CURVATURE * np.square(points[-1])) < 1e-6
    assert np.all(np.isfinite(states[-1].step_size))


def test_a_batch_that_is_not_finite_costs_one_step() -> None:
    """It moves nothing, changes no moment, and step sizes stay within a half."""
    noises = np.zeros((30, 6), np.float32)
    noises[20, 0] = np.nan
    points, states = run(noises)
    assert np.all(np.isfinite(points[-1]))
    chex.assert_trees_all_equal(points[21], points[20])
    chex.assert_trees_all_equal(states[20].adam, states[19].adam)
    assert np.all(states[20].step_size >= HALF * states[19].step_size)


def test_a_step_into_overflow_is_undone() -> None:
    """A loss that was finite before the step, and is not after it."""

    def cliff(params: dict[str, jax.Array], edge: jax.Array, *_: Any) -> jax.Array:
        w = jnp.concatenate([params["first"], params["second"]])
        beyond = jnp.sum(jnp.square(w)) < edge
        return jnp.where(beyond, jnp.inf, 1) * jnp.sum(jnp.square(w))

    tx = next_batch(LABELS)
    step = make_train_step(cliff, tx)
    params = params_like(np.ones(6, np.float32))
    state, before = tx.init(params), params
    for _ in range(4):
        before = jax.tree.map(jnp.copy, params)
        params, state, _ = step(params, state, jnp.asarray(0.0), jax.random.key(0))
    size = jnp.sum(jnp.square(jnp.concatenate([*params.values()])))
    params, state, _ = step(params, state, size * 1.001, jax.random.key(0))
    chex.assert_trees_all_close(params, before, rtol=1e-5)


def test_candidate_names_what_it_does_not_know(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--tasks", "nothing"])
    assert "must be of development, test" in capsys.readouterr().err


def test_candidate_has_a_line_for_each_task_that_has_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gap is that to the best of all records, so none if it is the best itself."""
    monkeypatch.setattr(candidate, "RESULTS", tmp_path / "candidate.jsonl")
    assert len(lines(["heat", "digits-500"])) == 1
    _, best = with_best("heat", "loss")
    run = {"task": "heat", "cost": 1.5, "scores": best.runs[0]["scores"], "seed": 0}
    candidate.RESULTS.write_text(json.dumps(run) + "\n")
    found = lines(["heat", "digits-500"])
    task, number, _, cost, *sizes = found[1].split()
    assert (task, number, cost, sizes[0]) == ("heat", "1", "1.50", "0.00")
    assert [x.split()[0] for x in found[2:]] == ["mean", "median", "worst"]


def test_fuzz_runs_the_candidate_beside_the_default(monkeypatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(candidate.fuzz, "FORMS", dict(candidate.fuzz.FORMS))
    monkeypatch.setattr(candidate.fuzz, "main", calls.append)
    main(["--fuzz"])
    ((_, forms, *_),) = calls
    made = [candidate.fuzz.FORMS[name]() for name in forms.split(",")]
    states: list[Any] = [tx.init({"w": jnp.ones(2)}) for tx in made]
    assert [isinstance(x, NextBatchState) for x in states] == [False, True, True]
