"""The loss of a batch and its gradient: at once, in microbatches, over devices."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from optax_armijo._checks import check_range
from optax_armijo._numerics import has_no_gradient, is_key, search_dtype
from optax_armijo._state import frozen_paths
from optax_armijo.labels.paths import Path, paths_and_leaves
from optax_armijo.search.value_fn import check_loss
from optax_armijo.training.loss_scale import find_loss_scale

LossFn = Callable[..., Any]
"""From params and the batch's arrays to the loss, or to loss and aux."""


class Objective(NamedTuple):
    """The loss of a batch as a function of params.

    Attributes:
      value_and_grad: ``(params, *batch) -> ((loss, aux), grads)``.
      value: ``(params, *batch) -> loss``: the same loss, for trials.
      weight: ``(*batch) -> weight`` of that batch in a mean over several; None if all
        count equally.
    """

    value_and_grad: Callable[..., tuple[tuple[jax.Array, Any], Any]]
    value: Callable[..., jax.Array]
    weight: Callable[..., Any] | None = None


def build_objective(
    loss_fn: Callable[..., Any],
    opt_state: Any,
    *,
    num_microbatches: int,
    microbatch_argnums: Sequence[int] | None,
    weight_fn: Callable[..., Any] | None,
    axis_name: Any,
) -> Objective:
    """Returns the objective of a batch for the arguments of `make_train_step`."""
    scale = find_loss_scale(opt_state)
    whole = objective(loss_fn, None if scale is None else scale.scale)
    whole = whole._replace(weight=weight_fn)
    if num_microbatches > 1:
        whole = by_microbatch(
            whole,
            int(num_microbatches),
            argnums=microbatch_argnums,
            axis_name=axis_name,
        )
    if axis_name is not None:
        whole = over_devices(whole, axis_name)
    return without_gradients_of(whole, frozen_paths(opt_state))


def without_gradients_of(whole: Objective, frozen: set[Path]) -> Objective:
    """Returns the objective with zeros for the gradients of leaves that never move.

    What is in front of the search, such as clipping by the global norm, takes all
    gradients into account, those of integers and of what is not finite too.
    """

    def value_and_grad(params: Any, *batch: Any) -> Any:
        loss_and_aux, grads = whole.value_and_grad(params, *batch)
        leaves = [
            _no_gradient(leaf) if path in frozen else grad
            for (path, leaf), grad in zip(
                paths_and_leaves(params), jax.tree.leaves(grads), strict=True
            )
        ]
        return loss_and_aux, jax.tree.structure(grads).unflatten(leaves)

    return whole._replace(value_and_grad=value_and_grad) if frozen else whole


def _no_gradient(leaf: jax.Array) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.zeros_like(leaf)
    return jnp.zeros(leaf.shape, jnp.float32)


def check_microbatches(number: Any, argnums: Any) -> None:
    """Raises unless they may be `num_microbatches` and `microbatch_argnums`."""
    check_range("num_microbatches", number, at_least=1, is_integer=True)
    is_list = isinstance(argnums, Sequence) and not isinstance(argnums, str)
    if argnums is not None and not is_list:
        raise TypeError(
            "microbatch_argnums must be a list of argument numbers, such as [0, 1]; "
            f"got {argnums!r}"
        )


def with_aux(loss_fn: LossFn, has_aux: bool) -> LossFn:
    """Returns a loss function that always gives ``(loss, aux)``, with aux None if none.

    Raises:
      ValueError: when traced, a loss that is not one real number.
    """

    def loss_and_aux(*args: Any) -> tuple[jax.Array, Any]:
        result = loss_fn(*args)
        if not has_aux:
            if isinstance(result, tuple):
                raise ValueError(
                    f"loss_fn must give a scalar loss; got a tuple of {len(result)}. "
                    "Say has_aux=True for one that gives (loss, aux)."
                )
            result = (result, None)
        elif not isinstance(result, tuple):
            raise ValueError(
                f"with has_aux=True loss_fn must give (loss, aux); got {type(result)}"
            )
        elif len(result) != 2:
            raise ValueError(
                "with has_aux=True loss_fn must give (loss, aux); got a tuple of "
                f"{len(result)}. Put all of aux into one tree: (loss, (a, b))."
            )
        loss, aux = result
        return check_loss("loss_fn's result", loss), aux

    return loss_and_aux


