"""One step of a published method, from top to bottom: `take_step`.

Shapes: G groups.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.tree_utils import tree_where

from optax_armijo._checks import check_order, check_range
from optax_armijo._numerics import (
    divide,
    increment,
    nonfinite_to_inf,
    on_its_own,
    search_dtype,
)
from optax_armijo._state import LastStep, PublishedState, encode_labels, no_step
from optax_armijo._types import ParamLabels, Scalar
from optax_armijo.labels.grouping import Grouping
from optax_armijo.published import search
from optax_armijo.published.directions import (
    Adam,
    choose,
    init_moments,
    step_direction,
    trial_direction,
    update_moments,
)
from optax_armijo.published.memory import (
    Changes,
    LossAverage,
    SmoothedSides,
    Smoothing,
    Weights,
    combine,
    next_in_cycle,
    shares,
)
from optax_armijo.search.directions import check_adam, products
from optax_armijo.search.placement import build_beside
from optax_armijo.search.problem import code_of_bad_leaf, names_of_leaves
from optax_armijo.search.transformation import Batch, transformation
from optax_armijo.search.weight_decay import decay_updates

MIN_STEP_SIZE = 1e-30
MAX_STEP_SIZE = 1e6
"""Bounds of step sizes, so that they can always recover."""


class Polyak(NamedTuple):
    r"""Polyak's step size, where searches begin, cut by the memory of backtracks.

    .. math:: \eta_0 = \mathrm{clip}\left(\frac{f(w) - f^*}{c_p s}\,
      \delta^{n_k}, \eta_{low}, \eta_{high}\right), \qquad
      n_k = \max(n_{k-1} + b_{k-1} - 1, 0)

    with s the slope and :math:`b_{k-1}` the backtracks of the last search (arXiv
    2306.12747, equations 6 and 7; the released code adds 1e-8 to the divisor).

    Attributes:
      lowest_loss: :math:`f^*`, the lowest loss that can be reached on a batch.
      c_p: above 0.
      remembers_backtracks: whether :math:`\delta`, the decrease factor, cuts the start.
      min_start: :math:`\eta_{low}`, in [1e-30, 1e6].
      max_start: :math:`\eta_{high}`, at least `min_start`.
    """

    lowest_loss: Scalar
    c_p: Scalar
    remembers_backtracks: bool
    min_start: Scalar
    max_start: Scalar


class Method(NamedTuple):
    """A published method. By default it searches all groups jointly, in every step.

    Attributes:
      adam: the direction; None for the gradient.
      c: the sufficient-decrease constant, in (0, 1).
      decrease_factor: in (0, 1).
      increase_factor: how much step sizes grow in a step, at least 1.
      init_step_size: above 0.
      max_trials: loss evaluations a search may make, at least 1.
      start: where searches begin: above the last step size, at it, at
        `init_step_size`, or at Polyak's.
      averaging: decay of Zhang and Hager's average of losses, in [0, 1]; None for none.
      smoothing: smoothing of both sides of the test; None for none.
      selection: what is searched: all groups by a common factor, or one group, which is
        the next one or the one with most credit. If it is one group, step sizes grow in
        every step, searched or not.
      num_joint_steps: number of first steps that search all groups, whatever
        `selection` says.
      is_adaptive: whether searches are made as often as step sizes change, else in
        every step.
      merge_below: step size below which groups are merged; None for never.
      earlier_groups_moved: whether trials of a single group start from where the groups
        before it in order have already made this step's move, as in the released code
        of arXiv 2403.18506.
      weight_decay: decoupled decay, applied before the trials, which see it; None for
        none.
    """

    adam: Adam | None
    c: Scalar
    decrease_factor: Scalar
    increase_factor: Scalar
    init_step_size: Scalar
    max_trials: Scalar
    start: Literal["grow", "keep", "reset"] | Polyak = "grow"
    averaging: float | None = None
    smoothing: Smoothing | None = None
    selection: Literal["joint", "cycle", "weighted"] = "joint"
    num_joint_steps: Scalar = 0
    is_adaptive: bool = False
    merge_below: float | None = None
    earlier_groups_moved: bool = False
    weight_decay: Scalar | None = None


def published(
    param_labels: ParamLabels, method: Method
) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation that follows a method.

    All methods share two safeguards, which leave published trajectories unchanged.
    Nothing moves on a batch that is not finite, and no group moves whose search finds
    nothing. After a failed search, the next one brackets.

    Raises:
      ValueError: a number outside its range.
    """
    _check(method)

    def init(grouping: Grouping, params: Any) -> tuple[Any, PublishedState]:
        state = build_beside(params, lambda: _init_state(grouping, params, method))
        return init_moments(grouping, params, method.adam), state

    return transformation(
        param_labels,
        init,
        lambda grouping, batch, state: take_step(grouping, method, batch, *state),
        kind=PublishedState,
        search_state=lambda state: state[1],
        moments=lambda state: () if method.adam is None else state[0][1:],
    )


