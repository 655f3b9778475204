"""The state of a line search, and the names of its groups in it."""

from typing import NamedTuple

import jax
import numpy as np

from optax_armijo._types import Label


class LastStep(NamedTuple):
    """Facts about the last step, by group (G of them) unless said otherwise.

    Attributes:
      applied_step_size: the step size that params moved by, 0 if unmoved.  # f[G]
      searched: whether the group was searched.  # bool[G]
      accepted: whether its search accepted a trial.  # bool[G]
      num_trials: loss evaluations of the searches that moved it.  # i32[G]
      predicted_decrease: step size times slope, of the accepted trial.  # f[G]
      actual_decrease: of the accepted trial.  # f[G]
      net_factor: by what the net shrank the whole step; 1 untouched.  # f[]
      num_evaluations: loss evaluations of all searches and the net.  # i32[]
    """

    applied_step_size: jax.Array
    searched: jax.Array
    accepted: jax.Array
    num_trials: jax.Array
    predicted_decrease: jax.Array
    actual_decrease: jax.Array
    net_factor: jax.Array
    num_evaluations: jax.Array


class ArmijoState(NamedTuple):
    """State of `scale_by_armijo`: a plain pytree, O(groups) numbers in all.

    Attributes:
      label_codes: the groups' labels, UTF-8 padded with zeros; constant.  # u8[G, W]
      num_steps: steps made.  # i32[]
      loss_average: running average of the losses at params, +inf before.  # f[]
      step_size: what each group will step by.  # f[G]
      bracketed: whether that is known to be of the right size.  # bool[G]
      total_trials: loss evaluations so far, by group.  # i32[G]
      total_evaluations: loss evaluations so far.  # i32[]
      last: facts about the last step.
    """

    label_codes: jax.Array
    num_steps: jax.Array
    loss_average: jax.Array
    step_size: jax.Array
    bracketed: jax.Array
    total_trials: jax.Array
    total_evaluations: jax.Array
    last: LastStep


def encode_labels(labels: tuple[Label, ...]) -> np.ndarray:
    """Writes labels as bytes, so that the state that names them is arrays alone."""
    names = [str(label).encode() for label in labels]
    width = max(map(len, names))
    padded = b"".join(name.ljust(width, b"\0") for name in names)
    return np.frombuffer(padded, np.uint8).reshape(len(names), width)


def decode_labels(codes: np.ndarray) -> tuple[str, ...]:
    """Reads what `encode_labels` wrote."""
    return tuple(bytes(row).rstrip(b"\0").decode() for row in np.asarray(codes))
