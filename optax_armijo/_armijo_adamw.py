"""`armijo_adamw`: the same with decoupled weight decay."""

from collections.abc import Callable
from typing import Any

import optax

from optax_armijo._armijo_adam import armijo_adam
from optax_armijo._checks import check_range
from optax_armijo._diagnostics import armijo_info
from optax_armijo._grouping import group_leaves
from optax_armijo._types import Momentum, Net, ParamLabels, Scalar, Search
from optax_armijo._weight_decay import decay_weights


def armijo_adamw(
    param_labels: ParamLabels = None,
    *,
    weight_decay: Scalar = 1e-4,
    mask: Any | Callable[[Any], Any] | None = None,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    momentum: Momentum = "none",
    c: Scalar = 0.5,
    decrease_factor: Scalar = 0.8,
    increase_factor: Scalar = 1.05,
    init_step_size: Scalar = 1e-3,
    min_step_size: Scalar = 1e-10,
    max_step_size: Scalar = 10.0,
    max_trials: Scalar = 10,
    search: Search = "cycle",
    num_joint_steps: Scalar = 6,
    net: Net = "no_rise",
    rounding_ulps: Scalar = 4.0,
    relative_floor: Scalar = 0.01,
    lower_bound: Scalar | None = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""`armijo_adam` with decoupled weight decay.

    To the updates of `armijo_adam` is added

    .. math:: -\min(\kappa \eta_l \lambda, 1)\, w_l

    with :math:`\lambda` the weight decay and :math:`\kappa \eta_l` the step size that
    group :math:`l` moved by, as AdamW decays by learning rate times :math:`\lambda`.
    The decay stands beside the search: no trial sees it, for the loss that is tested
    does not hold it, and a group that does not move does not decay.

    Args:
      param_labels: how the leaves are grouped; None groups `by_layer`.
      weight_decay: :math:`\lambda`, at least 0.
      mask: a pytree of bools that is a prefix of params' tree, or a function from
        params to one, as in ``optax.adamw``: where False there is no decay.
      b1: see `armijo_adam`, as for all that follow.
      b2: in [0, 1).
      eps: above 0.
      momentum: ``"none"``, ``"kept"`` or ``"searched"``.
      c: in (0, 1).
      decrease_factor: in (0, 1).
      increase_factor: at least 1.
      init_step_size: in [`min_step_size`, `max_step_size`].
      min_step_size: above 0.
      max_step_size: at least `min_step_size`.
      max_trials: at least 1.
      search: ``"cycle"``, ``"joint"`` or ``"each"``.
      num_joint_steps: at least 0.
      net: ``"no_rise"``, ``"average"`` or ``"off"``.
      rounding_ulps: at least 0.
      relative_floor: in [0, 1).
      lower_bound: a number below the loss, or None.

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
      ...     grads, tx.init(params), params, value=f(params), value_fn=f)
      >>> bool(updates["w"] < updates["b"] < 0)
      True

    References:
      I. Loshchilov and F. Hutter, *Decoupled Weight Decay Regularization*, 2017,
      `arXiv 1711.05101 <https://arxiv.org/abs/1711.05101>`_.
    """
    check_range("weight_decay", weight_decay, at_least=0)
    adam = armijo_adam(
        param_labels,
        b1=b1,
        b2=b2,
        eps=eps,
        momentum=momentum,
        c=c,
        decrease_factor=decrease_factor,
        increase_factor=increase_factor,
        init_step_size=init_step_size,
        min_step_size=min_step_size,
        max_step_size=max_step_size,
        max_trials=max_trials,
        search=search,
        num_joint_steps=num_joint_steps,
        net=net,
        rounding_ulps=rounding_ulps,
        relative_floor=relative_floor,
        lower_bound=lower_bound,
    )

    def update_fn(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, Any]:
        updates, state = adam.update(updates, state, params, **extra_args)
        applied_step_size = armijo_info(state).applied_step_size
        grouping = group_leaves(param_labels, params)
        updates = decay_weights(
            updates, params, grouping, applied_step_size, weight_decay, mask
        )
        return updates, state

    return optax.GradientTransformationExtraArgs(adam.init, update_fn)
