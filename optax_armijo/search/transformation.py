"""Gradient transformations that search: they check their inputs, then make a step."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_armijo._checks import check_callable, check_range
from optax_armijo._numerics import increment, search_dtype
from optax_armijo._state import (
    ArmijoState,
    InputErrors,
    LossStatistics,
    Move,
    SignalStatistics,
    StepSizeErrors,
    encode_labels,
    no_step,
)
from optax_armijo._types import ParamLabels, Scalar
from optax_armijo.labels.checks import check_are_labels
from optax_armijo.labels.grouping import Grouping, group_leaves
from optax_armijo.search.clipping import clip_scale, relative_size
from optax_armijo.search.directions import (
    AdamDirections,
    GivenDirections,
    Leaves,
    check_adam,
)
from optax_armijo.search.placement import build_beside
from optax_armijo.search.problem import Problem, names_of_leaves
from optax_armijo.search.refusals import (
    as_arrays,
    check_given,
    check_groups,
    check_members,
    check_moments,
    check_not_in_multi_steps,
    check_search_state,
    check_shapes,
    warn_outside_jit,
)
from optax_armijo.search.step import take_step
from optax_armijo.search.value_fn import bind_value_fn, check_loss
from optax_armijo.search.weight_decay import check_mask, decay_updates


class Batch(NamedTuple):
    """The checked inputs of an ``update``.

    Attributes:
      params: the whole params.
      updates: the incoming updates of the trainable leaves.
      grads: the gradient of the loss for the trainable leaves.
      value: the loss at params, in the dtype of the user's loss.  # []
      loss_fn: a function from params to the loss of the same batch.
    """

    params: Any
    updates: Leaves
    grads: Leaves
    value: jax.Array
    loss_fn: Callable[[Any], jax.Array]


def transformation(
    param_labels: ParamLabels,
    init: Callable[[Grouping, Any], Any],
    step: Callable[[Grouping, Batch, Any], tuple[Any, Any]],
    *,
    kind: type,
    search_state: Callable[[Any], Any] = lambda state: state,
    moments: Callable[[Any], Sequence[Any]] = lambda state: (),
    needs_grad: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Returns a transformation that checks its inputs and then makes a step.

    Args:
      param_labels: how the leaves are grouped.
      init: ``(grouping, params) -> state``.
      step: ``(grouping, batch, state) -> (updates, state)``.
      kind: the type of the search's state.
      search_state: takes the search's state from the whole state.
      moments: takes the trees whose leaves are like those of params from the state.
      needs_grad: whether updates are a direction, so that ``grad`` must be given.

    Raises:
      TypeError: a learning rate instead of labels.
    """
    check_are_labels(param_labels)
    calls_outside_jit = itertools.count()

    def counted(state: Any) -> Any:
        """Returns the state after a step with nothing to move."""
        old = search_state(state)
        new = old._replace(num_updates=increment(old.num_updates))
        is_old = lambda node: node is old  # noqa: E731
        return jax.tree.map(lambda x: new if x is old else x, state, is_leaf=is_old)

    def init_fn(params: Any) -> Any:
        check_not_in_multi_steps()
        params = as_arrays(params)
        return init(group_leaves(param_labels, params), params)

    def update_fn(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        value: Any = None,
        grad: Any = None,
        value_fn: Any = None,
        **extra_args: Any,
    ) -> tuple[Any, Any]:
        check_not_in_multi_steps()
        if not jax.tree.leaves(updates):
            return updates, counted(state)
        check_given(params=params, value=value, value_fn=value_fn)
        check_callable("value_fn", value_fn)
        if needs_grad:
            check_given(grad=grad)
        updates, params, grad = as_arrays((updates, params, grad))
        value = check_loss("value", value)
        found = check_search_state(search_state, state, kind)
        grouping = group_leaves(param_labels, params)
        check_groups(grouping, found)
        check_moments(grouping, params, moments(state))
        check_members(grouping, found)
        check_shapes(grouping, params, updates=updates, grad=grad)
        if not grouping.num_groups:
            return jax.tree.map(jnp.zeros_like, params), counted(state)
        warn_outside_jit(calls_outside_jit, updates, state, params, value)
        leaves = grouping.trainable(updates)
        batch = Batch(
            params=params,
            updates=leaves,
            grads=leaves if grad is None else grouping.trainable(grad),
            value=value,
            loss_fn=bind_value_fn(value_fn, extra_args),
        )
        return step(grouping, batch, state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def search_along_adam(
    param_labels: ParamLabels,
    num_steps: int | None,
    *,
    b1: Scalar,
    b2: Scalar,
    eps: Scalar,
    weight_decay: Scalar | None = None,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns Adam with one step size per group.

    Raises:
      ValueError: an argument outside its range.
    """
    check_num_steps(num_steps)
    check_adam(b1, b2, eps)
    if weight_decay is not None:
        check_range("weight_decay", weight_decay, at_least=0)
        check_mask(mask)

    def init(grouping: Grouping, params: Any) -> ArmijoState:
        mu, nu = grouping.zeros_like(params), grouping.zeros_like(params)
        return _init_state(grouping, params, mu, nu)

    def step(
        grouping: Grouping, batch: Batch, state: ArmijoState
    ) -> tuple[Any, ArmijoState]:
        adam = adam_directions(grouping, batch, state, b1, b2, eps)
        problem = make_problem(grouping, batch)
        updates, state = take_step(problem, state, adam, num_steps)
        if weight_decay is not None:
            updates = _decayed(
                updates, grouping, batch.params, state, weight_decay, mask
            )
        return updates, state

    return transformation(
        param_labels,
        init,
        step,
        kind=ArmijoState,
        moments=lambda state: (state.adam.mu, state.adam.nu),
    )


def search_along_updates(
    param_labels: ParamLabels, num_steps: int | None
) -> optax.GradientTransformationExtraArgs:
    """Returns the search along the incoming updates."""
    check_num_steps(num_steps)

    def init(grouping: Grouping, params: Any) -> ArmijoState:
        return _init_state(grouping, params, grouping.zeros_like(params), ())

    def step(
        grouping: Grouping, batch: Batch, state: ArmijoState
    ) -> tuple[Any, ArmijoState]:
        # Trials and the step itself use the same dtype, that of the last direction.
        last = grouping.trainable(state.adam.mu)
        pairs = zip(batch.updates, last, strict=True)
        updates = [u.astype(x.dtype) for u, x in pairs]
        directions = GivenDirections(grouping, state.adam, updates, state.gradient_size)
        return take_step(make_problem(grouping, batch), state, directions, num_steps)

    return transformation(
        param_labels,
        init,
        step,
        kind=ArmijoState,
        moments=lambda state: (state.adam.mu,),
        needs_grad=True,
    )


def check_num_steps(num_steps: Any) -> None:
    """Raises ValueError unless the argument is None or a number of steps."""
    if num_steps is not None:
        most = 2**31 - 1  # steps are counted in int32
        check_range("num_steps", num_steps, at_least=1, at_most=most, is_integer=True)


def adam_directions(
    grouping: Grouping, batch: Batch, state: Any, b1: Scalar, b2: Scalar, eps: Scalar
) -> AdamDirections:
    """Returns Adam's directions for a batch, and clips its gradient."""
    grads = [g.astype(search_dtype([g])) for g in batch.updates]
    size = relative_size(grouping, grads, state.adam, b2)
    scale, average = clip_scale(size, state.gradient_size, increment(state.adam.count))
    return AdamDirections(grouping, state.adam, grads, scale, average, b1, b2, eps)


def make_problem(grouping: Grouping, batch: Batch) -> Problem:
    """Returns the inputs of a step of the search."""
    dtype = search_dtype(grouping.trainable(batch.params))
    return Problem(
        grouping=grouping,
        params=batch.params,
        loss_fn=batch.loss_fn,
        loss_dtype=batch.value.dtype,
        value=batch.value.astype(dtype),
        loss_grads=batch.grads,
    )


def _decayed(
    updates: Any,
    grouping: Grouping,
    params: Any,
    state: ArmijoState,
    weight_decay: Scalar,
    mask: Any,
) -> Any:
    """Adds decoupled weight decay in proportion to the step sizes just applied."""
    applied = jnp.maximum(state.last.applied_step_size, 0)  # below 0: rolled back
    decays = decay_updates(grouping, params, applied, weight_decay, mask)
    pairs = zip(grouping.trainable(updates), decays, strict=True)
    return grouping.whole([u + d for u, d in pairs], params)


def _init_state(grouping: Grouping, params: Any, mu: Any, nu: Any) -> ArmijoState:
    """Returns the state before the first step, with these moments."""
    state = build_beside(params, lambda: _numbers(grouping, params))
    return state._replace(adam=state.adam._replace(mu=mu, nu=nu))


def _numbers(grouping: Grouping, params: Any) -> ArmijoState:
    """Returns all of the state except Adam's moments."""
    dtype = search_dtype(grouping.trainable(params))
    num_groups = grouping.num_groups

    # Every leaf is a separate, strongly typed array, because the state may be donated.
    def zeros(dtype: Any, *shape: int) -> jax.Array:
        return jnp.zeros(shape, dtype)

    def count() -> jax.Array:
        return zeros(jnp.int32)

    return ArmijoState(
        label_codes=jnp.array(encode_labels(grouping.labels)),
        checksum=jnp.array(grouping.checksum),
        num_updates=count(),
        adam=optax.ScaleByAdamState(count(), (), ()),
        gradient_size=jnp.ones((), dtype),
        step_size=zeros(dtype, num_groups),
        move=Move(
            step_size=zeros(dtype, num_groups),
            predicted=zeros(dtype, num_groups),
            multiple=jnp.ones((), dtype),
        ),
        signal=SignalStatistics(
            unit=zeros(dtype),
            weight=zeros(dtype),
            number=count(),
            signal=zeros(dtype),
            predicted=zeros(dtype),
            curvature=zeros(dtype),
            recent_signal=zeros(dtype),
            recently_predicted=zeros(dtype),
            measured_at=count(),
            early_fraction=jnp.ones((), dtype),
        ),
        errors=StepSizeErrors(
            number=count(),
            mean=zeros(dtype, 1 + num_groups),
            square=zeros(dtype, 1 + num_groups),
        ),
        losses=LossStatistics(*(zeros(dtype) for _ in LossStatistics._fields)),
        tested_at=count(),
        num_halved=count(),
        num_still=count(),
        input_errors=InputErrors(
            value=zeros(dtype), slope=zeros(dtype), labels=zeros(jnp.bool_)
        ),
        total_trials=zeros(jnp.int32, num_groups),
        total_evaluations=count(),
        last=no_step(num_groups, dtype, names_of_leaves(grouping, params)),
    )
