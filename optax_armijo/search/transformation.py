"""Gradient transformations that search: what comes in is checked, then a step made."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_armijo._checks import check_range
from optax_armijo._numerics import search_dtype
from optax_armijo._state import BacktrackingState, LastStep, encode_labels
from optax_armijo._types import ParamLabels, Scalar
from optax_armijo.labels.checks import check_not_a_rate
from optax_armijo.labels.grouping import Grouping, group_leaves
from optax_armijo.search.directions import AdamDirections, GivenDirection, Leaves
from optax_armijo.search.linesearch import Backtracking
from optax_armijo.search.placement import build_beside
from optax_armijo.search.refusals import (
    as_arrays,
    check_given,
    check_groups,
    check_moments,
    check_not_in_multi_steps,
    check_search_state,
    warn_outside_jit,
)
from optax_armijo.search.step import Problem, take_step
from optax_armijo.search.value_fn import bind_value_fn, check_loss
from optax_armijo.search.weight_decay import decay_updates


def search_along_adam(
    param_labels: ParamLabels,
    linesearch: Backtracking,
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    weight_decay: Scalar | None = None,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns Adam with a step size a group; `Backtracking` has the formulas.

    Raises:
      ValueError: an argument outside its range.
    """
    check_range("b1", b1, at_least=0, below=1)
    check_range("b2", b2, at_least=0, below=1)
    check_range("eps", eps, above=0)
    if weight_decay is not None:
        check_range("weight_decay", weight_decay, at_least=0)

    def init_moments(grouping: Grouping, params: Any) -> list[Any]:
        return [_zeros(grouping, params) for _ in range(2)]

    def directions(
        grouping: Grouping, state: BacktrackingState, grads: Leaves
    ) -> AdamDirections:
        grads = [g.astype(search_dtype([g])) for g in grads]
        return AdamDirections.after(grouping, state.adam, grads, b1, b2, eps)

    decay = None if weight_decay is None else (weight_decay, mask)
    return _transformation(param_labels, linesearch, init_moments, directions, decay)


def search_along_updates(
    param_labels: ParamLabels, linesearch: Backtracking
) -> optax.GradientTransformationExtraArgs:
    """Returns the search along whatever direction comes in as updates."""
    return _transformation(
        param_labels,
        linesearch,
        _no_moments,
        lambda grouping, state, updates: GivenDirection(updates, state.adam),
        None,
    )


def _no_moments(grouping: Grouping, params: Any) -> list[Any]:
    del grouping, params
    return [(), ()]


