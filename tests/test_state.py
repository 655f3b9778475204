"""The state: a plain pytree that is saved, restored and read."""

import contextlib
import re
import struct
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import LABELS, init, network_loss, network_params

from optax_armijo import (
    FROZEN,
    ArmijoState,
    Stacked,
    armijo_adam,
    armijo_info,
    make_train_step,
    one_group,
    salsa,
    scale_by_armijo,
)

TX = optax.chain(optax.clip_by_global_norm(5.0), armijo_adam(LABELS))


@jax.jit
def step_fn(params, state, step):
    def f(params):
        return network_loss(params, step)

    value, grads = jax.value_and_grad(f)(params)
    updates, state = TX.update(grads, state, params, value=value, value_fn=f)
    return optax.apply_updates(params, updates), state


def train(params, state, steps):
    for step in steps:
        params, state = step_fn(params, state, jnp.asarray(step))
    return params, state


def test_the_state_is_arrays_of_the_size_of_the_groups():
    params = network_params()
    state = init(armijo_adam(LABELS), params)
    assert isinstance(state, ArmijoState)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert len(jax.tree.leaves(state.adam)) == 1 + 2 * len(jax.tree.leaves(params))
    others = jax.tree.leaves(state._replace(adam=None))
    assert sum(leaf.size for leaf in others) < 100


def test_without_adam_there_are_no_moments():
    """The last direction takes a copy of params."""
    params = network_params()
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    state = init(scale_by_armijo(LABELS), params)
    assert [leaf.shape for leaf in jax.tree.leaves(state.adam)] == [(), *shapes]


def test_armijo_info_adds_up():
    params = network_params()
    state = TX.init(params)
    infos = []
    for step in range(10):
        params, state = train(params, state, [step])
        infos.append(armijo_info(state))
    trials = sum(np.asarray(info.num_trials) for info in infos)
    np.testing.assert_array_equal(infos[-1].total_trials, trials)
    evaluations = sum(int(info.num_evaluations) for info in infos)
    assert int(infos[-1].total_evaluations) == evaluations


def table(info):
    """The rows of a printed table, its header first, and the line below."""
    *rows, foot = str(info).splitlines()
    assert len({len(row) for row in rows}) == 1
    return [re.split(r"  +", row.strip()) for row in rows], foot


def test_armijo_info_prints_a_table_outside_jit_and_gives_arrays_inside():
    _, state = train(network_params(), TX.init(network_params()), range(3))
    rows, foot = table(armijo_info(state))
    assert [row[0] for row in rows[1:]] == ["embed", "head", "layers"]
    assert "loss evaluations" in foot

    @jax.jit
    def inside(state):
        info = armijo_info(state)
        assert str(info).startswith("ArmijoInfo(")
        with pytest.raises(TypeError, match="outside jit only"):
            _ = info.labels
        return info.step_size

    np.testing.assert_array_equal(inside(state), armijo_info(state).step_size)


def test_the_table_has_one_row_for_groups_that_are_alike():
    info = armijo_info(armijo_adam(LABELS).init(network_params()))
    assert table(info)[0] == [["group", "step size"], ["all 3 groups", "0.00e+00"]]
    apart = info._replace(total_trials=jnp.array([1, 2, 1]))
    assert [row[0] for row in table(apart)[0][1:]] == ["embed", "head", "layers"]
    (_, alone), _ = table(armijo_info(armijo_adam(one_group).init(network_params())))
    assert alone[0] == "all"


