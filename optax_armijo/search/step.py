"""One step of the search, from top to bottom: `take_step`.

`Backtracking` says what is tested and when; ``docs/armijo_adam.md`` has it as
pseudocode. Here k is the number of batches so far, g the gradient of the loss on this
batch, ``moments.direction()`` Adam's direction d (with momentum), ``moments.plain()``
the same without momentum, -P g. A step size is ``factor * group_step_size``.

Shapes: G groups.
"""

from typing import Any

import jax
import jax.numpy as jnp
from optax.tree_utils import tree_where

from optax_armijo._numerics import divide, increment
from optax_armijo._state import ArmijoState, LastStep, LossStatistics
from optax_armijo.search.directions import AdamDirections, GivenDirection
from optax_armijo.search.groups import compare_groups, due_for_test, nothing_found
from optax_armijo.search.linesearch import Backtracking
from optax_armijo.search.problem import Problem
from optax_armijo.search.whole import (
    Whole,
    learned,
    loss_limit,
    search_whole,
    size_limit,
    towards_limit,
)

WARM_UP_STEPS = 10  # the first full step, and the first that a high loss may undo
LARGEST_GROWTH = 8.0  # of a step size from a search to the next
DOUBTED = 1 / 32  # limit of the factor, below which a loss below zero is looked for
FAR_DECREASE = 4.0  # times the loss: what is predicted where it is looked for
FAR = 3.0  # mean deviations of the loss, above which the last step is suspected
LOSS_DECAY = 0.9  # of the averages of the loss and of its deviations
SHORTENED = 0.25  # what step sizes are multiplied by after a step was undone


def take_step(
    problem: Problem, state: ArmijoState, moments: AdamDirections | GivenDirection
) -> tuple[Any, ArmijoState]:
    """Direction, slopes, groups' own tests, the whole step's test, move, learn."""
    grouping, search, k = problem.grouping, problem.linesearch, moments.num_good
    slope = problem.slopes(moments.direction())  # [G]
    is_good = jnp.isfinite(problem.value) & jnp.all(jnp.isfinite(slope))
    # If the loss is far above those before, was the last step the cause?
    excess = problem.value - state.losses.average
    far_above = FAR * state.losses.deviation + problem.tolerance
    is_far = (k >= WARM_UP_STEPS) & (excess > far_above)
    # A finite loss whose gradient is not may come of this batch alone: not so twice.
    was_bad = ~jnp.any(state.last.applied_step_size != 0)
    is_bad = ~jnp.isfinite(problem.value) | (~is_good & was_bad)
    is_suspect = jnp.any(state.last_move != 0) & (is_bad | is_far)
    is_suspect &= moments.knows_last
    dtype = problem.value.dtype
    is_due = k.astype(dtype) >= search.search_growth * state.tested_at.astype(dtype)
    is_due &= is_good
    is_first = ~jnp.any(state.group_step_size > 0)
    is_group_due = due_for_test(state.group_tested_at, k) & (slope != 0)
    is_comparing = is_good & (is_first | jnp.any(is_group_due))

    # Without momentum: the first bracket, the groups' tests, or the point before the
    # last step. In a conditional, since everything that a loop reads is computed before
    # it, even if the loop does nothing.
    found, ratio = jax.lax.cond(
        is_comparing | is_suspect,
        lambda: compare_groups(problem, moments, state, is_first, is_suspect),
        lambda: (nothing_found(problem, state), jnp.ones_like(state.factor)),
    )
    before = state.factor * jnp.where(is_first, 1, ratio)
    sizes = found.step_size
    is_to_blame = is_bad | (problem.value - found.loss > excess / 2)
    undoes = is_suspect & jnp.isfinite(found.loss) & is_to_blame
    is_good &= ~undoes

    # With momentum: the whole step.
    predicted = jnp.sum(sizes * slope)
    limit_by_loss = loss_limit(problem, predicted, found.lowest, k)
    limit = jnp.minimum(limit_by_loss, size_limit(problem, sizes, k))
    tests = is_good & is_due & jnp.any(sizes > 0)
    growth = _growth(k, state.tested_at, dtype)
    grown = before * jnp.where(predicted > 0, growth, 1)
    begin = jnp.minimum(jnp.where(is_first, 1, grown), limit)
    # Steps may be short since zero is near, or since the loss goes on below zero.
    is_doubtful = limit_by_loss < jnp.minimum(DOUBTED, grown)
    far = divide(FAR_DECREASE * problem.value, predicted, 0)
    whole = jax.lax.cond(
        tests,
        lambda: search_whole(
            problem, moments.direction(), sizes, predicted, begin, far, is_doubtful
        ),
        lambda: Whole.before(begin, problem.value),
    )
    factor = jnp.where(tests, whole.applied, jnp.minimum(before, limit))
    settled = jnp.where(is_good, factor, 0) * sizes
    # Adam's first directions are little more than the signs of one gradient.
    applied = settled * jnp.minimum(k.astype(dtype) / WARM_UP_STEPS, 1)

    by_group = jnp.where(settled != 0, settled * slope, 0)  # no NaN of a bad batch
    move = jnp.where(undoes, -state.last_move, applied)
    # Always true, but known only after the test: until then it may read old moments.
    is_over = whole.num_trials >= 0
    adam, along = moments.settled(is_good & is_over)
    updates = problem.updates(move, along)
    current = jnp.where(is_first, 1, before)
    # A test along a direction that does not descend says nothing about the step size.
    learns = tests & (predicted > 0)
    factor = jnp.where(
        learns,
        learned(whole, begin, current, search.decrease_factor),
        jnp.where(
            is_good,
            towards_limit(limit_by_loss, current, search.decrease_factor),
            current,
        ),
    )
    num_searched = jnp.where(tests, whole.num_trials, 0)
    num_trials = found.num_trials + jnp.where(sizes > 0, num_searched, 0)
    num_evaluations = found.num_evaluations + num_searched
    tested_at = _tested_at(search, state, k, tests, undoes)
    losses = with_loss(state.losses, problem.value, k)
    losses = tree_where(is_good, losses, state.losses)
    lowest = jnp.minimum(found.lowest, whole.lowest)
    return grouping.whole(updates, problem.params), ArmijoState(
        label_codes=state.label_codes,
        num_steps=increment(state.num_steps),
        adam=adam,
        group_step_size=sizes,
        # Above 0 for good: nothing could make it grow from there.
        factor=jnp.maximum(
            jnp.where(undoes, _shortened(state.factor, k, tested_at), factor),
            jnp.finfo(dtype).tiny,
        ),
        group_tested_at=jnp.where(found.searched, k, state.group_tested_at),
        tested_at=tested_at,
        losses=losses._replace(lowest=jnp.minimum(losses.lowest, lowest)),
        gradient_size=jnp.where(is_good, moments.gradient_size, state.gradient_size),
        last_move=jnp.where(undoes, 0, jnp.where(is_good, applied, state.last_move)),
        total_trials=state.total_trials + num_trials,
        total_evaluations=state.total_evaluations + num_evaluations,
        last=LastStep(
            applied_step_size=move,
            searched=found.searched | (tests & (sizes > 0)),
            accepted=jnp.where(tests, whole.accepted & (sizes > 0), found.accepted),
            num_trials=num_trials,
            predicted_decrease=by_group,
            actual_decrease=jnp.where(
                tests & whole.accepted, _shares(by_group, problem, whole), 0
            ),
            step_factor=jnp.where(tests, divide(whole.applied, begin, 0), 1),
            num_evaluations=num_evaluations,
        ),
    )


