"""The step's program: no larger for more groups, no evaluation for nothing.

That it is traced and compiled once, and may be donated to, is asked of every form in
`test_forms.py`.
"""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from toys import LABELS, network_loss, network_params

from optax_armijo import (
    armijo_adam,
    armijo_info,
)


def many_leaves(num_leaves):
    return [jnp.full(4, 0.1 * i) for i in range(num_leaves)]


@functools.cache
def step_text(num_groups, num_leaves=32):
    """The step's program before XLA, with the leaves split into groups."""
    labels = [i * num_groups // num_leaves for i in range(num_leaves)]
    tx = armijo_adam(labels)

    def f(params):
        return sum(jnp.sum((leaf - 1) ** 2) for leaf in params)

    def step_fn(params, state):
        value, grads = jax.value_and_grad(f)(params)
        updates, state = tx.update(grads, state, params, value=value, value_fn=f)
        return optax.apply_updates(params, updates), state

    params = many_leaves(num_leaves)
    return jax.jit(step_fn).lower(params, tx.init(params)).as_text()


def test_the_program_does_not_grow_with_the_number_of_groups():
    lines = {groups: step_text(groups).count("\n") for groups in (2, 8, 32)}
    assert lines[32] <= 1.02 * lines[2]
    assert lines[8] <= 1.02 * lines[2]


def test_the_program_has_one_loop():
    assert step_text(8).count("stablehlo.while") == 1


@pytest.mark.filterwarnings("ignore:update is called outside jax.jit:UserWarning")
@pytest.mark.parametrize("where", ["init", "eager update", "jitted update"])
def test_no_two_leaves_of_the_state_share_a_buffer(where):
    tx = armijo_adam(LABELS)
    params = network_params()
    state = tx.init(params)
    if where != "init":
        value, grads = jax.value_and_grad(network_loss)(params)

        def update(state):
            return tx.update(grads, state, params, value=value, value_fn=network_loss)

        _, state = (jax.jit(update) if where == "jitted update" else update)(state)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(pointers)) == len(pointers)


def test_no_search_costs_no_evaluation():
    """Nothing to search: the compiled step evaluates the loss not once more."""
    calls = []

    def counted(params):
        jax.debug.callback(lambda: calls.append(1))
        return network_loss(params)

    params = network_params()
    tx = armijo_adam(LABELS)
    _, grads = jax.value_and_grad(network_loss)(params)
    update = jax.jit(
        lambda value, state: tx.update(
            grads, state, params, value=value, value_fn=counted
        )
    )
    update(jnp.nan, tx.init(params))
    jax.effects_barrier()
    assert calls == []
    _, state = update(network_loss(params), tx.init(params))
    jax.effects_barrier()
    assert len(calls) == int(armijo_info(state).num_evaluations) > 0