def objective(loss_fn: LossFn, loss_scale: jax.Array | None = None) -> Objective:
    """Returns the objective of a loss function with aux, on the whole batch at once.

    A `loss_scale` multiplies the gradient, and nothing else.
    """

    def scaled_loss(params: Any, *batch: Any) -> Any:
        loss, aux = loss_fn(params, *batch)
        scaled = loss if loss_scale is None else loss * loss_scale.astype(loss.dtype)
        return scaled, (loss, aux)

    def value_and_grad(params: Any, *batch: Any) -> Any:
        # The transformation checks that integers and keys among params are frozen.
        grad_fn = jax.value_and_grad(scaled_loss, has_aux=True, allow_int=True)
        (_, loss_and_aux), grads = grad_fn(params, *batch)
        return loss_and_aux, grads

    return Objective(value_and_grad, lambda *args: loss_fn(*args)[0])


class Whole(NamedTuple):
    """An argument of a batch that is not split, whatever its leaves look like."""

    tree: Any


def by_microbatch(
    part: Objective,
    num_microbatches: int,
    *,
    argnums: Sequence[int] | None,
    axis_name: Any,
) -> Objective:
    r"""Returns the objective of a batch that is evaluated in microbatches by `part`.

    .. math:: f(w) = \sum_i \omega_i f_i(w) / \sum_i \omega_i

    Args:
      part: the objective of one microbatch, with its weight :math:`\omega_i`.
      num_microbatches: at least 1.
      argnums: which arguments of the batch hold examples; None for all whose leaves
        have an axis, except for those that are `Whole`. The others go whole to each
        microbatch. Random keys have the microbatch's number folded in.
      axis_name: the mapped axis over which a batch is also split, or None.
    """

    def parts_of(batch: Sequence[Any]) -> tuple[Callable[[Any], list[Any]], Any]:
        has_rows = [_has_rows(i, arg, argnums) for i, arg in enumerate(batch)]
        _check_rows(batch, has_rows, num_microbatches, argnums)
        rows = [
            _split(arg, num_microbatches) if split else None
            for arg, split in zip(batch, has_rows, strict=True)
        ]

        def assemble(entry: Any) -> list[Any]:
            number, mine = entry
            return [
                mine[i] if split else _fold_in(arg, number)
                for i, (arg, split) in enumerate(zip(batch, has_rows, strict=True))
            ]

        return assemble, (jnp.arange(num_microbatches), rows)

    def weight_of(batch: Sequence[Any]) -> jax.Array:
        weight = 1.0 if part.weight is None else _weight_of(part.weight, batch)
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

            def add(t: jax.Array, g: jax.Array) -> jax.Array:
                if has_no_gradient(g):
                    return t
                return t + _weighted(g, weight.astype(t.dtype))

            total = jax.tree.map(add, total, grads)
            return total, (loss, aux, weight)

        def zero(p: Any) -> Any:
            if is_key(p):
                return jnp.zeros(p.shape, jnp.float32)
            return jnp.zeros_like(p, search_dtype([p]))

        def mean(t: jax.Array, p: Any) -> Any:
            if is_key(p):
                return np.zeros(p.shape, jax.dtypes.float0)  # as JAX itself returns
            return (t / norm.astype(t.dtype)).astype(p.dtype)

        zeros = jax.tree.map(zero, params)
        if axis_name is not None:
            zeros = varying(zeros, axis_name)
        total, (losses, auxes, weights) = lax.scan(one, zeros, parts)
        norm = jnp.sum(weights)
        grads = jax.tree.map(mean, total, params)
        aux = jax.tree.map(
            lambda x: _average(x, weights) if _is_floating(x) else x[-1], auxes
        )
        return (_average(losses, weights), aux), grads

    def weight(*batch: Any) -> jax.Array:
        assemble, parts = parts_of(batch)
        return jnp.sum(lax.map(lambda entry: weight_of(assemble(entry)), parts))

    return Objective(value_and_grad, value, None if part.weight is None else weight)


