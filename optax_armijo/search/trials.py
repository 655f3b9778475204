"""Trials of a step on its own mini-batch: the first bracket, and backtracking.

Shapes: G groups.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo.search.directions import Leaves
from optax_armijo.search.problem import Problem

C_FIRST, C_LATER = 0.8, 0.1  # of the promised decrease that a step must make
HALF, MOST_HALVINGS = 0.5, 10
FIRST_TRIAL = 0.01  # times the root mean square of the params
UP_LADDER, DOWN_LADDER = 4.0, 1 / 16
NARROW = 2.1  # the last trial is at 2 times another, but for rounding
MOST_TRIALS = 20


class Trials(NamedTuple):
    """The carry of the loop of trials, and what it found.

    Attributes:
      factor: of the step that is evaluated next; that was, once it is over.  # f[]
      passed: the largest that passed, else 0.  # f[]
      failed: the smallest that failed, else +inf.  # f[]
      loss: at the last one; that before the step where there was none.  # f[]
      num_trials: evaluations.  # i32[]
    """

    factor: jax.Array
    passed: jax.Array
    failed: jax.Array
    loss: jax.Array
    num_trials: jax.Array


def untested(problem: Problem) -> Trials:
    """A step that is made as it is."""
    one = jnp.ones_like(problem.value)
    return Trials(one, one, jnp.inf * one, problem.value, jnp.zeros((), jnp.int32))


def tested(
    problem: Problem, along: Leaves, sizes: jax.Array, is_first: jax.Array
) -> Trials:
    """Tries a step: the first of a run is bracketed, a later one backtracks.

    The first one is the largest that passes with `C_FIRST`, within a factor of two; its
    first trial is a small part of ``sizes``. A later one is halved until it passes with
    `C_LATER`. Where its momentum ascends on this mini-batch, the loss may rise by
    (2 - c) times what the slope says. A step that leaves the loss exactly as it was
    passes, since it may have been rounded away.
    """
    predicted = jnp.sum(sizes * problem.slopes(along))
    c = jnp.where(is_first, C_FIRST, C_LATER).astype(predicted.dtype)
    required = predicted - (1 - c) * jnp.abs(predicted)

    def body(at: Trials) -> Trials:
        after_pass = jnp.where(at.failed < jnp.inf, _middle(at), UP_LADDER * at.passed)
        shorter = at.factor * jnp.where(is_first, DOWN_LADDER, HALF)
        factor = jnp.where(at.passed > 0, after_pass, shorter)
        factor = jnp.where(at.num_trials > 0, factor, at.factor)
        loss = problem.loss_after(factor * sizes, along)
        passes = problem.value - loss >= factor * required - problem.tolerance
        passes |= ~is_first & (loss == problem.value)
        return Trials(
            factor=factor,
            passed=jnp.where(passes, jnp.maximum(at.passed, factor), at.passed),
            failed=jnp.where(passes, at.failed, jnp.minimum(at.failed, factor)),
            loss=loss,
            num_trials=at.num_trials + 1,
        )

    def goes_on(at: Trials) -> jax.Array:
        is_found = (at.passed > 0) & (~is_first | (at.failed <= NARROW * at.passed))
        most = jnp.where(is_first, MOST_TRIALS, MOST_HALVINGS)
        return ~is_found & (at.num_trials < most)

    start = untested(problem)
    zero = jnp.zeros_like(start.factor)
    first = jnp.where(is_first, FIRST_TRIAL, start.factor).astype(zero.dtype)
    start = start._replace(factor=first, passed=zero)
    return jax.lax.while_loop(goes_on, body, start)


def _middle(at: Trials) -> jax.Array:
    return jnp.sqrt(at.passed) * jnp.sqrt(at.failed)
