"""What a published method is made of: a direction, five policies and its numbers.

Each policy is a named tuple of pure functions, like ``optax.GradientTransformation``:
`init` returns a state, a pytree of arrays (``()`` when there is none); the other
functions take that state first. `update` takes in what the searches of a step brought,
after every step on a batch that is finite.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo._checks import check_range
from optax_armijo._types import Scalar
from optax_armijo.presets.directions import Direction

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
    """

    value: jax.Array
    trial_value: jax.Array
    step_size: jax.Array
    slopes: jax.Array
    c: jax.Array


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
      actual_decrease: of the loss, by all that moved with it.  # f[G]
      share: the group's part in the predicted decrease.  # f[G]
    """

    searched: jax.Array
    accepted: jax.Array
    step_size: jax.Array
    slopes: jax.Array
    num_trials: jax.Array
    actual_decrease: jax.Array
    share: jax.Array


class Acceptance(NamedTuple):
    """When is a trial good enough?

    Attributes:
      init: ``(num_groups, dtype) -> state``.
      observe: ``(state, value) -> state``: takes the loss of a step before its
        searches; only finite losses are shown.
      accept: ``(state, trial: Trial) -> bool[]``.
      update: ``(state, outcome: Outcome) -> state``.
      needs_descent: whether only directions that descend are searched.
    """

    init: Callable[..., PolicyState]
    observe: Callable[..., PolicyState]
    accept: Callable[..., jax.Array]
    update: Callable[..., PolicyState]
    needs_descent: bool = True


class Start(NamedTuple):
    """At which step size does a search begin, and what moves without one?

    Attributes:
      init: ``(num_groups, dtype) -> state``.
      first: ``(state, opening: Opening) -> f[G]``: where searches begin.
      rest: ``(opening: Opening) -> (f[G], f[G])``: by what a group that is not searched
        moves, and what it keeps as its step size.
      update: ``(state, outcome: Outcome) -> state``.
    """

    init: Callable[..., PolicyState]
    first: Callable[..., jax.Array]
    rest: Callable[..., tuple[jax.Array, jax.Array]]
    update: Callable[..., PolicyState]


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
    """At which steps are groups due for a search?

    In a step in which none is, groups move by the step sizes that they have, and the
    loss is not evaluated. A group that was never searched, or whose last search failed,
    is due whatever `due` says.

    Attributes:
      init: ``(num_groups, dtype) -> state``.
      due: ``(state, num_steps: i32[]) -> bool[]``, at the step after `num_steps`.
      update: ``(state, outcome: Outcome) -> state``.
    """

    init: Callable[..., PolicyState]
    due: Callable[..., jax.Array]
    update: Callable[..., PolicyState]


Merging = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""``(merged: i32[G], step_size: f[G]) -> (i32[G], f[G])``: which groups are one?

``merged`` is the group under whose number each is searched, the lowest of those merged.
"""


class PolicyStates(NamedTuple):
    """What the policies of a method remember from step to step."""

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


class Method(NamedTuple):
    """A published method.

    Attributes:
      direction: where to search and where to go.
      earlier_groups_moved: whether trials of a group alone depart from where the groups
        before it in order have made this step's move, as in the released code of arXiv
        2403.18506.
      weight_decay: decoupled, before the trials are made, which see it; None for none.
    """

    direction: Direction
    acceptance: Acceptance
    start: Start
    selection: Selection
    frequency: Frequency
    merging: Merging
    c: Scalar
    decrease_factor: Scalar
    increase_factor: Scalar
    init_step_size: Scalar
    max_trials: Scalar
    num_joint_steps: Scalar
    earlier_groups_moved: bool
    weight_decay: Scalar | None


MIN_STEP_SIZE = 1e-30
MAX_STEP_SIZE = 1e6
"""Step sizes stay within these, so that they can always come back."""


def check_method(method: Method) -> None:
    """Raises ValueError for a number outside its range."""
    check_range("c", method.c, above=0, below=1)
    check_range("decrease_factor", method.decrease_factor, above=0, below=1)
    check_range("increase_factor", method.increase_factor, at_least=1)
    check_range(
        "init_step_size",
        method.init_step_size,
        at_least=MIN_STEP_SIZE,
        at_most=MAX_STEP_SIZE,
    )
    check_range("max_trials", method.max_trials, at_least=1)
    check_range("num_joint_steps", method.num_joint_steps, at_least=0)
    if method.weight_decay is not None:
        check_range("weight_decay", method.weight_decay, at_least=0)


class Settings(NamedTuple):
    """The numbers that a step goes by, as arrays of shape []."""

    c: jax.Array
    decrease_factor: jax.Array
    increase_factor: jax.Array
    init_step_size: jax.Array
    max_trials: jax.Array
    num_joint_steps: jax.Array


def settings_of(method: Method, dtype: Any) -> Settings:
    """Returns a method's numbers as arrays, the real ones of this dtype."""
    return Settings(
        c=jnp.asarray(method.c, dtype),
        decrease_factor=jnp.asarray(method.decrease_factor, dtype),
        increase_factor=jnp.asarray(method.increase_factor, dtype),
        init_step_size=jnp.asarray(method.init_step_size, dtype),
        max_trials=jnp.asarray(method.max_trials, jnp.int32),
        num_joint_steps=jnp.asarray(method.num_joint_steps, jnp.int32),
    )
