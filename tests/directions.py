"""Directions to search along: updates to be added to params, a unit of step size."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib


def shampoo_like(eps: float = 1e-4) -> optax.GradientTransformation:
    """Preconditions a matrix by the roots of its summed outer products, others not."""

    def init_fn(params: Any) -> Any:
        def sides(p: jax.Array) -> Any:
            if p.ndim != 2:
                return ()
            return tuple(eps * jnp.eye(size, dtype=p.dtype) for size in p.shape)

        return jax.tree.map(sides, params)

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params

        def accumulated(g: jax.Array, sides: Any) -> Any:
            return (sides[0] + g @ g.T, sides[1] + g.T @ g) if sides else ()

        def root(matrix: jax.Array) -> jax.Array:
            values, vectors = jnp.linalg.eigh(matrix)
            return (vectors * jnp.maximum(values, eps) ** -0.25) @ vectors.T

        def direction(g: jax.Array, sides: Any) -> jax.Array:
            return -root(sides[0]) @ g @ root(sides[1]) if sides else -g

        state = jax.tree.map(accumulated, updates, state)
        return jax.tree.map(direction, updates, state), state

    return optax.GradientTransformation(init_fn, update_fn)


class Case(NamedTuple):
    """A direction, and whether it descends on every batch by its construction."""

    transform: optax.GradientTransformation
    always_descends: bool


DIRECTIONS = {
    "sgd": Case(optax.sgd(1.0), True),
    "sgd, momentum": Case(optax.sgd(1.0, momentum=0.9), False),
    "adam": Case(optax.adam(1.0), False),
    "adam, no momentum": Case(optax.adam(1.0, b1=0.0), True),
    "amsgrad": Case(optax.amsgrad(1.0), False),
    "lion": Case(optax.lion(1.0, weight_decay=0.0), False),
    "sign": Case(optax.sign_sgd(1.0), True),
    "muon": Case(optax.contrib.muon(1.0), False),
    "shampoo-like": Case(shampoo_like(), True),
}
