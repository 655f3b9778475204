"""What the presets of published methods have in common."""

import optax

from optax_armijo._checks import check_range
from optax_armijo._types import ParamLabels, Scalar
from optax_armijo.presets.assembly import search_along
from optax_armijo.presets.choices import Policies
from optax_armijo.presets.directions import Direction
from optax_armijo.presets.options import Options


def published(
    direction: Direction,
    param_labels: ParamLabels,
    policies: Policies,
    *,
    c: Scalar,
    decrease_factor: Scalar,
    increase_factor: Scalar,
    init_step_size: Scalar,
    max_trials: Scalar,
    max_step_size: Scalar = 1e6,
    num_joint_steps: Scalar = 0,
    earlier_groups_moved: bool = False,
    weight_decay: Scalar | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns a search without this library's own safeguards on what it accepts.

    No net, no tolerance for rounding, no floor under step sizes, weight decay before
    the trials. What never costs a published trajectory stays: a bad batch or a search
    that finds nothing moves no param, and after the latter the next search brackets.
    """
    options = Options(
        policies=policies,
        c=c,
        decrease_factor=decrease_factor,
        increase_factor=increase_factor,
        init_step_size=init_step_size,
        min_step_size=1e-30,
        max_step_size=max_step_size,
        max_trials=max_trials,
        num_joint_steps=num_joint_steps,
        net="off",
        rounding_ulps=0.0,
        relative_floor=0.0,
        lower_bound=0.0,
        earlier_groups_moved=earlier_groups_moved,
        weight_decay=weight_decay,
        decay_in_trial=True,
    )
    return search_along(direction, param_labels, options)


def growth_per_step(growth_per_epoch: Scalar, n_batches_per_epoch: Scalar) -> Scalar:
    r"""Returns :math:`\gamma^{1/n}`: how much a step size grows in a step."""
    check_range("n_batches_per_epoch", n_batches_per_epoch, above=0)
    check_range("growth_per_epoch", growth_per_epoch, at_least=1)
    return growth_per_epoch ** (1 / n_batches_per_epoch)
