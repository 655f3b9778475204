"""`scale_by_armijo`: the search along any direction, and all of its options."""

import optax

from optax_armijo._assembly import search_along_updates
from optax_armijo._choices import choose_policies
from optax_armijo._options import Options
from optax_armijo._policies import (
    Acceptance,
    Frequency,
    Merging,
    Selection,
    Shrink,
    Start,
)
from optax_armijo._types import Net, ParamLabels, Scalar, ScalarOrSchedule


def scale_by_armijo(
    param_labels: ParamLabels = None,
    *,
    c: Scalar = 0.5,
    decrease_factor: Scalar = 0.8,
    increase_factor: Scalar = 1.05,
    init_step_size: Scalar = 1e-3,
    min_step_size: Scalar = 1e-10,
    max_step_size: ScalarOrSchedule = 10.0,
    max_trials: Scalar = 10,
    num_joint_steps: Scalar = 6,
    net: Net = "no_rise",
    rounding_ulps: Scalar = 4.0,
    relative_floor: Scalar = 0.01,
    lower_bound: Scalar | None = 0.0,
    acceptance: str | Acceptance = "armijo",
    start: str | Start = "grow",
    shrink: str | Shrink = "constant",
    search: str | Selection = "cycle",
    frequency: str | Frequency = "every",
    merging: str | Merging = "separate",
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
      increase_factor: by what a search begins above the last step size, at least 1.
      init_step_size: where the very first search starts, in [`min_step_size`,
        `max_step_size`]. It hardly matters: see the notes on bracketing.
      min_step_size: lower bound of every stored step size, above 0.
      max_step_size: upper bound of every trial, at least `min_step_size`; a number, or
        an ``optax.Schedule``, a function from the steps made to one.
      max_trials: loss evaluations that a search may make, exactly, and so the net; at
        least 1.
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
      acceptance: when a trial is good enough. ``"armijo"``: the test above;
        ``"smoothed"``: with both sides averaged; ``"zhang_hager"`` and
        ``"window_max"``: against an average or the largest of the last losses;
        ``"approximate"``: by the slope at the trial where losses drown in rounding;
        ``"measure"``: nearly always, for starts that average.
        Here as for all policies, a string takes a policy with its defaults;
        `optax_armijo.policies` has the functions that make them with others.
      start: where a search begins. ``"grow"``: `increase_factor` above the last step
        size; ``"keep"``: at it; ``"reset"``: at `init_step_size`; ``"polyak"``: at
        Polyak's step size; ``"quadratic"``: at the best point of the last search's
        quadratic; ``"expected"``: nearer to that of the average over batches.
      shrink: ``"constant"``: refused trials shrink by `decrease_factor`;
        ``"quadratic"``: to the best point of the quadratic that they fix.
      search: which groups are searched at a step. ``"cycle"``: one in turn (arXiv
        2403.18506); ``"joint"``: all, with a common factor; ``"each"``: every group
        by itself; ``"weighted"``: one, oftener those whose searches lowered the loss.
        Groups not searched move with the step size they have, from their first search
        on.
      frequency: when groups are searched. ``"every"``: at every step;
        ``"thinning"``: at each of the first ten, then ever more rarely;
        ``"adaptive"``: as often as step sizes change (arXiv 2407.20650). A step
        without a search evaluates no loss.
      merging: ``"separate"``: never; ``"combine"``: groups whose step sizes collapse
        are searched as one (arXiv 2403.18506).

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
    return search_along_updates(
        param_labels,
        Options(
            policies=choose_policies(
                acceptance=acceptance,
                start=start,
                shrink=shrink,
                search=search,
                frequency=frequency,
                merging=merging,
            ),
            c=c,
            decrease_factor=decrease_factor,
            increase_factor=increase_factor,
            init_step_size=init_step_size,
            min_step_size=min_step_size,
            max_step_size=max_step_size,
            max_trials=max_trials,
            num_joint_steps=num_joint_steps,
            net=net,
            rounding_ulps=rounding_ulps,
            relative_floor=relative_floor,
            lower_bound=lower_bound,
        ),
    )
