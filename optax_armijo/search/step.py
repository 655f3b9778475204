"""One step of the search, from top to bottom: `take_step`.

`Backtracking` says what is tested and when; ``docs/armijo_adam.md`` has it as
pseudocode. Here k is the number of batches so far, g the gradient of the loss on this
batch, ``moments.direction()`` Adam's direction d (with momentum), ``moments.plain()``
the same without momentum, -P g. A step size is ``factor * group_step_size``. A slope is
the decrease of the loss that is predicted for a unit step: positive along a descent.

Shapes: G groups.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_armijo._numerics import (
    divide,
    nonfinite_to_inf,
    rounding_error,
    search_dtype,
)
from optax_armijo._state import BacktrackingState, LastStep
from optax_armijo._types import Scalar
from optax_armijo.labels.grouping import Grouping
from optax_armijo.search.directions import (
    AdamDirections,
    GivenDirection,
    Leaves,
    slopes,
)
from optax_armijo.search.linesearch import Backtracking

WARM_UP_STEPS = 10  # before it k / 10 of the step is applied, and no loss is far
FIRST_TRIALS = 10  # evaluations that the bracket of the first step may make
GROUP_SEARCH_GROWTH = 8  # of the number of steps between comparisons of groups
MOST_GROUPS = 16  # that are searched in one step
TINY = 1e-3  # below which a ratio of decreases says nothing of curvature
GROUP_TRIALS = 2  # evaluations of a group's own test in a step
FIRST_PART, LATER_PART = 0.75, 0.5  # of the way to what a group's own test finds
LADDER = 4.0  # ratio of step sizes while the right size is looked for
FIRST_RELATIVE_STEP = LADDER**-4  # of the groups' root mean squares
LARGEST_GROWTH = 8.0  # of a step size from a search to the next
LIMITED_FROM = 32  # the step from which `loss_fraction` holds; 32 / k times it before
DOUBTED = 1 / 32  # limit of the factor, below which a loss below zero is looked for
FAR_DECREASE = 4.0  # times the loss: what is predicted where it is looked for
FAR = 3.0  # mean deviations of the loss, above which the last step is suspected
LOSS_DECAY = 0.9
TAKEN_BACK = 0.25  # what step sizes are multiplied by after a step was taken back
ROUNDED = 16.0  # ulps of the largest slope per param; below, one may be rounding
ROUNDING_ULPS = 4.0
COARSE = ROUNDING_ULPS * 2.0**-7  # of the loss: what bfloat16 may hide
LEFT_BY_NOISE = 1 / 20  # of a prediction's error: what a 16th of the step leaves
NARROW = 2.1  # ratio of the step sizes that fail and pass, where the bracket ends
VISIBLE = 16  # times the tolerance: the predicted decrease that a fit needs


class Problem(NamedTuple):
    """The inputs of a step; `loss_grads` is the gradient of the loss."""

    grouping: Grouping
    linesearch: Backtracking
    params: Any
    loss_fn: Callable[[Any], jax.Array]
    loss_dtype: Any
    value: jax.Array
    loss_grads: Leaves

    def updates(self, step_size: jax.Array, direction: Leaves) -> list[jax.Array]:
        """``step_size * direction`` in the dtypes of params; 0 for a step size of 0."""
        return self.grouping.scaled(step_size, direction, self.params)

    def loss_after(self, step_size: jax.Array, direction: Leaves) -> jax.Array:
        """The loss where ``optax.apply_updates`` leads; +inf if it is not finite."""
        updates = self.updates(step_size, direction)
        loss = self.loss_fn(self.grouping.moved(self.params, updates))
        return nonfinite_to_inf(loss.astype(self.value.dtype))

    def slopes(self, direction: Leaves) -> jax.Array:
        """The decrease that is predicted for a unit step, by group, [G]."""
        found = slopes(self.grouping, self.loss_grads, direction)
        return found.astype(self.value.dtype)

    @property
    def tolerance(self) -> jax.Array:
        """By how much a difference of losses may be off by rounding."""
        dtype = self.value.dtype
        ulps = jnp.asarray(ROUNDING_ULPS, dtype)
        return rounding_error(self.value, ulps, self.loss_dtype, dtype)


def take_step(
    problem: Problem, state: BacktrackingState, moments: AdamDirections | GivenDirection
) -> tuple[Any, BacktrackingState]:
    """Direction, slopes, groups' own tests, the whole step's test, move, learn."""
    grouping, search, k = problem.grouping, problem.linesearch, moments.num_good
    slope = problem.slopes(moments.direction())  # [G]
    is_good = jnp.isfinite(problem.value) & jnp.all(jnp.isfinite(slope))
    # If the loss is far above those before, was the last step the cause?
    excess = problem.value - state.loss_average
    is_far = (k >= WARM_UP_STEPS) & (excess > FAR * state.loss_deviation)
    # A finite loss whose gradient is not may come of this batch alone: not so twice.
    was_bad = ~jnp.any(state.last.applied_step_size != 0)
    is_bad = ~jnp.isfinite(problem.value) | (~is_good & was_bad)
    is_suspect = jnp.any(state.last_move != 0) & (is_bad | is_far)
    is_suspect &= moments.knows_last
    dtype = problem.value.dtype
    is_due = k.astype(dtype) >= search.search_growth * state.tested_at.astype(dtype)
    is_due &= is_good
    is_first = ~jnp.any(state.group_step_size > 0)
    is_group_due = _is_group_due(state.group_tested_at, k) & (slope != 0)
    is_comparing = is_good & (is_first | jnp.any(is_group_due))

    # Without momentum: the first bracket, the groups' tests, or the point before the
    # last step. In a conditional, since everything that a loop reads is computed before
    # it, even if the loop does nothing.
    found, ratio = jax.lax.cond(
        is_comparing | is_suspect,
        lambda: _compare_groups(problem, moments, state, is_first, is_suspect),
        lambda: (_nothing_found(problem, state), jnp.ones_like(state.factor)),
    )
    before = state.factor * jnp.where(is_first, 1, ratio)
    sizes = found.step_size
    is_to_blame = is_bad | (problem.value - found.loss > excess / 2)
    takes_back = is_suspect & jnp.isfinite(found.loss) & is_to_blame
    is_good &= ~takes_back

    # With momentum: the whole step.
    predicted = jnp.sum(sizes * slope)
    limit_by_loss = _limit_by_loss(problem, predicted, found.lowest, k)
    limit = jnp.minimum(limit_by_loss, _limit_by_size(problem, sizes, k))
    tests = is_good & is_due & jnp.any(sizes > 0)
    growth = _growth(k.astype(dtype), state.tested_at.astype(dtype))
    grown = before * jnp.where(predicted > 0, growth, 1)
    begin = jnp.minimum(jnp.where(is_first, 1, grown), limit)
    # Steps may be short since zero is near, or since the loss goes on below zero.
    is_doubtful = limit_by_loss < jnp.minimum(DOUBTED, grown)
    far = divide(FAR_DECREASE * problem.value, predicted, 0)
    whole = jax.lax.cond(
        tests,
        lambda: _search_whole(
            problem, moments.direction(), sizes, predicted, begin, far, is_doubtful
        ),
        lambda: _Whole.before(begin, problem.value),
    )
    factor = jnp.where(tests, whole.applied, jnp.minimum(before, limit))
    settled = jnp.where(is_good, factor, 0) * sizes
    # Adam's first directions are little more than the signs of one gradient.
    applied = settled * jnp.minimum(k.astype(dtype) / WARM_UP_STEPS, 1)

    by_group = jnp.where(settled != 0, settled * slope, 0)  # no NaN of a bad batch
    move = jnp.where(takes_back, -state.last_move, applied)
    # Always true, but known only after the test: until then it may read old moments.
    is_over = whole.num_trials >= 0
    adam, along = moments.settled(is_good & is_over)
    updates = problem.updates(move, along)
    current = jnp.where(is_first, 1, before)
    # A test along a direction that does not descend says nothing about the step size.
    learns = tests & (predicted > 0)
    factor = jnp.where(
        learns,
        _learned(whole, begin, current, search.decrease_factor),
        jnp.where(
            is_good,
            _towards_limit(limit_by_loss, current, search.decrease_factor),
            current,
        ),
    )
    num_searched = jnp.where(tests, whole.num_trials, 0)
    num_trials = found.num_trials + jnp.where(sizes > 0, num_searched, 0)
    num_evaluations = found.num_evaluations + num_searched
    tested_at = _tested_at(search, state, k, tests, takes_back)
    losses = jnp.where(is_good, problem.value, state.lowest_loss)
    average = state.loss_average + (1 - LOSS_DECAY) * excess
    average = jnp.where(k <= 1, problem.value, average)
    spread = jnp.where(k <= 1, 0, jnp.abs(excess))
    deviation = state.loss_deviation + (1 - LOSS_DECAY) * (
        spread - state.loss_deviation
    )
    return grouping.whole(updates, problem.params), BacktrackingState(
        label_codes=state.label_codes,
        num_steps=jnp.asarray(optax.safe_increment(state.num_steps)),
        adam=adam,
        group_step_size=sizes,
        factor=jnp.where(takes_back, _shortened(state.factor, k, tested_at), factor),
        group_tested_at=jnp.where(found.searched, k, state.group_tested_at),
        tested_at=tested_at,
        lowest_loss=jnp.minimum(jnp.minimum(found.lowest, whole.lowest), losses),
        loss_average=jnp.where(is_good, average, state.loss_average),
        loss_deviation=jnp.where(is_good, deviation, state.loss_deviation),
        last_move=jnp.where(
            takes_back, 0, jnp.where(is_good, applied, state.last_move)
        ),
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


def _tested_at(
    search: Backtracking,
    state: BacktrackingState,
    k: jax.Array,
    tests: jax.Array,
    takes_back: jax.Array,
) -> jax.Array:
    """When the whole step was last tested; after a step back, long enough ago."""
    count = jnp.asarray(state.adam.count)
    count = count.astype(state.factor.dtype)
    overdue = jnp.asarray(count / search.search_growth).astype(jnp.int32)
    tested_at = jnp.where(tests, k, state.tested_at)
    return jnp.where(takes_back, jnp.minimum(overdue, state.tested_at), tested_at)


def _shortened(factor: jax.Array, k: jax.Array, tested_at: jax.Array) -> jax.Array:
    """The factor after a step was taken back, f[]: the next one is a quarter of it.

    The next step is tested, so it may be longer by `_growth`, and the warm-up goes on.
    """
    k = k.astype(factor.dtype)
    warmed = jnp.minimum(k - 1, WARM_UP_STEPS) / jnp.minimum(k, WARM_UP_STEPS)
    return TAKEN_BACK * factor * warmed / _growth(k, tested_at.astype(factor.dtype))


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
    root = _root_mean_squares(grouping, grouping.trainable(problem.params), dtype)
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
    root = _root_mean_squares(grouping, plain, dtype)
    if isinstance(moments, GivenDirection):
        mean = _means(grouping, map(jnp.abs, plain), dtype)
        root = divide(mean, root, 0)
    return jnp.where(root > 0, jnp.minimum(root, 1), 1)


def _root_mean_squares(grouping: Grouping, leaves: Leaves, dtype: Any) -> jax.Array:
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


def _is_group_due(tested_at: jax.Array, k: jax.Array) -> jax.Array:
    """Which groups are due for a test, bool[G]; one has nothing to be compared with."""
    if tested_at.size == 1:
        return jnp.zeros(1, jnp.bool_)
    return (tested_at == 0) | (k >= GROUP_SEARCH_GROWTH * tested_at)


def _sum_ratio(before: jax.Array, after: jax.Array) -> jax.Array:
    """The ratio of the groups' predicted decreases before and after, where known."""
    both = (before > 0) & (after > 0)
    return divide(
        jnp.sum(jnp.where(both, before, 0)), jnp.sum(jnp.where(both, after, 0)), 1
    )


