"""The step sizes of groups: the first bracket, and each group's own test.

All evaluations are along the direction without momentum, and none moves params. Shapes:
G groups.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optax_armijo._numerics import divide, search_dtype
from optax_armijo._state import ArmijoState
from optax_armijo.labels.grouping import Grouping
from optax_armijo.search.directions import AdamDirections, GivenDirection, Leaves
from optax_armijo.search.problem import ROUNDING_ULPS, Problem

FIRST_TRIALS = 10  # evaluations that the bracket of the first step may make
LADDER = 4.0  # ratio of step sizes while the right size is looked for
FIRST_RELATIVE_STEP = LADDER**-4  # of the groups' root mean squares
NARROW = 2.1  # ratio of the step sizes that fail and pass, where the bracket ends
COARSE = ROUNDING_ULPS * 2.0**-7  # of the loss: what bfloat16 may hide
LEFT_BY_NOISE = 1 / 20  # of a prediction's error: what a 16th of the step leaves
ROUNDED = 16.0  # ulps of the largest slope per param; below, one may be rounding
GROUP_SEARCH_GROWTH = 8  # of the number of steps between comparisons of groups
MOST_GROUPS = 16  # that are searched in one step
GROUP_TRIALS = 2  # evaluations of a group's own test in a step
FIRST_PART, LATER_PART = 0.75, 0.5  # of the way to what a group's own test finds
VISIBLE = 16  # times the tolerance: the predicted decrease that a fit needs
TINY = 1e-3  # below which a ratio of decreases says nothing of curvature


class Groups(NamedTuple):
    """What the evaluations without momentum found; the carry of their loop.

    Attributes:
      step_size: of all groups.  # f[G]
      test: which test this is, from 0.  # i32[]
      num_in_test: how many evaluations it had.  # i32[]
      trial: the step size, or factor, that is evaluated next.  # f[]
      passed: the largest that passed in this test, else 0.  # f[]
      failed: the smallest that failed in this test, else +inf.  # f[]
      loss: of the last evaluation.  # f[]
      error: of its prediction.  # f[]
      noise: by how much losses were found to be off beyond their rounding.  # f[]
      lowest: loss of all evaluations.  # f[]
      searched: groups that were.  # bool[G]
      accepted: groups whose test passed at a step size.  # bool[G]
      num_trials: evaluations by group.  # i32[G]
      num_evaluations: of all.  # i32[]
    """

    step_size: jax.Array
    test: jax.Array
    num_in_test: jax.Array
    trial: jax.Array
    passed: jax.Array
    failed: jax.Array
    loss: jax.Array
    error: jax.Array
    noise: jax.Array
    lowest: jax.Array
    searched: jax.Array
    accepted: jax.Array
    num_trials: jax.Array
    num_evaluations: jax.Array


def nothing_found(problem: Problem, state: ArmijoState) -> Groups:
    """What a step without these evaluations finds."""
    sizes, zero = state.group_step_size, jnp.zeros_like(problem.value)
    no, count = jnp.zeros(sizes.shape, jnp.bool_), jnp.zeros([], jnp.int32)
    return Groups(
        step_size=sizes,
        test=count,
        num_in_test=count,
        trial=zero,
        passed=zero,
        failed=jnp.full_like(zero, jnp.inf),
        loss=problem.value,
        error=zero,
        noise=zero,
        lowest=state.losses.lowest,
        searched=no,
        accepted=no,
        num_trials=no.astype(jnp.int32),
        num_evaluations=count,
    )


def due_for_test(tested_at: jax.Array, k: jax.Array) -> jax.Array:
    """Which groups are due for a test, bool[G]; one has nothing to be compared with."""
    if tested_at.size == 1:
        return jnp.zeros(1, jnp.bool_)
    return (tested_at == 0) | (k >= GROUP_SEARCH_GROWTH * tested_at)


def compare_groups(
    problem: Problem,
    moments: AdamDirections | GivenDirection,
    state: ArmijoState,
    is_first: jax.Array,
    checks_last: jax.Array,
) -> tuple[Groups, jax.Array]:
    """The evaluations without momentum, and the factor that keeps the whole step.

    The groups' tests set the ratios of their step sizes. The whole step stays as long
    as before.
    """
    slope = problem.slopes(moments.plain())
    slope = jnp.where(checks_last, 0, slope)
    first, capped = _first_step_sizes(problem, slope, state.total_evaluations > 0)
    later = _with_new_groups(problem, state.group_step_size, slope)
    sizes = jnp.where(is_first, first, later)
    found = _search_groups(
        problem,
        moments,
        state,
        sizes,
        capped,
        slope,
        is_first=is_first,
        checks_last=checks_last,
    )
    return found, _sum_ratio(sizes * slope, found.step_size * slope)


def _sum_ratio(before: jax.Array, after: jax.Array) -> jax.Array:
    """The ratio of the groups' predicted decreases before and after, where known."""
    both = (before > 0) & (after > 0)
    return divide(
        jnp.sum(jnp.where(both, before, 0)), jnp.sum(jnp.where(both, after, 0)), 1
    )


