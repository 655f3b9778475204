"""Sharded params under jit and in explicit mode: trap 8."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from many_devices import mesh_of
from toys import LABELS, network_loss, network_params

from optax_armijo import armijo_adamw, armijo_info


def train(params: Any, num_steps: int) -> tuple[Any, Any]:
    tx = armijo_adamw(LABELS, momentum="kept", search="each", num_joint_steps=1)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step_fn(params, state, step):
        def f(params):
            return network_loss(params, step)

        value, grads = jax.value_and_grad(f)(params)
        updates, state = tx.update(grads, state, params, value=value, value_fn=f)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for step in range(num_steps):
        params, state = step_fn(params, state, jnp.asarray(step))
    return params, state


def test_trap_8_sharded_params_follow_the_same_path():
    mesh = mesh_of()
    split = NamedSharding(mesh, PartitionSpec("data"))

    def shard(leaf):
        return jax.device_put(leaf, split) if leaf.shape[0] == 8 else leaf

    expected, _ = train(network_params(), num_steps=8)
    params, (moments, _) = train(jax.tree.map(shard, network_params()), num_steps=8)
    chex.assert_trees_all_close(params, expected, rtol=1e-3, atol=1e-5)
    for tree in (params, moments.nu, moments.mu):
        assert tree["embed"]["w"].sharding.is_equivalent_to(split, 2)


def test_trap_8_explicit_sharding():
    """The slope is a sum of products: optax.tree.vdot of 0.2.8 fails here."""
    mesh = mesh_of("Explicit")
    with jax.set_mesh(mesh):
        split = NamedSharding(mesh, PartitionSpec("data"))
        params = {
            "a": jax.device_put(jnp.arange(16.0).reshape(8, 2), split),
            "b": jax.device_put(jnp.ones(8), split),
        }

        def f(params):
            return jnp.mean((params["a"] - 3.0) ** 2) + jnp.mean(params["b"] ** 2)

        tx = armijo_adamw({"a": "a", "b": "b"}, momentum="searched", num_joint_steps=1)
        state = tx.init(params)
        before = jax.tree.map(jax.typeof, state)

        @jax.jit
        def step_fn(params, state):
            value, grads = jax.value_and_grad(f)(params)
            updates, state = tx.update(grads, state, params, value=value, value_fn=f)
            return optax.apply_updates(params, updates), state

        start = f(params)
        for _ in range(4):
            params, state = step_fn(params, state)
            assert jax.tree.map(jax.typeof, state) == before
        assert f(params) < start
        assert bool(armijo_info(state).accepted.any())
