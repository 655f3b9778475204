"""A step size a group: what it is worth, and losses that are hard on it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import init

import optax_armijo
from optax_armijo import (
    armijo_adam,
    armijo_info,
    one_group,
    scale_by_armijo,
)
from optax_armijo.labels.grouping import group_leaves, sorting_key
from optax_armijo.search.problem import Problem
from optax_armijo.search.step_sizes import LARGEST_LIFT

EACH = lambda params: {name: name for name in params}  # noqa: E731


def behind_adam(labels=None):
    """As the guide to chains has it for losses that have a domain."""
    adam = optax.apply_if_finite(optax.scale_by_adam(), 1000)
    return optax.chain(adam, optax.scale(-1.0), scale_by_armijo(labels))


def train(
    loss_fn, params, num_steps, labels=EACH, tx=None, **adam
) -> tuple[Any, Any, Any]:
    """Runs `armijo_adam`; gives params, and losses and states of all steps.

    Batches are the numbers of the steps.
    """
    if tx is None:
        tx = armijo_adam(labels, **adam)
    tx = optax.with_extra_args_support(tx)

    def step(carry, batch):
        params, state = carry
        value_fn = functools.partial(loss_fn, batch=batch)
        value, grads = jax.value_and_grad(value_fn)(params)
        updates, state = tx.update(
            grads, state, params, value=value, grad=grads, value_fn=value_fn
        )
        return (optax.apply_updates(params, updates), state), (value, state)

    carry = (params, tx.init(params))
    (params, _), seen = jax.lax.scan(step, carry, jnp.arange(num_steps))
    return params, *seen


def run(loss_fn, params, num_steps, *arguments, **options):
    """As `train`, compiled, with all infos in the place of states."""
    params, losses, states = jax.jit(
        lambda params: train(loss_fn, params, num_steps, *arguments, **options)
    )(params)
    every = jax.tree.map(np.asarray, armijo_info(states))
    infos = [jax.tree.map(lambda x, i=i: x[i], every) for i in range(num_steps)]
    return params, np.asarray(losses), infos


def bowl(params, batch=None):
    """Groups of one size, whose gradients do not vanish at one step size."""
    del batch
    return sum(jnp.mean((x - 1.0) ** 2) for x in params.values())


def noisy_regression(seed=0, size=64, batch_size=16):
    """A network on batches of 16 rows, and its params at random."""
    keys = jax.random.split(jax.random.key(seed), 4)
    x = jax.random.normal(keys[0], (size, 4))
    y = jnp.sin(2 * x[:, 0]) * x[:, 1]
    params = {
        "first": jax.random.normal(keys[1], (4, 16)) / 2,
        "second": jax.random.normal(keys[2], (16, 16)) / 4,
        "head": jax.random.normal(keys[3], (16,)) / 4,
    }

    def loss_fn(params, batch) -> Any:
        at = jax.random.permutation(jax.random.key(batch), size)[:batch_size]
        hidden = jnp.tanh(jnp.tanh(x[at] @ params["first"]) @ params["second"])
        return jnp.mean((hidden @ params["head"] - y[at]) ** 2)

    return loss_fn, params


def test_a_label_is_a_step_size():
    def loss_fn(params, batch):
        del batch
        return jnp.mean((params["near"] - 1) ** 2) + jnp.mean(
            (params["far"] / 100 - 1) ** 2
        )

    params = {"near": jnp.full(8, 3.0), "far": jnp.full(8, 300.0)}
    _, losses, infos = run(loss_fn, params, 120)
    ratio = infos[-1].step_size[0] / infos[-1].step_size[1]
    assert infos[-1].labels == ("far", "near")
    assert 20 < ratio < 500
    assert losses[-1] < 1e-3 * losses[0]
    _, in_one, _ = run(loss_fn, params, 120, one_group)
    assert losses[-1] < in_one[-1]


def test_the_scale_of_a_group_does_not_matter():
    loss_fn, params = noisy_regression()

    def losses_at(scale):
        def rescaled(params, batch):
            return loss_fn({**params, "second": scale * params["second"]}, batch)

        other = {**params, "second": params["second"] / scale}
        return train(rescaled, other, 40, eps=1e-30)[1]

    losses, small, large = jax.jit(jax.vmap(losses_at))(2.0 ** jnp.array([0, -10, 10]))
    np.testing.assert_allclose(small, losses, rtol=1e-3)
    np.testing.assert_allclose(large, losses, rtol=1e-3)


def test_a_group_that_promises_little_at_first_is_lifted():
    """To the predicted decrease of the median group, by `LARGEST_LIFT` at most."""
    slopes = {"head": 1e-3, "first": 0.4, "second": 1.0, "third": 2.0, "fourth": 2.0}

    def downhill(params, batch):
        del batch
        return 100 - sum(slope * params[name][0] for name, slope in slopes.items())

    params = {name: jnp.ones(1) for name in slopes}
    _, _, [info] = run(downhill, params, 1)
    sizes = dict(zip(info.labels, info.step_size / info.step_size.min(), strict=True))
    expected = {"head": LARGEST_LIFT, "first": 2.5, "second": 1, "third": 1}
    assert sizes == pytest.approx(expected | {"fourth": 1}, rel=1e-4)


def test_groups_part_in_the_warm_up():
    """By what whole steps would be: a twentieth of one is too short in all groups."""

    def loss_fn(params, batch):
        del batch
        steep, flat = params["steep"] - 1.9, params["flat"] - 100
        return jnp.mean(steep**2) + jnp.mean(flat**2) / 100

    params = {"steep": jnp.full(8, 2.0), "flat": jnp.full(8, 2.0)}
    _, _, infos = run(loss_fn, params, 20)
    first, last = (x.step_size[0] / x.step_size[1] for x in (infos[0], infos[-1]))
    assert infos[0].labels == ("flat", "steep")
    assert last > 4.5 * first  # 2.8 by steps as they were made


def test_step_sizes_grow_alike_in_1_4_and_16_groups():
    def downhill(params, batch):
        del batch
        return 1e3 - sum(jnp.sum(x) for x in params.values())

    params = {f"leaf_{i:02}": jnp.ones(3) for i in range(16)}
    rates = []
    for number in (1, 4, 16):
        labels = {name: str(i % number) for i, name in enumerate(params)}
        _, _, infos = run(downhill, params, 640, labels)
        sizes = [np.median(infos[k].step_size) for k in (39, 639)]
        rates.append(np.log(sizes[1] / sizes[0]) / np.log(640 / 40))
    # As a power of the number of steps.
    assert np.ptp(rates) < 0.6
    assert min(rates) > 0.8


def test_groups_whose_first_gradient_is_zero_hold_nobody_up():
    def end(labels):
        def of_seed(seed):
            loss_fn, params = noisy_regression(seed, batch_size=64)
            # A head of zeros: the gradients of what lies below it are zero too.
            params = {**params, "head": jnp.zeros(16)}
            _, losses, _ = train(loss_fn, params, 100, labels)
            return losses[-20:].mean()

        # Single runs end apart by a factor of two, whatever the groups: many of them.
        return jax.jit(jax.vmap(of_seed))(jnp.arange(128)).mean()

    # One step size for all is the best here. Where the head began at what all of the
    # loss asks for, the others were left behind, and the loss was twice that.
    assert end(EACH) < 1.7 * end(one_group)


def residual_network(seed):
    """Params at random, by layer, and their function of rows [B, 3]."""
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "first": {"w": jax.random.normal(keys[0], (3, 16)) / 2, "b": jnp.zeros(16)},
        "second": jax.random.normal(keys[1], (16, 16)) / 4,
        "head": jax.random.normal(keys[2], (16,)) / 4,
    }

    def predict(params, x, gate: Any = 1.0):
        hidden = jnp.tanh(x @ params["first"]["w"] + params["first"]["b"])
        hidden += gate * jnp.tanh(hidden @ params["second"])
        return hidden @ params["head"]

    return params, predict


def fresh_rows(seed, batch, number=32):
    """New rows [B, 3] for each batch, and what is to be predicted of them."""
    x = jax.random.normal(jax.random.fold_in(jax.random.key(seed), batch), (number, 3))
    return x, jnp.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2]


@pytest.mark.slow
def test_a_layer_that_wakes_late_ends_near_one_step_size_for_all():
    def end(labels):
        def of_seed(seed):
            params, predict = residual_network(seed)

            def loss_fn(params, batch):
                x, y = fresh_rows(seed, batch)
                is_awake = jnp.where(batch < 150, 0.0, 1.0)
                return jnp.mean((predict(params, x, is_awake) - y) ** 2)

            return train(loss_fn, params, 400, labels)[1][-50:].mean()

        return jnp.median(jax.jit(jax.vmap(of_seed))(jnp.arange(16)))

    assert end(None) < 1.6 * end(one_group)


@pytest.mark.slow
def test_a_shift_that_is_right_at_first_stays_nearly_right():
    """As of a camera whose pose is known, beside a network that knows nothing yet."""

    def of_seed(seed):
        params, predict = residual_network(seed)

        def loss_fn(params, batch):
            (x, y), (other_x, other_y) = (
                fresh_rows(seed, 2 * batch + i, 16) for i in range(2)
            )
            errors = predict(params, x) - y
            shifted = predict(params, other_x + params["shift"]) - other_y
            return jnp.mean(errors**2) + jnp.mean(shifted**2)

        params |= {"shift": jnp.zeros(3)}
        return jnp.linalg.norm(train(loss_fn, params, 400, None)[0]["shift"])

    found = jax.jit(jax.vmap(of_seed))(jnp.arange(16))
    assert jnp.median(found) < 0.05 and found.max() < 0.15


def test_params_and_a_loss_of_zero_begin_to_move():
    """A linear model of zeros without a constant, such as a critic."""

    def loss_fn(params, batch):
        del batch
        return jnp.sum(params["w"] ** 2) / 2 - 3 * jnp.sum(params["w"])

    params, losses, infos = run(loss_fn, {"w": jnp.zeros(2)}, 120)
    np.testing.assert_allclose(params["w"], 3.0, rtol=0.05)
    assert losses[0] == 0 and max(int(x.num_evaluations) for x in infos[2:]) <= 5


def test_a_loss_of_minus_infinity_is_no_better_one():
    def loss_fn(params, batch):
        del batch
        return jnp.where(params["w"] < 0.5, -jnp.inf, params["w"] ** 2)

    params, losses, _ = run(loss_fn, {"w": jnp.array(2.0)}, 120)
    # Steps that are not tested may leave, and are undone.
    assert np.all(np.isfinite(losses[-10:])) and 0.5 <= params["w"] < 0.6


def test_the_tolerance_is_that_of_the_coarser_dtype(x64):
    """A loss in float64 of params in float32 is as coarse as these."""
    labels = group_leaves(one_group, {"w": jnp.ones(2, jnp.float32)})
    loss = jnp.array(1e3, jnp.float64)
    value = loss.astype(jnp.float32)
    args: Any = (labels, None, bowl, loss.dtype, value, [])
    problem = Problem(*args)
    np.testing.assert_allclose(problem.tolerance, 4 * 2.0**-23 * 1e3)


def test_numbers_of_numpy_leave_the_states_dtypes_as_they_are(x64):
    """Strongly typed float64 among float32: a `lax.scan` would refuse the state."""
    number = np.float64
    params = {"a": jnp.ones(2, jnp.float32), "b": jnp.ones(3, jnp.float32)}
    hyper = {"b1": number(0.9), "b2": number(0.999), "eps": number(1e-8)}
    end, losses, _ = run(bowl, {x: 3 * y for x, y in params.items()}, 9, **hyper)
    assert losses[-1] < losses[0] and end["a"].dtype == jnp.float32
    for length in (np.int64(9), number(9), jnp.asarray(9)):
        tx = armijo_adam(EACH, length)  # pyright: ignore[reportArgumentType]
        run(bowl, {x: 3 * y for x, y in params.items()}, 9, tx=tx)


def test_labels_that_sort_alike_have_an_order_of_their_own():
    """Else that of a set, which differs from process to process."""
    one, other = "w1", "w01"
    params = {"x": jnp.ones(1), "y": jnp.ones(1)}
    groupings = [
        group_leaves({"x": one, "y": other}, params),
        group_leaves({"x": other, "y": one}, params),
    ]
    assert groupings[0].labels == groupings[1].labels
    for one, other in (("w1", "w01"), (1, "1")):
        assert sorting_key(one) != sorting_key(other)


def test_params_of_zeros_begin_with_the_predicted_decrease_of_the_others():
    params = {"a": jnp.full(4, 0.5), "b": jnp.zeros(4)}
    _, _, infos = run(bowl, params, 1)
    predicted = np.asarray(infos[0].predicted_decrease)
    np.testing.assert_allclose(predicted[0], predicted[1], rtol=1e-5)


def test_zeros_whose_first_gradient_is_small_by_chance_hold_nobody_up():
    """By their predicted decrease they would go so far that the first bracket fails."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(64, 3)), jnp.float32)
    y = x @ jnp.array([1.0, -2.0, 3.0])
    y += 1e-4 - jnp.mean(y - x @ jnp.ones(3))  # the mean residual at the start

    def loss_fn(params, batch):
        del batch
        return jnp.mean((x @ params["kernel"] + params["bias"] - y) ** 2)

    params = {"kernel": jnp.ones(3), "bias": jnp.array(0.0)}
    _, losses, infos = run(loss_fn, params, 60)
    _, one, ones = run(loss_fn, params, 60, one_group)
    assert infos[0].labels == ("bias", "kernel")
    assert infos[0].step_size[1] > 0.5 * ones[0].step_size[0]
    assert losses[-1] < 2 * one[-1] + 1e-3 * losses[0]


