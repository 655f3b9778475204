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
UP_LADDER, DOWN_LADDER = 4.0, 16.0
NARROW = 2.1  # the last trial is at 2 times another, but for rounding
MOST_TRIALS = 20


class Bracket(NamedTuple):
    """The carry of the loop that brackets the first step.

    Attributes:
      trial: the factor that is evaluated next.  # f[]
      passed: the largest that passed, else 0.  # f[]
      failed: the smallest that failed, else +inf.  # f[]
      num_trials: evaluations.  # i32[]
    """

    trial: jax.Array
    passed: jax.Array
    failed: jax.Array
    num_trials: jax.Array


class Backtracked(NamedTuple):
    """What backtracking found; the carry of its loop.

    Attributes:
      factor: of the step that was evaluated last.  # f[]
      loss: there; the loss before the step where none was made.  # f[]
      accepted: whether it passed; True where none was made.  # bool[]
      num_trials: evaluations.  # i32[]
    """

    factor: jax.Array
    loss: jax.Array
    accepted: jax.Array
    num_trials: jax.Array


def bracketed(
    problem: Problem, along: Leaves, sizes: jax.Array, predicted: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The largest factor of the step sizes that passes with `C_FIRST`, and its trials.

    The factor is 0 if none passes.
    """

    def body(at: Bracket) -> Bracket:
        loss = problem.loss_after(at.trial * sizes, along)
        required = C_FIRST * at.trial * predicted - problem.tolerance
        passes = problem.value - loss >= required
        passed = jnp.where(passes, jnp.maximum(at.passed, at.trial), at.passed)
        failed = jnp.where(passes, at.failed, jnp.minimum(at.failed, at.trial))
        middle = jnp.sqrt(passed) * jnp.sqrt(failed)
        up = jnp.where(failed < jnp.inf, middle, UP_LADDER * passed)
        trial = jnp.where(passed > 0, up, at.trial / DOWN_LADDER)
        return Bracket(trial, passed, failed, at.num_trials + 1)

    def goes_on(at: Bracket) -> jax.Array:
        is_narrow = (at.passed > 0) & (at.failed <= NARROW * at.passed)
        return ~is_narrow & (at.num_trials < MOST_TRIALS)

    zero = jnp.zeros_like(predicted)
    start = Bracket(zero + FIRST_TRIAL, zero, zero + jnp.inf, jnp.zeros((), jnp.int32))
    found = jax.lax.while_loop(goes_on, body, start)
    return found.passed, found.num_trials


def untested(problem: Problem) -> Backtracked:
    """What is known of a step without a test."""
    one = jnp.ones_like(problem.value)
    return Backtracked(
        one, problem.value, jnp.ones((), jnp.bool_), jnp.zeros((), jnp.int32)
    )


def backtracked(
    problem: Problem, along: Leaves, sizes: jax.Array, predicted: jax.Array
) -> Backtracked:
    """Halves the step until it passes with `C_LATER`.

    Where momentum ascends on this mini-batch, the loss may rise by (2 - c) times what
    the slope says. A step that leaves the loss exactly as it was passes, since it may
    have been rounded away.
    """
    required = predicted - (1 - C_LATER) * jnp.abs(predicted)

    def body(at: Backtracked) -> Backtracked:
        factor = jnp.where(at.num_trials > 0, HALF * at.factor, at.factor)
        loss = problem.loss_after(factor * sizes, along)
        passes = problem.value - loss >= factor * required - problem.tolerance
        passes |= loss == problem.value
        return Backtracked(factor, loss, passes, at.num_trials + 1)

    def goes_on(at: Backtracked) -> jax.Array:
        return ~at.accepted & (at.num_trials < MOST_HALVINGS)

    start = untested(problem)._replace(accepted=jnp.zeros((), jnp.bool_))
    return jax.lax.while_loop(goes_on, body, start)
