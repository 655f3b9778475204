"""Bad input raises at once, and says what to write instead."""

import functools
import warnings
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import LABELS, batch, init, mean_loss, network_loss, network_params

import optax_armijo
from optax_armijo import (
    armijo_adam,
    armijo_adamw,
    armijo_info,
    make_train_step,
    scale_by_armijo,
)

SEARCHES: Any = (armijo_adam, armijo_adamw, scale_by_armijo)
NO_RATE = "there is no learning rate, since step sizes are found"


@pytest.mark.parametrize("make", SEARCHES)
def test_a_length_of_the_run_that_is_none(make):
    for number, message in [
        (0, r"num_steps must be an integer in \[1, 2.14748e\+09\]; got 0"),
        (-3, "num_steps .* got -3"),
        ("long", "num_steps must be a number; got 'long'"),
        ("100", "num_steps must be a number; got '100'"),
        (True, "num_steps must be a number; got True"),
        (2**31, "num_steps .* got 2147483648"),
        (float("inf"), "num_steps must be a.* got inf"),
    ]:
        for arguments in ((number,), ()):
            options = {} if arguments else {"num_steps": number}
            with pytest.raises(ValueError, match=message):
                make(None, *arguments, **options)


def test_counts_that_are_no_integers_are_refused():
    for make, name in [
        (optax_armijo.sls, "max_trials"),
        (optax_armijo.plasls, "num_joint_steps"),
        *[(make, "num_steps") for make in SEARCHES],
        (optax_armijo.by_depth, "num_groups"),
        (lambda **x: optax_armijo.Stacked("a", **x), "axis"),
        (
            lambda **x: optax_armijo.dynamic_loss_scale(armijo_adam(), **x),
            "growth_interval",
        ),
    ]:
        with pytest.raises(ValueError, match=f"{name} must be an integer .* got 3.5"):
            make(**{name: 3.5})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("b1", 1.0, r"b1 .* \[0, 1\); got 1.0"),
        ("b2", -0.1, r"b2 .* \[0, 1\); got -0.1"),
        ("eps", 0.0, r"eps .* \(0, inf\); got 0.0"),
        # What float32 makes 1 and 0 of.
        ("b1", 1 - 1e-9, r"b1 .* \[0, 1\); got 0.999999999"),
        ("eps", 1e-50, r"eps .* \(0, inf\); got 1e-50"),
    ],
)
def test_bad_adam_options_raise_at_construction(name, value, message):
    for make in (armijo_adam, armijo_adamw):
        with pytest.raises(ValueError, match=message):
            make(**{name: value})


def test_bad_weight_decay():
    with pytest.raises(ValueError, match=r"weight_decay .* \[0, inf\); got -0.1"):
        armijo_adamw(weight_decay=-0.1)


def test_bad_label_function_arguments():
    with pytest.raises(ValueError, match=r"num_groups .* integer in \[3, inf\); got 2"):
        optax_armijo.by_depth(2)
    with pytest.raises(ValueError, match=r"patterns\['a'\] must be a regular expr"):
        optax_armijo.by_pattern({"a": "("})


def update(tx=None, params=None, **arguments):
    params = network_params() if params is None else params
    tx = armijo_adam(LABELS) if tx is None else tx
    grads = jax.tree.map(jnp.ones_like, params)
    more = {"value": jnp.float32(1), "value_fn": network_loss} | arguments
    with_extra_args = optax.with_extra_args_support(tx)

    def first_step(grads, state):
        return with_extra_args.update(grads, state, params, **more)

    return jax.eval_shape(first_step, grads, tx.init(params))


@pytest.mark.parametrize("name", ["value", "value_fn"])
def test_missing_arguments_name_themselves_and_the_call(name):
    with pytest.raises(ValueError, match=rf"needs {name}\. .*tx\.update\(grads"):
        update(**{name: None})


def test_a_value_fn_that_is_no_function():
    with pytest.raises(TypeError, match="value_fn must be a function; got float"):
        update(value_fn=1.0)


