"""The kinds of policy that a line search is put together from.

Each is a named tuple of pure functions, like ``optax.GradientTransformation``: `init`
returns a state, a pytree of arrays (``()`` when there is none); the other functions
take that state first. `update` takes in what the searches of a step brought. A policy
of one's own is one such tuple.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax

PolicyState = Any
"""A pytree of arrays."""


class Trial(NamedTuple):
    """What an acceptance test is told about a trial.

    Attributes:
      value: the loss at params.  # f[]
      trial_value: the loss at the trial, +inf for NaN.  # f[]
      step_size: of the trial, 0 for groups that it does not move.  # f[G]
      slopes: decrease of the loss a unit of step size at params, by group.  # f[G]
      c: the sufficient-decrease constant.  # f[]
      tolerance: the part of a difference of losses that is their rounding.  # f[]
      slope: of the loss at the trial, along the trial's step: the derivative of
        :math:`f(w + t u)` by t at 1; only for tests with `needs_slope`.  # f[]
      is_bracketing: whether the step's size is being looked for from nothing.  # bool[]
    """

    value: jax.Array
    trial_value: jax.Array
    step_size: jax.Array
    slopes: jax.Array
    c: jax.Array
    tolerance: jax.Array
    slope: jax.Array | None = None
    is_bracketing: jax.Array | bool = False


class Opening(NamedTuple):
    """What is known when the searches of a step begin.

    Attributes:
      step_size: what each group would step by.  # f[G]
      init_step_size: the hyper-parameter.  # f[]
      increase_factor: the hyper-parameter.  # f[]
      value: the loss at params.  # f[]
      ray_slopes: the slope of all that moves together with a group.  # f[G]
    """

    step_size: jax.Array
    init_step_size: jax.Array
    increase_factor: jax.Array
    value: jax.Array
    ray_slopes: jax.Array


class Outcome(NamedTuple):
    """What the searches of a step brought, by group.

    Attributes:
      searched: whether the group was searched.  # bool[G]
      accepted: whether its search accepted a trial.  # bool[G]
      step_size: what was found.  # f[G]
      slopes: decrease of the loss a unit of step size, searched or not.  # f[G]
      num_trials: of the search that moved the group.  # i32[G]
      predicted_decrease: step size times slope, of all that moved with it.  # f[G]
      actual_decrease: of the loss, by all that moved with it.  # f[G]
      share: the group's part in the predicted decrease.  # f[G]
      c: the sufficient-decrease constant.  # f[]
      promised_decrease: step size times slope, of all that moves with the group,
        searched or not.  # f[G]
      is_visible: whether that is above the rounding of the loss.  # bool[G]
      was_bracketed: whether its step size was known to be of the right size before
        the search.  # bool[G]
      value: the loss at params.  # f[]
      walked: how far params came along the direction in the step before, 0 where it
        is a new one.  # f[G]
    """

    searched: jax.Array
    accepted: jax.Array
    step_size: jax.Array
    slopes: jax.Array
    num_trials: jax.Array
    predicted_decrease: jax.Array
    actual_decrease: jax.Array
    share: jax.Array
    c: jax.Array
    promised_decrease: jax.Array | float = 0.0
    is_visible: jax.Array | bool = True
    was_bracketed: jax.Array | bool = True
    value: jax.Array | float = 0.0
    walked: jax.Array | float = 0.0


class Acceptance(NamedTuple):
    """When is a trial good enough?

    Attributes:
      init: ``(num_groups, dtype) -> state``.
      observe: ``(state, value) -> state``: takes the loss of a step before its
        searches; only finite losses are shown.
      accept: ``(state, trial: Trial) -> bool[]``.
      update: ``(state, outcome: Outcome) -> state``.
      needs_slope: whether `accept` reads the slope at the trial, which takes a
        forward-mode derivative of the loss in every trial.
      needs_descent: whether only directions that descend are searched.
      is_mean: whether it is for the mean over batches to say how long a step is.
    """

    init: Callable[..., PolicyState]
    observe: Callable[..., PolicyState]
    accept: Callable[..., jax.Array]
    update: Callable[..., PolicyState]
    needs_slope: bool = False
    needs_descent: bool = True
    is_mean: bool = False


class Start(NamedTuple):
    """At which step size does a search begin, and what moves without one?

    Attributes:
      init: ``(num_groups, dtype) -> state``.
      first: ``(state, opening: Opening) -> f[G]``: where searches begin.
      rest: ``(state, opening: Opening) -> (f[G], f[G])``: by what a group that is not
        searched moves, and what it keeps as its step size.
      update: ``(state, outcome: Outcome) -> state``, after every step on a batch that
        is finite.
      brackets_first: whether the very first search brackets, wherever `first` says.
      bracketed_part: of a step size that bracketing found, how much is taken.
      is_mean: whether the mean over batches says, rather than each batch by itself.
    """

    init: Callable[..., PolicyState]
    first: Callable[..., jax.Array]
    rest: Callable[..., tuple[jax.Array, jax.Array]]
    update: Callable[..., PolicyState]
    brackets_first: bool = True
    bracketed_part: float = 1.0
    is_mean: bool = False


class Shrink(NamedTuple):
    """By what is a refused trial shrunk?

    Attributes:
      factor: ``(ratio, c, decrease_factor) -> f[]`` in (0, 1), from the ratio of the
        actual to the predicted decrease; -inf for a trial that is not finite.
    """

    factor: Callable[..., jax.Array]


class Selection(NamedTuple):
    """Which groups are searched at a step?

    Attributes:
      init: ``(num_groups, dtype) -> state``.
      choose: ``(state, eligible: bool[G]) -> (bool[G], state)``: which of the
        eligible groups are searched, each by itself.
      update: ``(state, outcome: Outcome) -> state``.
      is_joint: whether instead all groups are always searched by a common factor.
    """

    init: Callable[..., PolicyState]
    choose: Callable[..., tuple[jax.Array, PolicyState]]
    update: Callable[..., PolicyState]
    is_joint: bool = False


class Frequency(NamedTuple):
    """When is a group due for a search?

    Attributes:
      init: ``(num_groups, dtype) -> state``.
      due: ``(state, num_steps: i32[]) -> bool[G]``, at the step after `num_steps`.
      update: ``(state, outcome: Outcome) -> state``, after every step on a batch that
        is finite.
    """

    init: Callable[..., PolicyState]
    due: Callable[..., jax.Array]
    update: Callable[..., PolicyState]


class Merging(NamedTuple):
    """Which groups are searched as one?

    Attributes:
      init: ``(num_groups) -> i32[G]``: the group under whose number each is searched,
        the lowest of those merged; the state itself.
      update: ``(merged: i32[G], step_size: f[G]) -> (i32[G], f[G])``.
    """

    init: Callable[..., jax.Array]
    update: Callable[..., tuple[jax.Array, jax.Array]]


class PolicyStates(NamedTuple):
    """The states of a search's policies."""

    acceptance: PolicyState
    start: PolicyState
    selection: PolicyState
    frequency: PolicyState
    merged: jax.Array  # i32[G]


def no_state(*_: Any) -> PolicyState:
    """The `init` of a policy that remembers nothing."""
    return ()


def unchanged(state: PolicyState, *_: Any) -> PolicyState:
    """The `update` of a policy that remembers nothing."""
    return state


_Policy = TypeVar("_Policy")


def resolve(
    argument: str,
    given: str | _Policy,
    kind: type[_Policy],
    named: Mapping[str, Callable[[], _Policy]],
) -> _Policy:
    """Returns the policy given, or the one with that name and its defaults.

    Raises:
      ValueError: neither a policy of this `kind` nor one of the names.
    """
    if isinstance(given, kind):
        return given
    if isinstance(given, str) and given in named:
        return named[given]()
    names = ", ".join(map(repr, named))
    raise ValueError(
        f"{argument} must be one of {names}, or a {kind.__name__} from "
        f"optax_armijo.policies; got {given!r}"
    )
