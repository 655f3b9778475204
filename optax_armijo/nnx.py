"""Flax NNX: a train step for any module, with its state and dropout."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from optax_armijo._checks import check_callable
from optax_armijo._numerics import is_key
from optax_armijo.training.objective import (
    Whole,
    build_objective,
    check_microbatches,
    with_aux,
)
from optax_armijo.training.train_step import (
    TrainMetrics,
    info_of,
    watched,
)


def make_train_step(
    loss_fn: Callable[..., Any],
    *others: Any,
    has_aux: bool = False,
    num_microbatches: int = 1,
    microbatch_argnums: Sequence[int] | None = None,
    weight_fn: Callable[..., Any] | None = None,
    axis_name: Any = None,
    donate: bool = True,
) -> Callable[..., TrainMetrics]:
    """Returns ``step(model, optimizer, *batch) -> metrics``, jitted.

    `model` is an ``nnx.Module`` and `optimizer` an ``nnx.Optimizer`` of it; the step
    updates both in place. Only the gradient's pass updates state that is not trained,
    such as batch statistics, random keys and the counts of random streams. All trials
    of a step start from the state that this pass started from, so that they see the
    same dropout masks, and do not change it. The step drops the batch statistics of a
    batch whose loss is not finite. It does not keep variables that the loss adds to the
    model, as ``sow`` does: return them as aux. Nor does it keep what the loss assigns
    to variables that `optimizer` trains.

    Args:
      loss_fn: ``(model, *batch) -> loss``, or ``(loss, aux)``; it may change the
        model's state.
      *others: none. The optimizer already holds the transformation that
        `optax_armijo.make_train_step` takes here.
      has_aux: see `optax_armijo.make_train_step`, as for all that follow.
      num_microbatches: with more than one, state that is floating point becomes the
        average over the microbatches, and each microbatch has dropout masks of its own;
        other state that the loss changes becomes that of the last one.
      microbatch_argnums: counted after `model` and `optimizer`, from 0.
      weight_fn: ``(*microbatch) -> weight``.
      axis_name: the mapped axis, or axes, over which the batch is split.
      donate: whether the arrays of model and optimizer are donated.

    Returns:
      The step; its metrics are `TrainMetrics`.

    Raises:
      ValueError: as `optax_armijo.make_train_step`.
      TypeError: a transformation beside `loss_fn` or instead of it; when traced,
        params and state instead of model and optimizer, or an
        ``nnx.ModelAndOptimizer``.

    Example:
      >>> import jax.numpy as jnp, optax_armijo
      >>> from flax import nnx
      >>> model = nnx.Linear(4, 1, rngs=nnx.Rngs(0))
      >>> optimizer = nnx.Optimizer(model, optax_armijo.armijo_adam(), wrt=nnx.Param)
      >>> step = make_train_step(lambda model, x, y: jnp.mean((model(x) - y) ** 2))
      >>> x, y = jnp.eye(4), jnp.arange(4.0)[:, None]
      >>> losses = [float(step(model, optimizer, x, y).loss) for _ in range(40)]
      >>> losses[-1] < 0.1 * losses[0]
      True
    """
    if others:
        raise TypeError(
            "optax_armijo.nnx.make_train_step takes loss_fn alone, the transformation "
            f"is in the nnx.Optimizer; got also {others[0]!r}. For params without a "
            "module take optax_armijo.make_train_step"
        )
    check_callable("loss_fn", loss_fn)
    check_microbatches(num_microbatches, microbatch_argnums)
    if microbatch_argnums is not None:
        microbatch_argnums = [i + 1 for i in microbatch_argnums]
    weigh = weight_fn  # the first argument of a batch is the state, see `pure_loss`
    make_objective = functools.partial(
        build_objective,
        num_microbatches=num_microbatches,
        microbatch_argnums=microbatch_argnums,
        weight_fn=None if weigh is None else lambda _, *batch: weigh(*batch),
        axis_name=axis_name,
    )

    loss_and_aux = with_aux(loss_fn, has_aux)

    def step(model: Any, optimizer: nnx.Optimizer, *batch: Any) -> TrainMetrics:
        _check_arguments(model, optimizer)
        graphdef, params, rest = nnx.split(model, optimizer.wrt, ...)
        paths_and_values, treedef = jax.tree_util.tree_flatten_with_path(rest)
        paths, values = [*zip(*paths_and_values, strict=True)] or [(), ()]

        def pure_loss(params: Any, rest: Whole, *batch: Any) -> Any:
            merged = nnx.merge(graphdef, params, treedef.unflatten(rest.tree))
            loss, aux = loss_and_aux(merged, *batch)
            _, _, after = nnx.split(merged, optimizer.wrt, ...)
            after = dict(jax.tree_util.tree_flatten_with_path(after)[0])
            # Frozen weights are no result; microbatches would stack and average them.
            changed = {
                i: after[path]
                for i, (path, old) in enumerate(zip(paths, rest.tree, strict=True))
                if path in after and after[path] is not old
            }
            return loss, (aux, changed)

        whole = make_objective(pure_loss, _arrays(optimizer.opt_state))
        (loss, (aux, changed)), grads = whole.value_and_grad(
            params, Whole(values), *batch
        )
        optimizer.update(
            model,
            grads,
            value=loss,
            grad=grads,
            value_fn=lambda params: whole.value(params, Whole(values), *batch),
        )
        updated = [
            _settled(changed.get(i, old), old, loss) for i, old in enumerate(values)
        ]
        nnx.update(model, treedef.unflatten(updated))
        return TrainMetrics(loss, aux, info_of(_arrays(optimizer.opt_state)))

    if not donate:
        return watched(nnx.jit(step))
    return watched(nnx.jit(step, donate_argnums=(0, 1)), "model", "optimizer")


def _check_arguments(model: Any, optimizer: Any) -> None:
    is_both = isinstance(optimizer, nnx.ModelAndOptimizer)
    is_optimizer = isinstance(optimizer, nnx.Optimizer) and not is_both
    if isinstance(model, nnx.Module) and is_optimizer:
        return
    raise TypeError(
        "the step of optax_armijo.nnx.make_train_step takes an nnx.Module and an "
        f"nnx.Optimizer; got {type(model).__name__} and {type(optimizer).__name__}. "
        "For params and their state take optax_armijo.make_train_step"
    )


def _settled(new: jax.Array, old: jax.Array, loss: jax.Array) -> jax.Array:
    """The state to continue with: a bad batch leaves no NaN in running statistics."""
    if new is old or is_key(old) or not jnp.issubdtype(old.dtype, jnp.floating):
        return new
    is_good = jnp.isfinite(loss) & (jnp.isfinite(new) | ~jnp.isfinite(old))
    return jnp.where(is_good, new, old)


def _arrays(state: Any) -> Any:
    """Returns a state of arrays instead of variables, which belong to one trace."""

    def array(x: Any) -> Any:
        # A variable that stands for a frozen leaf holds no array.
        has_array = isinstance(x, nnx.Variable) and jax.tree.leaves(x)
        return x[...] if has_array else x

    return jax.tree.map(array, state, is_leaf=lambda x: isinstance(x, nnx.Variable))
