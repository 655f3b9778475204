"""The state of a line search, and the names of its groups in it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_armijo._numerics import divide
from optax_armijo._types import Label
from optax_armijo.labels.paths import Path, paths_and_holes

FAST, SLOW = 0.5, 0.9  # decay rates of exponential moving averages
LONG, SHORT = 2.0, 8.0  # weights of a new logarithm, divided by k
LEAST_PREDICTED = 0.1  # least denominator of phi, in units of the average |p|


class LastStep(NamedTuple):
    """Facts about the last step, by group (G of them) unless said otherwise.

    Attributes:
      applied_step_size: the step size that params moved by, 0 if unmoved, negative if
        the step before was rolled back.  # f[G]
      searched: whether its step was tested.  # bool[G]
      accepted: whether that test passed.  # bool[G]
      num_trials: loss evaluations of that test.  # i32[G]
      predicted_decrease: applied step size times slope; 0 if unmoved.  # f[G]
      actual_decrease: its share of the accepted trial's decrease, else 0; always 0
        for the first step.  # f[G]
      step_factor: the factor by which the test shortened the step, else 1.  # f[]
      is_finite: whether the loss and the group's gradient were finite.  # bool[G]
      num_evaluations: evaluations of the loss, without that of the gradient.  # i32[]
      bad_leaf_code: the path of the first leaf whose gradient was not finite, as
        bytes; zeros if there was none.  # u8[P]
    """

    applied_step_size: jax.Array
    searched: jax.Array
    accepted: jax.Array
    num_trials: jax.Array
    predicted_decrease: jax.Array
    actual_decrease: jax.Array
    step_factor: jax.Array
    is_finite: jax.Array
    num_evaluations: jax.Array
    bad_leaf_code: jax.Array


class InputErrors(NamedTuple):
    """How far the inputs of ``update`` contradict each other, or the state.

    Those of value and slope are found before the first step, and again where no trial
    passed.

    Attributes:
      value: as in `ArmijoInfo.value_error`.  # f[]
      slope: as in `ArmijoInfo.slope_error`.  # f[]
      labels: as in `ArmijoInfo.labels_error`.  # bool[]
    """

    value: jax.Array
    slope: jax.Array
    labels: jax.Array


class LossStatistics(NamedTuple):
    """Statistics of the losses so far, except for those of bad batches.

    Attributes:
      average: exponential moving average of the losses at params.  # f[]
      deviation: the same average of their distances from it.  # f[]
      long_log: average of their logarithms over about half of the run so far.  # f[]
      short_log: the same over an eighth; both are 0 after a loss that is not positive.
        # f[]
    """

    average: jax.Array
    deviation: jax.Array
    long_log: jax.Array
    short_log: jax.Array

    @property
    def power(self) -> jax.Array:
        """nu, if losses fall like k^-nu: an average of weight w / k lags by nu / w."""
        return (self.long_log - self.short_log) / (1 / LONG - 1 / SHORT)


class Move(NamedTuple):
    """The last step on a good mini-batch; bad ones keep it.

    Attributes:
      step_size: what the groups moved by, 0 if the step was rolled back.  # f[G]
      predicted: p, the predicted decrease on its own mini-batch, by the clipped
        gradient.  # f[G]
      multiple: tau, the factor of schedule and noise bound on the step sizes.  # f[]
    """

    step_size: jax.Array
    predicted: jax.Array
    multiple: jax.Array


class SignalStatistics(NamedTuple):
    """Averages over steps, of those that were measured unless said otherwise.

    S, p and C are in units of what steps promised at the time. p falls by orders of
    magnitude in a run, so otherwise the first measurements would dominate the averages.

    Attributes:
      unit: average of |p| over all steps, to be divided by `weight`.  # f[]
      weight: sum of the weights in that average; 1 after many steps.  # f[]
      number: number of measurements.  # i32[]
      signal: S, the slope along the step on the next mini-batch.  # f[]
      predicted: p, the slope along it on its own mini-batch.  # f[]
      curvature: C / tau, to be compared with p, over fewer steps.  # f[]
      recent_signal: S, over as few steps.  # f[]
      recently_predicted: p, over as few steps.  # f[]
      measured_at: k at the last measurement.  # i32[]
      early_fraction: the mean of phi over all steps from the end of the warm-up to
        step 50.  # f[]
    """

    unit: jax.Array
    weight: jax.Array
    number: jax.Array
    signal: jax.Array
    predicted: jax.Array
    curvature: jax.Array
    recent_signal: jax.Array
    recently_predicted: jax.Array
    measured_at: jax.Array
    early_fraction: jax.Array

    @property
    def average_promise(self) -> jax.Array:
        """The average of |p|, 1 until there is one.  # f[]"""
        return divide(self.unit, self.weight, 1)

    @property
    def raw_fraction(self) -> jax.Array:
        """phi as measured, between -1 and 1; 1 until something is known.  # f[]

        p may be small or negative where steps go uphill as often as downhill.
        """
        ratio = self.signal / jnp.maximum(self.predicted, LEAST_PREDICTED)
        return jnp.where(self.number > 0, jnp.clip(ratio, -1, 1), 1)

    @property
    def fraction(self) -> jax.Array:
        """The signal fraction phi, between 0 and 1.  # f[]"""
        return jnp.maximum(self.raw_fraction, 0)