def test_missing_params():
    tx = armijo_adam(LABELS)
    params = network_params()
    with pytest.raises(ValueError, match="needs params"):
        tx.update(params, tx.init(params), value=1.0, value_fn=network_loss)


def test_scale_by_armijo_needs_the_gradient():
    with pytest.raises(ValueError, match="needs grad"):
        update(scale_by_armijo(LABELS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"value": jnp.ones(3)}, r"value must be a scalar .* shape \(3,\)"),
        ({"value": jnp.int32(3)}, "value must be a scalar .* dtype int32"),
        ({"value_fn": lambda p: p["head"]["b"]}, r"value_fn's result .* shape \(3,\)"),
        ({"value_fn": lambda p: (network_loss(p), {})}, "tuple of 2.*with aux write"),
    ],
)
def test_a_loss_that_is_no_scalar(arguments, message):
    with pytest.raises(ValueError, match=message):
        update(**arguments)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ({"embed": "a", "head": "b"}, ValueError, "param_labels must be .* prefix"),
        (lambda params: {"w": "a"}, ValueError, "param_labels must be .* prefix"),
        ({name: jnp.ones(1) for name in LABELS}, TypeError, "leaf 'embed/b' the label"),
    ],
)
def test_labels_that_do_not_fit(labels, error, message):
    with pytest.raises(error, match=message):
        armijo_adam(labels).init(network_params())


def test_labels_that_print_alike_are_refused():
    """In tables and logs one of the two groups would be lost."""
    labels: Any = {"embed": 1, "layers": "1", "head": "head"}
    with pytest.raises(ValueError, match="two groups the name '1', by the labels"):
        armijo_adam(labels).init(network_params())


def test_labels_in_another_kind_of_container_are_told_so():
    nnx = pytest.importorskip("flax.nnx")
    module = nnx.Dict(first=nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
    params = nnx.state(module, nnx.Param)
    with pytest.raises(ValueError, match="fit, but it is a dict: make it a State"):
        armijo_adam({"first": "a"}).init(params)
    armijo_adam(nnx.State({"first": "a"})).init(params)


@pytest.mark.parametrize("name", ["updates", "grad"])
def test_a_gradient_with_another_shape_than_params(name):
    """It would be broadcast: a gradient by row made slopes too large."""
    params = network_params()
    rows = jax.tree.map(lambda p: jnp.stack([p, p]), params)
    trees = {"updates": params, "grad": params} | {name: rows}
    with pytest.raises(ValueError, match=f"{name} must have the shapes .* 'embed/b'"):
        armijo_adam(LABELS).update(
            trees["updates"],
            armijo_adam(LABELS).init(params),
            params,
            value=1.0,
            grad=trees["grad"],
            value_fn=network_loss,
        )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (optax_armijo.one_group, "gives 1 groups.* made for 3 others"),
        (LABELS | {"head": "Head"}, "gives 3 groups.*'Head'.* made for 3 others"),
        (LABELS | {"head": "output_layer"}, "'output_layer'.* made for 3 others"),
    ],
)
def test_labels_that_change_between_steps(labels, message):
    params = network_params()
    state = armijo_adam(LABELS).init(params)
    with pytest.raises(ValueError, match=message):
        armijo_adam(labels).update(
            params, state, params, value=1.0, value_fn=network_loss
        )


def test_masks_that_do_not_fit():
    with pytest.raises(ValueError, match="mask must be a pytree"):
        update(armijo_adamw(LABELS, mask={"embed": True}))


@pytest.mark.parametrize("entry", ["no", 0, 1.0, jnp.ones(2, bool)])
def test_masks_of_other_values(entry):
    """A string, such as a label, would decay its leaf, and 0 would not."""
    mask = {"embed": True, "layers": entry, "head": False}
    with pytest.raises(ValueError, match="mask must have True or False as leaves"):
        update(armijo_adamw(LABELS, mask=mask))


def test_armijo_info_needs_one_state():
    params = network_params()
    state = armijo_adam().init(params)
    with pytest.raises(ValueError, match="holds 0"):
        armijo_info({"a": params})
    with pytest.raises(ValueError, match="holds 2"):
        armijo_info((state, state))