def _transformation(
    param_labels: ParamLabels,
    linesearch: Backtracking,
    init_moments: Callable[[Grouping, Any], list[Any]],
    directions: Callable[[Grouping, BacktrackingState, Leaves], Any],
    decay: tuple[Scalar, Any] | None,
) -> optax.GradientTransformationExtraArgs:
    """Checks what comes in, and makes a step of it."""
    check_not_a_rate(param_labels)
    if not isinstance(linesearch, Backtracking):
        raise TypeError(
            f"linesearch must be a Backtracking; got {type(linesearch).__name__}"
        )
    calls_outside_jit = itertools.count(1)

    def init_fn(params: Any) -> BacktrackingState:
        check_not_in_multi_steps()
        params = as_arrays(params)
        grouping = group_leaves(param_labels, params)
        return build_beside(params, lambda: _init_state(grouping, params))._replace(
            adam=optax.ScaleByAdamState(
                build_beside(params, lambda: jnp.zeros([], jnp.int32)),
                *init_moments(grouping, params),
            )
        )

    def update_fn(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        value: Any = None,
        grad: Any = None,
        value_fn: Any = None,
        **extra_args: Any,
    ) -> tuple[Any, BacktrackingState]:
        check_not_in_multi_steps()
        if not jax.tree.leaves(updates):
            return updates, _counted(state)
        # Adam's updates are gradients: that of the loss, where no other is given.
        is_direction = init_moments is _no_moments
        check_given(params=params, value=value, value_fn=value_fn)
        if is_direction:
            check_given(grad=grad)
        warn_outside_jit(calls_outside_jit, updates, state, params, value)
        updates, params, grad = as_arrays((updates, params, grad))
        check_search_state(state, BacktrackingState)
        value = check_loss("value", value)
        grouping = group_leaves(param_labels, params)
        check_groups(grouping, state)
        if not is_direction:
            check_moments(grouping, params, (state.adam.mu, state.adam.nu))
        if not grouping.num_groups:
            return jax.tree.map(jnp.zeros_like, params), _counted(state)
        leaves = grouping.trainable(updates)
        problem = Problem(
            grouping=grouping,
            linesearch=linesearch,
            params=params,
            loss_fn=bind_value_fn(value_fn, extra_args),
            loss_dtype=value.dtype,
            value=value.astype(state.factor.dtype),
            loss_grads=leaves if grad is None else grouping.trainable(grad),
        )
        updates, state = take_step(problem, state, directions(grouping, state, leaves))
        return _decayed(updates, grouping, params, state, decay), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _decayed(
    updates: Any,
    grouping: Grouping,
    params: Any,
    state: BacktrackingState,
    decay: tuple[Scalar, Any] | None,
) -> Any:
    """Adds decoupled weight decay by the step sizes that the groups moved by."""
    if decay is None:
        return updates
    # A step that is taken back has negative step sizes.
    applied = jnp.maximum(state.last.applied_step_size, 0)
    decays = decay_updates(grouping, params, applied, *decay)
    pairs = zip(grouping.trainable(updates), decays, strict=True)
    zeros = jax.tree.map(jnp.zeros_like, grouping.treedef.flatten_up_to(params))
    return grouping.merge([u + d for u, d in pairs], zeros)


def _counted(state: BacktrackingState) -> BacktrackingState:
    """The state after a step in which there was nothing to move."""
    return state._replace(num_steps=jnp.asarray(optax.safe_increment(state.num_steps)))


def _zeros(grouping: Grouping, params: Any) -> Any:
    leaves = grouping.trainable(params)
    return grouping.masked([jnp.zeros_like(x, search_dtype([x])) for x in leaves])


def _init_state(grouping: Grouping, params: Any) -> BacktrackingState:
    """The state before the first step, but for Adam's."""
    dtype = search_dtype(grouping.trainable(params))
    num_groups = grouping.num_groups

    # Every leaf is an array of its own, strongly typed: the state may be donated.
    def zeros(dtype: Any, *shape: int) -> jax.Array:
        return jnp.zeros(shape, dtype)

    return BacktrackingState(
        label_codes=jnp.array(encode_labels(grouping.labels)),
        num_steps=zeros(jnp.int32),
        adam=optax.ScaleByAdamState(zeros(jnp.int32), (), ()),
        group_step_size=zeros(dtype, num_groups),
        factor=jnp.ones((), dtype),
        group_searched=zeros(jnp.int32, num_groups),
        searched=zeros(jnp.int32),
        lowest_loss=jnp.full((), jnp.finfo(dtype).max, dtype),
        loss_average=zeros(dtype),
        loss_deviation=zeros(dtype),
        last_move=zeros(dtype, num_groups),
        total_trials=zeros(jnp.int32, num_groups),
        total_evaluations=zeros(jnp.int32),
        last=LastStep(
            applied_step_size=zeros(dtype, num_groups),
            searched=zeros(jnp.bool_, num_groups),
            accepted=zeros(jnp.bool_, num_groups),
            num_trials=zeros(jnp.int32, num_groups),
            predicted_decrease=zeros(dtype, num_groups),
            actual_decrease=zeros(dtype, num_groups),
            step_factor=jnp.ones((), dtype),
            num_evaluations=zeros(jnp.int32),
        ),
    )