def test_few_evaluations_and_ever_fewer():
    loss_fn, params = noisy_regression()
    _, _, infos = run(loss_fn, params, 400)
    counts = np.array([int(x.num_evaluations) for x in infos])
    assert counts[0] < 12
    assert counts[1:10].sum() <= 9 * (2 + 3)
    assert counts[10:].max() <= 2 + 3
    assert counts[130:].sum() < counts[10:130].sum() < 90
    assert int(infos[-1].total_evaluations) == counts.sum()


def test_a_step_out_of_the_losss_domain_is_undone():
    def loss_fn(params, batch):
        del batch
        return 0.01 / params["w"] + jnp.log(100 * params["w"])

    params, losses, _ = run(loss_fn, {"w": jnp.array(1.0)}, 300)
    np.testing.assert_allclose(params["w"], 0.01, rtol=0.1)
    assert np.isfinite(losses[-1])


def test_a_step_that_is_not_seen_is_not_shortened():
    """Half a unit in the last place: params and so the loss stay what they were."""
    params = {"w": jnp.array([4.0, -8.0], jnp.bfloat16)}

    def loss_fn(params, batch):
        del batch
        return jnp.mean((params["w"].astype(jnp.float32) - 1.0) ** 2)

    tx = armijo_adam(one_group)
    small: Any = optax.GradientTransformationExtraArgs(
        lambda params: init(tx, params)._replace(step_size=jnp.array([1e-4])), tx.update
    )
    _, losses, infos = run(loss_fn, params, 20, tx=small)
    assert np.all(losses == losses[0])
    assert max(int(info.num_evaluations) for info in infos) == 2
    sizes = [float(info.step_size[0]) for info in infos]
    assert np.all(np.diff([0, *sizes]) >= 0) and sizes[0] > 0.99e-4