class StepSizeErrors(NamedTuple):
    """Averages of z: first for all groups together, then for each one.

    Attributes:
      number: number of steps with a z.  # i32[]
      mean: average of z.  # f[1 + G]
      square: average of z^2, over more steps.  # f[1 + G]
    """

    number: jax.Array
    mean: jax.Array
    square: jax.Array


class ArmijoState(NamedTuple):
    """State of the line search: Adam's moments, and O(G) numbers besides.

    Attributes:
      label_codes: the groups' labels, UTF-8 padded with zeros; constant.  # u8[G, W]
      checksum: hash of the labels and of which leaf is in which group; constant.
        # u32[]
      num_updates: updates so far, bad batches included.  # i32[]
      adam: Adam's moments; the count k is the number of good batches.
        `scale_by_armijo` has no moments and keeps the last direction as ``mu``.
      gradient_size: exponential moving average of the norm of the gradient relative to
        its second moments, after clipping; 1 at first, and throughout for
        `scale_by_armijo`.  # f[]
      step_size: step size of each group, without the schedule; 0 before the first
        step.  # f[G]
      move: the last step on a good mini-batch.
      signal: what the next mini-batches said about steps.
      errors: errors of the step sizes.
      losses: statistics of the losses so far.
      tested_at: k at the last test on a step's own mini-batch; 0 after a step that
        was rolled back.  # i32[]
      num_halved: rolled-back steps that no leap has made up for.  # i32[]
      num_still: steps since params moved.  # i32[]
      input_errors: contradictions in the inputs of ``update``.
      total_trials: loss evaluations of tests so far, by group.  # i32[G]
      total_evaluations: loss evaluations so far, without the gradient's.  # i32[]
      last: facts about the last step.
    """

    label_codes: jax.Array
    checksum: jax.Array
    num_updates: jax.Array
    adam: optax.ScaleByAdamState
    gradient_size: jax.Array
    step_size: jax.Array
    move: Move
    signal: SignalStatistics
    errors: StepSizeErrors
    losses: LossStatistics
    tested_at: jax.Array
    num_halved: jax.Array
    num_still: jax.Array
    input_errors: InputErrors
    total_trials: jax.Array
    total_evaluations: jax.Array
    last: LastStep


