"""Flax NNX: one line a step, for any module, its state and dropout included."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from optax_armijo._checks import check_range
from optax_armijo.training.objective import Whole, build_objective, is_key, with_aux
from optax_armijo.training.train_step import (
    TrainMetrics,
    info_of,
    names_shared_arrays,
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

    `model` is an ``nnx.Module`` and `optimizer` an ``nnx.Optimizer`` of it; both are
    updated in place. State that is not trained, such as batch statistics and the counts
    of random streams, is updated in the gradient's pass alone. All trials of a step
    start from the state that this pass started from, so that they see the same dropout
    masks, and do not change it.

    Args:
      loss_fn: ``(model, *batch) -> loss``, or ``(loss, aux)``; it may change the
        model's state.
      *others: none. The transformation that `optax_armijo.make_train_step` takes here
        is in the optimizer.
      has_aux: see `optax_armijo.make_train_step`, as for all that follow.
      num_microbatches: with more than one, state that is floating point becomes the
        average over the microbatches, and each microbatch has dropout masks of its own.
      microbatch_argnums: counted after `model` and `optimizer`, from 0.
      weight_fn: ``(*microbatch) -> weight``.
      axis_name: the mapped axis, or axes, over which the batch is split.
      donate: whether the arrays of model and optimizer are donated.

    Returns:
      The step; its metrics are `TrainMetrics`.

    Raises:
      ValueError: as `optax_armijo.make_train_step`.
      TypeError: a transformation beside `loss_fn`; when traced, params and state in the
        place of model and optimizer.

    Example:
      >>> import jax.numpy as jnp, optax_armijo
      >>> from flax import nnx
      >>> model = nnx.Linear(4, 1, rngs=nnx.Rngs(0))
      >>> optimizer = nnx.Optimizer(model, optax_armijo.armijo_adam(), wrt=nnx.Param)
      >>> step = make_train_step(lambda model, x, y: jnp.mean((model(x) - y) ** 2))
      >>> x, y = jnp.eye(4), jnp.arange(4.0)[:, None]
      >>> losses = [float(step(model, optimizer, x, y).loss) for _ in range(20)]
      >>> losses[-1] < 0.1 * losses[0]
      True
    """
    if others:
        raise TypeError(
            "optax_armijo.nnx.make_train_step takes loss_fn alone, the transformation "
            f"is in the nnx.Optimizer; got also {others[0]!r}. For params without a "
            "module take optax_armijo.make_train_step"
        )
    check_range("num_microbatches", num_microbatches, at_least=1, is_integer=True)
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
        rest = _arrays(rest)

        def pure_loss(params: Any, rest: Whole, *batch: Any) -> Any:
            merged = nnx.merge(graphdef, params, rest.tree)
            loss, aux = loss_and_aux(merged, *batch)
            _, _, new_rest = nnx.split(merged, optimizer.wrt, ...)
            return loss, (aux, _arrays(new_rest))

        whole = make_objective(pure_loss, _arrays(optimizer.opt_state))
        (loss, (aux, new_rest)), grads = whole.value_and_grad(
            params, Whole(rest), *batch
        )
        optimizer.update(
            model,
            grads,
            value=loss,
            grad=grads,
            value_fn=lambda params: whole.value(params, Whole(rest), *batch),
        )
        # Keys stay: microbatches have numbers folded into theirs.
        new_rest = jax.tree.map(
            lambda new, old: old if is_key(old) else new, new_rest, rest
        )
        nnx.update(model, new_rest)
        return TrainMetrics(loss, aux, info_of(_arrays(optimizer.opt_state)))

    if not donate:
        return nnx.jit(step)
    donating = nnx.jit(step, donate_argnums=(0, 1))
    return names_shared_arrays(donating, "model", "optimizer")


def _check_arguments(model: Any, optimizer: Any) -> None:
    if isinstance(model, nnx.Module) and isinstance(optimizer, nnx.Optimizer):
        return
    raise TypeError(
        "the step of optax_armijo.nnx.make_train_step takes an nnx.Module and an "
        f"nnx.Optimizer; got {type(model).__name__} and {type(optimizer).__name__}. "
        "For params and their state take optax_armijo.make_train_step"
    )


def _arrays(state: Any) -> Any:
    """Returns a state of arrays instead of variables, which belong to one trace."""
    return jax.tree.map(
        lambda x: x[...] if isinstance(x, nnx.Variable) else x,
        state,
        is_leaf=lambda x: isinstance(x, nnx.Variable),
    )
