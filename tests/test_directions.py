"""The search along other directions than Adam's: each trains, none leads uphill."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from directions import DIRECTIONS
from toys import LABELS, network_params, run

from optax_armijo import armijo_info, one_group, policies, scale_by_armijo


def infos(history):
    return [armijo_info(entry.state) for entry in history]


@pytest.mark.parametrize("name", DIRECTIONS)
def test_every_direction_trains_and_every_step_was_sufficient(name):
    transform, always_descends = DIRECTIONS[name]
    tx = optax.chain(transform, scale_by_armijo(one_group))
    history = run(tx, network_params(), num_steps=60)
    losses = np.array([float(entry.value) for entry in history])
    assert np.mean(losses[-4:]) < 0.45 * losses[0]
    for info in infos(history):
        if bool(info.searched[0]):
            assert bool(info.accepted[0])
            rounding = 1e-5 * losses[0]
            assert (
                info.actual_decrease[0] >= 0.5 * info.predicted_decrease[0] - rounding
            )
        else:
            assert float(info.applied_step_size[0]) == 0
    if always_descends:
        assert all(bool(info.searched[0]) for info in infos(history))


@pytest.mark.parametrize("name", DIRECTIONS)
def test_every_direction_trains_by_layer(name):
    tx = optax.chain(DIRECTIONS[name].transform, scale_by_armijo(LABELS))
    history = run(tx, network_params(), num_steps=40)
    losses = [float(entry.value) for entry in history]
    assert np.mean(losses[-4:]) < 0.6 * losses[0]
    assert all(bool(jnp.all(jnp.isfinite(info.step_size))) for info in infos(history))


@pytest.mark.parametrize("name", ["sgd, momentum", "adam", "lion", "muon"])
@pytest.mark.parametrize(
    "acceptance",
    [policies.smoothed(), policies.zhang_hager(0.9), policies.window_max(4)],
    ids=["smoothed", "zhang_hager", "window_max"],
)
def test_directions_with_momentum_train_under_the_milder_tests(name, acceptance):
    tx = optax.chain(
        DIRECTIONS[name].transform, scale_by_armijo(one_group, acceptance=acceptance)
    )
    losses = [float(e.value) for e in run(tx, network_params(), num_steps=60)]
    assert np.mean(losses[-4:]) < 0.55 * losses[0]


def test_a_direction_that_ascends_is_not_followed():
    tx = optax.chain(optax.sgd(-1.0), scale_by_armijo(LABELS))
    history = run(tx, network_params(), num_steps=4)
    for entry in history:
        assert float(optax.tree.norm(entry.updates)) == 0
        assert int(armijo_info(entry.state).num_evaluations) == 0