def _check(method: Method) -> None:
    """Raises ValueError for a number outside its range."""
    if method.adam is not None:
        check_adam(method.adam.b1, method.adam.b2, method.adam.eps)
    check_range("c", method.c, above=0, below=1)
    check_range("decrease_factor", method.decrease_factor, above=0, below=1)
    check_range("increase_factor", method.increase_factor, at_least=1)
    name = "min_start" if isinstance(method.start, Polyak) else "init_step_size"
    size = method.init_step_size
    check_range(name, size, at_least=MIN_STEP_SIZE, at_most=MAX_STEP_SIZE)
    check_range("max_trials", method.max_trials, at_least=1, is_integer=True)
    joint = method.num_joint_steps
    check_range("num_joint_steps", joint, at_least=0, is_integer=True)
    if isinstance(method.start, Polyak):
        check_range("lowest_loss", method.start.lowest_loss)
        check_range("c_p", method.start.c_p, above=0)
        low, high = method.start.min_start, method.start.max_start
        check_range("max_start", high, above=0)
        check_order("min_start", low, "max_start", high)
    if method.averaging is not None:
        check_range("averaging", method.averaging, at_least=0, at_most=1)
    if method.smoothing is not None:
        check_range("smoothing", method.smoothing.decay, at_least=0, below=1)
    if method.merge_below is not None:
        check_range("merge_below", method.merge_below, at_least=0)
    if method.weight_decay is not None:
        check_range("weight_decay", method.weight_decay, at_least=0)


def _init_state(grouping: Grouping, params: Any, method: Method) -> PublishedState:
    """Returns the state before the first step."""
    dtype = search_dtype(grouping.trainable(params))
    num_groups = grouping.num_groups

    # Every leaf is a separate, strongly typed array, because the state may be donated.
    def zeros(dtype: Any, *shape: int) -> jax.Array:
        return jnp.zeros(shape, dtype)

    averages, turn = (), ()
    if method.averaging is not None:
        averages = LossAverage(zeros(dtype), zeros(dtype))
    elif method.smoothing is not None:
        averages = SmoothedSides(
            decrease=zeros(dtype, num_groups),
            slopes=zeros(dtype, num_groups),
            num_searches=zeros(jnp.int32, num_groups),
        )
    if method.selection == "cycle":
        turn = zeros(jnp.int32)
    elif method.selection == "weighted":
        turn = Weights.init(num_groups, dtype)
    is_polyak = isinstance(method.start, Polyak)
    init_step_size = jnp.asarray(method.init_step_size, dtype)
    return PublishedState(
        # Not `asarray`: before JAX 0.10 its type under an explicit mesh differed from
        # the one that `update` returns, and the second step was traced again.
        label_codes=jnp.array(encode_labels(grouping.labels)),
        num_updates=zeros(jnp.int32),
        step_size=jnp.full((num_groups,), init_step_size, dtype),
        bracketed=jnp.ones((num_groups,), jnp.bool_),
        bracket_limit=jnp.full((num_groups,), jnp.finfo(dtype).max, dtype),
        averages=averages,
        backtracks=zeros(jnp.int32, num_groups) if is_polyak else (),
        turn=turn,
        changes=Changes.init(num_groups, dtype) if method.is_adaptive else (),
        merged=jnp.arange(num_groups, dtype=jnp.int32),
        total_trials=zeros(jnp.int32, num_groups),
        total_evaluations=zeros(jnp.int32),
        last=no_step(num_groups, dtype, names_of_leaves(grouping, params)),
    )


