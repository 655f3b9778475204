"""Bad input raises at once, and says what to write instead."""

import jax
import jax.numpy as jnp
import pytest
from toys import LABELS, network_loss, network_params

import optax_armijo
from optax_armijo import armijo_adam, armijo_adamw, armijo_info, scale_by_armijo

BAD_OPTIONS = [
    ("c", 0.0, r"c must be .* \(0, 1\); got 0.0"),
    ("c", 1.0, r"c must be .* \(0, 1\); got 1.0"),
    ("c", "half", "c must be a number; got 'half'"),
    ("decrease_factor", 1.0, r"decrease_factor .* \(0, 1\); got 1.0"),
    ("increase_factor", 0.9, r"increase_factor .* \[1, inf\).*; got 0.9"),
    ("init_step_size", -1.0, r"init_step_size .* \(0, inf\); got -1.0"),
    ("init_step_size", 1e-12, "min_step_size=1e-10 and init_step_size=1e-12"),
    ("init_step_size", float("nan"), "init_step_size .* got nan"),
    ("min_step_size", 0.0, r"min_step_size .* \(0, inf\); got 0.0"),
    ("max_step_size", 1e-4, "init_step_size=0.001 and max_step_size=0.0001"),
    ("max_step_size", 1e-11, "min_step_size=1e-10 and max_step_size=1e-11"),
    ("max_step_size", float("inf"), "max_step_size must be a finite number"),
    ("max_trials", 0, r"max_trials .* \[1, inf\); got 0"),
    ("num_joint_steps", -1, r"num_joint_steps .* \[0, inf\); got -1"),
    ("rounding_ulps", -1.0, r"rounding_ulps .* got -1.0"),
    ("relative_floor", 1.0, r"relative_floor .* \[0, 1\); got 1.0"),
    ("lower_bound", float("-inf"), "lower_bound must be a finite number"),
    ("search", "all", "search must be one of 'cycle', .* Selection from .*; got 'all'"),
    ("net", "on", "net must be one of 'no_rise', 'average', 'off'; got 'on'"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD_OPTIONS)
def test_bad_options_raise_at_construction(name, value, message):
    for make in (scale_by_armijo, armijo_adam, armijo_adamw):
        with pytest.raises(ValueError, match=message):
            make(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("b1", 1.0, r"b1 .* \[0, 1\); got 1.0"),
        ("b2", -0.1, r"b2 .* \[0, 1\); got -0.1"),
        ("eps", 0.0, r"eps .* \(0, inf\); got 0.0"),
        ("momentum", "yes", "momentum must be one of 'held_out', 'none', 'kept'"),
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
    with pytest.raises(ValueError, match="num_groups must be 3 or more; got 2"):
        optax_armijo.by_depth(2)
    with pytest.raises(ValueError, match=r"patterns\['a'\] must be a regular expr"):
        optax_armijo.by_pattern({"a": "("})


def update(tx=None, params=None, **arguments):
    params = network_params() if params is None else params
    tx = armijo_adam(LABELS) if tx is None else tx
    grads = jax.tree.map(jnp.ones_like, params)
    arguments = {"value": jnp.float32(1), "value_fn": network_loss} | arguments
    return tx.update(grads, tx.init(params), params, **arguments)


@pytest.mark.parametrize("name", ["value", "value_fn"])
def test_missing_arguments_name_themselves_and_the_call(name):
    with pytest.raises(ValueError, match=rf"needs {name}\. .*tx\.update\(grads"):
        update(**{name: None})


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
        (
            {name: optax_armijo.FROZEN for name in LABELS},
            ValueError,
            "nothing to train",
        ),
        ({name: jnp.ones(1) for name in LABELS}, TypeError, "leaf 'embed/b' the label"),
    ],
)
def test_labels_that_do_not_fit(labels, error, message):
    with pytest.raises(error, match=message):
        armijo_adam(labels).init(network_params())


@pytest.mark.parametrize("dtype", [jnp.complex64, jnp.int32])
def test_leaves_that_cannot_be_searched(dtype):
    params = {"a": jnp.ones(2), "b": jnp.ones(2, dtype)}
    with pytest.raises(TypeError, match="leaf 'b' has dtype .*FROZEN"):
        armijo_adam().init(params)


def test_labels_that_change_between_steps():
    params = network_params()
    state = armijo_adam(LABELS).init(params)
    with pytest.raises(ValueError, match="gives 1 groups.* made for 3"):
        armijo_adam(optax_armijo.one_group).update(
            params, state, params, value=1.0, value_fn=network_loss
        )


def test_masks_that_do_not_fit():
    with pytest.raises(ValueError, match="mask must be a pytree"):
        update(armijo_adamw(LABELS, mask={"embed": True}))


def test_armijo_info_needs_one_state():
    params = network_params()
    state = armijo_adam().init(params)
    with pytest.raises(ValueError, match="holds 0"):
        armijo_info({"a": params})
    with pytest.raises(ValueError, match="holds 2"):
        armijo_info((state, state))
