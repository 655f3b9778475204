"""`scale_by_armijo`: the public block, its documentation and its checks."""

from typing import Any

import optax

from optax_armijo import _line_search
from optax_armijo._checks import check_choice, check_order, check_range
from optax_armijo._grouping import Grouping, group_leaves
from optax_armijo._line_search import Batch, Options
from optax_armijo._state import ArmijoState
from optax_armijo._types import Net, ParamLabels, Scalar, Search, ValueFn
from optax_armijo._value_fn import bind_value_fn, check_loss


def scale_by_armijo(
    param_labels: ParamLabels = None,
    *,
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
    r"""Scales any descent direction by step sizes that an Armijo search finds.

    The incoming updates :math:`d` are a direction, to be *added* to params as always
    in optax: put this after ``optax.sgd(1.0)``, ``optax.lion(1.0)`` or
    ``optax.scale(-1.0)``. For each group :math:`l` that is searched, the step size
    :math:`\eta_l` is found for which

    .. math::
      f(w + \eta_l d_l) \le f(w) - c\,\eta_l\,s_l + \tau, \qquad
      s_l = -\langle \nabla f(w), d_l \rangle

    where :math:`d_l` is :math:`d` in the leaves of group :math:`l` and zero
    elsewhere, and :math:`\tau` the rounding of the loss, ``rounding_ulps * eps *
    |f(w)|``. Then all groups move, :math:`w \leftarrow w + \kappa \sum_l \eta_l d_l`
    with :math:`\kappa \le 1` from the net.

    A group whose slope :math:`s_l` is not positive has no direction of descent on
    this batch: it does not move in this step and costs no trial. A group whose search
    accepts nothing does not move in this step; its step size stays positive and its
    next search brackets anew. On a batch whose loss, gradient or direction is not
    finite nothing moves and nothing is searched.

    Args:
      param_labels: a pytree of labels that is a prefix of params' tree, or a function
        from params to one, as in ``optax.partition``; None groups `by_layer`. Leaves
        labelled `FROZEN` never move.
      c: sufficient-decrease constant, in (0, 1). Larger is more cautious.
      decrease_factor: by what a refused trial is shrunk, in (0, 1).
      increase_factor: by what a search starts above the last step size, at least 1.
      init_step_size: where the very first search starts, in [`min_step_size`,
        `max_step_size`]. It hardly matters: see the notes on bracketing.
      min_step_size: lower bound of every stored step size, above 0.
      max_step_size: upper bound of every trial, at least `min_step_size`.
      max_trials: loss evaluations that a search may make, exactly, and so the net; at
        least 1.
      search: which groups are searched at a step. ``"cycle"``: one in turn (arXiv
        2403.18506); ``"joint"``: all, with a common factor; ``"each"``: every group
        by itself. Groups not searched move with the step size they have, from their
        first search on.
      num_joint_steps: that many first steps are joint in any mode, at least 0.
      net: the test of the whole step, which is halved until it passes. ``"no_rise"``:
        the loss does not rise; ``"average"``: it does not rise above the larger of
        the loss and its running average (decay 0.9); ``"off"``.
      rounding_ulps: tolerance of every test, in units of the loss's own rounding
        error, at least 0.
      relative_floor: no step size falls below this part of the groups' median, in
        [0, 1).
      lower_bound: the loss cannot be below this; bounds the first search. None when
        it is not known.

    Returns:
      A transformation whose ``update(updates, state, params, *, value, grad,
      value_fn, **extra_args)`` needs ``value``, the loss at params; ``grad``, its
      gradient; and ``value_fn``, a function from params, and those of the extra
      arguments that it names, to the loss of the same batch. State: `ArmijoState`.

    Raises:
      ValueError: a hyper-parameter outside its range; when traced, missing ``value``,
        ``grad`` or ``value_fn``, a loss that is not a scalar, labels that do not fit.
      TypeError: when traced, a complex or integer leaf that is not `FROZEN`.

    Notes:
      A group that has never been searched, or whose last search failed, brackets:
      from far below the largest step that can pass, ``(f(w) - lower_bound) / (c s)``,
      its trials climb by a factor of 4 until one fails; see ``_backtracking.py``.
      From any start in 1e-8..1e3 that takes ten evaluations at the most.

    Example:
      >>> import jax, jax.numpy as jnp, optax, optax_armijo
      >>> f = lambda w: jnp.sum((w - 3.0) ** 2)
      >>> tx = optax.chain(optax.sgd(1.0), optax_armijo.scale_by_armijo())
      >>> w = jnp.zeros(2)
      >>> state = tx.init(w)
      >>> @jax.jit
      ... def step(w, state):
      ...   value, grad = jax.value_and_grad(f)(w)
      ...   updates, state = tx.update(
      ...       grad, state, w, value=value, grad=grad, value_fn=f)
      ...   return optax.apply_updates(w, updates), state
      >>> for _ in range(20):
      ...   w, state = step(w, state)
      >>> bool(f(w) < 1e-6)
      True

    References:
      P. Kenneweg et al., *Faster Convergence for Transformer Fine-tuning with Line
      Search Methods*, 2023, `arXiv 2403.18506 <https://arxiv.org/abs/2403.18506>`_.
    """
    options = Options(
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
    _check_options(options)

    def init_fn(params: Any) -> ArmijoState:
        return _line_search.init(group_leaves(param_labels, params), params, options)

    def update_fn(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        value: Any = None,
        grad: Any = None,
        value_fn: ValueFn | None = None,
        search_direction: Any = None,
        **extra_args: Any,
    ) -> tuple[Any, ArmijoState]:
        check_given(params=params, value=value, grad=grad, value_fn=value_fn)
        assert value_fn is not None
        grouping = group_leaves(param_labels, params)
        _check_groups(grouping, state)
        kept = grouping.trainable(updates)
        batch = Batch(
            params=params,
            value=check_loss("value", value),
            loss_fn=bind_value_fn(value_fn, extra_args),
            grads=grouping.trainable(grad),
            kept=kept,
            searched=(
                kept
                if search_direction is None
                else grouping.trainable(search_direction)
            ),
        )
        return _line_search.step(grouping, batch, state, options)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def check_given(**arguments: Any) -> None:
    """Raises ValueError for arguments of ``update`` that are missing."""
    missing = [name for name, argument in arguments.items() if argument is None]
    if missing:
        raise ValueError(
            f"the line search needs {', '.join(missing)}. Write: value, grads = "
            "jax.value_and_grad(loss_fn)(params); tx.update(grads, state, params, "
            "value=value, grad=grads, value_fn=loss_fn), with loss_fn a function "
            "from params to the scalar loss of the same batch."
        )


def _check_options(options: Options) -> None:
    check_range("c", options.c, above=0, below=1)
    check_range("decrease_factor", options.decrease_factor, above=0, below=1)
    check_range("increase_factor", options.increase_factor, at_least=1)
    check_range("min_step_size", options.min_step_size, above=0)
    check_range("max_step_size", options.max_step_size, above=0)
    check_range("init_step_size", options.init_step_size, above=0)
    low, start, high = "min_step_size", "init_step_size", "max_step_size"
    check_order(low, options.min_step_size, high, options.max_step_size)
    check_order(low, options.min_step_size, start, options.init_step_size)
    check_order(start, options.init_step_size, high, options.max_step_size)
    check_range("max_trials", options.max_trials, at_least=1)
    check_range("num_joint_steps", options.num_joint_steps, at_least=0)
    check_range("rounding_ulps", options.rounding_ulps, at_least=0)
    check_range("relative_floor", options.relative_floor, at_least=0, below=1)
    if options.lower_bound is not None:
        check_range("lower_bound", options.lower_bound)
    check_choice("search", options.search, ("cycle", "joint", "each"))
    check_choice("net", options.net, ("no_rise", "average", "off"))


def _check_groups(grouping: Grouping, state: ArmijoState) -> None:
    num_groups = state.step_size.shape[-1]
    if num_groups != grouping.num_groups:
        raise ValueError(
            f"param_labels gives {grouping.num_groups} groups, {grouping.labels}, but "
            f"the state was made for {num_groups}. Call init again, or use the "
            "labels that the state was made with."
        )