def take_step(
    grouping: Grouping,
    method: Method,
    batch: Batch,
    moments: Any,
    state: PublishedState,
) -> tuple[Any, tuple[Any, PublishedState]]:
    """Takes a step: finds the direction, chooses groups, searches, moves, learns."""
    dtype, smoothing = state.step_size.dtype, method.smoothing
    needs_descent = smoothing is None or not smoothing.allows_ascent

    # The direction of the trials and its slopes, whose sums are the only communication
    # between devices that the search adds.
    mixed = update_moments(grouping, method.adam, moments, batch.updates)
    direction = trial_direction(
        grouping, method.adam, mixed, batch, needs_descent=needs_descent
    )
    leaf_products = products(grouping, batch.grads, direction)
    slope = -grouping.by_group(leaf_products)  # [G]
    is_good = jnp.isfinite(batch.value) & jnp.all(jnp.isfinite(slope))
    is_good = on_its_own(is_good)
    moments = tree_where(is_good, mixed, moments)
    slope = slope.astype(dtype)
    # Averages must not include the loss of a bad batch, even if it is finite.
    value = jnp.where(is_good, batch.value.astype(dtype), jnp.nan)
    averages = state.averages
    if method.averaging is not None:
        averages = tree_where(
            is_good, averages.after(method.averaging, value), averages
        )

    # Which groups are searched, where the search begins, and how far the others move.
    descends = slope > 0
    if not needs_descent:
        # A group that must be bracketed still needs a descent direction.
        descends |= state.bracketed
    searchable = is_good & descends  # [G]
    group, on_turn, turn = _choose(method, state)
    searched = searchable & on_turn  # [G]
    grown = jnp.asarray(method.increase_factor, dtype) * state.step_size
    begin = _begin(method, state, value, jnp.sum(jnp.where(searchable, slope, 0)))
    # A bracket begins at the present step size.
    brackets = jnp.any(searched & ~state.bracketed)
    begin = jnp.where(brackets, state.step_size, begin)  # [G]
    # No group moves before its first search.
    is_moved = searchable & (state.total_trials > 0)
    at_rest = jnp.minimum(jnp.where(is_moved, grown, 0), MAX_STEP_SIZE)
    along = step_direction(grouping, method.adam, moments, direction, searched)

    # Trials start where weight decay, by the last step sizes, has moved the params, or
    # where the groups before the one in turn have already moved.
    ahead = decay = None
    if method.weight_decay is not None:
        rates = jnp.where(at_rest > 0, state.step_size, 0)
        rate = method.weight_decay
        ahead = decay = decay_updates(grouping, batch.params, rates, rate, mask=None)
    if method.earlier_groups_moved:
        groups = jnp.arange(grouping.num_groups, dtype=jnp.int32)
        earlier = jnp.where(groups < group, at_rest, 0)
        ahead = _updates(grouping, earlier, along, batch.params)
    departure = batch.params if ahead is None else grouping.moved(batch.params, ahead)

    def trial(factor: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Moves the searched groups by a factor; returns the loss and if it passes."""
        step_size = jnp.where(searched, factor * begin, 0)
        updates = _updates(grouping, step_size, direction, batch.params)
        loss = batch.loss_fn(grouping.moved(departure, updates))
        loss = nonfinite_to_inf(loss.astype(dtype))
        return loss, _passes(method, averages, value, loss, step_size, slope)

    cap, can_pass = _largest(method, state, value, slope, searched, begin)
    found = search.run(
        search.start(value, jnp.where(brackets, can_pass, cap), brackets),
        trial,
        is_due=jnp.any(searched),
        decrease_factor=jnp.asarray(method.decrease_factor, dtype),
        max_trials=jnp.asarray(method.max_trials, jnp.int32),
    )
    has_passed = found.passed > 0
    accepted = searched & has_passed
    # If nothing passed, the next search begins below the last trial.
    size = begin * jnp.where(has_passed, found.passed, found.factor)

    # All groups move together, and decay. A group whose search found nothing stays
    # where it is, and does not decay.
    applied = jnp.where(searched, jnp.where(has_passed, size, 0), at_rest)
    updates = _updates(grouping, applied, along, batch.params)
    if decay is not None:
        nothing = [jnp.zeros_like(x) for x in decay]
        decay = choose(grouping, applied > 0, decay, nothing)
        updates = [u + d for u, d in zip(updates, decay, strict=True)]

    # What the method remembers of its searches.
    decrease, found_size = value - found.passed_loss, jnp.where(searched, size, 0)
    num_trials = jnp.where(searched, found.num_trials, 0)
    backtracks, changes, merged = state.backtracks, state.changes, state.merged
    if smoothing is not None:
        sides = averages.after(smoothing, decrease, found_size, slope)
        averages = tree_where(accepted, sides, averages)
    if isinstance(method.start, Polyak):
        # A trial without a backtrack cancels one remembered backtrack.
        backtracks = jnp.where(
            searched, jnp.maximum(backtracks + num_trials - 2, 0), backtracks
        )
    part = shares(found_size, slope) * jnp.where(searched, decrease, 0)
    if method.selection == "weighted":
        turn = turn.after(searched, accepted, part)
    if method.is_adaptive:
        changes = tree_where(is_good, changes.after(searched, size), changes)
    grows = is_good & (method.selection != "joint")
    size = jnp.where(searched, size, jnp.where(grows, grown, state.step_size))
    if method.merge_below is not None:
        merged, size = combine(merged, size, method.merge_below)

    # After a failed search the next ones stay below what it tried. Otherwise a bracket
    # would follow a batch on which nothing passes, and lead to the largest step that
    # passes on a single batch.
    has_failed = searched & ~accepted & state.bracketed
    # Polyak's start does not depend on the last step size, which is at first the least.
    tried = begin if isinstance(method.start, Polyak) else state.step_size
    limit = jnp.where(has_failed, tried, state.bracket_limit)
    num_evaluations = jnp.where(jnp.any(searched), found.num_trials, 0)
    predicted = jnp.where(searched, found.passed * begin * slope, 0)
    return grouping.whole(updates, batch.params), (
        moments,
        PublishedState(
            label_codes=state.label_codes,
            num_updates=increment(state.num_updates),
            step_size=jnp.clip(size, MIN_STEP_SIZE, MAX_STEP_SIZE),
            bracketed=jnp.where(searched, search.is_settled(found), state.bracketed),
            bracket_limit=jnp.where(accepted, jnp.finfo(dtype).max, limit),
            averages=averages,
            backtracks=backtracks,
            turn=turn,
            changes=changes,
            merged=merged,
            total_trials=state.total_trials + num_trials,
            total_evaluations=state.total_evaluations + num_evaluations,
            last=LastStep(
                applied_step_size=applied,
                searched=searched,
                accepted=accepted,
                num_trials=num_trials,
                predicted_decrease=predicted,
                actual_decrease=jnp.where(accepted, part, 0),
                step_factor=jnp.ones((), dtype),
                is_finite=jnp.isfinite(batch.value) & jnp.isfinite(slope),
                num_evaluations=num_evaluations,
                bad_leaf_code=code_of_bad_leaf(
                    grouping, batch.params, batch.value, leaf_products
                ),
            ),
        ),
    )


def _choose(method: Method, state: PublishedState) -> tuple[jax.Array, jax.Array, Any]:
    """Returns the group in turn, which groups it is searched with, [G], and the turn.

    The turn is the one to continue with. A joint step searches all groups with group 0.
    """
    is_due = jnp.ones((), jnp.bool_)
    if method.is_adaptive:
        is_due = state.changes.is_due(state.num_updates)
        # A group whose search failed, or that was never searched, is always due.
        is_due |= jnp.any((state.total_trials == 0) | ~state.bracketed)
    group, everybody = jnp.zeros((), jnp.int32), jnp.ones_like(state.bracketed)
    if method.selection == "joint":
        return group, is_due & everybody, state.turn
    is_joint = state.num_updates < jnp.asarray(method.num_joint_steps, jnp.int32)
    groups = jnp.arange(everybody.size, dtype=jnp.int32)
    eligible = state.merged == groups
    if method.selection == "weighted":
        chosen, turn = state.turn.next(eligible)
    else:
        chosen = next_in_cycle(state.turn, eligible)
        turn = (chosen + 1) % everybody.size
    group = jnp.where(is_joint, 0, chosen)
    turn = tree_where(is_joint, state.turn, turn)
    return group, is_joint | (state.merged == group), turn


def _begin(
    method: Method, state: PublishedState, value: jax.Array, slope: jax.Array
) -> jax.Array:
    """Returns the step sizes at which a search begins, f[G]."""
    how, dtype = method.start, state.step_size.dtype
    if how == "grow":
        return jnp.asarray(method.increase_factor, dtype) * state.step_size
    if how == "keep":
        return state.step_size
    if how == "reset":
        return jnp.full_like(state.step_size, jnp.asarray(method.init_step_size, dtype))
    room = jnp.maximum(value - how.lowest_loss, 0)
    size = divide(room, jnp.asarray(how.c_p * slope), jnp.inf)
    if how.remembers_backtracks:
        size = size * method.decrease_factor ** state.backtracks.astype(dtype)
    return jnp.clip(
        jnp.broadcast_to(size, state.step_size.shape), how.min_start, how.max_start
    )


def _largest(
    method: Method,
    state: PublishedState,
    value: jax.Array,
    slope: jax.Array,
    searched: jax.Array,
    begin: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns the largest factor that may be tried, and the largest that can pass."""
    step_size = jnp.where(searched, begin, 0)
    cap = divide(jnp.asarray(MAX_STEP_SIZE, slope.dtype), jnp.max(step_size), jnp.inf)
    cap = jnp.minimum(cap, jnp.finfo(slope.dtype).max)
    # A loss that is never negative cannot fall by more than its value.
    required = jnp.asarray(method.c, slope.dtype) * jnp.sum(step_size * slope)
    most = jnp.where(value > 0, divide(value, required, jnp.inf), jnp.inf)
    limit = state.bracket_limit / jnp.where(searched, begin, 1)
    limit = jnp.min(limit, where=searched, initial=jnp.inf)
    return cap, jnp.minimum(jnp.minimum(cap, most), limit)


def _passes(
    method: Method,
    averages: Any,
    value: jax.Array,
    loss: jax.Array,
    step_size: jax.Array,
    slope: jax.Array,
) -> jax.Array:
    """Tests for sufficient decrease, by this step alone or by averages, bool[]."""
    c = jnp.asarray(method.c, slope.dtype)
    if method.smoothing is not None:
        is_finite = jnp.isfinite(loss)
        decrease = jnp.where(is_finite, value - loss, 0)
        sides = averages.after(method.smoothing, decrease, step_size, slope)
        return is_finite & sides.passes(method.smoothing, step_size, c)
    reference = value
    if method.averaging is not None:
        reference = jnp.maximum(averages.average, value)
    return loss <= reference - c * jnp.sum(step_size * slope)


def _updates(
    grouping: Grouping, step_size: jax.Array, direction: Any, params: Any
) -> list[jax.Array]:
    return grouping.scaled(on_its_own(step_size), direction, params)
