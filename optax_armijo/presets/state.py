"""The state of a preset's line search."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_armijo._numerics import search_dtype
from optax_armijo._state import LastStep, encode_labels
from optax_armijo.labels.grouping import Grouping
from optax_armijo.presets.method import Method, PolicyStates


class ArmijoState(NamedTuple):
    """State of a published method: a plain pytree, O(groups) numbers in all.

    Attributes:
      label_codes: the groups' labels, UTF-8 padded with zeros; constant.  # u8[G, W]
      num_steps: steps made.  # i32[]
      step_size: what each group will step by.  # f[G]
      bracketed: whether that is known to be of the right size.  # bool[G]
      bracket_limit: bracketing does not go beyond; the largest number unless a search
        has failed since one found the right size.  # f[G]
      total_trials: loss evaluations so far, by group.  # i32[G]
      total_evaluations: loss evaluations so far.  # i32[]
      memory: what the policies remember.
      last: facts about the last step.
    """

    label_codes: jax.Array
    num_steps: jax.Array
    step_size: jax.Array
    bracketed: jax.Array
    bracket_limit: jax.Array
    total_trials: jax.Array
    total_evaluations: jax.Array
    memory: PolicyStates
    last: LastStep


def init_state(grouping: Grouping, params: Any, method: Method) -> ArmijoState:
    """Returns the state before the first step."""
    dtype = search_dtype(grouping.trainable(params))
    num_groups = grouping.num_groups

    # Every leaf is an array of its own, strongly typed: the state may be donated.
    def zeros(dtype: Any, *shape: int) -> jax.Array:
        return jnp.zeros(shape, dtype)

    init_step_size = jnp.asarray(method.init_step_size, dtype)
    return ArmijoState(
        # Not `asarray`: before JAX 0.10 its type under an explicit mesh was not the one
        # that `update` returns, and the second step was traced again.
        label_codes=jnp.array(encode_labels(grouping.labels)),
        num_steps=zeros(jnp.int32),
        step_size=jnp.full((num_groups,), init_step_size, dtype),
        bracketed=jnp.ones((num_groups,), jnp.bool_),
        bracket_limit=jnp.full((num_groups,), jnp.finfo(dtype).max, dtype),
        total_trials=zeros(jnp.int32, num_groups),
        total_evaluations=zeros(jnp.int32),
        memory=PolicyStates(
            acceptance=method.acceptance.init(num_groups, dtype),
            start=method.start.init(num_groups, dtype),
            selection=method.selection.init(num_groups, dtype),
            frequency=method.frequency.init(num_groups, dtype),
            merged=jnp.arange(num_groups, dtype=jnp.int32),
        ),
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


def next_state(
    state: ArmijoState,
    *,
    step_size: jax.Array,
    bracketed: jax.Array,
    bracket_limit: jax.Array,
    memory: PolicyStates,
    last: LastStep,
) -> ArmijoState:
    """Returns the state after a step."""
    return ArmijoState(
        label_codes=state.label_codes,
        num_steps=jnp.asarray(optax.safe_increment(state.num_steps)),
        step_size=step_size,
        bracketed=bracketed,
        bracket_limit=bracket_limit,
        total_trials=state.total_trials + last.num_trials,
        total_evaluations=state.total_evaluations + last.num_evaluations,
        memory=memory,
        last=last,
    )
