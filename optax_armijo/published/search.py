"""The search of a step: which factors of the step it tries, and when it stops.

It has two modes:

* **backtracking**, if the step is known to be of the right size: start a little
  above it and shrink until a trial passes (Algorithm 1 of arXiv 2403.18506);
* **bracketing**, after a search that found nothing. On a loss that is never negative
  Armijo's test can pass only below :math:`t_{max} = f(w) / (c s)`. Climb a ladder of
  rungs a factor of 4 apart from far below :math:`t_{max}` until a trial fails, then
  halve the gap once. If the lowest rung fails, fall by growing strides to a rung that
  passes and climb from there. So the accepted trial is the largest of an unbroken
  sequence of trials that pass, starting at zero: a dip beyond a wall is not accepted,
  as far as the trials can tell.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

LADDER_FACTOR = 4.0  # ratio of neighbouring rungs while bracketing
# Bracketing begins between these fractions of the largest step that can pass. Below the
# lower one a decrease, 1e-6 of the loss, drowns in rounding.
LOWEST_START, HIGHEST_START = LADDER_FACTOR**-9, LADDER_FACTOR**-4
BRACKET_RATIO = 2.1  # a bracket is narrow enough if its ends differ by at most this


class Search(NamedTuple):
    """A search so far.

    Attributes:
      factor: the next trial, > 0.  # f[]
      passed: the largest trial that passed, 0 if none did.  # f[]
      failed: the smallest trial that failed or is known to fail, else +inf.  # f[]
      passed_loss: the loss at `passed`; that at params while `passed` is 0.  # f[]
      num_trials: number of trials made.  # i32[]
      brackets: whether the search brackets or backtracks.  # bool[]
    """

    factor: jax.Array
    passed: jax.Array
    failed: jax.Array
    passed_loss: jax.Array
    num_trials: jax.Array
    brackets: jax.Array


def start(loss: jax.Array, largest: jax.Array, brackets: jax.Array) -> Search:
    """Begins at a factor of 1.

    Args:
      loss: at params, shape [].
      largest: no larger factor is tried; while bracketing, none at or above it can
        pass. Finite, shape [].
      brackets: whether to bracket, shape [].
    """
    one = jnp.ones_like(loss)
    ladder = jnp.clip(one, largest * LOWEST_START, largest * HIGHEST_START)
    return Search(
        factor=jnp.where(brackets, ladder, jnp.minimum(one, largest)),
        passed=jnp.zeros_like(loss),
        failed=jnp.where(brackets, largest, jnp.inf),
        passed_loss=loss,
        num_trials=jnp.zeros([], jnp.int32),
        brackets=brackets,
    )


def advance(
    at: Search, loss: jax.Array, passes: jax.Array, decrease_factor: jax.Array
) -> Search:
    """Takes in the loss of the trial and whether it passed; chooses the next one."""
    passed = jnp.where(passes, at.factor, at.passed)
    failed = jnp.where(passes, at.failed, at.factor)
    num_trials = at.num_trials + 1
    climb = jnp.minimum(LADDER_FACTOR * passed, jnp.sqrt(passed) * jnp.sqrt(failed))
    fall = at.factor * LADDER_FACTOR ** -num_trials.astype(at.factor.dtype)
    bracket = jnp.where(passed > 0, climb, fall)
    return Search(
        factor=jnp.where(at.brackets, bracket, at.factor * decrease_factor),
        passed=passed,
        failed=failed,
        passed_loss=jnp.where(passes, loss, at.passed_loss),
        num_trials=num_trials,
        brackets=at.brackets,
    )


def is_settled(at: Search) -> jax.Array:
    """Tells whether another trial has nothing to add, bool, shape []."""
    is_narrow = at.failed <= BRACKET_RATIO * at.passed
    return (at.passed > 0) & (~at.brackets | is_narrow)


def run(
    begin: Search,
    trial: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    *,
    is_due: jax.Array,
    decrease_factor: jax.Array,
    max_trials: jax.Array,
) -> Search:
    """Makes trials until the search is settled or spent; none unless it is due.

    Args:
      begin: what `start` returned.
      trial: returns for a factor the loss, and whether it passes.
      is_due: whether to search at all, shape [].
      decrease_factor: the factor of backtracking, in (0, 1), shape [].
      max_trials: at least 1, shape [].
    """

    def goes_on(at: Search) -> jax.Array:
        return is_due & ~is_settled(at) & (at.num_trials < max_trials)

    def body(at: Search) -> Search:
        return advance(at, *trial(at.factor), decrease_factor)

    return lax.while_loop(goes_on, body, begin)