def _average(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns the weighted mean over the leading axis, in the values' own dtype."""
    dtype = search_dtype([values])
    rows = weights.astype(dtype).reshape(-1, *(1,) * (values.ndim - 1))
    mean = jnp.sum(_weighted(values, rows), axis=0) / jnp.sum(rows)
    return mean.astype(values.dtype)


def _weighted(value: jax.Array, weight: jax.Array) -> jax.Array:
    """The product in the weight's dtype; 0 for a weight of 0, whose mean may be NaN."""
    return jnp.where(weight == 0, 0, weight * value.astype(weight.dtype))


def _weight_of(weight_fn: Callable[..., Any], batch: Sequence[Any]) -> Any:
    weight = weight_fn(*batch)
    if jnp.ndim(weight) != 0:
        raise ValueError(
            "weight_fn must give one number for a batch or microbatch; got an array of "
            f"shape {jnp.shape(weight)}"
        )
    return weight


def _has_rows(i: int, arg: Any, argnums: Sequence[int] | None) -> bool:
    if isinstance(arg, Whole):
        return False
    if argnums is not None:
        return i in argnums
    leaves = [leaf for leaf in jax.tree.leaves(arg) if not _is_one_key(leaf)]
    return bool(leaves) and all(jnp.ndim(leaf) > 0 for leaf in leaves)


def _check_rows(
    batch: Sequence[Any],
    has_rows: Sequence[bool],
    num_parts: int,
    argnums: Sequence[int] | None,
) -> None:
    """Raises ValueError unless the arguments can be split into microbatches."""
    num_first = sum(isinstance(arg, Whole) for arg in batch)  # not the user's
    for i in argnums or ():
        if not num_first <= i < len(batch):
            raise ValueError(
                f"microbatch_argnums must be in [0, {len(batch) - num_first}), since "
                f"the batch has that many arguments; got {i - num_first}"
            )
    guesses = argnums is None and any(has_rows)
    for i, arg in enumerate(batch[num_first:] if guesses else ()):
        leaves = [leaf for leaf in jax.tree.leaves(arg) if not _is_one_key(leaf)]
        if len({jnp.ndim(leaf) > 0 for leaf in leaves}) > 1:
            raise ValueError(
                f"either all leaves of argument {i} must have rows, or none; got both. "
                "Pass those without rows as an argument of their own, or name in "
                "microbatch_argnums the arguments that are split"
            )
    shapes = [
        (jnp.shape(leaf), i - num_first)
        for i, (arg, split) in enumerate(zip(batch, has_rows, strict=True))
        for leaf in (jax.tree.leaves(arg) if split else ())
        if not _is_one_key(leaf)
    ]
    advice = "Name those that hold examples in microbatch_argnums."
    for shape, i in shapes:
        if not shape or shape[0] % num_parts:
            raise ValueError(
                "num_microbatches must divide the number of examples in each argument "
                f"that is split; got num_microbatches={num_parts} and shape {shape} in "
                f"argument {i} of the batch. {advice}"
            )
        if shape[0] != shapes[0][0][0]:
            first, j = shapes[0]
            raise ValueError(
                "arguments that num_microbatches splits must have the same number of "
                f"examples; got shape {first} in argument {j} of the batch and {shape} "
                f"in argument {i}. {advice}"
            )
    # A loss of random keys alone has nothing to split.
    leaves = jax.tree.leaves(list(batch))
    given = [x for x in jax.tree.leaves(list(batch[num_first:])) if not is_key(x)]
    has_examples = argnums is None and any(jnp.ndim(x) > 0 for x in given)
    if not shapes and (has_examples or not any(map(is_key, leaves))):
        raise ValueError(
            f"num_microbatches={num_parts} needs an argument of the batch to split; "
            f"got none whose leaves all hold examples. {advice}"
        )


def _split(arg: Any, num_parts: int) -> Any:
    """Splits leaves of shape [B, ...] to [num_parts, B / num_parts, ...].

    Microbatch i holds the examples i, i + num_parts, ..., so each microbatch is spread
    over all devices that the examples are spread over. A single random key becomes one
    per microbatch.
    """

    def split(leaf: Any) -> jax.Array:
        if _is_one_key(leaf):
            numbers = jnp.arange(num_parts)
            return jax.vmap(lambda i: jax.random.fold_in(leaf, i))(numbers)
        parts = jnp.reshape(leaf, (-1, num_parts, *jnp.shape(leaf)[1:]))
        return jnp.swapaxes(parts, 0, 1)

    return jax.tree.map(split, arg)


def _fold_in(arg: Any, number: jax.Array) -> Any:
    def fold(leaf: Any) -> Any:
        if not is_key(leaf):
            return leaf
        keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(leaf.reshape(-1))
        return keys.reshape(leaf.shape)

    return jax.tree.map(fold, arg)


def _is_one_key(leaf: Any) -> bool:
    return is_key(leaf) and jnp.ndim(leaf) == 0


def over_devices(local: Objective, axis_name: Any) -> Objective:
    """Returns the objective whose batch is split over a mapped axis.

    Params are the same on all devices, and so are the returned loss, aux and gradient,
    which are means over the axis. Aux that is not floating point stays each device's
    own.
    """

    def mean(tree: Any, batch: Sequence[Any]) -> Any:
        weight = None if local.weight is None else _weight_of(local.weight, batch)
        return mean_over(tree, axis_name, weight)

    def value_and_grad(params: Any, *batch: Any) -> Any:
        # Varying params keep the gradient local until the one mean below, whether or
        # not the map itself tracks what varies.
        found = local.value_and_grad(varying(params, axis_name), *batch)
        return mean(found, batch)

    def value(params: Any, *batch: Any) -> jax.Array:
        return mean(local.value(varying(params, axis_name), *batch), batch)

    return Objective(value_and_grad, value)


def varying(tree: Any, axis_name: Any) -> Any:
    """Marks what is the same on all devices of an axis as each device's own."""
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)

    def mark(x: jax.Array) -> jax.Array:
        missing = tuple(name for name in names if name not in _varies_over(x))
        if not missing:
            return x
        if hasattr(lax, "pcast"):
            return lax.pcast(x, missing, to="varying")
        pvary = getattr(lax, "pvary", None)  # its name in between; before, none
        return x if pvary is None else pvary(x, missing)

    return jax.tree.map(mark, tree)


def _varies_over(x: Any) -> frozenset[Any]:
    typeof = getattr(jax, "typeof", None)
    if typeof is None:
        return frozenset()
    kind = getattr(typeof(x), "manual_axis_type", None)
    # Before about JAX 0.10 its name was vma.
    return getattr(typeof(x), "vma", frozenset()) if kind is None else kind.varying


def mean_over(tree: Any, axis_name: Any, weight: Any = None) -> Any:
    """Averages the floating point leaves over an axis; the others stay as they are.

    Each device's `weight`, if given, weights the mean.
    """

    def mean(x: jax.Array) -> jax.Array:
        if weight is None:
            return lax.pmean(x, axis_name)
        dtype = search_dtype([x])
        own = varying(jnp.asarray(weight, dtype), axis_name)
        total = lax.psum(_weighted(x, own), axis_name)
        return (total / lax.psum(own, axis_name)).astype(x.dtype)

    return jax.tree.map(lambda x: mean(x) if _is_floating(x) else x, tree)


def _is_floating(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating)