def test_the_table_has_the_columns_that_say_something():
    info = armijo_info(armijo_adam(LABELS).init(network_params()))
    info = info._replace(step_size=jnp.ones(3), applied_step_size=jnp.ones(3))
    assert table(info)[0][0] == ["group", "step size"]
    stayed = info._replace(applied_step_size=jnp.zeros(3))
    assert table(stayed)[0] == [
        ["group", "step size", "applied"],
        ["all 3 groups", "1.00e+00", "0.00e+00"],
    ]
    searched = info._replace(
        searched=jnp.array([True, True, False]),
        accepted=jnp.array([True, False, False]),
        num_trials=jnp.array([1, 2, 0]),
        total_trials=jnp.array([1, 2, 0]),
        predicted_decrease=jnp.array([0.25, 0.0, 0.0]),
        actual_decrease=jnp.array([0.5, 0.0, 0.0]),
    )
    assert table(searched)[0] == [
        ["group", "step size", "test", "trials", "all trials", "predicted", "actual"],
        ["embed", "1.00e+00", "passed", "1", "1", "2.50e-01", "5.00e-01"],
        ["head", "1.00e+00", "failed", "2", "2", "0.00e+00", "0.00e+00"],
        ["layers", "1.00e+00", "-", "0", "0", "0.00e+00", "0.00e+00"],
    ]


def test_an_info_as_a_dict_has_each_number_under_its_name():
    _, state = train(network_params(), TX.init(network_params()), range(3))
    info = armijo_info(state)
    numbers = info.to_dict()
    assert all(type(name) is str for name in numbers)
    assert all(type(number) is float for number in numbers.values())
    numeric = [name for name in info._fields if not name.endswith(("code", "codes"))]
    by_group = [name for name in numeric if getattr(info, name).ndim]
    alone = {
        "step_factor",
        "value_error",
        "slope_error",
        "labels_error",
        "num_still",
        "signal_fraction",
        "num_evaluations",
        "total_evaluations",
    }
    assert {*numbers} - alone == {f"{x}/{y}" for x in by_group for y in info.labels}
    assert {*by_group} | alone == {*numeric}
    for name in alone:
        assert numbers[name] == float(getattr(info, name))
    for name in by_group:
        found = [numbers[f"{name}/{label}"] for label in ("embed", "head", "layers")]
        np.testing.assert_array_equal(found, getattr(info, name))


def test_the_dict_of_a_published_method_lacks_what_it_does_not_measure():
    ours, theirs = (
        armijo_info(tx.init(network_params())).to_dict()
        for tx in (armijo_adam(one_group), salsa())
    )
    assert {*ours} - {*theirs} == {"signal_fraction"}


def test_a_dict_of_traced_numbers_or_of_several_steps_is_refused():
    state = armijo_adam(LABELS).init(network_params())
    with pytest.raises(TypeError, match="outside jit only"):
        jax.eval_shape(lambda state: armijo_info(state).to_dict(), state)
    info = armijo_info(state)
    both = jax.tree.map(lambda x: jnp.stack([x, x]), info)
    with pytest.raises(ValueError, match=r"shape \(3,\); got one of shape \(2, 3\)\."):
        both.to_dict()
    assert jax.tree.map(lambda x: x[1], both).to_dict() == info.to_dict()


