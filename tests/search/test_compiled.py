"""What XLA makes of a step."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

import optax_armijo as oa


def kernels(num_layers):
    """Returns the distinct kernels of an update, without the names in them."""
    layer = {"w": jnp.ones((8, 8)), "b": jnp.ones(8)}
    params = {f"layer_{i}": layer for i in range(num_layers)}
    tx = oa.armijo_adam()

    def loss_fn(params):
        return sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(params))

    def update(grads, state, params):
        value = loss_fn(params)
        return tx.update(grads, state, params, value=value, value_fn=loss_fn)

    compiled = jax.jit(update).lower(params, tx.init(params), params).compile()
    text = compiled.as_text() or ""
    computations = map(str.strip, text.split("\n\n"))
    return {unnamed(x) for x in computations if x.startswith("%fused_computation")}


def unnamed(computation):
    """Returns the text of a computation with numbers in the place of its names."""
    names: dict[str, str] = {}
    text = re.sub(r", metadata=\{.*?\}", "", computation)
    pattern = r"%?[\w-]+(\.[\w-]+)+|param_\d+"
    return re.sub(pattern, lambda x: names.setdefault(x[0], str(len(names))), text)


def test_layers_that_are_alike_share_their_kernels():
    """A kernel with the number of its group in it would be compiled for each layer."""
    four, eight = kernels(4), kernels(8)
    # What adds up over groups differs.
    assert len(eight) <= len(four) + 8


def test_kernels_of_leaves_read_scalars_instead_of_computing_them():
    """XLA repeats what is cheap: 13 to 17 scalar operations were in each of them."""
    of_leaf = re.compile(r"ROOT \S+ = f32\[8,8\]")
    of_scalar = re.compile(r" = \w+\[\] (?!parameter|constant)")
    numbers = [len(of_scalar.findall(x)) for x in kernels(4) if of_leaf.search(x)]
    assert numbers and max(numbers) <= 4


def test_a_vmapped_step_evaluates_the_loss_only_when_a_run_does():
    """With conditions in the place of the loop, every step made both evaluations."""
    seen = []

    def loss_fn(params):
        jax.debug.callback(lambda _: seen.append(1), params["w"][0])
        return jnp.sum(jnp.square(params["w"] - 1))

    tx = oa.armijo_adam()

    def run(start):
        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss_fn)(params)
            more = {"value": value, "value_fn": loss_fn}
            updates, state = tx.update(grads, state, params, **more)
            return (optax.apply_updates(params, updates), state), None

        params = {"w": jnp.full(3, start)}
        carry, _ = jax.lax.scan(step, (params, tx.init(params)), None, length=100)
        state: Any = carry[1]
        return state.total_evaluations

    of_each = jax.jit(jax.vmap(run))(jnp.array([2.0, 2.0]))
    jax.effects_barrier()
    assert len(seen) == 2 * 100 + jnp.sum(of_each)
