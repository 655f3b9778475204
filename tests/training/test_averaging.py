"""The average of the last iterates."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import LABELS, init, network_loss, network_params, run

from optax_armijo import (
    FROZEN,
    adamsls,
    armijo_adam,
    armijo_info,
    average_iterates,
    averaged_params,
    dynamic_loss_scale,
    make_train_step,
    salsa,
    scale_by_armijo,
    sls,
)
from optax_armijo.search.step_sizes import CLEAR


def test_it_is_the_weighted_mean_of_the_iterates():
    part, w, weights, iterates = 0.5, 0.0, [], []
    tx = average_iterates(optax.sgd(1.0), fraction=part)
    params: Any = jnp.array(w)
    state = tx.init(params)
    for n, grad in enumerate(np.random.default_rng(0).normal(size=7)):
        updates, state = tx.update(jnp.float32(grad), state, params)
        params = optax.apply_updates(params, updates)
        rate = 1 / (1 + part * n)
        weights = [(1 - rate) * x for x in weights] + [rate]
        iterates.append(float(params))
    np.testing.assert_allclose(sum(weights), 1.0)
    assert weights[0] < weights[3] < weights[-1]
    np.testing.assert_allclose(
        averaged_params(state, params), np.dot(weights, iterates), rtol=1e-5
    )


def test_training_is_as_it_is_without():
    plain = run(armijo_adam(LABELS), network_params(), num_steps=20)
    averaged = run(
        average_iterates(armijo_adam(LABELS)), network_params(), num_steps=20
    )
    for x, y in zip(plain, averaged, strict=True):
        np.testing.assert_allclose(x.value, y.value, rtol=1e-5)
    info = armijo_info(averaged[-1].state)
    assert float(info.step_size[0]) > 0
    last = averaged_params(averaged[-1].state, averaged[-1].params)
    assert network_loss(last) < network_loss(network_params())


class Recorded(NamedTuple):
    """The last updates of a transformation, and its state."""

    updates: Any
    inner: Any


def recorded(tx: optax.GradientTransformationExtraArgs) -> Any:
    """The same transformation, which keeps its last updates in its state."""

    def init_fn(params: Any) -> Recorded:
        return Recorded(jax.tree.map(jnp.zeros_like, params), tx.init(params))

    def update_fn(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        updates, inner = tx.update(updates, state.inner, params, **extra)
        return updates, Recorded(updates, inner)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def regression_batches(num_steps: int, noise: float) -> tuple[jax.Array, jax.Array]:
    """Mini-batches of a linear regression with narrow and with wide features."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_steps, 8, 8)) * np.logspace(0, -2, 8)
    y = x @ np.ones(8) + noise * rng.normal(size=(num_steps, 8))
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def squared_error(params: Any, batch: Any) -> jax.Array:
    x, y = batch
    return jnp.mean((x @ params["w"] - y) ** 2)


def train(
    tx: Any, num_steps: int = 300, noise: float = 0.0, loss_fn: Any = squared_error
) -> Any:
    """The params and the states after each step of a regression."""
    params = {"w": jnp.zeros(8)}
    step = make_train_step(loss_fn, tx, donate=False)

    def one(carry: Any, batch: Any) -> Any:
        params, state, _ = step(*carry, batch)
        return (params, state), (params, state)

    start = params, jax.jit(tx.init)(params)
    return jax.lax.scan(one, start, regression_batches(num_steps, noise))[1]


def test_params_interpolate_between_the_average_and_a_point_that_moves_further():
    """As in schedule-free training, from step 101 on."""
    beta, part = 0.4, 0.3
    tx = average_iterates(recorded(armijo_adam()), fraction=part, interpolation=beta)
    params, states = train(tx, num_steps=180)
    w, average, u = (
        np.asarray(x["w"], np.float64)
        for x in (params, states.average, states.inner.updates)
    )
    z = (w - beta * average) / (1 - beta)
    for n in range(100, 180):
        expected = z[n - 1] + u[n] / (1 - beta)
        np.testing.assert_allclose(z[n], expected, atol=2e-6)
        rate = 1 / (1 + part * (1 - beta) * n)
        moved = average[n - 1] + (1 - beta) * rate * (z[n] - average[n - 1])
        np.testing.assert_allclose(average[n], moved, atol=2e-6)
    np.testing.assert_array_equal(
        w[1:100], (params["w"][:99] + states.inner.updates["w"][1:100])
    )