def _search_groups(
    problem: Problem,
    moments: AdamDirections | GivenDirection,
    state: ArmijoState,
    sizes: jax.Array,
    capped: jax.Array,
    slope: jax.Array,
    *,
    is_first: jax.Array,
    checks_last: jax.Array,
) -> Groups:
    """Makes the evaluations without momentum, one test after another.

    In the first step there is one test, of all groups by a common factor. If its first
    trial fails and would not with the step sizes `capped`, these are taken. Later each
    test is that of a group, and up to `MOST_GROUPS` are tested on the same batch: on
    different ones they could not be compared. An evaluation at the params before the
    last step takes the place of all tests.
    """
    search, k, dtype = problem.linesearch, moments.num_good, problem.value.dtype
    num_groups = problem.grouping.num_groups
    num_turns = min(num_groups, MOST_GROUPS)
    is_new = state.group_tested_at == 0
    is_due = due_for_test(state.group_tested_at, k) & (slope > 0) & (sizes > 0)
    longest_ago_first = jnp.where(is_due, state.group_tested_at, k + 1)
    turns = jnp.argsort(longest_ago_first, stable=True)[:num_turns]
    num_due = jnp.minimum(jnp.sum(is_due, dtype=jnp.int32), num_turns)
    num_tests = jnp.where(is_first, jnp.any(slope > 0).astype(jnp.int32), num_due)
    num_tests = jnp.where(checks_last, 1, num_tests).astype(jnp.int32)

    density = _density(problem, moments)

    def group(test: jax.Array) -> jax.Array:
        return turns[jnp.minimum(test, num_turns - 1)]

    def begin(test: jax.Array) -> jax.Array:
        begin = (sizes * jnp.where(is_new, 2, 1).astype(dtype))[group(test)]
        return jnp.where(is_first, FIRST_RELATIVE_STEP, begin).astype(dtype)

    def body(at: Groups) -> Groups:
        tested = group(at.test)
        turn = jnp.arange(num_groups) == tested
        pattern = jnp.where(is_first, at.step_size, turn.astype(dtype))
        moved = jnp.where(checks_last, -state.last_move, at.trial * pattern)
        directions = zip(moments.plain(), moments.last_direction(), strict=True)
        loss = problem.loss_after(
            moved, [jnp.where(checks_last, last, d) for d, last in directions]
        )
        predicted = at.trial * jnp.sum(pattern * slope)
        error = jnp.abs(problem.value - loss - predicted)
        is_retry = is_first & (at.num_in_test == 1) & jnp.any(at.step_size != sizes)
        is_noise = is_first & ~is_retry & _is_noise(at, error, problem.value)
        noise = jnp.where(is_noise, 2 * jnp.maximum(error, at.error), at.noise)
        tolerance = jnp.maximum(problem.tolerance, noise)
        c = jnp.where(is_first, search.c, search.group_c)
        passes = problem.value - loss >= c * predicted - tolerance
        passed = jnp.where(passes, at.trial, at.passed)
        failed = jnp.where(is_noise, jnp.inf, at.failed)
        failed = jnp.where(passes | is_noise, failed, at.trial)
        # The first trial is retried with capped step sizes, which stay if it passes.
        retries = is_first & (at.num_in_test == 0) & ~passes & jnp.any(capped != sizes)
        failed = jnp.where(retries, jnp.inf, failed)
        reverts = is_retry & ~passes
        sizes_after = jnp.where(retries, capped, at.step_size)
        sizes_after = jnp.where(reverts, sizes, sizes_after)
        error = jnp.where(reverts, at.error, error)
        num_in_test = at.num_in_test + 1

        fitted = _fitted(problem, at.trial, loss, predicted)
        is_settled = jnp.abs(jnp.log(fitted / at.trial)) < 1
        is_settled |= ~is_new[tested] | (num_in_test >= GROUP_TRIALS)
        is_settled = jnp.where(
            is_first, _is_bracketed(passed, failed, num_in_test), is_settled
        )
        is_over = checks_last | is_settled
        further = jnp.where(is_first, _up_or_down(at.trial, passed, failed), fitted)
        further = jnp.where(retries, at.trial, further)

        own = _part_of_the_way(sizes, fitted, is_new, density)
        settled = jnp.where(is_first, passed * at.step_size, jnp.where(turn, own, 0))
        is_moved = (moved != 0) & ~checks_last
        takes = is_over & is_moved
        test = at.test + is_over.astype(jnp.int32)
        return Groups(
            step_size=jnp.where(takes, settled, sizes_after),
            test=test,
            num_in_test=jnp.where(is_over, 0, num_in_test),
            trial=jnp.where(is_over, begin(test), further).astype(dtype),
            passed=jnp.where(is_over, 0, passed),
            failed=jnp.where(is_over, jnp.inf, failed),
            loss=loss,
            error=error,
            noise=noise,
            lowest=jnp.minimum(at.lowest, loss),
            searched=at.searched | (takes & ~is_first),
            accepted=at.accepted | (takes & (passed > 0)),
            num_trials=at.num_trials + is_moved.astype(jnp.int32),
            num_evaluations=at.num_evaluations + 1,
        )

    start = nothing_found(problem, state)
    return jax.lax.while_loop(
        lambda at: at.test < num_tests,
        body,
        start._replace(step_size=sizes, trial=begin(start.test)),
    )