def test_a_learning_rate_or_a_schedule_is_no_label():
    rates = [
        1e-3,
        1,
        jnp.float32(1e-3),
        np.float64(1e-3),
        optax.cosine_decay_schedule(1e-3, 10),
        optax.warmup_cosine_decay_schedule(0.0, 1e-3, 2, 10),
        optax.constant_schedule(1e-3),
    ]
    for make in (armijo_adam, armijo_adamw, scale_by_armijo):
        for rate in rates:
            with pytest.raises(TypeError, match=f"param_labels .*; got .*: {NO_RATE}$"):
                make(rate)


def test_an_option_is_no_label():
    for make in (armijo_adam, armijo_adamw, scale_by_armijo, optax_armijo.salsa):
        with pytest.raises(TypeError, match="param_labels .* are keyword arguments$"):
            make(object())  # pyright: ignore


@pytest.mark.parametrize("label", ["frozen", "FROZEN", "freeze"])
def test_a_label_that_seems_to_freeze_is_refused(label):
    """As in ``optax.partition``, where such a label may stand for no updates."""
    for labels in (LABELS | {"embed": label}, lambda _: LABELS | {"embed": label}):
        with pytest.raises(ValueError, match=f"{label}.* Take optax_armijo.FROZEN"):
            armijo_adam(labels).init(network_params())


@pytest.mark.parametrize("name", ["by_layer", "one_group"])
def test_the_name_of_a_label_function_is_not_taken_for_a_label(name):
    with pytest.raises(TypeError, match=f"'{name}'.* function: optax_armijo.{name}$"):
        armijo_adam(name)


def test_a_learning_rate_by_keyword_is_named():
    forms: Any = (armijo_adam, armijo_adamw, scale_by_armijo, optax_armijo.salsa)
    for make in forms:
        with pytest.raises(TypeError, match="'learning_rate'"):
            make(learning_rate=1e-3)


@pytest.mark.parametrize("make", SEARCHES)
@pytest.mark.parametrize("name", ["learning_rate", "lr", "step_size"])
def test_a_learning_rate_by_keyword_is_told_what_to_use_instead(make, name):
    with pytest.raises(TypeError) as caught:
        make(**{name: 1e-3})
    for part in (
        f"{make.__name__} has no argument '{name}'; got 0.001: {NO_RATE}. ",
        "For a decay over the run give its length: num_steps=...",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("make", SEARCHES)
@pytest.mark.parametrize(
    "name", ["momentum", "c", "linesearch", "loss_fraction", "max_step_size"]
)
def test_an_unknown_option_is_told_which_there_are(make, name):
    """`momentum` was never one; the others are, or were, of the search alone."""
    with pytest.raises(TypeError) as caught:
        make(**{name: 0.9})
    message = str(caught.value)
    assert f"{make.__name__} has no argument '{name}'; got 0.9: the const" in message
    assert "are fixed, and its arguments are param_labels, num_steps" in message


@pytest.mark.parametrize("name", ["schedule", "total_steps"])
def test_a_schedule_by_keyword_is_told_of_num_steps(name):
    with pytest.raises(TypeError, match="over the run give its length: num_steps=...$"):
        armijo_adam(**cast(Any, {name: 100}))


def test_weight_decay_is_told_where_it_is():
    with pytest.raises(TypeError, match="armijo_adamw has weight decay$"):
        armijo_adam(**cast(Any, {"weight_decay": 0.1}))


@pytest.mark.parametrize("make", [optax_armijo.salsa, optax_armijo.plasls])
def test_a_published_method_is_told_of_no_rate_and_of_its_arguments(make):
    with pytest.raises(TypeError, match=f"'learning_rate'; got 0.001: {NO_RATE}$"):
        make(learning_rate=1e-3)
    with pytest.raises(TypeError, match="'clip'; got 1: its arguments are "):
        make(clip=1)


@pytest.mark.parametrize("schedule", [lambda step: 0.1 / (step + 1), lambda step: 0.1])
def test_a_schedule_of_ones_own_is_told_when_it_is_called(schedule):
    with pytest.raises(TypeError, match=f"param_labels must be .*{NO_RATE}$"):
        armijo_adam(schedule).init(network_params())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"embed": "a", "head": "b"}, "it lacks the key 'layers' of leaf 'layers/b'"),
        (LABELS | {"head": {"w": "b"}}, "it lacks the key 'b' of leaf 'head/b'"),
        (LABELS | {"head": None}, "'head' of leaf 'head/b', or has None there"),
        (LABELS | {"tail": "b"}, "it has the key 'tail', at 'tail', which params"),
        (
            LABELS | {"head": {"w": "b", "b": "b", "c": "b"}},
            "it has the key 'c', at 'head/c', which params lacks",
        ),
        (lambda params: {"embed": "a"}, "it lacks the key 'head' of leaf 'head/b'"),
        (list(LABELS.values()), "it lacks the key 'embed' of leaf 'embed/b'"),
    ],
)
def test_a_label_that_is_missing_or_too_many_is_named_with_its_path(labels, message):
    with pytest.raises(ValueError, match=message):
        armijo_adam(labels).init(network_params())


