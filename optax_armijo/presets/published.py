"""From a published method to the gradient transformation that follows it."""

import functools
from typing import Any

import optax

from optax_armijo._checks import check_range
from optax_armijo._types import ParamLabels, Scalar
from optax_armijo.labels.grouping import Grouping
from optax_armijo.presets.acceptance import armijo
from optax_armijo.presets.directions import Direction, descent
from optax_armijo.presets.method import (
    Acceptance,
    Frequency,
    Merging,
    Method,
    Selection,
    Start,
    check_method,
)
from optax_armijo.presets.selection import every_step, joint, separate
from optax_armijo.presets.start import grow
from optax_armijo.presets.state import ArmijoState, init_state
from optax_armijo.presets.step import take_step
from optax_armijo.search.placement import build_beside
from optax_armijo.search.transformation import Batch, transformation


def published(
    param_labels: ParamLabels,
    direction: Direction,
    *,
    c: Scalar,
    decrease_factor: Scalar,
    increase_factor: Scalar,
    init_step_size: Scalar,
    max_trials: Scalar,
    num_joint_steps: Scalar = 0,
    acceptance: Acceptance | None = None,
    start: Start | None = None,
    selection: Selection | None = None,
    frequency: Frequency | None = None,
    merging: Merging | None = None,
    earlier_groups_moved: bool = False,
    weight_decay: Scalar | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns a method; what is not given is Armijo's test in one joint search a step.

    What never costs a published trajectory is the same in all of them: a bad batch or a
    search that finds nothing moves no param, and after the latter the next search
    brackets.

    Raises:
      ValueError: a number outside its range.
    """
    method = Method(
        direction=direction,
        acceptance=armijo() if acceptance is None else acceptance,
        start=grow() if start is None else start,
        selection=joint() if selection is None else selection,
        frequency=every_step() if frequency is None else frequency,
        merging=separate() if merging is None else merging,
        c=c,
        decrease_factor=decrease_factor,
        increase_factor=increase_factor,
        init_step_size=init_step_size,
        max_trials=max_trials,
        num_joint_steps=num_joint_steps,
        earlier_groups_moved=earlier_groups_moved,
        weight_decay=weight_decay,
    )
    return _transformation(param_labels, method)


def growth_per_step(growth_per_epoch: Scalar, n_batches_per_epoch: Scalar) -> Scalar:
    r"""Returns :math:`\gamma^{1/n}`: how much a step size grows in a step."""
    check_range("n_batches_per_epoch", n_batches_per_epoch, above=0)
    check_range("growth_per_epoch", growth_per_epoch, at_least=1)
    return growth_per_epoch ** (1 / n_batches_per_epoch)


def _transformation(
    param_labels: ParamLabels, method: Method
) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation that follows a method.

    On a batch whose loss or gradient is not finite, neither direction nor search learns
    or moves.
    """
    check_method(method)
    direction = method.direction

    def init(grouping: Grouping, params: Any) -> tuple[Any, ArmijoState]:
        search_state = build_beside(
            params, lambda: init_state(grouping, params, method)
        )
        return direction.init(grouping, params), search_state

    def step(
        grouping: Grouping, batch: Batch, state: tuple[Any, ArmijoState]
    ) -> tuple[Any, tuple[Any, ArmijoState]]:
        direction_state, search_state = state
        along = functools.partial(descent, grouping, batch.value, batch.grads)
        directions, direction_state = direction.update(
            grouping, direction_state, batch.updates, along
        )
        updates, search_state = take_step(
            grouping, method, batch, directions, search_state
        )
        return updates, (direction_state, search_state)

    return transformation(
        param_labels,
        init,
        step,
        kind=ArmijoState,
        search_state=lambda state: state[1],
        moments=lambda state: state[0][1:],
    )