def _is_noise(at: Groups, error: jax.Array, value: jax.Array) -> jax.Array:
    """Whether the first bracket misses its predictions by noise, bool[].

    At a 16th of the step, a smooth loss misses its prediction by a 256th of what it
    missed before. If a 20th is left, loss or params are too coarse to be tested at such
    steps: the bracket goes up again, and tolerates twice the error that was seen.
    """
    is_smaller = (at.num_in_test > 0) & (at.passed <= 0)
    is_left = error >= LEFT_BY_NOISE * at.error
    return is_smaller & is_left & (jnp.maximum(error, at.error) < COARSE * abs(value))


def _up_or_down(trial: jax.Array, passed: jax.Array, failed: jax.Array) -> jax.Array:
    """The next trial of the first bracket: a ladder, then bisection, f[]."""
    middle = jnp.sqrt(passed) * jnp.sqrt(failed)
    up = jnp.where(failed < jnp.inf, middle, LADDER * passed)
    return jnp.where(passed > 0, up, trial / LADDER**2)


def _is_bracketed(
    passed: jax.Array, failed: jax.Array, num_trials: jax.Array
) -> jax.Array:
    """Whether the first bracket is over, bool[]."""
    return ((passed > 0) & (failed <= NARROW * passed)) | (num_trials >= FIRST_TRIALS)


def _fitted(
    problem: Problem, trial: jax.Array, loss: jax.Array, predicted: jax.Array
) -> jax.Array:
    """Where a group's test would just pass on the quadratic through a trial, f[].

    The quadratic has the predicted slope and the decrease that was measured.
    """
    ratio = divide(problem.value - loss, predicted, 0)
    fitted = trial * (1 - problem.linesearch.group_c) / jnp.maximum(1 - ratio, TINY)
    fitted = jnp.clip(fitted, trial / LADDER**2, LADDER * trial)
    return jnp.where(predicted > VISIBLE * problem.tolerance, fitted, trial)


def _part_of_the_way(
    before: jax.Array, fitted: jax.Array, is_new: jax.Array, density: jax.Array
) -> jax.Array:
    """The groups' step sizes, if their tests found `fitted`, f[G].

    A group that is tested alone does not see the others, and one batch is noisy. So
    step sizes move part of the way, on a logarithmic scale.
    """
    change = divide(fitted, before, 0)
    part = jnp.where(is_new, FIRST_PART, LATER_PART).astype(before.dtype)
    return before * change**part * jnp.where(is_new, density, 1)


