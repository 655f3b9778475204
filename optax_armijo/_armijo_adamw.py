"""`armijo_adamw`: the same with decoupled weight decay."""

from collections.abc import Callable
from typing import Any

import optax

from optax_armijo._adam import adam
from optax_armijo._assembly import search_along
from optax_armijo._choices import choose_policies
from optax_armijo._defaults import fill_in
from optax_armijo._options import Options
from optax_armijo._policies import (
    Acceptance,
    Frequency,
    Merging,
    Selection,
    Shrink,
    Start,
)
from optax_armijo._types import Momentum, Net, ParamLabels, Scalar, ScalarOrSchedule


def armijo_adamw(
    param_labels: ParamLabels = None,
    *,
    weight_decay: Scalar = 1e-4,
    mask: Any | Callable[[Any], Any] | None = None,
    decay_in_trial: bool = False,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    momentum: Momentum | None = None,
    c: Scalar | None = None,
    decrease_factor: Scalar = 0.8,
    increase_factor: Scalar = 1.05,
    init_step_size: Scalar = 1e-3,
    min_step_size: Scalar = 1e-10,
    max_step_size: ScalarOrSchedule = 10.0,
    max_trials: Scalar = 10,
    num_joint_steps: Scalar = 6,
    net: Net | None = None,
    rounding_ulps: Scalar = 4.0,
    relative_floor: Scalar = 0.01,
    lower_bound: Scalar | None = 0.0,
    acceptance: str | Acceptance | None = None,
    start: str | Start | None = None,
    shrink: str | Shrink = "constant",
    search: str | Selection | None = None,
    frequency: str | Frequency | None = None,
    merging: str | Merging = "separate",
) -> optax.GradientTransformationExtraArgs:
    r"""`armijo_adam` with decoupled weight decay.

    To the updates of `armijo_adam` is added

    .. math:: -\min(\kappa \eta_l \lambda, 1)\, w_l

    with :math:`\lambda` the weight decay and :math:`\kappa \eta_l` the step size that
    group :math:`l` moved by, as AdamW decays by learning rate times :math:`\lambda`.
    The decay stands beside the search: no trial sees it, for the loss that is tested
    does not hold it, and a group that does not move does not decay.

    With `decay_in_trial` trials see it (released code of arXiv 2407.20650): they depart
    from where the weights are after a decay by the step sizes of the step before,
    :math:`(1 - \min(\eta_l \lambda, 1))\, w_l`, and must make up for what that costs
    in loss. What is applied is then what was tested.

    Args:
      param_labels: how the leaves are grouped; None groups `by_layer`.
      weight_decay: :math:`\lambda`, at least 0.
      mask: a pytree of bools that is a prefix of params' tree, or a function from
        params to one, as in ``optax.adamw``: where False there is no decay.
      decay_in_trial: whether trials see the decay.
      b1: see `armijo_adam`, as for all that follow.
      b2: in [0, 1).
      eps: above 0.
      momentum: ``"held_out"``, ``"none"``, ``"kept"``, ``"searched"`` or
        ``"unsearched"``; what None stands for, here and below, says `armijo_adam`.
      c: in (0, 1), or None.
      decrease_factor: in (0, 1).
      increase_factor: at least 1.
      init_step_size: in [`min_step_size`, `max_step_size`].
      min_step_size: above 0.
      max_step_size: at least `min_step_size`; may be an ``optax.Schedule``.
      max_trials: at least 1.
      num_joint_steps: at least 0.
      net: ``"no_rise"``, ``"average"``, ``"off"``, or None.
      rounding_ulps: at least 0.
      relative_floor: in [0, 1).
      lower_bound: a number below the loss, or None.
      acceptance: ``"armijo"``, ``"smoothed"``, ``"zhang_hager"``, ``"window_max"``,
        ``"approximate"``, ``"measure"``, an `Acceptance` from
        `optax_armijo.policies`, or None.
      start: ``"grow"``, ``"keep"``, ``"reset"``, ``"polyak"``, ``"quadratic"``,
        ``"expected"``, a `Start`, or None.
      shrink: ``"constant"``, ``"quadratic"``, or a `Shrink`.
      search: ``"cycle"``, ``"joint"``, ``"each"``, ``"weighted"``, a `Selection`, or
        None.
      frequency: ``"every"``, ``"thinning"``, ``"adaptive"``, a `Frequency`, or None.
      merging: ``"separate"``, ``"combine"``, or a `Merging`.

    Returns:
      A transformation with the same ``update`` and state as `armijo_adam`.

    Raises:
      ValueError: as `armijo_adam`; when traced, a mask that does not fit params.
      TypeError: as `armijo_adam`.

    Example:
      >>> import jax.numpy as jnp, optax_armijo
      >>> tx = optax_armijo.armijo_adamw(weight_decay=0.1, mask={"w": True, "b": False})
      >>> params = {"w": jnp.array(2.0), "b": jnp.array(2.0)}
      >>> f = lambda p: (p["w"] + p["b"]) ** 2
      >>> grads = {"w": jnp.array(8.0), "b": jnp.array(8.0)}
      >>> updates, _ = tx.update(
      ...     grads, tx.init(params), params, value=f(params), grad=grads, value_fn=f)
      >>> bool(updates["w"] < updates["b"] < 0)
      True

    References:
      I. Loshchilov and F. Hutter, *Decoupled Weight Decay Regularization*, 2017,
      `arXiv 1711.05101 <https://arxiv.org/abs/1711.05101>`_.
    """
    chosen = fill_in(
        momentum=momentum,
        c=c,
        net=net,
        acceptance=acceptance,
        start=start,
        search=search,
        frequency=frequency,
    )
    return search_along(
        adam(b1=b1, b2=b2, eps=eps, momentum=chosen["momentum"]),
        param_labels,
        Options(
            policies=choose_policies(
                acceptance=chosen["acceptance"],
                start=chosen["start"],
                shrink=shrink,
                search=chosen["search"],
                frequency=chosen["frequency"],
                merging=merging,
            ),
            c=chosen["c"],
            decrease_factor=decrease_factor,
            increase_factor=increase_factor,
            init_step_size=init_step_size,
            min_step_size=min_step_size,
            max_step_size=max_step_size,
            max_trials=max_trials,
            num_joint_steps=num_joint_steps,
            net=chosen["net"],
            rounding_ulps=rounding_ulps,
            relative_floor=relative_floor,
            lower_bound=lower_bound,
            weight_decay=weight_decay,
            decay_mask=mask,
            decay_in_trial=decay_in_trial,
        ),
    )