def _growth(k: jax.Array, tested_at: jax.Array) -> jax.Array:
    """By how much step sizes may have grown since a test, f[]."""
    return jnp.minimum(k / jnp.maximum(tested_at, 1), LARGEST_GROWTH)


class _Groups(NamedTuple):
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


def _compare_groups(
    problem: Problem,
    moments: AdamDirections | GivenDirection,
    state: BacktrackingState,
    is_first: jax.Array,
    checks_last: jax.Array,
) -> tuple[_Groups, jax.Array]:
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


def _nothing_found(problem: Problem, state: BacktrackingState) -> _Groups:
    """What a step without these evaluations finds."""
    sizes, zero = state.group_step_size, jnp.zeros_like(problem.value)
    no, count = jnp.zeros(sizes.shape, jnp.bool_), jnp.zeros([], jnp.int32)
    return _Groups(
        step_size=sizes,
        test=count,
        num_in_test=count,
        trial=zero,
        passed=zero,
        failed=jnp.full_like(zero, jnp.inf),
        loss=problem.value,
        error=zero,
        noise=zero,
        lowest=state.lowest_loss,
        searched=no,
        accepted=no,
        num_trials=no.astype(jnp.int32),
        num_evaluations=count,
    )


def _search_groups(
    problem: Problem,
    moments: AdamDirections | GivenDirection,
    state: BacktrackingState,
    sizes: jax.Array,
    capped: jax.Array,
    slope: jax.Array,
    *,
    is_first: jax.Array,
    checks_last: jax.Array,
) -> _Groups:
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
    is_due = _is_group_due(state.group_tested_at, k) & (slope > 0) & (sizes > 0)
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

    def body(at: _Groups) -> _Groups:
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
        is_capped = is_first & (at.num_in_test == 1) & jnp.any(at.step_size != sizes)
        is_noise = is_first & ~is_capped & _is_noise(at, error, problem.value)
        noise = jnp.where(is_noise, 2 * jnp.maximum(error, at.error), at.noise)
        tolerance = jnp.maximum(problem.tolerance, noise)
        c = jnp.where(is_first, search.c, search.group_c)
        passes = problem.value - loss >= c * predicted - tolerance
        passed = jnp.where(passes, at.trial, at.passed)
        failed = jnp.where(is_noise, jnp.inf, at.failed)
        failed = jnp.where(passes | is_noise, failed, at.trial)
        # The same trial once more, with the step sizes that are capped.
        is_again = is_first & (at.num_in_test == 0) & ~passes & jnp.any(capped != sizes)
        failed = jnp.where(is_again, jnp.inf, failed)
        is_in_vain = is_capped & ~passes
        pattern_after = jnp.where(is_again, capped, at.step_size)
        pattern_after = jnp.where(is_in_vain, sizes, pattern_after)
        error = jnp.where(is_in_vain, at.error, error)
        num_in_test = at.num_in_test + 1

        fitted = _fitted(problem, at.trial, loss, predicted)
        is_settled = jnp.abs(jnp.log(fitted / at.trial)) < 1
        is_settled |= ~is_new[tested] | (num_in_test >= GROUP_TRIALS)
        is_settled = jnp.where(
            is_first, _is_bracketed(passed, failed, num_in_test), is_settled
        )
        is_over = checks_last | is_settled
        further = jnp.where(is_first, _up_or_down(at.trial, passed, failed), fitted)
        further = jnp.where(is_again, at.trial, further)

        own = _part_of_the_way(sizes, fitted, is_new, density)
        settled = jnp.where(is_first, passed * at.step_size, jnp.where(turn, own, 0))
        is_moved = (moved != 0) & ~checks_last
        takes = is_over & is_moved
        test = at.test + is_over.astype(jnp.int32)
        return _Groups(
            step_size=jnp.where(takes, settled, pattern_after),
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

    start = _nothing_found(problem, state)
    return jax.lax.while_loop(
        lambda at: at.test < num_tests,
        body,
        start._replace(step_size=sizes, trial=begin(start.test)),
    )


def _is_noise(at: _Groups, error: jax.Array, value: jax.Array) -> jax.Array:
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


def _limit_by_loss(
    problem: Problem, predicted: jax.Array, lowest: jax.Array, k: jax.Array
) -> jax.Array:
    """The factor with `loss_fraction` of the loss as predicted decrease, f[].

    Infinity without a bound.
    """
    fraction, value = problem.linesearch.loss_fraction, problem.value
    infinity = jnp.asarray(jnp.inf, value.dtype)
    if fraction is None:
        return infinity
    # After a loss below 0, 0 is no lower bound.
    holds = (predicted > 0) & (value > 0) & (lowest >= 0)
    more = jnp.maximum(LIMITED_FROM / k.astype(value.dtype), 1)
    fraction = jnp.asarray(fraction, value.dtype) * more
    return jnp.where(holds, divide(fraction * value, predicted, 0), infinity)


def _limit_by_size(problem: Problem, sizes: jax.Array, k: jax.Array) -> jax.Array:
    """The factor at which the largest step size is `max_step_size`, f[]."""
    bound = problem.linesearch.max_step_size
    infinity = jnp.asarray(jnp.inf, sizes.dtype)
    if bound is None:
        return infinity
    bound = jnp.asarray(bound(k - 1) if callable(bound) else bound, sizes.dtype)
    bound = jnp.where(bound > 0, bound, 0)  # NaN of a schedule: no step
    return divide(bound, jnp.max(sizes), jnp.inf)


class _Whole(NamedTuple):
    """What the test of the whole step found; the carry of its loop.

    Attributes:
      factor: evaluated last.  # f[]
      loss: there; the loss at params before.  # f[]
      accepted: whether it passed.  # bool[]
      num_trials: evaluations.  # i32[]
      applied: what is applied: a factor that passed, or that at least lowers the
        loss, else 0.  # f[]
      lowest: loss of all evaluations.  # f[]
    """

    factor: jax.Array
    loss: jax.Array
    accepted: jax.Array
    num_trials: jax.Array
    applied: jax.Array
    lowest: jax.Array

    @classmethod
    def before(cls, begin: jax.Array, value: jax.Array) -> "_Whole":
        """What is known before the first trial."""
        return cls(
            factor=begin,
            loss=value,
            accepted=jnp.zeros([], jnp.bool_),
            num_trials=jnp.zeros([], jnp.int32),
            applied=jnp.zeros_like(begin),
            lowest=jnp.full_like(value, jnp.inf),
        )


def _search_whole(
    problem: Problem,
    direction: Leaves,
    sizes: jax.Array,
    predicted: jax.Array,
    begin: jax.Array,
    far: jax.Array,
    looks_far: jax.Array,
) -> _Whole:
    """Backtracks from the factor `begin` until the whole step decreases the loss.

    Where the momentum does not descend on this batch, the loss may rise by (2 - c)
    times what the slope says. The first evaluation may be at the factor `far`, only to
    see whether the loss goes below zero.
    """
    search = problem.linesearch
    required = predicted - (1 - search.c) * jnp.abs(predicted)
    num_before = looks_far.astype(jnp.int32)

    def body(at: _Whole) -> _Whole:
        looks, again = at.num_trials < num_before, at.num_trials > num_before
        factor = at.factor * jnp.where(again, search.decrease_factor, 1)
        factor = factor.astype(at.factor.dtype)
        loss = problem.loss_after(jnp.where(looks, far, factor) * sizes, direction)
        passes = problem.value - loss >= factor * required - problem.tolerance
        # The whole step may be rounded away, and then a shorter one would be, too.
        accepted = ~looks & (passes | (loss == problem.value))
        lowers = accepted | (~looks & (loss <= problem.value))
        return _Whole(
            factor=factor,
            loss=loss,
            accepted=accepted,
            num_trials=at.num_trials + 1,
            applied=jnp.where(lowers, factor, 0),
            lowest=jnp.minimum(at.lowest, loss),
        )

    most = search.max_trials + num_before
    return jax.lax.while_loop(
        lambda at: ~at.accepted & (at.num_trials < most),
        body,
        _Whole.before(begin, problem.value),
    )


def _learned(
    whole: _Whole, begin: jax.Array, current: jax.Array, step_down: Scalar
) -> jax.Array:
    """The factor to continue with: a shortened one may have been too short."""
    passed = jnp.where(whole.factor < begin, whole.factor, jnp.maximum(begin, current))
    failed = step_down * jnp.minimum(whole.factor, current)
    return jnp.where(whole.accepted, passed, failed).astype(current.dtype)


def _towards_limit(limit: jax.Array, factor: jax.Array, step_down: Scalar) -> jax.Array:
    """Moves a factor above the limit toward it, on a logarithmic scale.

    Otherwise the first batch whose loss is large again would get a step size that was
    right long ago.
    """
    ratio = jnp.minimum(divide(limit, factor, 1), 1)
    return factor * jnp.maximum(ratio ** (1 - LOSS_DECAY), step_down).astype(
        factor.dtype
    )


def _shares(predicted: jax.Array, problem: Problem, whole: _Whole) -> jax.Array:
    """The decrease of the loss, shared out as it was predicted, [G]."""
    total = jnp.sum(predicted)
    share = jnp.where(total != 0, predicted / jnp.where(total != 0, total, 1), 0)
    return share * (problem.value - whole.loss)