def _first_step_sizes(
    problem: Problem, slope: jax.Array, again: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Step sizes in proportion to the groups' params, [G]; 0 without a gradient.

    A group whose params are zero, or whose squares overflow, gets the step size with
    the predicted decrease of the median group. Where there is no other, or where
    nothing passed on the batch before, that decrease is all of the loss, or 1 where the
    loss is zero. Where the params are zero and the gradient happens to be small, too,
    that is far: the second result has the largest of the others there, at most.
    """
    grouping, dtype = problem.grouping, problem.value.dtype
    root = root_mean_squares(grouping, grouping.trainable(problem.params), dtype)
    loss = jnp.abs(problem.value)
    otherwise = jnp.where(loss > 0, loss, 1)
    knows = (slope > 0) & jnp.isfinite(root) & ~again
    known = jnp.where(knows, root, 0)
    sizes = _with_new_groups(problem, known, slope, otherwise, is_zero=root == 0)
    largest = jnp.where(jnp.any(knows), jnp.max(known), jnp.inf)
    return sizes, jnp.where(root == 0, jnp.minimum(sizes, largest), sizes)


def _density(problem: Problem, moments: AdamDirections | GivenDirection) -> jax.Array:
    """The root mean square of ``P g`` where it is below 1, f[G].

    It is so where most gradients are zero, as for the embeddings of words that are not
    in the batch. Such a group passes with larger steps, but only for these rows. The
    entries of a given direction may have any size, so theirs is in units of the mean
    absolute one.
    """
    grouping, dtype, plain = problem.grouping, problem.value.dtype, moments.plain()
    root = root_mean_squares(grouping, plain, dtype)
    if isinstance(moments, GivenDirection):
        mean = _means(grouping, map(jnp.abs, plain), dtype)
        root = divide(mean, root, 0)
    return jnp.where(root > 0, jnp.minimum(root, 1), 1)


def root_mean_squares(grouping: Grouping, leaves: Leaves, dtype: Any) -> jax.Array:
    """The groups' root mean squares, dtype[G]; infinity where squares overflow."""
    common = search_dtype(leaves)
    squares = [jnp.square(x.astype(common)) for x in leaves]
    return jnp.sqrt(_means(grouping, squares, dtype))


def _means(grouping: Grouping, arrays: Iterable[jax.Array], dtype: Any) -> jax.Array:
    """Means of arrays that are shaped like the trainable leaves, dtype[G]."""
    arrays = [*arrays]
    number = _num_params(grouping, arrays).astype(dtype)
    return grouping.sum(arrays).astype(dtype) / number


def _num_params(grouping: Grouping, leaves: Leaves) -> np.ndarray:
    """Counts the params of each group, float[G]."""
    number = np.zeros(grouping.num_groups)
    for member, leaf in zip(grouping.moving, leaves, strict=True):
        for group in member.groups:
            number[group] += leaf.size / len(member.groups)
    return np.maximum(number, 1)


def _with_new_groups(
    problem: Problem,
    step_size: jax.Array,
    slope: jax.Array,
    otherwise: Any = 0.0,
    is_zero: Any = True,
) -> jax.Array:
    """Gives groups without a step size the one with the median predicted decrease.

    Where their gradient may be no more than rounding, as that of a bias before a
    normalization is, that would be far. They get the largest of the others at most,
    unless it is known that their params are not zero.
    """
    knows, wants = (step_size > 0) & (slope > 0), (step_size <= 0) & (slope > 0)
    predicted = jnp.sort(jnp.where(knows, step_size * slope, jnp.inf))
    number = jnp.sum(knows)
    median = predicted[jnp.maximum(number - 1, 0) // 2]
    median = jnp.where(number > 0, median, otherwise)
    new = median / jnp.where(wants, slope, 1)
    dtype = new.dtype
    leaves = problem.grouping.trainable(problem.params)
    gradient = slope / _num_params(problem.grouping, leaves).astype(dtype)
    is_rounding = gradient <= ROUNDED * jnp.finfo(dtype).eps * jnp.max(gradient)
    largest = jnp.max(jnp.where(knows, step_size, 0))
    is_capped = is_rounding & is_zero & (number > 0)
    most = jnp.where(is_capped, largest, jnp.finfo(dtype).max)
    return jnp.where(wants, jnp.minimum(new, most), step_size)