@pytest.mark.parametrize(
    ("noise", "interpolation", "inner"),
    [
        (3.0, 0.5, armijo_adam()),  # most promises do not hold
        (0.0, 0.0, armijo_adam()),
        (0.0, 0.5, optax.adam(1e-2)),
        (0.0, 0.5, optax.masked(optax.adam(1e-2), {"w": True})),
    ],
)
def test_training_is_that_of_the_transformation_where_interpolation_does_not_pay(
    noise, interpolation, inner
):
    plain, _ = train(inner, noise=noise)
    averaged, _ = train(
        average_iterates(inner, interpolation=interpolation), noise=noise
    )
    np.testing.assert_allclose(averaged["w"], plain["w"], rtol=1e-4, atol=1e-6)


def test_interpolation_goes_further_along_a_valley():
    ends = []
    for beta in (0.0, 0.5):
        params, states = train(
            average_iterates(armijo_adam(), interpolation=beta), num_steps=400
        )
        last = {"w": states.average["w"][-1]}
        ends.append(squared_error(last, regression_batches(400, 0.0)))
    assert ends[1] < 0.5 * ends[0]


def test_params_follow_the_average_only_while_losses_fall():
    """The search measures its own steps, not where the average carries params."""

    def offset(params: Any, batch: Any) -> jax.Array:
        return squared_error(params, batch) + 10.0  # it cannot fall far

    plain, _ = train(armijo_adam(), loss_fn=offset)
    averaged, states = train(average_iterates(armijo_adam()), loss_fn=offset)
    np.testing.assert_allclose(averaged["w"], plain["w"], rtol=1e-4, atol=1e-6)
    assert states.inner.signal.early_fraction[-1] > CLEAR  # there is little noise


@pytest.mark.parametrize(("power", "follows"), [(0.8, False), (1.2, True)])
def test_losses_fall_at_least_like_one_over_n(power, follows):
    tx = average_iterates(optax.identity())
    params = jnp.zeros(2)

    def one(state: Any, n: jax.Array) -> tuple[Any, None]:
        return tx.update(params, state, params, value=n**-power)[1], None

    numbers = jnp.arange(1, 1001, dtype=jnp.float32)
    state = jax.lax.scan(one, tx.init(params), numbers)[0]
    assert state.long_loss / state.short_loss == pytest.approx(
        (1 - power / 8) / (1 - power / 2), rel=0.02
    )
    assert (state.long_loss > 1.75 * state.short_loss) == follows


@pytest.mark.parametrize("is_finite_before", [True, False])
def test_params_that_followed_into_a_loss_that_is_not_finite_go_back(is_finite_before):
    """The search can only roll back its own step."""
    tx = average_iterates(recorded(armijo_adam()))
    params, states = train(tx, num_steps=150)
    before, last = (jax.tree.map(lambda x, n=n: x[n], params) for n in (-2, -1))
    state = jax.tree.map(lambda x: x[-1], states)
    own = state.inner.updates["w"]  # of the last step
    followed = last["w"] - before["w"] - own
    assert np.linalg.norm(followed) > 0.1 * np.linalg.norm(own)
    nan = jnp.array(jnp.nan)

    def value_fn(w: Any) -> jax.Array:
        return jnp.array(1e-3 if is_finite_before else jnp.nan) + 0 * w["w"][0]

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any]:
        updates, state = tx.update(
            {"w": nan * params["w"]}, state, params, value=nan, value_fn=value_fn
        )
        return optax.apply_updates(params, updates), state

    start, ends = last["w"], []
    for _ in range(4):
        last, state = step(last, state)
        ends.append(np.asarray(last["w"]))
    moved = start - own if is_finite_before else start
    np.testing.assert_allclose(ends[0], moved, rtol=1e-5, atol=1e-6)
    average = np.asarray(state.average["w"])
    for nearer, far in ((ends[3], ends[2]), (ends[2], start)):
        distance = np.linalg.norm(nearer - average)
        assert distance < 0.6 * np.linalg.norm(far - average)