class PublishedState(NamedTuple):
    """State of a published method beside Adam's moments: O(groups) numbers in all.

    `averages`, `backtracks`, `turn` and `changes` are ``()`` if a method has none.

    Attributes:
      label_codes: the groups' labels, UTF-8 padded with zeros; constant.  # u8[G, W]
      num_updates: updates so far, bad batches included.  # i32[]
      step_size: what each group will step by.  # f[G]
      bracketed: whether that is known to be of the right size.  # bool[G]
      bracket_limit: limit of bracketing; the largest number unless a search has failed
        since one found the right size.  # f[G]
      averages: averages of what the test of sufficient decrease compares.
      backtracks: backtracks that searches remember when they begin.  # i32[G]
      turn: which group is searched next.
      changes: how much step sizes change, and so how often they are searched.
      merged: the number under which each group is searched; merged ones share it.
        # i32[G]
      total_trials: loss evaluations so far, by group.  # i32[G]
      total_evaluations: loss evaluations so far.  # i32[]
      last: facts about the last step.
    """

    label_codes: jax.Array
    num_updates: jax.Array
    step_size: jax.Array
    bracketed: jax.Array
    bracket_limit: jax.Array
    averages: Any
    backtracks: Any
    turn: Any
    changes: Any
    merged: jax.Array
    total_trials: jax.Array
    total_evaluations: jax.Array
    last: LastStep


def no_step(num_groups: int, dtype: Any, leaf_names: Sequence[str]) -> LastStep:
    """Returns the facts before the first step, each as a separate array."""

    def zeros(dtype: Any) -> jax.Array:
        return jnp.zeros(num_groups, dtype)

    return LastStep(
        applied_step_size=zeros(dtype),
        searched=zeros(jnp.bool_),
        accepted=zeros(jnp.bool_),
        num_trials=zeros(jnp.int32),
        predicted_decrease=zeros(dtype),
        actual_decrease=zeros(dtype),
        step_factor=jnp.ones((), dtype),
        is_finite=jnp.ones(num_groups, jnp.bool_),
        num_evaluations=jnp.zeros((), jnp.int32),
        bad_leaf_code=jnp.zeros(encode_labels(leaf_names).shape[1:], jnp.uint8),
    )


def find_states(opt_state: Any, kind: type | tuple[type, ...]) -> list[Any]:
    """Returns the states of a kind in an optimizer's state, at any depth."""

    def is_state(node: Any) -> bool:
        return isinstance(node, kind)

    return list(filter(is_state, jax.tree.leaves(opt_state, is_leaf=is_state)))


def find_moments(opt_state: Any) -> list[Any]:
    """Returns one tree of moments per search in a state, without arrays if it has none.

    An ``optax.MaskedNode`` replaces each leaf that is `FROZEN`.
    """

    def is_published(node: Any) -> bool:
        is_pair = type(node) is tuple and len(node) == 2
        return is_pair and isinstance(node[1], PublishedState)

    def is_search(node: Any) -> bool:
        return isinstance(node, ArmijoState) or is_published(node)

    nodes = filter(is_search, jax.tree.leaves(opt_state, is_leaf=is_search))
    return [
        node.adam.mu if isinstance(node, ArmijoState) else _published_moments(node[0])
        for node in nodes
    ]


def _published_moments(state: Any) -> Any:
    has_adam = isinstance(state, optax.ScaleByAdamState | optax.ScaleByAmsgradState)
    return state.nu if has_adam else state


def frozen_paths(opt_state: Any) -> set[Path]:
    """Returns the paths of the leaves that no search in a state moves."""
    holes = [
        {path for path, leaf in paths_and_holes(moments).items() if leaf is None}
        for moments in find_moments(opt_state)
    ]
    return set.intersection(*holes) if holes else set()


def encode_labels(labels: Sequence[Label]) -> np.ndarray:
    """Encodes labels as bytes, so that the state consists of arrays alone."""
    names = [str(label).encode() for label in labels]
    width = max(map(len, names), default=0)
    padded = b"".join(name.ljust(width, b"\0") for name in names)
    return np.frombuffer(padded, np.uint8).reshape(len(names), width)


def decode_labels(codes: np.ndarray) -> tuple[str, ...]:
    """Decodes labels; a state may have them once per step or seed, as from a scan."""
    codes = np.asarray(codes)
    while codes.ndim > 2:
        codes = codes[0]
    return tuple(bytes(row).rstrip(b"\0").decode() for row in codes)