def scalars_in(path):
    """Reads a file of TensorBoard's: length, checksum, event, checksum, and so on."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    rest, found = path.read_bytes(), {}
    while rest:
        (size,) = struct.unpack("<Q", rest[:8])
        event = event_pb2.Event.FromString(rest[12 : 12 + size])
        found |= {x.tag: (event.step, x.simple_value) for x in event.summary.value}
        rest = rest[16 + size :]
    return found


def test_an_info_goes_to_tensorboard(tmp_path):
    tensorboard = pytest.importorskip("tensorboardX")
    _, state = train(network_params(), TX.init(network_params()), range(3))
    numbers = armijo_info(state).to_dict()
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        for name, number in numbers.items():
            writer.add_scalar(name, number, 3)
    (path,) = tmp_path.iterdir()
    expected = {name: (3, np.float32(number)) for name, number in numbers.items()}
    assert scalars_in(path) == expected


def test_infos_of_a_scan_have_the_labels_once():
    params = network_params()
    tx = armijo_adam(LABELS)

    def body(state, _):
        return state, armijo_info(state)

    _, infos = jax.lax.scan(body, tx.init(params), None, length=3)
    assert infos.labels == ("embed", "head", "layers")
    assert infos.step_size.shape == (3, 3)
    with pytest.raises(ValueError, match="bad_leaf is that of one step"):
        _ = infos.bad_leaf


def test_the_bad_leaf_cannot_be_read_inside_jit():
    state = armijo_adam(LABELS).init(network_params())
    with pytest.raises(TypeError, match="bad_leaf can be read outside jit only"):
        jax.jit(lambda state: armijo_info(state).bad_leaf)(state)


def test_labels_survive_unicode_and_vmap():
    labels = {"embed": "Einbettung ü", "layers": "層", "head": "h"}
    params = network_params()
    state = armijo_adam(labels).init(params)
    assert set(armijo_info(state).labels) == set(labels.values())


def remarks_on(
    loss_fn, value_fn, *numbers, num_steps=1, params=None, labels=None, length=None
):
    """The info of the last step, and what it says below its table.

    Tests that differ in the numbers for `value_fn` alone share a program.
    """
    if params is None:
        params, labels = network_params(), LABELS
    tx = armijo_adam(labels, length)
    state = init(tx, params)

    @jax.jit
    def step_fn(params, state, step, numbers):
        value, grads = jax.value_and_grad(loss_fn)(params, step)
        more = {"value": value, "value_fn": lambda p: value_fn(p, 0, *numbers)}
        updates, state = tx.update(grads, state, params, **more)
        return optax.apply_updates(params, updates), state

    for step in range(num_steps):
        params, state = step_fn(params, state, step, numbers)
    info = armijo_info(state)
    return info, " ".join(str(info).splitlines()[-1:])


def other_loss(params, step, factor, shift):
    """A multiple of the loss of the mini-batch of another step."""
    return factor * network_loss(params, step + shift)


@pytest.mark.parametrize(
    ("factor", "shift", "error"),
    [(4.0, 0, 0.75), (0.125, 0, 0.875), (1.0, 1, 0.02), (-1.0, 0, 2.0)],
)
def test_a_value_fn_that_is_not_that_of_value_is_named(factor, shift, error):
    info, remark = remarks_on(network_loss, other_loss, factor, shift)
    assert info.value_error >= error - 1e-5
    assert "value_fn(params) differs from value" in remark


def test_a_value_fn_of_another_dropout_key_is_named_however_near_it_is():
    """The difference is small, and the decrease is wrong: that is no fault of grad."""
    info, remark = remarks_on(network_loss, other_loss, 1.01, 0)
    assert 0.005 < info.value_error < 0.02 and info.slope_error > 0.5
    assert "value_fn(params) differs from value" in remark and "grad must" not in remark


def test_a_value_fn_of_the_last_microbatch_is_named():
    def mean(params, step):
        losses = [network_loss(params, step + i) for i in range(4)]
        return sum(losses) / len(losses)

    info, remark = remarks_on(mean, lambda params, step: network_loss(params, 3))
    assert info.value_error > 0.02 and "value_fn(params) differs" in remark


def test_a_value_fn_that_is_always_of_the_first_mini_batch_is_found():
    info, _ = remarks_on(network_loss, other_loss, 1.0, 0, num_steps=60)
    assert info.value_error > 0.02 and "value_fn(params) differs" in str(info)


def test_a_mistake_that_is_found_in_each_step_is_warned_of_once():
    """By Python's usual filter: the text has no number that would make it another."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for num_steps in (1, 2, 3):
            info, _ = remarks_on(network_loss, other_loss, 4.0, 0, num_steps=num_steps)
            info.to_dict()
    assert ["value_fn(params) differs" in str(x.message) for x in said] == [True]


def test_the_value_fn_of_value_is_found_right():
    info, remark = remarks_on(network_loss, other_loss, 1.0, 0)
    assert info.value_error < 1e-6
    assert "differs" not in remark