def test_no_run_dies_at_the_edge_of_the_domain_of_its_loss():
    """Params followed the average over the edge, and 25 to 56 of 64 runs were dead."""

    def bounded(params: Any, batch: Any) -> jax.Array:
        inside = jnp.all(params["w"] < 1.1)
        return jnp.where(inside, squared_error(params, batch), jnp.nan)

    step = make_train_step(bounded, average_iterates(armijo_adam()), donate=False)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 16, 8, 8)) * np.logspace(0, -1, 8)
    batches = jnp.asarray(x, jnp.float32), jnp.asarray(x.sum(-1), jnp.float32)

    def one(carry: Any, batch: Any) -> Any:
        params, state, metrics = jax.vmap(step)(*carry, batch)
        return (params, state), metrics.loss

    params = {"w": jnp.zeros((16, 8))}
    state = jax.vmap(average_iterates(armijo_adam()).init)(params)
    _, losses = jax.jit(lambda start: jax.lax.scan(one, start, batches))(
        (params, state)
    )
    assert not np.all(np.isfinite(losses))  # the edge was met
    assert np.all(losses[-1] < 1e-6)


def test_a_bad_batch_moves_no_params_where_they_interpolate():
    tx = average_iterates(armijo_adam())
    step = make_train_step(squared_error, tx, donate=False)
    params = {"w": jnp.zeros(8)}
    state = tx.init(params)
    x, y = regression_batches(130, 0.0)
    for n in range(130):
        before = params
        batch = (x[n], y[n].at[0].set(jnp.nan)) if n == 128 else (x[n], y[n])
        params, state, metrics = step(params, state, batch)
        is_same = bool(jnp.all(params["w"] == before["w"]))
        assert is_same == (n == 128), n
    assert np.all(np.isfinite(params["w"]))


