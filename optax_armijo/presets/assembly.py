"""Where direction and search meet: gradient transformations made of the two."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_armijo._types import ParamLabels
from optax_armijo.labels.checks import check_not_a_rate
from optax_armijo.labels.grouping import group_leaves
from optax_armijo.presets.directions import Direction, descent
from optax_armijo.presets.line_search import step
from optax_armijo.presets.options import Options, check_options
from optax_armijo.presets.situation import Batch
from optax_armijo.presets.state import ArmijoState, init_state
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


def search_along(
    direction: Direction, param_labels: ParamLabels, options: Options
) -> optax.GradientTransformationExtraArgs:
    """Returns the search along a direction of its own; updates come in as gradients.

    On a batch whose loss or gradient is not finite, neither part learns or moves.
    """
    check_not_a_rate(param_labels)
    check_options(options)
    calls_outside_jit = itertools.count(1)

    def init_fn(params: Any) -> tuple[Any, ArmijoState]:
        check_not_in_multi_steps()
        params = as_arrays(params)
        grouping = group_leaves(param_labels, params)
        search_state = build_beside(
            params, lambda: init_state(grouping, params, options)
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
        updates, search_state = step(grouping, options, batch, search_state)
        return updates, (direction_state, search_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _counted(state: ArmijoState) -> ArmijoState:
    """The state after a step in which there was nothing to move."""
    return state._replace(num_steps=jnp.asarray(optax.safe_increment(state.num_steps)))