def test_a_value_fn_that_goes_wrong_later_is_found_when_no_trial_passes():
    """It is the function of the first mini-batch, as if it were not passed anew."""
    info, _ = remarks_on(
        lambda params, step: network_loss(params, 0) / (1 + step) ** 4,
        network_loss,
        num_steps=2,
    )
    assert info.value_error > 0.5 and not info.accepted.any()
    assert np.all(info.applied_step_size == 0)


def norm_at_zero(params, step):
    """It has no gradient with regard to one of three leaves."""
    del step
    norm = jnp.linalg.norm(params["first"]["zeros"])
    return norm + jnp.sum(params["first"]["ones"] ** 2) + jnp.sum(params["last"] ** 2)


NORM_PARAMS = {
    "first": {"ones": jnp.ones(3), "zeros": jnp.zeros(3)},
    "last": jnp.ones(2),
}


@pytest.mark.parametrize("labels", [None, one_group, {"first": FROZEN, "last": "x"}])
def test_the_leaf_whose_gradient_is_not_finite_is_named(labels):
    info, remark = remarks_on(
        norm_at_zero, norm_at_zero, params=NORM_PARAMS, labels=labels
    )
    if isinstance(labels, dict):  # the only such leaf is frozen
        assert info.bad_leaf == "" and info.is_finite.all()
        return
    assert info.is_finite.tolist() == [False] + [True] * (labels is None)
    assert info.bad_leaf == "first/zeros"
    assert remark == (
        "nothing moved: the gradient of leaf 'first/zeros' (or its square) is not "
        "finite, although the loss is"
    )


def test_a_layer_of_a_stacked_leaf_whose_gradient_is_not_finite_is_named():
    def loss_fn(params, step):
        del step
        return jnp.linalg.norm(params["layers"][1]) + jnp.sum(params["head"] ** 2)

    params = {"layers": jnp.zeros((3, 2)), "head": jnp.ones(2)}
    labels = {"layers": Stacked("layer"), "head": "head"}
    info, _ = remarks_on(loss_fn, loss_fn, params=params, labels=labels)
    assert info.is_finite.tolist() == [True, True, False, True]
    assert info.bad_leaf == "layers"


def test_a_loss_that_is_not_finite_is_no_leafs_fault():
    def infinite(params, step):
        return jnp.inf * norm_at_zero(params, step)

    info, remark = remarks_on(infinite, infinite, params=NORM_PARAMS)
    assert info.bad_leaf == "" and remark == "nothing moved: the loss is not finite"


def test_the_table_of_a_frozen_model_blames_no_loss():
    params = {"w": jnp.ones(2)}
    table = str(armijo_info(armijo_adam(FROZEN).init(params)))
    assert "not finite" not in table


def test_the_table_has_the_reason_of_each_group_that_did_not_move():
    info, _ = remarks_on(norm_at_zero, norm_at_zero, params=NORM_PARAMS)
    first, last = (line.split("  ") for line in str(info).splitlines()[1:3])
    assert (first[-1].strip(), last[-1].strip()) == ("not finite", "another group")
    moved, _ = remarks_on(network_loss, other_loss, 1.0, 0)
    assert "reason" not in str(moved)
    over, _ = remarks_on(network_loss, network_loss, num_steps=25, length=22)
    assert str(over).splitlines()[1].endswith("the run is over")


CLIPPED = lambda grads: optax.tree.scale(0.01, grads)  # noqa: E731


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        (CLIPPED, 0.97),
        (lambda grads: optax.tree.scale(100.0, grads), 0.97),
        (lambda grads: optax.tree.scale(-1.0, grads), 1.8),
    ],
)
def test_a_gradient_that_is_not_that_of_value_is_named(changed, error):
    tx = armijo_adam(LABELS)
    params = network_params()
    value, grads = jax.value_and_grad(network_loss)(params, 0)
    _, state = jax.jit(tx.update, static_argnames="value_fn")(
        changed(grads),
        tx.init(params),
        params,
        value=value,
        value_fn=lambda params: network_loss(params, 0),
    )
    info = armijo_info(state)
    assert info.slope_error > error and info.value_error < 1e-6
    assert "grad must be the gradient of value_fn" in str(info)
    with pytest.warns(UserWarning, match="grad must be the gradient"):
        info.to_dict()


