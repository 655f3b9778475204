"""What holds for every published method: bad batches and bad arguments."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import LABELS, init, network_loss, network_params, one_step

import optax_armijo as oa

METHODS = {
    "adamsls": oa.adamsls(),
    "plasls": oa.plasls(LABELS),
    "plasls, all of it": oa.plasls(
        LABELS, search="weighted", merge_below=1e-2, smoothing=0.9, form="paper"
    ),
    "salsa": oa.salsa(weight_decay=0.01),
    "salsa, use_mv": oa.salsa(LABELS, use_mv=True),
    "kensls": oa.kensls(),
    "sls": oa.sls(start="reset"),
    "amsgrad_sls": oa.amsgrad_sls(momentum="kept"),
    "ponos": oa.ponos(),
}
# Batches on which all is well, the loss is not finite, the gradient is not, and every
# trial is infinite.
GOOD, NAN_LOSS, INF_LOSS, NAN_GRADIENT, INF_GRADIENT, BAD_TRIALS = range(6)
BAD = [NAN_LOSS, NAN_LOSS, GOOD, INF_LOSS, GOOD, NAN_GRADIENT, GOOD, INF_GRADIENT]
KINDS = np.array([GOOD] * 12 + BAD + [GOOD] * 8 + [BAD_TRIALS] * 2 + [GOOD] * 8)


def test_the_decrease_of_a_search_is_divided_among_its_groups():
    params = network_params()
    updates, state = one_step(oa.sls(LABELS), params)
    info, grads = oa.armijo_info(state), jax.grad(network_loss)(params)
    after = network_loss(optax.apply_updates(params, updates))
    decrease = network_loss(params) - after
    np.testing.assert_allclose(info.actual_decrease.sum(), decrease, rtol=1e-4)
    squares = [sum(jnp.sum(g**2) for g in grads[x].values()) for x in info.labels]
    predicted = info.applied_step_size * jnp.stack(squares)
    np.testing.assert_allclose(info.predicted_decrease, predicted, rtol=1e-5)
    np.testing.assert_allclose(
        info.actual_decrease / decrease, predicted / predicted.sum(), rtol=1e-5
    )


def spoilt(kind, value, grads):
    """The loss and gradient of a batch of that kind."""
    value = jnp.where(kind == NAN_LOSS, jnp.nan, value)
    value = jnp.where(kind == INF_LOSS, jnp.inf, value)
    bias = grads["head"]["b"]
    bias = jnp.where(kind == NAN_GRADIENT, jnp.nan, bias)
    bias = bias.at[0].set(jnp.where(kind == INF_GRADIENT, jnp.inf, bias[0]))
    return value, grads | {"head": grads["head"] | {"b": bias}}


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
        value, grads = spoilt(kind, value, grads)
        updates, state = tx.update(grads, state, params, value=value, value_fn=value_fn)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, value, oa.armijo_info(state))

    def run(params, state):
        now = (jnp.arange(KINDS.size), jnp.asarray(KINDS))
        return jax.lax.scan(step_fn, (params, state), now)

    # Donated buffers must all be different arrays; running it shows that they are.
    return jax.jit(run, donate_argnums=(0, 1))


@pytest.mark.parametrize("name", METHODS)
def test_a_run_survives_bad_batches_and_goes_on_learning(name):
    tx, num_traces = METHODS[name], []
    fresh = jax.eval_shape(tx.init, network_params())
    # A scan refuses a state that changes shape, dtype or weak type.
    (_, last), (params, losses, info) = scanned(tx, num_traces)(
        network_params(), init(tx, network_params())
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(fresh, last)
    assert all(not leaf.weak_type for leaf in jax.tree.leaves(last))
    assert len(num_traces) <= 3

    chex.assert_tree_all_finite(params)
    assert np.all(np.isfinite(info.step_size)) and np.all(info.step_size > 0)
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])

    for step in np.flatnonzero(KINDS != GOOD):
        before, after = (
            jax.tree.map(lambda x, i=i: x[i], params) for i in (step - 1, step)
        )
        if KINDS[step] != BAD_TRIALS:
            chex.assert_trees_all_equal(before, after)
            assert int(info.num_evaluations[step]) == 0
            np.testing.assert_array_equal(
                info.step_size[step], info.step_size[step - 1]
            )
        assert not np.any(info.accepted[step])

    counted = np.cumsum(info.num_evaluations)
    np.testing.assert_array_equal(info.total_evaluations, counted)


def test_a_step_without_a_search_evaluates_the_loss_once_for_its_gradient():
    tx, calls = oa.salsa(), []

    def counted_loss(params, step):
        jax.debug.callback(lambda: calls.append(1))
        return network_loss(params, step)

    @jax.jit
    def step_fn(params, state, step):
        def f(params):
            return counted_loss(params, step)

        value, grads = jax.value_and_grad(f)(params)
        updates, state = tx.update(grads, state, params, value=value, value_fn=f)
        return optax.apply_updates(params, updates), state

    params = network_params()
    state = init(tx, params)
    num_calls, num_searches = 0, 0
    for step in range(80):
        params, state = step_fn(params, state, jnp.asarray(step))
        jax.block_until_ready(params)
        jax.effects_barrier()
        info = oa.armijo_info(state)
        assert len(calls) - num_calls == 1 + int(info.num_evaluations)
        assert bool(info.searched[0]) == (int(info.num_evaluations) > 0)
        assert float(info.applied_step_size[0]) > 0
        num_calls, num_searches = len(calls), num_searches + int(info.searched[0])
    assert num_searches < 80


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        (oa.sls, {"start": "polyak"}, "start must be one of 'grow', 'keep', 'reset'"),
        (oa.sls, {"c": 1.0}, r"c .* \(0, 1\); got 1.0"),
        (oa.sls, {"init_step_size": 0.0}, "init_step_size .* got 0.0"),
        (oa.sls, {"max_trials": 0}, r"max_trials .* \[1, inf\); got 0"),
        (oa.amsgrad_sls, {"n_batches_per_epoch": 0}, "n_batches_per_epoch .* got 0"),
        (oa.amsgrad_sls, {"momentum": "searched"}, "momentum must be one of"),
        (oa.ponos, {"direction": "lion"}, "direction must be one of 'sgd', 'adam'"),
        (oa.ponos, {"c_p": 0.0}, r"c_p .* \(0, inf\); got 0.0"),
        (oa.ponos, {"averaging": 1.1}, r"averaging .* \[0, 1\]; got 1.1"),
        (oa.ponos, {"min_start": 2.0, "max_start": 1.0}, "min_start=2.0"),
        (oa.ponos, {"min_start": 0.0}, "min_start .* got 0.0"),
        (oa.ponos, {"max_start": float("nan")}, "max_start .* got nan"),
        (oa.adamsls, {"smoothing": 1.0}, r"smoothing .* \[0, 1\); got 1.0"),
        (oa.adamsls, {"b1": 1.0}, r"b1 .* \[0, 1\); got 1.0"),
        (oa.plasls, {"search": "each"}, "search must be one of 'cycle', 'weighted'"),
        (oa.plasls, {"merge_below": -1.0}, "merge_below .* got -1.0"),
        (oa.plasls, {"num_joint_steps": -1}, "num_joint_steps .* got -1"),
        (oa.plasls, {"form": "book"}, "form must be one of 'code', 'paper'"),
        (oa.salsa, {"frequency": "never"}, "frequency must be one of 'adaptive'"),
        (oa.salsa, {"weight_decay": -1.0}, "weight_decay .* got -1.0"),
        (oa.kensls, {"increase_factor": 0.9}, "increase_factor .* got 0.9"),
        (oa.kensls, {"decrease_factor": 1.0}, r"decrease_factor .* \(0, 1\); got 1.0"),
    ],
)
def test_bad_arguments_raise(method, arguments, message):
    with pytest.raises(ValueError, match=message):
        method(**arguments)