def with_loss(losses: LossStatistics, loss: jax.Array, k: jax.Array) -> LossStatistics:
    """The statistics with another loss in them; the first one is all there is."""
    excess = loss - losses.average
    spread = jnp.abs(excess) - losses.deviation
    average = losses.average + (1 - LOSS_DECAY) * excess
    deviation = losses.deviation + (1 - LOSS_DECAY) * spread
    return LossStatistics(
        average=jnp.where(k <= 1, loss, average),
        deviation=jnp.where(k <= 1, 0, deviation),
        lowest=jnp.minimum(losses.lowest, loss),
    )


def _tested_at(
    search: Backtracking,
    state: ArmijoState,
    k: jax.Array,
    tests: jax.Array,
    undoes: jax.Array,
) -> jax.Array:
    """When the whole step was last tested; after a step was undone, long enough ago."""
    count = jnp.asarray(state.adam.count)
    count = count.astype(state.factor.dtype)
    overdue = jnp.asarray(count / search.search_growth).astype(jnp.int32)
    tested_at = jnp.where(tests, k, state.tested_at)
    return jnp.where(undoes, jnp.minimum(overdue, state.tested_at), tested_at)


def _shortened(factor: jax.Array, k: jax.Array, tested_at: jax.Array) -> jax.Array:
    """The factor after a step was undone, f[]: the next one is a quarter of it.

    The next step is tested, so it may be longer by `_growth`, and the warm-up goes on.
    """
    growth = _growth(k, tested_at, factor.dtype)
    k = k.astype(factor.dtype)
    warmed = jnp.minimum(k - 1, WARM_UP_STEPS) / jnp.minimum(k, WARM_UP_STEPS)
    return SHORTENED * factor * warmed / growth


def _growth(k: jax.Array, tested_at: jax.Array, dtype: Any) -> jax.Array:
    """By how much step sizes may have grown since a test, f[]."""
    since = k.astype(dtype) / jnp.maximum(tested_at, 1).astype(dtype)
    return jnp.minimum(since, LARGEST_GROWTH)


def _shares(predicted: jax.Array, problem: Problem, whole: Whole) -> jax.Array:
    """The decrease of the loss, shared out as it was predicted, [G]."""
    total = jnp.sum(predicted)
    share = jnp.where(total != 0, predicted / jnp.where(total != 0, total, 1), 0)
    return share * (problem.value - whole.loss)
