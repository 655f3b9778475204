"""Every wrapper of optax: works, works so, or is refused, as the docs say."""

import re
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from jax.flatten_util import ravel_pytree
from toys import LABELS, init, network_loss, network_params, run

from optax_armijo import armijo_adam, armijo_info, one_group

PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"
FREEZE = {"embed": False, "layers": True, "head": False}


def search():
    return armijo_adam(LABELS)


def norm(updates, *_args, **_kwargs):
    return optax.tree.norm(updates)


def every_second(step, *_args, **_kwargs):
    return step % 2 == 0


def behind(name, *arguments):
    """A transformation to stand behind the search; none where optax has no such."""
    make = getattr(optax, name, None) or getattr(optax.contrib, name, None)
    return optax.identity() if make is None else make(*arguments)


# Wrappers under which all goes on as without them, many at once: compiling takes long.
TRANSPARENT = {
    ("chain", "named_chain", "apply_if_finite", "masked", "zero_nans", "snapshot")
    + ("clip_by_global_norm", "monitor", "contrib.reduce_on_plateau"): optax.chain(
        optax.zero_nans(),
        optax.clip_by_global_norm(1e6),
        optax.named_chain(
            ("search", optax.apply_if_finite(optax.masked(search(), True), 3))
        ),
        behind("reduce_on_plateau"),
        behind("snapshot", "norm", norm),
        behind("monitor", {"norm": norm}),
    ),
    ("partition", "with_extra_args_support", "inject_hyperparams"): optax.partition(
        {
            "all": optax.with_extra_args_support(
                optax.inject_hyperparams(armijo_adam)(LABELS)
            )
        },
        "all",
    ),
}


@pytest.fixture(scope="module")
def plain():
    return run(search(), network_params(), num_steps=6)


@pytest.mark.parametrize("names", TRANSPARENT, ids=lambda names: names[0])
def test_works(names, plain):
    history = run(TRANSPARENT[names], network_params(), num_steps=6)
    # Injected numbers are arrays, with which XLA rounds some products otherwise.
    chex.assert_trees_all_close(
        history[-1].params, plain[-1].params, rtol=1e-3, atol=1e-4
    )
    info, expected = (armijo_info(x[-1].state) for x in (history, plain))
    np.testing.assert_allclose(info.step_size, expected.step_size, rtol=1e-3)


