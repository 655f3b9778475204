"""Failed searches, after which the next ones bracket: SLS against a NumPy twin."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from published_problem import NAMES, PARAMS, numpy_problems, trajectory
from reference_methods import inner, move

import optax_armijo as oa

GROWTH = 4.0


class Found(NamedTuple):
    """What a search ends with."""

    eta: float
    num_trials: int
    accepted: bool
    settled: bool  # else the next search brackets


def backtrack(passes, eta, decrease, max_trials):
    for num_trials in range(1, max_trials + 1):
        if passes(eta):
            return Found(eta, num_trials, True, True)
        eta *= decrease
    return Found(eta, max_trials, False, False)


def bracket(passes, eta, largest, max_trials):
    """Climbs a ladder of rungs a factor of 4 apart; falls by growing strides."""
    passed, failed, num_trials = 0.0, largest, 0
    eta = min(max(eta, largest * 4.0**-9), largest * 4.0**-4)
    while num_trials < max_trials:
        num_trials += 1
        if passes(eta):
            passed = eta
        else:
            failed = eta
        if passed > 0 and failed <= 2.1 * passed:
            return Found(passed, num_trials, True, True)
        if passed > 0:
            eta = min(4 * passed, float(np.sqrt(passed * failed)))
        else:
            eta *= 4.0**-num_trials
    return Found(passed or eta, num_trials, passed > 0, False)


def twin(c, decrease, init, max_trials):
    """Facts by step, the last params, and what happened beside plain searches."""
    params, eta, bracketed, limit = PARAMS, init, True, np.inf
    facts, events = [], set()
    for loss, value_and_grad in numpy_problems():
        value, grads = value_and_grad(params)
        slope = sum(inner(grads, grads))

        def passes(eta, params=params, grads=grads, loss=loss, value=value, s=slope):
            return loss(move(params, eta, grads)) <= value - c * eta * s

        if bracketed:
            found = backtrack(passes, GROWTH * eta, decrease, max_trials)
            # A size that was right before bounds the searches after it has failed.
            limit = np.inf if found.accepted else eta
        else:
            largest = min(value / (c * slope), limit)
            found = bracket(passes, eta, largest, max_trials)
            limit = np.inf if found.accepted else limit
        if found.accepted:
            params = move(params, found.eta, grads)
        if bracketed and not found.accepted:
            events.add("backtracking fails")
        if not bracketed and found.accepted:
            events.add("bracketing " + ("settles" if found.settled else "goes on"))
        eta, bracketed = found.eta, found.settled
        facts.append((value, eta, found.num_trials, found.accepted))
    return zip(*facts, strict=True), params, events


@pytest.mark.parametrize(
    ("c", "init", "max_trials", "expected"),
    [
        (0.9, 1.0, 8, {"bracketing settles"}),
        (0.9, 100.0, 3, {"bracketing goes on"}),
    ],
)
def test_after_a_failed_search_the_next_one_brackets(
    c, init, max_trials, expected, x64
):
    tx = oa.sls(
        c=c,
        decrease_factor=0.8,
        growth_per_epoch=GROWTH,
        n_batches_per_epoch=1,
        init_step_size=init,
        max_trials=max_trials,
    )
    (value, eta, num_trials, accepted), last, events = twin(c, 0.8, init, max_trials)
    assert events == {"backtracking fails", *expected}
    params, facts = trajectory(tx)
    np.testing.assert_array_equal(facts[2], num_trials)
    np.testing.assert_array_equal(facts[3][:, 0], accepted)
    np.testing.assert_allclose(facts[0], value, rtol=1e-9)
    np.testing.assert_allclose(facts[1][:, 0], eta, rtol=1e-9)
    for name, expected_leaf in zip(NAMES, last, strict=True):
        np.testing.assert_allclose(params[name], expected_leaf, rtol=1e-6, atol=1e-9)


def test_after_ponos_first_failed_search_the_bracket_is_below_what_it_tried():
    """Not below `min_start`, with which its step sizes begin."""
    tx = oa.ponos(c=0.5, c_p=1e-6, max_start=1e6, max_trials=2)
    params = jnp.array([3.0, -4.0])
    state = tx.init(params)

    def loss_fn(params):
        return jnp.mean(jnp.square(params))

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = tx.update(
            grads, state, params, value=value, grad=grads, value_fn=loss_fn
        )
        return optax.apply_updates(params, updates), state

    infos = []
    while not infos or not infos[-1].accepted[0]:
        params, state = step(params, state)
        infos.append(oa.armijo_info(state))
        assert len(infos) < 30
    assert not infos[0].accepted[0]
    assert infos[-1].applied_step_size[0] > 1e-3
