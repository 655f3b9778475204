"""From a published method to the gradient transformation that follows it."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_armijo._checks import check_range
from optax_armijo._types import ParamLabels, Scalar
from optax_armijo.labels.checks import check_not_a_rate
from optax_armijo.labels.grouping import group_leaves
from optax_armijo.presets.acceptance import armijo
from optax_armijo.presets.directions import Direction, descent
from optax_armijo.presets.method import (
    Acceptance,
    Frequency,
    Merging,
    Method,
    Selection,
    Start,
    check_method,
)
from optax_armijo.presets.selection import every_step, joint, separate
from optax_armijo.presets.start import grow
from optax_armijo.presets.state import ArmijoState, init_state
from optax_armijo.presets.step import Batch, step
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
from optax_armijo.search.value_fn import bind_value_fn, check_loss


def published(
    param_labels: ParamLabels,
    direction: Direction,
    *,
    c: Scalar,
    decrease_factor: Scalar,
    increase_factor: Scalar,
    init_step_size: Scalar,
    max_trials: Scalar,
    num_joint_steps: Scalar = 0,
    acceptance: Acceptance | None = None,
    start: Start | None = None,
    selection: Selection | None = None,
    frequency: Frequency | None = None,
    merging: Merging | None = None,
    earlier_groups_moved: bool = False,
    weight_decay: Scalar | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns a method; what is not given is Armijo's test in one joint search a step.

    What never costs a published trajectory is the same in all of them: a bad batch or a
    search that finds nothing moves no param, and after the latter the next search
    brackets.

    Raises:
      ValueError: a number outside its range.
    """
    method = Method(
        direction=direction,
        acceptance=armijo() if acceptance is None else acceptance,
        start=grow() if start is None else start,
        selection=joint() if selection is None else selection,
        frequency=every_step() if frequency is None else frequency,
        merging=separate() if merging is None else merging,
        c=c,
        decrease_factor=decrease_factor,
        increase_factor=increase_factor,
        init_step_size=init_step_size,
        max_trials=max_trials,
        num_joint_steps=num_joint_steps,
        earlier_groups_moved=earlier_groups_moved,
        weight_decay=weight_decay,
    )
    return _transformation(param_labels, method)


def growth_per_step(growth_per_epoch: Scalar, n_batches_per_epoch: Scalar) -> Scalar:
    r"""Returns :math:`\gamma^{1/n}`: how much a step size grows in a step."""
    check_range("n_batches_per_epoch", n_batches_per_epoch, above=0)
    check_range("growth_per_epoch", growth_per_epoch, at_least=1)
    return growth_per_epoch ** (1 / n_batches_per_epoch)


def _transformation(
    param_labels: ParamLabels, method: Method
) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation that follows a method.

    On a batch whose loss or gradient is not finite, neither direction nor search learns
    or moves.
    """
    check_not_a_rate(param_labels)
    check_method(method)
    direction = method.direction
    calls_outside_jit = itertools.count(1)

    def init_fn(params: Any) -> tuple[Any, ArmijoState]:
        check_not_in_multi_steps()
        params = as_arrays(params)
        grouping = group_leaves(param_labels, params)
        search_state = build_beside(
            params, lambda: init_state(grouping, params, method)
        )
        return direction.init(grouping, params), search_state

    def update_fn(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        value: Any = None,
        grad: Any = None,
        value_fn: Any = None,
        **extra_args: Any,
    ) -> tuple[Any, tuple[Any, ArmijoState]]:
        check_not_in_multi_steps()
        if not jax.tree.leaves(updates):
            return updates, (state[0], _counted(state[1]))
        check_given(params=params, value=value, value_fn=value_fn)
        warn_outside_jit(calls_outside_jit, updates, state, params, value)
        updates, params, grad = as_arrays((updates, params, grad))
        value = check_loss("value", value)
        direction_state, search_state = state
        check_search_state(search_state, ArmijoState)
        grouping = group_leaves(param_labels, params)
        check_groups(grouping, search_state)
        check_moments(grouping, params, direction_state[1:])
        if not grouping.num_groups:
            zeros = jax.tree.map(jnp.zeros_like, params)
            return zeros, (direction_state, _counted(search_state))
        grads = grouping.trainable(updates)
        of_loss = grads if grad is None else grouping.trainable(grad)
        along = functools.partial(descent, grouping, value, of_loss)
        directions, direction_state = direction.update(
            grouping, direction_state, grads, along
        )
        batch = Batch(
            params=params,
            value=value,
            loss_fn=bind_value_fn(value_fn, extra_args),
            directions=directions,
        )
        updates, search_state = step(grouping, method, batch, search_state)
        return updates, (direction_state, search_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _counted(state: ArmijoState) -> ArmijoState:
    """The state after a step in which there was nothing to move."""
    return state._replace(num_steps=jnp.asarray(optax.safe_increment(state.num_steps)))