def test_an_integer_leaf_is_to_be_frozen_and_a_complex_one_to_be_split():
    """No wrapper is recommended that is refused."""
    for dtype, message in [
        (jnp.int32, "searched: label it optax_armijo.FROZEN$"),
        (jnp.complex64, "searched: keep its real and imaginary part as two leaves, or"),
    ]:
        with pytest.raises(TypeError, match=message) as caught:
            armijo_adam().init({"a": jnp.ones(2), "b": jnp.ones(2, dtype)})
        assert "split_real_and_imaginary" not in str(caught.value)
    with pytest.raises(TypeError, match="leaf 'key' has dtype key.*: label it"):
        armijo_adam().init({"a": jnp.ones(2), "key": jax.random.key(0)})


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (
            {"a": jnp.ones(4)},
            r"leaf 'a' have shape \(3,\) and dtype float32, but need shape \(4,\)",
        ),
        ({"b": jnp.ones(3)}, "leaf 'b' have no entry, but need shape"),
        (
            {"a": jnp.ones(3), "b": jnp.ones(1)},
            "leaf 'b' have no entry, but need shape",
        ),
    ],
)
def test_a_state_of_other_params(others, message):
    tx = armijo_adam(optax_armijo.one_group)
    state = tx.init({"a": jnp.ones(3)})
    with pytest.raises(
        ValueError, match=f"made for other params: its moments of {message}"
    ):
        tx.update(others, state, others, value=1.0, value_fn=network_loss)


def test_moments_in_half_precision_are_refused():
    """In bfloat16 1 - b2 is 0, and so all directions were: the run stood still."""
    params = network_params()
    state = init(armijo_adam(LABELS), params)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), state.adam.nu)
    state = state._replace(adam=state.adam._replace(nu=half))
    with pytest.raises(ValueError, match="dtype bfloat16, but need .* dtype float32"):
        armijo_adam(LABELS).update(
            params, state, params, value=1.0, value_fn=network_loss
        )


def test_a_state_of_another_optimizer():
    params = network_params()
    for state in (optax.adam(1e-3).init(params), ({}, {"step_size": jnp.ones(3)})):
        with pytest.raises(TypeError, match="state must be what init returned; got"):
            armijo_adam(LABELS).update(
                params, state, params, value=1.0, value_fn=network_loss
            )


def test_an_array_that_is_donated_twice_is_named():
    shared = jnp.ones(3)
    params = {"a": {"w": shared}, "b": shared}
    tx = armijo_adam()

    def loss_fn(params):
        return jnp.sum((params["a"]["w"] - params["b"] + 1.0) ** 2)

    with pytest.raises(ValueError, match="one array as 'params/a/w' and 'params/b'"):
        make_train_step(loss_fn, tx)(params, tx.init(params))
    params = {"a": {"w": jnp.ones(3)}, "b": jnp.ones(3)}
    step = make_train_step(loss_fn, tx)
    step(params, tx.init(params))
    assert isinstance(step, jax.stages.Wrapped)


