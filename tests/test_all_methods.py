"""What holds for every policy and every preset: no method breaks a run."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import LABELS, init, network_loss, network_params

import optax_armijo as oa
from optax_armijo import policies

OPTIONS = {
    "smoothed": {"acceptance": policies.smoothed(0.99, debias=True)},
    "ascent allowed": {"acceptance": policies.smoothed(allow_ascent=True)},
    "zhang_hager": {"acceptance": "zhang_hager"},
    "window_max": {"acceptance": "window_max", "search": "each"},
    "approximate": {"acceptance": "approximate"},
    "keep": {"start": "keep"},
    "reset": {"start": "reset", "init_step_size": 0.25},
    "polyak": {"start": policies.polyak(decrease_factor=0.8), "net": "average"},
    "quadratic start": {"start": "quadratic", "shrink": "quadratic"},
    "grow always": {"start": policies.grow(unsearched="grow"), "momentum": "kept"},
    "joint": {"search": "joint", "momentum": "unsearched", "frequency": "adaptive"},
    "weighted": {"search": "weighted"},
    "every 3, by group": {
        "search": "each",
        "frequency": policies.every(3, per_group=True),
    },
    "adaptive, by group": {"frequency": policies.adaptive(per_group=True)},
    "combine": {
        "merging": policies.combine(1e-3, relative_threshold=0.3, split_above=2e-2),
        "relative_floor": 0.0,
    },
}
METHODS = {name: oa.armijo_adam(LABELS, **given) for name, given in OPTIONS.items()}
METHODS |= {
    "decay": oa.armijo_adamw(LABELS, weight_decay=0.1),
    "decay in trial": oa.armijo_adamw(LABELS, weight_decay=0.1, decay_in_trial=True),
    "adamsls": oa.adamsls(),
    "plasls": oa.plasls(LABELS),
    "plasls, all of it": oa.plasls(
        LABELS, search="weighted", merge_below=1e-2, smoothing=0.9, form="paper"
    ),
    "salsa": oa.salsa(weight_decay=0.01),
    "salsa, use_mv": oa.salsa(use_mv=True),
    "kensls": oa.kensls(),
    "sls": oa.sls(),
    "amsgrad_sls": oa.amsgrad_sls(momentum="kept"),
    "ponos": oa.ponos(),
    "ponos, adam": oa.ponos(direction="adam"),
}
# Steps on whose batch all is well, the loss is NaN, and every trial is infinite.
GOOD, BAD_LOSS, BAD_TRIALS = 0, 1, 2
KINDS = np.array(
    [GOOD] * 12 + [BAD_LOSS] * 2 + [GOOD] * 8 + [BAD_TRIALS] * 2 + [GOOD] * 8
)


def scanned(tx, num_traces):
    """All steps of a run in one program: params, loss, and what `armijo_info` says."""

    def step_fn(carry, now):
        step, kind = now
        params, state = carry

        def loss_fn(params):
            num_traces.append(1)
            return network_loss(params, step)

        def value_fn(params):
            return jnp.where(kind == BAD_TRIALS, jnp.inf, loss_fn(params))

        value, grads = jax.value_and_grad(loss_fn)(params)
        value = jnp.where(kind == BAD_LOSS, jnp.nan, value)
        updates, state = tx.update(grads, state, params, value=value, value_fn=value_fn)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, value, oa.armijo_info(state))

    @jax.jit
    def run(params, state):
        now = (jnp.arange(KINDS.size), jnp.asarray(KINDS))
        return jax.lax.scan(step_fn, (params, state), now)

    return run


@pytest.mark.parametrize("name", METHODS)
def test_a_run_survives_bad_batches_and_goes_on_learning(name):
    tx, num_traces = METHODS[name], []
    params = network_params()
    state = init(tx, params)
    # A scan refuses a state that changes shape, dtype or weak type.
    (_, last), (params, losses, info) = scanned(tx, num_traces)(params, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, last)
    assert all(not leaf.weak_type for leaf in jax.tree.leaves(state))
    assert len(num_traces) <= 3

    chex.assert_tree_all_finite(params)
    assert np.all(np.isfinite(info.step_size)) and np.all(info.step_size > 0)
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])

    for step in np.flatnonzero(KINDS != GOOD):
        before, after = (
            jax.tree.map(lambda x, i=i: x[i], params) for i in (step - 1, step)
        )
        if KINDS[step] == BAD_LOSS:
            chex.assert_trees_all_equal(before, after)
            assert int(info.num_evaluations[step]) == 0
            np.testing.assert_array_equal(
                info.step_size[step], info.step_size[step - 1]
            )
        assert not np.any(info.accepted[step])

    counted = np.cumsum(info.num_evaluations)
    np.testing.assert_array_equal(info.total_evaluations, counted)


@pytest.mark.parametrize("name", METHODS)
def test_the_state_survives_donation(name):
    tx = METHODS[name]
    params = network_params()
    state = init(tx, params)

    def step_fn(params, state):
        value, grads = jax.value_and_grad(network_loss)(params)
        updates, state = tx.update(
            grads, state, params, value=value, value_fn=network_loss
        )
        return optax.apply_updates(params, updates), state

    # Donated buffers must all be different arrays; running it shows that they are.
    jax.jit(step_fn, donate_argnums=(0, 1))(params, state)
