"""One step of the optimizer after its direction is known: search, move, net."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_armijo import _net
from optax_armijo._grouping import Grouping
from optax_armijo._net import NetResult
from optax_armijo._numerics import search_dtype
from optax_armijo._search import Found, Problem, Settings, search_rays
from optax_armijo._state import ArmijoState, LastStep, encode_labels
from optax_armijo._steps import loss_after_step, scale_direction, slopes
from optax_armijo._turns import take_turns
from optax_armijo._types import Net, Scalar, Search


class Options(NamedTuple):
    """The hyper-parameters of `scale_by_armijo`, which documents them."""

    c: Scalar
    decrease_factor: Scalar
    increase_factor: Scalar
    init_step_size: Scalar
    min_step_size: Scalar
    max_step_size: Scalar
    max_trials: Scalar
    search: Search
    num_joint_steps: Scalar
    net: Net
    rounding_ulps: Scalar
    relative_floor: Scalar
    lower_bound: Scalar | None


class Batch(NamedTuple):
    """What a step is made of.

    Attributes:
      params: the whole params.
      value: the loss at params, in the dtype that the user's loss has.  # []
      loss_fn: from params to the loss of the same batch.
      grads: one gradient a trainable leaf.
      kept: the direction in which params move, one entry a trainable leaf.
      searched: the direction in which trials are made; may be `kept` itself.
    """

    params: Any
    value: jax.Array
    loss_fn: Callable[[Any], jax.Array]
    grads: Sequence[jax.Array]
    kept: Sequence[jax.Array]
    searched: Sequence[jax.Array]


def init(grouping: Grouping, params: Any, options: Options) -> ArmijoState:
    """Returns the state before the first step."""
    dtype = search_dtype(grouping.trainable(params))
    shape = (grouping.num_groups,)

    # Every leaf is an array of its own, strongly typed: the state may be donated.
    def zeros(shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jnp.zeros(shape, dtype)

    init_step_size = jnp.asarray(options.init_step_size, dtype)
    return ArmijoState(
        # Not `asarray`: before JAX 0.10 its type under an explicit mesh was not the one
        # that `update` returns, and the second step was traced again.
        label_codes=jnp.array(encode_labels(grouping.labels)),
        num_steps=zeros((), jnp.int32),
        loss_average=jnp.full((), jnp.inf, dtype),
        step_size=jnp.full(shape, init_step_size, dtype),
        bracketed=zeros(shape, jnp.bool_),
        total_trials=zeros(shape, jnp.int32),
        total_evaluations=zeros((), jnp.int32),
        last=LastStep(
            applied_step_size=zeros(shape, dtype),
            searched=zeros(shape, jnp.bool_),
            accepted=zeros(shape, jnp.bool_),
            num_trials=zeros(shape, jnp.int32),
            predicted_decrease=zeros(shape, dtype),
            actual_decrease=zeros(shape, dtype),
            net_factor=jnp.ones((), dtype),
            num_evaluations=zeros((), jnp.int32),
        ),
    )


def step(
    grouping: Grouping, batch: Batch, state: ArmijoState, options: Options
) -> tuple[Any, ArmijoState]:
    """Returns the updates of a step, structured like params, and the next state."""
    problem = _pose(grouping, batch, state)
    turns = take_turns(
        options.search,
        state.num_steps,
        jnp.asarray(options.num_joint_steps, jnp.int32),
        problem.searchable,
    )
    found = search_rays(
        loss_after_step(batch.loss_fn, grouping, batch.params, batch.searched),
        problem,
        turns,
        _settings(options, state.step_size.dtype),
    )
    # A group whose search found nothing stays where it is; one that is not searched
    # moves by what an earlier search found, and not before its first.
    was_searched = state.total_trials > 0
    moves = problem.searchable & jnp.where(found.searched, found.accepted, was_searched)
    step_size = problem.step_size * found.factor
    applied = jnp.where(moves, step_size, 0)

    average = _net.update_average(state.loss_average, problem.value)
    caught = _catch(grouping, batch, options, applied, average, turns.joint)
    applied = applied * caught.factor

    params = grouping.treedef.flatten_up_to(batch.params)
    updates = grouping.merge(
        scale_direction(
            grouping, applied, batch.kept, grouping.trainable(batch.params)
        ),
        frozen=[jnp.zeros_like(leaf) for leaf in params],
    )
    step_size = _bounded(step_size, options)
    return updates, _next_state(state, found, caught, step_size, applied, average)


def _pose(grouping: Grouping, batch: Batch, state: ArmijoState) -> Problem:
    value = batch.value.astype(state.step_size.dtype)
    dtype = value.dtype
    fall = slopes(grouping, batch.grads, batch.searched).astype(dtype)
    # Any NaN or infinity in a gradient or a direction makes its slope one.
    is_finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(fall))
    if batch.kept is not batch.searched:
        kept_fall = slopes(grouping, batch.grads, batch.kept)
        is_finite &= jnp.all(jnp.isfinite(kept_fall))
    return Problem(
        value=value,
        slopes=fall,
        searchable=is_finite & (fall > 0),
        step_size=state.step_size,
        bracketed=state.bracketed,
        loss_dtype=batch.value.dtype,
    )


def _settings(options: Options, dtype: Any) -> Settings:
    lower_bound = options.lower_bound
    return Settings(
        c=jnp.asarray(options.c, dtype),
        decrease_factor=jnp.asarray(options.decrease_factor, dtype),
        increase_factor=jnp.asarray(options.increase_factor, dtype),
        max_step_size=jnp.asarray(options.max_step_size, dtype),
        max_trials=jnp.asarray(options.max_trials, jnp.int32),
        rounding_ulps=jnp.asarray(options.rounding_ulps, dtype),
        lower_bound=None if lower_bound is None else jnp.asarray(lower_bound, dtype),
    )


def _catch(
    grouping: Grouping,
    batch: Batch,
    options: Options,
    applied: jax.Array,
    average: jax.Array,
    is_joint: jax.Array,
) -> NetResult:
    """Puts the net under the whole step, unless that step was itself the trial."""
    keeps_trial = batch.kept is batch.searched
    always_joint = options.search == "joint" or grouping.num_groups == 1
    dtype = applied.dtype
    if options.net == "off" or (keeps_trial and always_joint):
        return NetResult(jnp.ones((), dtype), jnp.zeros((), jnp.int32))
    is_untested = ~is_joint if keeps_trial else jnp.ones((), jnp.bool_)
    return _net.shrink_until_safe(
        loss_after_step(batch.loss_fn, grouping, batch.params, batch.kept),
        applied,
        _net.highest_loss(options.net, batch.value.astype(dtype), average),
        is_untested & jnp.any(applied > 0),
        max_trials=jnp.asarray(options.max_trials, jnp.int32),
        rounding_ulps=jnp.asarray(options.rounding_ulps, dtype),
        loss_dtype=batch.value.dtype,
    )


def _bounded(step_size: jax.Array, options: Options) -> jax.Array:
    """Keeps stored step sizes able to come back: within bounds, none far behind."""
    dtype = step_size.dtype
    floor = jnp.asarray(options.relative_floor, dtype) * jnp.median(step_size)
    lowest = jnp.asarray(options.min_step_size, dtype)
    highest = jnp.asarray(options.max_step_size, dtype)
    return jnp.clip(jnp.maximum(step_size, floor), lowest, highest)


def _next_state(
    state: ArmijoState,
    found: Found,
    caught: NetResult,
    step_size: jax.Array,
    applied: jax.Array,
    average: jax.Array,
) -> ArmijoState:
    num_evaluations = found.num_evaluations + caught.num_trials
    return ArmijoState(
        label_codes=state.label_codes,
        num_steps=jnp.asarray(optax.safe_increment(state.num_steps)),
        loss_average=average,
        step_size=step_size,
        bracketed=jnp.where(found.searched, found.settled, state.bracketed),
        total_trials=state.total_trials + found.num_trials,
        total_evaluations=state.total_evaluations + num_evaluations,
        last=LastStep(
            applied_step_size=applied,
            searched=found.searched,
            accepted=found.accepted,
            num_trials=found.num_trials,
            predicted_decrease=found.predicted_decrease,
            actual_decrease=found.actual_decrease,
            net_factor=caught.factor,
            num_evaluations=num_evaluations,
        ),
    )