def test_a_function_in_the_place_of_a_transformation():
    """The function that makes one, or the two arguments the wrong way round."""
    tx, loss_fn = optax_armijo.armijo_adam(), lambda params: 0.0
    make: Any = optax_armijo.make_train_step
    with pytest.raises(TypeError, match=r"tx must be .*; call it: armijo_adam\(\)"):
        make(loss_fn, optax_armijo.armijo_adam)
    with pytest.raises(TypeError, match="loss_fn must be a function; got Gradient"):
        make(tx, loss_fn)
    for wrap, name in (
        (optax_armijo.average_iterates, "tx"),
        (optax_armijo.dynamic_loss_scale, "inner"),
    ):
        with pytest.raises(TypeError, match=f"{name} must be an optax transformation"):
            wrap(optax_armijo.armijo_adamw)  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match=r"got float$"):
            wrap(1e-3)  # pyright: ignore[reportArgumentType]


def test_a_train_step_of_a_loss_with_aux_that_is_not_said():
    tx, params = armijo_adam(LABELS), network_params()
    step = make_train_step(lambda params: (network_loss(params), {}), tx)
    with pytest.raises(ValueError, match="tuple of 2. Say has_aux=True"):
        step(params, tx.init(params))


@pytest.mark.parametrize(
    ("result", "got"),
    [((1.0, 2.0, 3.0), "a tuple of 3. Put all of aux into one tree"), (1.0, "float")],
)
def test_a_train_step_of_a_loss_whose_aux_is_not_one_tree(result, got):
    tx, params = armijo_adam(LABELS), network_params()
    step = make_train_step(lambda params: result, tx, has_aux=True)
    with pytest.raises(ValueError, match=rf"must give \(loss, aux\); got .*{got}"):
        step(params, tx.init(params))


def test_a_value_fn_of_params_and_batch_is_told_what_to_write():
    def loss_fn(params, x, *, y):
        return network_loss(params) + jnp.mean(x - y)

    ours = r"takes params alone: lambda p: loss_fn\(p, batch\); .*loss_fn.* missing"
    for value_fn in (loss_fn, jax.jit(loss_fn), functools.partial(loss_fn, y=0.0)):
        with pytest.raises(TypeError, match=ours):
            update(value_fn=value_fn)
    with pytest.raises(TypeError, match=ours):
        update(value_fn=loss_fn, x=jnp.ones(2))  # y alone is missing


def test_an_error_inside_value_fn_is_not_taken_for_missing_arguments():
    def inside(params):
        return network_loss()  # pyright: ignore

    @functools.wraps(mean_loss)
    def bound(params):  # its signature says that it takes a batch, and is wrong
        return mean_loss(params, *batch())

    with pytest.raises(TypeError, match=r"^network_loss\(\) missing 1 required"):
        update(value_fn=inside)
    update(value_fn=bound)


@pytest.mark.parametrize(
    "tx",
    [
        armijo_adam(),
        optax.chain(optax.sgd(1.0), scale_by_armijo()),
        optax_armijo.sls(),
    ],
    ids=["armijo_adam", "scale_by_armijo", "sls"],
)
def test_the_first_call_outside_jit_warns_and_no_other(tx):
    params = {"w": jnp.ones(3)}

    def loss_fn(params):
        return jnp.sum(params["w"] ** 2)

    value, grads = jax.value_and_grad(loss_fn)(params)
    state = tx.init(params)

    def update(state):
        return tx.update(
            grads, state, params, value=value, grad=grads, value_fn=loss_fn
        )

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            jax.jit(update)(state)
        with jax.disable_jit():
            update(state)
        jax.eval_shape(update, state)
        with pytest.raises(ValueError, match="needs value"):
            tx.update(grads, state, params, grad=grads)
        assert caught == []
        _, state = update(state)
        (warning,) = caught
        update(state)
    assert caught == [warning]
    assert "outside jax.jit and compiles the search at every call" in str(
        warning.message
    )
    # It points to the call of update: here, or in optax.chain.
    in_chain = Path(optax.__file__).parent in Path(warning.filename).parents
    assert warning.filename == __file__ or in_chain
