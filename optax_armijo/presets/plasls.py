"""`adamsls` and `plasls`, of arXiv 2403.18506."""

from typing import Literal

import optax

from optax_armijo._checks import check_choice
from optax_armijo._types import ParamLabels, Scalar
from optax_armijo.labels.functions import one_group
from optax_armijo.presets.acceptance import armijo, smoothed
from optax_armijo.presets.directions import adam
from optax_armijo.presets.method import Acceptance
from optax_armijo.presets.published import growth_per_step, published
from optax_armijo.presets.selection import combine, cycle, separate, weighted
from optax_armijo.presets.start import grow


def adamsls(
    param_labels: ParamLabels = one_group,
    *,
    c: Scalar = 0.1,
    decrease_factor: Scalar = 0.9,
    growth_per_epoch: Scalar = 2.0,
    n_batches_per_epoch: Scalar = 500,
    init_step_size: Scalar = 0.1,
    max_trials: Scalar = 100,
    smoothing: float | None = None,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamSLS: one Armijo search a step along Adam's direction without momentum.

    .. math::
      &f(w - \eta P g) \le f(w) - c\, \eta\, \langle g, P g \rangle, \qquad
      P = \frac{1}{\sqrt{v / (1 - b_2^k)} + \epsilon} \\
      &w \leftarrow w - \eta P m / (1 - b_1^k)

    Each search begins :math:`\gamma^{1/n}` above the last step size and shrinks it by
    `decrease_factor`. The step is made along the momentum direction, with the step size
    found: it is not the point that was tested.

    It follows the released code step for step (``adam_sls.py``), as long as no search
    fails. Where one does, the code multiplies the step size by
    :math:`0.9^{100} \approx 3 \cdot 10^{-5}` and steps; here params stay and the next
    search brackets.

    Args:
      param_labels: as in `armijo_adam`; with several groups one common factor is
        searched, and leaves labelled `FROZEN` never move.
      c: in (0, 1); 0.1 in the paper's runs.
      decrease_factor: in (0, 1).
      growth_per_epoch: :math:`\gamma`, at least 1.
      n_batches_per_epoch: n, above 0; only sets how fast step sizes grow.
      init_step_size: where the first search begins, above 0; 1 in the code of arXiv
        2006.06835, from which it comes.
      max_trials: loss evaluations a search may make, at least 1.
      smoothing: decay of the averages of both sides of the test, in [0, 1), None for
        none; the released code's ``smooth`` is 0.999, with bias correction.
      b1: in [0, 1).
      b2: in [0, 1).
      eps: above 0.

    Returns:
      A transformation with the same ``update`` as `armijo_adam`.

    Raises:
      ValueError: an argument outside its range.

    Example:
      >>> import jax.numpy as jnp, optax_armijo
      >>> f = lambda w: jnp.sum(w**2)
      >>> w = jnp.array([3.0, -4.0])
      >>> tx = optax_armijo.adamsls(init_step_size=1.0)
      >>> updates, _ = tx.update(2 * w, tx.init(w), w, value=f(w), value_fn=f)
      >>> updates.round(3).tolist()  # accepts at once, at 1.0 * 2 ** (1 / 500)
      [-1.00100..., 1.00100...]

    References:
      P. Kenneweg et al., *Faster Convergence for Transformer Fine-tuning with Line
      Search Methods*, 2023, `arXiv 2403.18506 <https://arxiv.org/abs/2403.18506>`_,
      section 2.
    """
    return published(
        param_labels,
        adam(b1=b1, b2=b2, eps=eps, momentum="kept"),
        acceptance=_acceptance(smoothing),
        c=c,
        decrease_factor=decrease_factor,
        increase_factor=growth_per_step(growth_per_epoch, n_batches_per_epoch),
        init_step_size=init_step_size,
        max_trials=max_trials,
    )


def plasls(
    param_labels: ParamLabels = None,
    *,
    c: Scalar = 0.1,
    decrease_factor: Scalar = 0.9,
    growth_per_epoch: Scalar = 2.0,
    n_batches_per_epoch: Scalar = 500,
    init_step_size: Scalar = 0.1,
    max_trials: Scalar = 100,
    num_joint_steps: Scalar = 6,
    smoothing: float | None = None,
    search: Literal["cycle", "weighted"] = "cycle",
    merge_below: float | None = None,
    form: Literal["code", "paper"] = "code",
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    r"""PLASLS: `adamsls` with a step size for each group of leaves.

    After a few joint steps one group l is searched a step, in turn, and all move:

    .. math::
      &f(w' - \eta_l P_l g_l) \le f(w) - c\, \eta_l \langle g_l, P_l g_l \rangle \\
      &w \leftarrow w - \sum_k \eta_k P_k m_k / (1 - b_1^t)

    Every group's step size grows by :math:`\gamma^{1/n}` in every step, searched or
    not. In the paper's form :math:`w' = w`: the group is tested by itself. In the
    released code the groups before it in the order have already made this step's move
    when it is tested, while :math:`f(w)` is from before; with that, searches fail that
    should not, and step sizes collapse. Take ``form="code"`` to reproduce it and
    ``form="paper"`` for what the paper says.

    With ``form="code"`` it follows the released code step for step, as long as no
    search fails (see `adamsls`), with one repair: there the test of the joint steps
    takes the last group's slope alone; here it takes the sum over all, as the paper
    does. The code draws groups by ``impact_mag`` nowhere; ``search="weighted"`` is a
    rule that does what the paper says.

    Args:
      param_labels: as in `armijo_adam`; None groups `by_layer`. The order of turns is
        that of the labels, numbers by their size.
      c: in (0, 1); 0.1 in the paper's runs.
      decrease_factor: in (0, 1).
      growth_per_epoch: :math:`\gamma`, at least 1.
      n_batches_per_epoch: n, above 0; only sets how fast step sizes grow.
      init_step_size: above 0.
      max_trials: loss evaluations a search may make, at least 1.
      num_joint_steps: first steps that search one common factor, at least 0.
      smoothing: as in `adamsls`; each group has its own averages.
      search: ``"cycle"``: the next group in order; ``"weighted"``: oftener the groups
        whose searches lowered the loss.
      merge_below: merge the two groups with the smallest step sizes when one falls
        below this (the paper's ``combine``; its runs take 1e-12), None for never.
      form: ``"code"`` or ``"paper"``.
      b1: in [0, 1).
      b2: in [0, 1).
      eps: above 0.

    Returns:
      A transformation with the same ``update`` as `armijo_adam`.

    Raises:
      ValueError: an argument outside its range.

    Example:
      >>> import jax.numpy as jnp, optax_armijo
      >>> f = lambda p: p["a"] ** 2 + p["b"] ** 2
      >>> params = {"a": jnp.array(3.0), "b": jnp.array(-4.0)}
      >>> grads = {"a": jnp.array(6.0), "b": jnp.array(-8.0)}
      >>> tx = optax_armijo.plasls({"a": "a", "b": "b"}, num_joint_steps=0)
      >>> _, state = tx.update(
      ...     grads, tx.init(params), params, value=f(params), grad=grads, value_fn=f)
      >>> optax_armijo.armijo_info(state).searched.tolist()
      [True, False]

    References:
      P. Kenneweg et al., *Faster Convergence for Transformer Fine-tuning with Line
      Search Methods*, 2023, `arXiv 2403.18506 <https://arxiv.org/abs/2403.18506>`_,
      sections 3 and 4.
    """
    check_choice("form", form, ("code", "paper"))
    selections = {"cycle": cycle, "weighted": weighted}
    check_choice("search", search, tuple(selections))
    return published(
        param_labels,
        adam(b1=b1, b2=b2, eps=eps, momentum="kept"),
        acceptance=_acceptance(smoothing),
        start=grow(unsearched="grow"),
        selection=selections[search](),
        merging=separate() if merge_below is None else combine(merge_below),
        c=c,
        decrease_factor=decrease_factor,
        increase_factor=growth_per_step(growth_per_epoch, n_batches_per_epoch),
        init_step_size=init_step_size,
        max_trials=max_trials,
        num_joint_steps=num_joint_steps,
        earlier_groups_moved=form == "code",
    )


def _acceptance(smoothing: float | None) -> Acceptance:
    return armijo() if smoothing is None else smoothed(smoothing, debias=True)