def test_a_noisy_bowl_ends_nearer_to_its_centre():
    noise = np.random.default_rng(0).normal(size=(400, 10)).astype(np.float32)
    tx = average_iterates(optax.sgd(0.1))

    @jax.jit
    def train(params: Any) -> Any:
        def step(carry, shift):
            params, state = carry
            updates, state = tx.update(params - shift, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(step, (params, tx.init(params)), noise)
        return params, averaged_params(state, params)

    params, average = train(jnp.full(10, 5.0))
    assert jnp.sum(average**2) < 0.25 * jnp.sum(params**2)


def test_half_precision_is_averaged_in_float32():
    params = {"a": jnp.ones(3, jnp.bfloat16), "n": jnp.array(1, jnp.int32)}
    tx = average_iterates(optax.set_to_zero())
    state = init(tx, params)
    assert state.average["a"].dtype == jnp.float32
    _, state = tx.update(params, state, params)
    average = averaged_params(state, params)
    assert average["a"].dtype == jnp.bfloat16
    assert average["n"].dtype == jnp.int32 and int(average["n"]) == 1


def test_bad_use_is_told():
    with pytest.raises(ValueError, match=r"fraction .* \(0, 1\]; got 0"):
        average_iterates(optax.sgd(1.0), fraction=0)
    with pytest.raises(ValueError, match=r"interpolation .* \[0, 1\); got 1"):
        average_iterates(optax.sgd(1.0), interpolation=1)
    tx = average_iterates(optax.sgd(1.0))
    state = tx.init(jnp.ones(2))
    with pytest.raises(ValueError, match="needs params in update"):
        tx.update(jnp.ones(2), state)
    with pytest.raises(ValueError, match="this one holds 0"):
        averaged_params(optax.sgd(1.0).init(jnp.ones(2)), jnp.ones(2))
    with pytest.raises(ValueError, match="this one holds 2"):
        averaged_params((state, state), jnp.ones(2))


def test_params_of_another_tree_are_named():
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    state = init(average_iterates(optax.sgd(1.0)), params)
    with pytest.raises(ValueError, match="do not share b, c$"):
        averaged_params(state, {"a": jnp.ones(2), "c": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"leaf 'b' has shape \(4,\), .* \(3,\)"):
        averaged_params(state, {"a": jnp.ones(2), "b": jnp.ones(4)})


def test_integers_and_random_keys_have_no_average():
    params = {"w": jnp.ones(3), "n": jnp.array(1), "key": jax.random.key(0)}
    mask = {"w": True, "n": False, "key": False}
    tx = average_iterates(optax.masked(optax.sgd(1.0), mask))
    state = init(tx, params)
    assert [leaf.shape for leaf in jax.tree.leaves(state.average)] == [(3,)]
    updates = {"w": jnp.ones(3), "n": jnp.array(0), "key": jax.random.key(0)}
    _, state = jax.jit(tx.update)(updates, state, params)
    average = averaged_params(state, params)
    np.testing.assert_allclose(average["w"], 0.0)
    assert average["n"] is not params["n"] and average["n"] == params["n"]
    assert average["key"] is not params["key"] and average["key"] == params["key"]


def test_abstract_leaves_have_an_abstract_or_an_empty_average():
    tx = average_iterates(armijo_adam(LABELS))
    params = network_params(jnp.bfloat16)
    abstract = jax.eval_shape(lambda: params)
    concrete = init(tx, params)
    for state in (init(tx, abstract), jax.eval_shape(tx.init, abstract)):
        same = jax.tree.map(
            lambda x, y: x.shape == y.shape and x.dtype == y.dtype, state, concrete
        )
        assert jax.tree.all(same)


def test_an_average_outlives_the_next_step_and_training_goes_on_from_it():
    tx = average_iterates(armijo_adam(LABELS))
    step = make_train_step(lambda params, i: network_loss(params, i), tx)
    params = network_params()
    params, state, _ = step(params, tx.init(params), 0)
    best = averaged_params(state, params)
    kept = jax.tree.map(np.array, best)
    params, state, _ = step(averaged_params(state, params), state, 1)
    chex.assert_trees_all_equal(best, kept)
    assert not np.array_equal(params["head"]["w"], kept["head"]["w"])


def test_what_does_not_move_is_averaged_exactly_infinities_too():
    params = {"w": jnp.ones(3), "mask": jnp.array([-jnp.inf, 0.1]), "base": 0.1}
    tx = average_iterates(armijo_adam({"w": "w", "mask": "m", "base": FROZEN}))
    history = run(tx, params, lambda p, _: jnp.sum(p["w"] ** 2), num_steps=50)
    average = averaged_params(history[-1].state, params)
    np.testing.assert_array_equal(average["mask"], params["mask"])
    assert average["base"] == jnp.float32(0.1) and jnp.all(average["w"] < 1)


SOME = {"embed": FROZEN, "layers": "layers", "head": "head"}
SEARCHES_WITH_FROZEN_LEAVES = {
    "armijo_adam": lambda labels: armijo_adam(labels),
    "scale_by_armijo": lambda labels: optax.chain(
        optax.sgd(1.0), scale_by_armijo(labels)
    ),
    "adamsls": adamsls,
    "salsa": salsa,
    "sls": sls,
    "wrapped": lambda labels: dynamic_loss_scale(
        optax.chain(optax.clip_by_global_norm(1.0), armijo_adam(labels))
    ),
}


@pytest.mark.parametrize("name", SEARCHES_WITH_FROZEN_LEAVES)
def test_frozen_leaves_have_no_average(name):
    make = SEARCHES_WITH_FROZEN_LEAVES[name]
    state = init(average_iterates(make(SOME)), network_params())
    assert isinstance(state.average["embed"]["w"], optax.MaskedNode)
    assert len(jax.tree.leaves(state.average)) == 4
    everything = init(average_iterates(make(FROZEN)), network_params())
    assert jax.tree.leaves(everything.average) == []


def test_leaves_that_optax_masks_may_move_and_are_averaged():
    tx = optax.masked(optax.adam(1e-3), {"a": True, "b": False})
    state = init(average_iterates(tx), {"a": jnp.ones(2), "b": jnp.ones(3)})
    assert len(jax.tree.leaves(state.average)) == 2


def test_frozen_leaves_come_back_as_they_are_and_outlive_the_next_step():
    labels = SOME | {"key": FROZEN}
    tx = average_iterates(armijo_adam(labels))
    step = make_train_step(lambda params, i: network_loss(params, i), tx)
    params = network_params() | {"key": jax.random.key(3)}
    frozen = jax.device_get(params["embed"])
    params, state, _ = step(params, tx.init(params), 0)
    average = averaged_params(state, params)
    step(params, state, 1)
    for name, leaf in frozen.items():
        np.testing.assert_array_equal(average["embed"][name], leaf)
    assert average["key"] == jax.random.key(3)
    assert jnp.isfinite(network_loss(average))


@pytest.mark.parametrize("make", [armijo_adam, salsa, scale_by_armijo])
def test_a_search_inside_has_the_only_num_updates(make):
    state = average_iterates(make()).init(network_params())
    assert int(optax.tree_utils.tree_get(state, "num_updates")) == 0
    assert int(optax.tree_utils.tree_get(state, "num_iterates")) == 0


class TestFlax:
    """A state in NNX's or Linen's own types, as `armijo_info` takes it."""

    def test_nnx_state_and_module(self):
        nnx = pytest.importorskip("flax.nnx")
        from optax_armijo.nnx import make_train_step

        class Network(nnx.Module):
            def __init__(self, rngs):
                self.layers = nnx.List([nnx.Linear(3, 3, rngs=rngs) for _ in range(2)])
                self.norm = nnx.BatchNorm(3, rngs=rngs)
                self.tied = nnx.Linear(3, 3, rngs=rngs)
                self.tied.kernel = self.layers[0].kernel

            def __call__(self, x):
                return self.tied(self.layers[1](self.norm(self.layers[0](x))))

        model = Network(nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, average_iterates(armijo_adam()), wrt=nnx.Param)
        step = make_train_step(lambda model, x: jnp.mean((model(x) - 1.0) ** 2))
        seen = []
        for _ in range(2):
            step(model, optimizer, jnp.eye(3))
            seen.append(jnp.copy(model.tied.bias[...]))
        rate = 1 / (1 + 0.25)
        expected = (1 - rate) * seen[0] + rate * seen[1]

        params = nnx.state(model, nnx.Param)
        average = averaged_params(optimizer.opt_state, params)
        assert isinstance(average, nnx.State)
        np.testing.assert_allclose(average["tied"]["bias"][...], expected, rtol=1e-5)

        copy = averaged_params(optimizer, model)
        assert copy is not model and copy.tied.kernel is copy.layers[0].kernel
        np.testing.assert_allclose(copy.tied.bias[...], expected, rtol=1e-5)
        np.testing.assert_array_equal(copy.norm.mean[...], model.norm.mean[...])
        np.testing.assert_array_equal(model.tied.bias[...], seen[1])

        nnx.update(model, average)
        np.testing.assert_allclose(model.tied.bias[...], expected, rtol=1e-5)
        # The next step may overwrite model and optimizer, and not the averages.
        step(model, optimizer, jnp.eye(3))
        np.testing.assert_allclose(copy.tied.bias[...], expected, rtol=1e-5)
        assert jnp.isfinite(copy(jnp.eye(3))).all()

    def test_nnx_frozen_leaves(self):
        nnx = pytest.importorskip("flax.nnx")
        from optax_armijo.nnx import make_train_step

        model = nnx.Dict(
            base=nnx.Linear(3, 3, rngs=nnx.Rngs(0)),
            head=nnx.Linear(3, 1, rngs=nnx.Rngs(1)),
        )
        labels = nnx.State({"base": FROZEN, "head": "head"})
        tx = average_iterates(armijo_adam(labels))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        assert len(jax.tree.leaves(nnx.state(optimizer.opt_state.average))) == 2
        step = make_train_step(
            lambda model, x: jnp.mean((model.head(model.base(x)) - 1.0) ** 2)
        )
        for _ in range(2):
            step(model, optimizer, jnp.eye(3))
        copy = averaged_params(optimizer, model)
        step(model, optimizer, jnp.eye(3))
        base = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
        np.testing.assert_array_equal(copy.base.kernel[...], base.kernel[...])
        assert not jnp.array_equal(copy.head.kernel[...], model.head.kernel[...])
        average = averaged_params(optimizer, nnx.state(model, nnx.Param))
        np.testing.assert_array_equal(average["base"]["kernel"][...], base.kernel[...])

    def test_linen_train_state(self):
        pytest.importorskip("flax.linen")
        from flax.core import freeze

        from optax_armijo.linen import TrainState

        state = TrainState.create(
            apply_fn=None, params={"w": jnp.ones(2)}, tx=average_iterates(armijo_adam())
        )
        state = jax.jit(
            lambda state: state.apply_gradients(
                grads={"w": jnp.ones(2)},
                value=jnp.float32(2.0),
                value_fn=lambda params: jnp.sum(params["w"]),
            )
        )(state)
        expected: Any = state.params["w"]
        either: tuple[Any, Any] = (state.params, freeze(state.params))
        for params in either:
            for opt_state in (state, state.opt_state):
                average = averaged_params(opt_state, params)
                np.testing.assert_allclose(average["w"], expected, rtol=1e-6)
                assert type(average) is type(params)
