"""The state of a line search, and the names of its groups in it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_armijo._grouping import Grouping
from optax_armijo._numerics import search_dtype
from optax_armijo._options import Options
from optax_armijo._policies import PolicyStates
from optax_armijo._types import Label


class LastStep(NamedTuple):
    """Facts about the last step, by group (G of them) unless said otherwise.

    Attributes:
      applied_step_size: the step size that params moved by, 0 if unmoved.  # f[G]
      searched: whether the group was searched.  # bool[G]
      accepted: whether its search accepted a trial.  # bool[G]
      num_trials: loss evaluations of the searches that moved it.  # i32[G]
      predicted_decrease: step size times slope, of the accepted trial.  # f[G]
      actual_decrease: of the accepted trial.  # f[G]
      net_factor: by what the net shrank the whole step; 1 untouched.  # f[]
      num_evaluations: loss evaluations of all searches and the net.  # i32[]
    """

    applied_step_size: jax.Array
    searched: jax.Array
    accepted: jax.Array
    num_trials: jax.Array
    predicted_decrease: jax.Array
    actual_decrease: jax.Array
    net_factor: jax.Array
    num_evaluations: jax.Array


class ArmijoState(NamedTuple):
    """State of `scale_by_armijo`: a plain pytree, O(groups) numbers in all.

    Attributes:
      label_codes: the groups' labels, UTF-8 padded with zeros; constant.  # u8[G, W]
      num_steps: steps made.  # i32[]
      loss_average: running average of the losses at params, +inf before.  # f[]
      step_size: what each group will step by.  # f[G]
      bracketed: whether that is known to be of the right size.  # bool[G]
      bracket_limit: bracketing does not go beyond; +inf unless a search has failed
        since one found the right size.  # f[G]
      total_trials: loss evaluations so far, by group.  # i32[G]
      total_evaluations: loss evaluations so far.  # i32[]
      memory: what the policies remember.
      last: facts about the last step.
    """

    label_codes: jax.Array
    num_steps: jax.Array
    loss_average: jax.Array
    step_size: jax.Array
    bracketed: jax.Array
    bracket_limit: jax.Array
    total_trials: jax.Array
    total_evaluations: jax.Array
    memory: PolicyStates
    last: LastStep


class BacktrackingState(NamedTuple):
    """State of Adam with `Backtracking`; all but Adam's moments is O(G) numbers.

    Attributes:
      label_codes: the groups' labels, UTF-8 padded with zeros; constant.  # u8[G, W]
      num_steps: updates so far, bad batches included.  # i32[]
      adam: moments; its count k is that of the good batches.
      group_step_size: what each group's own test accepts, 0 before.  # f[G]
      factor: of all groups together.  # f[]
      group_searched: k at the group's last search, 0 before.  # i32[G]
      searched: k at the last test of the whole step.  # i32[]
      lowest_loss: of all evaluations, the largest number before.  # f[]
      loss_average: exponential moving average of the losses at params.  # f[]
      loss_deviation: that of their distance from it.  # f[]
      last_move: step sizes of the last move, along the direction of `adam`.  # f[G]
      total_trials: evaluations so far that moved the group.  # i32[G]
      total_evaluations: evaluations so far, beside the gradient's.  # i32[]
      last: facts about the last step.
    """

    label_codes: jax.Array
    num_steps: jax.Array
    adam: optax.ScaleByAdamState
    group_step_size: jax.Array
    factor: jax.Array
    group_searched: jax.Array
    searched: jax.Array
    lowest_loss: jax.Array
    loss_average: jax.Array
    loss_deviation: jax.Array
    last_move: jax.Array
    total_trials: jax.Array
    total_evaluations: jax.Array
    last: LastStep

    @property
    def step_size(self) -> jax.Array:
        """What each group will step by, if nothing shortens it.  # f[G]"""
        return self.factor * self.group_step_size


def init_state(grouping: Grouping, params: Any, options: Options) -> ArmijoState:
    """Returns the state before the first step."""
    dtype = search_dtype(grouping.trainable(params))
    num_groups, policies = grouping.num_groups, options.policies

    # Every leaf is an array of its own, strongly typed: the state may be donated.
    def zeros(dtype: Any, *shape: int) -> jax.Array:
        return jnp.zeros(shape, dtype)

    init_step_size = jnp.asarray(options.init_step_size, dtype)
    return ArmijoState(
        # Not `asarray`: before JAX 0.10 its type under an explicit mesh was not the one
        # that `update` returns, and the second step was traced again.
        label_codes=jnp.array(encode_labels(grouping.labels)),
        num_steps=zeros(jnp.int32),
        loss_average=jnp.full((), jnp.inf, dtype),
        step_size=jnp.full((num_groups,), init_step_size, dtype),
        bracketed=jnp.full((num_groups,), not policies.start.brackets_first, jnp.bool_),
        bracket_limit=jnp.full((num_groups,), jnp.inf, dtype),
        total_trials=zeros(jnp.int32, num_groups),
        total_evaluations=zeros(jnp.int32),
        memory=PolicyStates(
            acceptance=policies.acceptance.init(num_groups, dtype),
            start=policies.start.init(num_groups, dtype),
            selection=policies.search.init(num_groups, dtype),
            frequency=policies.frequency.init(num_groups, dtype),
            merged=policies.merging.init(num_groups),
        ),
        last=LastStep(
            applied_step_size=zeros(dtype, num_groups),
            searched=zeros(jnp.bool_, num_groups),
            accepted=zeros(jnp.bool_, num_groups),
            num_trials=zeros(jnp.int32, num_groups),
            predicted_decrease=zeros(dtype, num_groups),
            actual_decrease=zeros(dtype, num_groups),
            net_factor=jnp.ones((), dtype),
            num_evaluations=zeros(jnp.int32),
        ),
    )


def next_state(
    state: ArmijoState,
    *,
    step_size: jax.Array,
    bracketed: jax.Array,
    bracket_limit: jax.Array,
    loss_average: jax.Array,
    memory: PolicyStates,
    last: LastStep,
) -> ArmijoState:
    """Returns the state after a step."""
    return ArmijoState(
        label_codes=state.label_codes,
        num_steps=jnp.asarray(optax.safe_increment(state.num_steps)),
        loss_average=loss_average,
        step_size=step_size,
        bracketed=bracketed,
        bracket_limit=bracket_limit,
        total_trials=state.total_trials + last.num_trials,
        total_evaluations=state.total_evaluations + last.num_evaluations,
        memory=memory,
        last=last,
    )


def find_states(opt_state: Any, kind: type | tuple[type, ...]) -> list[Any]:
    """Returns the states of a kind in an optimizer's state, however deep."""

    def is_state(node: Any) -> bool:
        return isinstance(node, kind)

    return list(filter(is_state, jax.tree.leaves(opt_state, is_leaf=is_state)))


def encode_labels(labels: tuple[Label, ...]) -> np.ndarray:
    """Writes labels as bytes, so that the state that names them is arrays alone."""
    names = [str(label).encode() for label in labels]
    width = max(map(len, names), default=0)
    padded = b"".join(name.ljust(width, b"\0") for name in names)
    return np.frombuffer(padded, np.uint8).reshape(len(names), width)


def decode_labels(codes: np.ndarray) -> tuple[str, ...]:
    """Reads what `encode_labels` wrote."""
    return tuple(bytes(row).rstrip(b"\0").decode() for row in np.asarray(codes))