# Wrappers that hide a part of params, or the loss, and are refused.
REFUSED = {
    "masked": (lambda: optax.masked(search(), FREEZE), "FROZEN"),
    "partition": (
        lambda: optax.partition(
            {"a": search(), "b": optax.set_to_zero()},
            {"embed": "a", "layers": "b", "head": "a"},
        ),
        "FROZEN",
    ),
    "selective_transform": (
        lambda: optax.selective_transform(search(), freeze_mask=FREEZE),
        "FROZEN",
    ),
    "MultiSteps": (
        lambda: optax.MultiSteps(search(), 2).gradient_transformation(),
        "num_microbatches",
    ),
    "lookahead": (lambda: optax.lookahead(search(), 5, 0.5), "needs value, value_fn"),
    "contrib.sam": (
        lambda: optax.contrib.sam(search(), optax.sgd(0.05), reset_state=False),
        "needs value, value_fn",
    ),
    "contrib.split_real_and_imaginary": (
        lambda: optax.contrib.split_real_and_imaginary(search()),
        "needs value, value_fn",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    make, message = REFUSED[name]
    try:
        tx = make()
    except AttributeError:
        pytest.skip(f"this optax has no {name}")
    params = network_params()
    if name == "lookahead":
        params = optax.LookaheadParams.init_synced(params)
    grads = jax.grad(network_loss)(network_params())
    with pytest.raises(ValueError, match=message):
        tx.update(grads, tx.init(params), params)


def test_multi_steps_is_refused_at_once_and_in_update():
    wrapper = optax.MultiSteps(search(), 2)
    with pytest.raises(ValueError, match="num_microbatches=k"):
        wrapper.init(network_params())
    params = network_params()
    state = optax.MultiSteps(optax.sgd(1.0), 2).init(params)
    state = state._replace(inner_opt_state=init(search(), params))
    value, grads = jax.value_and_grad(network_loss)(params)
    with pytest.raises(ValueError, match="num_microbatches=k"):
        wrapper.update(grads, state, params, value=value, value_fn=network_loss)


def test_conditionally_mask_moves_nothing_in_the_steps_it_skips():
    tx = optax.conditionally_mask(search(), every_second)
    moved = [norm(x.updates) > 0 for x in run(tx, network_params(), num_steps=6)]
    assert moved == [True, False] * 3


def test_conditionally_transform_lets_gradients_through_in_the_steps_it_skips():
    tx = optax.conditionally_transform(search(), every_second)
    history = run(tx, network_params(), num_steps=2)
    grads = jax.grad(network_loss)(history[1].params, 1)
    chex.assert_trees_all_close(history[1].updates, grads, rtol=1e-5, atol=1e-6)


def test_flatten_works_when_the_loss_takes_the_vector():
    flat, unravel = ravel_pytree(network_params())
    tx = optax.flatten(armijo_adam(one_group))

    def vector_loss(vector, step=0):
        return network_loss(unravel(vector), step)

    history = run(tx, flat, vector_loss, num_steps=8)
    expected = run(armijo_adam(one_group), network_params(), num_steps=8)
    np.testing.assert_allclose(history[-1].value, expected[-1].value, rtol=1e-4)


def test_what_stands_behind_changes_a_step_that_was_tested(plain):
    """Each by itself changes the second step; the search before it goes on."""
    transforms = [
        optax.ema(0.9),
        optax.trace(0.5),
        optax.apply_every(2),
        optax.keep_params_nonnegative(),
        optax.scale_by_schedule(optax.linear_schedule(0.1, 1.0, 5)),
    ]
    if hasattr(optax, "freeze"):
        transforms.append(optax.freeze(FREEZE))
    params = plain[1].params
    for transform in transforms:
        _, state = transform.update(plain[0].updates, transform.init(params), params)
        updates, _ = transform.update(plain[1].updates, state, params)
        same = jax.tree.map(
            lambda a, b: bool(jnp.allclose(a, b)), updates, plain[1].updates
        )
        assert not all(jax.tree.leaves(same))
    together = optax.chain(search(), *transforms)
    history = run(together, network_params(), num_steps=4)
    assert all(bool(jnp.isfinite(x.value)) for x in history)
    assert bool(armijo_info(history[0].state).accepted.all())


@pytest.mark.parametrize(
    "make",
    [
        lambda: optax.contrib.schedule_free(search(), learning_rate=1.0),
        lambda: optax.contrib.mechanize(search()),
    ],
    ids=["schedule_free", "mechanize"],
)
def test_wrappers_that_move_from_another_point_decrease_the_loss(make):
    history = run(make(), network_params(), num_steps=24)
    # Means over the four mini-batches, since the search does not see where it leads.
    values = np.array([x.value for x in history]).reshape(-1, 4).mean(axis=1)
    # Mechanize begins with steps that are 1e-8 times as long.
    assert values[-1] < values[0] and np.all(np.diff(values) <= 0), values


ALSO_TESTED = {
    "conditionally_mask",
    "conditionally_transform",
    "flatten",
    "freeze",
    "ema",
    "trace",
    "apply_every",
    "keep_params_nonnegative",
    "scale_by_schedule",
    "contrib.schedule_free",
    "contrib.mechanize",
}


def test_the_table_in_the_docs_is_of_these_tests():
    if not PAGE.exists():
        pytest.skip("docs are not beside the tests")
    listed = re.findall(r"^\| `optax\.([\w.]+)`", PAGE.read_text(), re.MULTILINE)
    assert len(listed) == len(set(listed))
    works = {name for names in TRANSPARENT for name in names}
    assert set(listed) == {*works, *REFUSED, *ALSO_TESTED}
