"""A batch taken in parts, one after the other: the loss of all, the memory of one."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from optax_armijo._numerics import search_dtype
from optax_armijo.training.collectives import varying
from optax_armijo.training.objective import Objective, is_floating


class Whole(NamedTuple):
    """An argument of a batch that has no rows, whatever its leaves look like."""

    tree: Any


def by_microbatch(
    part: Objective,
    num_microbatches: int,
    *,
    argnums: Sequence[int] | None,
    weight_fn: Callable[..., Any] | None,
    axis_name: Any,
) -> Objective:
    r"""Returns the objective of a batch of which `part` is evaluated in parts.

    .. math:: f(w) = \sum_i \omega_i f_i(w) / \sum_i \omega_i

    Args:
      part: the objective of one microbatch.
      num_microbatches: at least 1.
      argnums: which arguments of the batch have rows; None for all whose leaves have
        an axis, but for those that are `Whole`. The others go to every part whole,
        random keys among them with the part's number folded in.
      weight_fn: from a microbatch to its weight :math:`\omega_i`; None for all equal.
      axis_name: the mapped axis over which a batch is split besides, or None.
    """

    def parts_of(batch: Sequence[Any]) -> tuple[Callable[[Any], list[Any]], Any]:
        has_rows = [_has_rows(i, arg, argnums) for i, arg in enumerate(batch)]
        rows = [
            _split(arg, num_microbatches, i) if split else None
            for i, (arg, split) in enumerate(zip(batch, has_rows, strict=True))
        ]

        def assemble(entry: Any) -> list[Any]:
            number, mine = entry
            return [
                mine[i] if split else _fold_in(arg, number)
                for i, (arg, split) in enumerate(zip(batch, has_rows, strict=True))
            ]

        return assemble, (jnp.arange(num_microbatches), rows)

    def weight_of(batch: Sequence[Any]) -> jax.Array:
        weight = 1.0 if weight_fn is None else weight_fn(*batch)
        return jnp.asarray(weight, jnp.float32)

    def value(params: Any, *batch: Any) -> jax.Array:
        assemble, parts = parts_of(batch)

        def one(entry: Any) -> tuple[jax.Array, jax.Array]:
            mine = assemble(entry)
            return part.value(params, *mine), weight_of(mine)

        return _average(*lax.map(one, parts))

    def value_and_grad(params: Any, *batch: Any) -> Any:
        assemble, parts = parts_of(batch)

        def one(total: Any, entry: Any) -> Any:
            mine = assemble(entry)
            weight = weight_of(mine)
            (loss, aux), grads = part.value_and_grad(params, *mine)
            total = jax.tree.map(
                lambda t, g: t + weight.astype(t.dtype) * g.astype(t.dtype),
                total,
                grads,
            )
            return total, (loss, aux, weight)

        zeros = jax.tree.map(lambda p: jnp.zeros_like(p, search_dtype([p])), params)
        if axis_name is not None:
            zeros = varying(zeros, axis_name)
        total, (losses, auxes, weights) = lax.scan(one, zeros, parts)
        norm = jnp.sum(weights)
        grads = jax.tree.map(
            lambda t, p: (t / norm.astype(t.dtype)).astype(p.dtype), total, params
        )
        aux = jax.tree.map(lambda x: _reduce(x, weights), auxes)
        return (_average(losses, weights), aux), grads

    return Objective(value_and_grad, value)


def _average(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns the weighted mean over the leading axis, in the values' own dtype."""
    dtype = search_dtype([values])
    rows = weights.astype(dtype).reshape(-1, *(1,) * (values.ndim - 1))
    mean = jnp.sum(rows * values.astype(dtype), axis=0) / jnp.sum(rows)
    return mean.astype(values.dtype)


def _reduce(values: jax.Array, weights: jax.Array) -> jax.Array:
    if is_key(values) or not is_floating(values):
        return values[-1]
    return _average(values, weights)


def _has_rows(i: int, arg: Any, argnums: Sequence[int] | None) -> bool:
    if isinstance(arg, Whole):
        return False
    if argnums is not None:
        return i in argnums
    return all(jnp.ndim(leaf) > 0 for leaf in jax.tree.leaves(arg))


def _split(arg: Any, num_parts: int, i: int) -> Any:
    """Splits leaves of shape [B, ...] to [num_parts, B / num_parts, ...].

    Part i has the rows i, i + num_parts, ...: so each part is spread over all devices
    that the rows are spread over.
    """

    def split(leaf: Any) -> jax.Array:
        shape = jnp.shape(leaf)
        if not shape or shape[0] % num_parts:
            raise ValueError(
                f"num_microbatches must divide the rows of each argument that is "
                f"split; got num_microbatches={num_parts} and shape {shape} in "
                f"argument {i} of the batch. Name those with rows in "
                "microbatch_argnums."
            )
        parts = jnp.reshape(leaf, (-1, num_parts, *shape[1:]))
        return jnp.swapaxes(parts, 0, 1)

    return jax.tree.map(split, arg)


def _fold_in(arg: Any, number: jax.Array) -> Any:
    def fold(leaf: Any) -> Any:
        if not is_key(leaf):
            return leaf
        keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(leaf.reshape(-1))
        return keys.reshape(leaf.shape)

    return jax.tree.map(fold, arg)


def is_key(leaf: Any) -> bool:
    """Tells whether a leaf is of random keys, as ``jax.random.key`` makes them."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
