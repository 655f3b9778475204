"""The traps measured in optax's own line searches, each with its test.

Others: a search that finds nothing, and a direction that ascends, in
`search/test_robustness.py`; a chain that compiles once, in `test_forms.py`; mixed
dtypes, in `test_dtypes.py`; explicit sharding, in `devices/test_many_devices.py`.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import LABELS, network_loss, network_params, one_step, run

import optax_armijo
from optax_armijo import armijo_adam, armijo_adamw, armijo_info
from optax_armijo.search.trials import MOST_LATER_TRIALS


def test_a_step_size_never_sticks_at_zero():
    """Trials that are all non-finite leave a step size that works again at once."""

    tx = armijo_adam()

    @jax.jit
    def step_fn(params, state, step):
        def f(moved):
            loss = jnp.sum((moved - 3.0) ** 2)
            return jnp.where((step == 3) & jnp.any(moved != params), jnp.nan, loss)

        value, grads = jax.value_and_grad(f)(params)
        updates, state = tx.update(grads, state, params, value=value, value_fn=f)
        return updates, state, value

    params = jnp.zeros(2)
    state = tx.init(params)
    losses = []
    for step in range(15):
        updates, state, value = step_fn(params, state, jnp.asarray(step))
        if step in (3, 4):
            assert np.all((updates == 0) == (step == 3))
        params = optax.apply_updates(params, updates)
        losses.append(float(value))
    assert losses[-1] < 0.5 * losses[4]


def test_evaluations_are_counted_exactly_and_have_a_limit():
    calls = []
    params = network_params()
    tx = armijo_adam(LABELS)

    @jax.jit
    def step_fn(params, state, step):
        def counted(params):
            jax.debug.callback(lambda: calls.append(1))
            return network_loss(params, step)

        def value_fn(moved):
            # From the tenth step on no trial is good enough.
            return counted(moved) + jnp.where(step >= 9, 100.0, 0.0)

        value, grads = jax.value_and_grad(network_loss)(params, step)
        updates, state = tx.update(grads, state, params, value=value, value_fn=value_fn)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    counts, of_whole_steps = [], []
    for step in range(15):
        params, state = step_fn(params, state, jnp.asarray(step))
        info = armijo_info(state)
        counts.append(int(info.num_evaluations))
        if step >= 9:
            of_whole_steps.append(counts[-1])
        jax.effects_barrier()
        assert len(calls) == sum(counts) == int(info.total_evaluations)
    # One is that of the last step's worth, and one compares value_fn with value.
    assert max(of_whole_steps) == MOST_LATER_TRIALS + 2
    assert min(of_whole_steps) == 0


def test_extra_arguments_of_others_are_ignored():
    def named(params, rows):
        return network_loss(params, rows)

    def with_kwargs(params, **batch):
        assert set(batch) == {"rows", "reference"}
        return network_loss(params, batch["rows"])

    def plain(params):
        return network_loss(params, 1)

    params = network_params()
    value, grads = jax.value_and_grad(plain)(params)
    tx = optax.chain(optax.clip_by_global_norm(1.0), armijo_adam(LABELS))
    update = jax.jit(tx.update, static_argnames=("value_fn", "reference"))
    results = [
        update(
            grads,
            tx.init(params),
            params,
            value=value,
            value_fn=value_fn,
            rows=1,
            reference="meant for another member of the chain",
        )[0]
        for value_fn in (named, with_kwargs, plain)
    ]
    chex.assert_trees_all_equal(*results)


def test_rounding_follows_the_dtype_of_the_loss():
    """A rise that bfloat16 cannot tell from a tie passes there, not in float32."""

    def rises(dtype):
        return lambda params: jnp.where(params[0] == 1, 100.0, 100.4).astype(dtype)

    for dtype, expected in [(jnp.bfloat16, True), (jnp.float32, False)]:
        params = jnp.ones(2)
        tx = armijo_adam()
        updates, _ = jax.jit(tx.update, static_argnames="value_fn")(
            jnp.full(2, 1e-3),
            tx.init(params),
            params,
            value=jnp.asarray(100, dtype),
            value_fn=rises(dtype),
        )
        # In float32 what passes is a step too short to move anything.
        assert bool(jnp.all(params + updates != params)) is expected


def test_the_label_function_sees_params_in_init_and_in_update():
    seen = []

    def param_labels(params):
        seen.append(params)
        return optax_armijo.one_group(params)

    params, tx = network_params(), armijo_adam(param_labels)
    grads, state = jax.tree.map(jnp.ones_like, params), tx.init(params)
    more = {"value": 1.0, "value_fn": network_loss}
    jax.eval_shape(lambda: tx.update(grads, state, params, **more))
    assert len(seen) >= 2
    assert all(tree is params for tree in seen)


def test_labels_of_mixed_types_do_not_crash():
    labels = {"embed": 1, "layers": "one", "head": 2.5}
    _, state = one_step(armijo_adam(labels), network_params(), network_loss)
    assert armijo_info(state).labels == ("1", "2.5", "one")


@pytest.mark.parametrize("num_steps", [None, 50])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_strict_dtype_promotion(dtype, num_steps):
    params = {"a": jnp.ones(3, dtype), "b": jnp.ones(3, jnp.float32)}

    def f(params):
        a = params["a"].astype(jnp.float32)
        return jnp.sum(jnp.square(a)) + jnp.sum(jnp.square(params["b"]))

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        tx = armijo_adamw({"a": "a", "b": "b"}, num_steps)
        updates, _ = one_step(tx, params, f)
    assert all(np.all(x < 0) for x in jax.tree.leaves(updates))


def test_the_loss_is_never_handed_a_hole():
    """With frozen leaves, the loss still sees the full params (optax#1649)."""
    params = network_params()
    structure = jax.tree.structure(params)

    def loss_fn(params, step):
        assert jax.tree.structure(params) == structure
        return network_loss(params, step)

    labels = {"embed": optax_armijo.FROZEN, "layers": "a", "head": "b"}
    run(armijo_adam(labels), params, loss_fn, num_steps=2)


def test_strict_dtype_promotion_with_x64(x64):
    """Counters are int32 also where an arange would be int64."""
    params = {"a": jnp.ones(3), "b": jnp.ones(3, jnp.float32)}

    def f(params):
        return jnp.sum(jnp.square(params["a"])) + jnp.sum(params["b"]).astype(float)

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        tx = armijo_adam({"a": "a", "b": "b"})
        updates, _ = one_step(tx, params, f)
    assert jax.tree.reduce(
        lambda any_moved, x: any_moved | np.any(x != 0), updates, False
    )