@pytest.mark.parametrize("form", ["armijo_adam", "scale_by_armijo"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_point_that_is_tested_is_the_rounded_one_that_is_kept(dtype, form):
    """XLA skips casts between operations that it fuses, unless it is told not to."""
    tx: Any = armijo_adam(one_group)
    if form == "scale_by_armijo":  # along updates in the dtype of the params
        tx = optax.chain(optax.sgd(1.0), scale_by_armijo(one_group))
    params = {"w": jnp.linspace(-3.0, 4.0, 8).astype(dtype)}

    def loss_fn(params, batch=None):
        del batch
        return jnp.mean((params["w"].astype(jnp.float32) - 1.3) ** 2)

    end, losses, infos = run(loss_fn, params, 40, tx=tx)
    losses = [*losses, float(loss_fn(end))]
    # After the warm-up.
    tested = [i for i, info in enumerate(infos) if info.accepted[0] and i >= 9]
    assert len(tested) > 3
    for i in tested:
        decrease = losses[i] - losses[i + 1]
        assert float(infos[i].actual_decrease[0]) == pytest.approx(decrease, rel=1e-5)


def longest_time_lost(losses):
    """Steps in a row on a loss that is not finite, the most of any run, [R, steps]."""
    count = most = np.zeros(len(losses), int)
    for is_lost in ~np.isfinite(losses).T:
        count = np.where(is_lost, count + 1, 0)
        most = np.maximum(most, count)
    return int(np.max(most))


@pytest.mark.parametrize("form", [armijo_adam, optax_armijo.armijo_adamw, behind_adam])
def test_exponential_regression_does_not_die(form):
    """Five draws at three scales at once; below zero the loss is not a number."""

    def of_draw(seed, scale):
        keys = jax.random.split(jax.random.key(seed), 3)
        x = scale * jnp.exp(jax.random.normal(keys[0], (64,)))
        y = x * jax.random.exponential(keys[1], (64,))

        def loss_fn(params, batch):
            at = jax.random.randint(jax.random.key(batch), (16,), 0, 64)
            rate = x[at] * params["w"]
            return jnp.mean(y[at] / rate + jnp.log(rate))

        start = {"w": jnp.array(3.0)}
        params, losses, _ = train(loss_fn, start, 200, tx=form(one_group))
        return params, losses

    seeds, scales = jnp.meshgrid(jnp.arange(5), jnp.array([0.01, 1.0, 100.0]))
    params, losses = jax.jit(jax.vmap(of_draw))(seeds.ravel(), scales.ravel())
    # A step that is not tested may leave the domain; it is undone at once.
    assert longest_time_lost(np.asarray(losses)) <= 1
    assert np.mean(~np.isfinite(losses)) < 0.005
    assert np.mean(params["w"] > 0) > 0.9


def test_a_loss_that_goes_below_zero_is_not_held_up_there():
    def loss_fn(params, batch):
        del batch
        return jnp.mean((params["w"] - 4.0) ** 2) - 15.999

    params, _, _ = run(loss_fn, {"w": jnp.full(3, 0.001)}, 120)
    np.testing.assert_allclose(params["w"], 4.0, atol=0.1)


@pytest.mark.parametrize("labels", [None, one_group])
def test_the_loss_of_a_full_batch_is_not_held_up_at_zero(labels):
    """No noise takes it below: only a longer step shows that zero is not the end."""
    x = jnp.asarray(np.random.default_rng(0).normal(3.0, 0.01, 64))

    def loss_fn(params, batch):
        del batch
        z = (x - params["mean"]) / jnp.exp(params["log_width"])
        return params["log_width"] + 0.5 * jnp.mean(z**2)

    params = {"mean": jnp.array(2.0), "log_width": jnp.array(0.0)}
    _, losses, infos = run(loss_fn, params, 300, labels)
    assert losses[0] > 0.4 and losses[-1] < -3.0
    assert max(int(x.num_evaluations) for x in infos[10:]) <= 8


@pytest.mark.parametrize(("root", "part"), [(lambda x: x, 1e-3), (jnp.sqrt, 0.2)])
def test_a_group_does_not_freeze_at_a_kink(root, part):
    def kinks(params, batch=None):
        del batch
        return sum(jnp.sum(root(jnp.abs(x))) for x in params.values())

    def of_seed(seed):
        keys = jax.random.split(jax.random.key(seed), 2)
        params = {"a": jax.random.normal(keys[0], (3,)), "b": jnp.array([0.3, -0.4])}
        _, losses, _ = train(kinks, params, 200)
        return jnp.min(losses) / losses[0]

    reached = jax.jit(jax.vmap(of_seed))(jnp.arange(16))
    # A square root has a local minimum at each kink: not all runs leave the first.
    assert np.median(reached) < part


def test_a_run_in_bfloat16_does_not_begin_below_what_its_params_can_hold():
    """The first trials fail by rounding: what is smaller still moves nothing."""

    def of_seed(seed):
        keys = jax.random.split(jax.random.key(seed), 2)
        x = jnp.exp(jax.random.normal(keys[0], (64,)))
        y = x * jax.random.exponential(keys[1], (64,))

        def loss_fn(params, batch) -> Any:
            rows = (16 * batch + jnp.arange(16)) % 64
            rate = (x[rows].astype(jnp.bfloat16) * params["w"]).astype(jnp.float32)
            return jnp.mean(y[rows] / rate + jnp.log(rate))

        params = {"w": jnp.array(3.0, jnp.bfloat16)}
        ends: Any = train(loss_fn, params, 200, one_group)[0]
        return ends["w"].astype(jnp.float32), y / x

    w, ratios = jax.jit(jax.vmap(of_seed))(jnp.arange(16))
    best = jnp.mean(ratios, axis=1)
    near = np.abs(np.log(w / best)) < 0.5 * np.abs(np.log(3.0 / best))
    assert np.mean(near) > 0.9


def test_from_scratch_no_run_ends_higher_than_it_began():
    """Beside the best Adam of four rates."""

    def ends(seed):
        loss_fn, params = noisy_regression(seed)
        found, _, _ = train(loss_fn, params, 200, EACH)

        def after(rate):
            tx = optax.adam(rate)

            def step(carry, batch):
                at, state = carry
                updates, state = tx.update(jax.grad(loss_fn)(at, batch), state)
                return (optax.apply_updates(at, updates), state), None

            (end, _), _ = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(200))
            return full(end)

        full = lambda at: jnp.mean(  # noqa: E731
            jax.vmap(lambda batch: loss_fn(at, batch))(jnp.arange(1000, 1008))
        )
        adam = jnp.min(jax.vmap(after)(jnp.array([1e-4, 1e-3, 1e-2, 1e-1])))
        return full(params), full(found), adam

    first, last, adam = jax.jit(jax.vmap(ends))(jnp.arange(128))
    assert np.mean(last > first) <= 0.01
    assert np.mean(first - last >= (first - adam) / 2) >= 0.95


def test_a_label_is_a_step_size_in_the_other_forms():
    def loss_fn(params):
        near, far = params["near"] - 1, params["far"] / 100 - 1
        return jnp.mean(near**2) + jnp.mean(far**2)

    params = {"near": jnp.full(8, 3.0), "far": jnp.full(8, 300.0)}
    for tx in (
        optax_armijo.armijo_adamw(EACH),
        optax.chain(optax.scale_by_adam(), optax.scale(-1), scale_by_armijo(EACH)),
    ):
        step = optax_armijo.make_train_step(loss_fn, tx, donate=False)
        at, state = params, tx.init(params)
        for _ in range(60):
            at, state, _ = step(at, state)
        info = armijo_info(state)
        assert info.labels == ("far", "near")
        ratio = info.step_size[0] / info.step_size[1]
        assert 20 < ratio < 500


def test_along_given_directions_the_scale_of_the_loss_does_not_matter():
    """Directions grow with it. A group's size is no measure of how dense it is."""

    def step_sizes(factor):
        def loss_fn(params, batch):
            del batch
            a, b = ((params[name] - 3.0) ** 2 for name in ("a", "b"))
            return factor * jnp.mean(a + 10 * b)

        tx = optax.chain(optax.sgd(1.0), scale_by_armijo(EACH))
        params = {"a": jnp.ones(4), "b": jnp.ones(4)}
        _, _, (_, states) = train(loss_fn, params, 20, tx=tx)
        return factor * states.last.applied_step_size

    factors = 2.0 ** jnp.array([0, -10, 10])
    sizes, small, large = jax.jit(jax.vmap(step_sizes))(factors)
    np.testing.assert_allclose(small, sizes, rtol=1e-4)
    np.testing.assert_allclose(large, sizes, rtol=1e-4)