@pytest.mark.parametrize("passes", [True, False])
def test_clipping_before_the_search_is_named_where_grad_is_not_passed(passes):
    params = network_params()
    value, grads = jax.value_and_grad(network_loss)(params, 0)
    tx = optax.chain(optax.stateless(lambda g, p: CLIPPED(g)), armijo_adam(LABELS))
    _, state = jax.jit(tx.update, static_argnames="value_fn")(
        grads,
        tx.init(params),
        params,
        value=value,
        value_fn=lambda params: network_loss(params, 0),
        grad=grads if passes else None,
    )
    assert ("In a chain pass it: grad=grads" in str(armijo_info(state))) is not passes


def test_labels_that_are_swapped_are_refused_and_named_inside_jit():
    """Inside, their number and width are right, and more is not known."""
    params = {"ab": jnp.ones(2), "cd": jnp.ones(3)}
    loss_fn = lambda params: sum(jnp.sum(x**2) for x in params.values())  # noqa: E731
    grads, state = jax.grad(loss_fn)(params), armijo_adam().init(params)
    for names in ("ab", "cd"), ("xy", "cd"), ("cd", "ab"):
        labels = dict(zip(params, names, strict=True))
        given, more = (grads, state, params), {"value": loss_fn(params)}
        update = jax.jit(armijo_adam(labels).update, static_argnames="value_fn")
        _, after = update(*given, **more, value_fn=loss_fn)
        is_named = "other labels than the state" in str(armijo_info(after))
        assert is_named == (labels != {"ab": "ab", "cd": "cd"})
    with pytest.raises(ValueError, match="'ab', 'cd'.* other leaves than"):
        armijo_adam(labels).update(*given, **more, value_fn=loss_fn)


@pytest.mark.parametrize(
    "loss_fn",
    [
        network_loss,
        lambda params, step: jnp.exp(20 * network_loss(params, step)),
        lambda params, step: sum(jnp.sum(jnp.abs(p)) for p in jax.tree.leaves(params)),
        lambda params, step: sum(jnp.sum(p**8) for p in jax.tree.leaves(params)),
    ],
)
def test_the_gradient_of_a_curved_loss_is_found_right(loss_fn):
    info, _ = remarks_on(loss_fn, lambda params, step: loss_fn(params, 0))
    assert info.slope_error < 0.25


@pytest.mark.parametrize("factor", [0.0, 1e-30, 1e36])
def test_a_run_that_does_not_move_says_so(factor):
    """A loss that is constant, or outside the range in which Adam can square it."""
    tx = armijo_adam(LABELS)
    step = make_train_step(lambda p, factor: factor * network_loss(p, 0), tx)
    params = network_params()
    opt_state = tx.init(params)
    overflows = factor > 1.0  # which is said sooner, and unasked
    warned = pytest.warns(UserWarning, match="or is it huge")
    with warned if overflows else contextlib.nullcontext():
        for k in range(1, 51):
            params, opt_state, metrics = step(params, opt_state, factor)
            assert metrics.info.num_still == k
            if k >= 49:
                text = str(metrics.info)
                assert ("have not moved for 50" in text) == (k == 50 and not overflows)
                assert ("so that the params do not move" in text) == overflows


def test_steps_since_params_moved_are_counted_from_the_last_move():
    tx = armijo_adam(LABELS)
    step = make_train_step(lambda p, factor: factor * network_loss(p, 0), tx)
    params = network_params()
    opt_state = tx.init(params)
    counts = []
    for factor in (1.0, 1.0, jnp.nan, jnp.nan, 1.0):
        params, opt_state, metrics = step(params, opt_state, factor)
        counts.append(int(metrics.info.num_still))
    assert counts == [0, 0, 1, 2, 0]
