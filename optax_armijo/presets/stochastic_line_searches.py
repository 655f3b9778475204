"""`sls`, `amsgrad_sls` and `ponos`: line searches for over-parametrized models."""

from typing import Literal

import optax

from optax_armijo._checks import check_choice
from optax_armijo._types import ParamLabels, Scalar
from optax_armijo.labels.functions import one_group
from optax_armijo.presets.acceptance import zhang_hager
from optax_armijo.presets.directions import adam, steepest_descent
from optax_armijo.presets.published import growth_per_step, published
from optax_armijo.presets.start import grow, keep, polyak, reset


def sls(
    param_labels: ParamLabels = one_group,
    *,
    c: Scalar = 0.1,
    decrease_factor: Scalar = 0.9,
    growth_per_epoch: Scalar = 2.0,
    n_batches_per_epoch: Scalar = 500,
    init_step_size: Scalar = 1.0,
    max_trials: Scalar = 100,
    start: Literal["grow", "keep", "reset"] = "grow",
) -> optax.GradientTransformationExtraArgs:
    r"""SLS: stochastic gradient descent with Armijo's test.

    .. math:: f(w - \eta g) \le f(w) - c\, \eta\, \|g\|^2, \qquad
      w \leftarrow w - \eta g

    Each search begins :math:`\gamma^{b/n}` above the last step size (the paper's
    ``opt = 2``), b/n the part of an epoch that a batch is. The released code takes a
    step of 1e-6 where 100 trials find nothing; here params stay and the next search
    brackets.

    Args:
      param_labels: as in `armijo_adam`; with several groups one common factor is
        searched, and leaves labelled `FROZEN` never move.
      c: in (0, 1).
      decrease_factor: in (0, 1).
      growth_per_epoch: :math:`\gamma`, at least 1.
      n_batches_per_epoch: n / b, above 0; only sets how fast step sizes grow.
      init_step_size: above 0.
      max_trials: loss evaluations a search may make, at least 1.
      start: where a search begins: ``"grow"`` as above, ``"keep"`` at the last step
        size (``opt = 0``), ``"reset"`` at `init_step_size` (``opt = 1``).

    Returns:
      A transformation with the same ``update`` as `armijo_adam`.

    Raises:
      ValueError: an argument outside its range.

    Example:
      >>> import jax.numpy as jnp, optax_armijo
      >>> f = lambda w: jnp.sum(w**2)
      >>> w = jnp.array([3.0, -4.0])
      >>> tx = optax_armijo.sls(start="reset")
      >>> updates, _ = tx.update(2 * w, tx.init(w), w, value=f(w), value_fn=f)
      >>> bool(jnp.allclose(updates, -2 * w * 0.9))  # 1.0 fails, 0.9 <= 1 - c passes
      True

    References:
      S. Vaswani et al., *Painless Stochastic Gradient: Interpolation, Line-Search, and
      Convergence Rates*, 2019, `arXiv 1905.09997 <https://arxiv.org/abs/1905.09997>`_,
      algorithms 1 and 2.
    """
    starts = {"grow": grow, "keep": keep, "reset": reset}
    check_choice("start", start, tuple(starts))
    return published(
        param_labels,
        steepest_descent(),
        start=starts[start](),
        c=c,
        decrease_factor=decrease_factor,
        increase_factor=growth_per_step(growth_per_epoch, n_batches_per_epoch),
        init_step_size=init_step_size,
        max_trials=max_trials,
    )


def amsgrad_sls(
    param_labels: ParamLabels = one_group,
    *,
    momentum: Literal["none", "kept"] = "none",
    c: Scalar = 0.1,
    decrease_factor: Scalar = 0.9,
    growth_per_epoch: Scalar = 2.0,
    n_batches_per_epoch: Scalar = 500,
    init_step_size: Scalar = 1.0,
    max_trials: Scalar = 100,
    b1: Scalar = 0.9,
    b2: Scalar = 0.99,
    eps: Scalar = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    r"""AMSGrad with Armijo's test in its own norm.

    .. math::
      &\hat v \leftarrow \max(\hat v, v), \qquad
      P = \frac{1}{\sqrt{\hat v / (1 - b_2^k)} + \epsilon} \\
      &f(w - \eta P g) \le f(w) - c\, \eta\, \langle g, P g \rangle

    The bias correction is the released code's (``adasls.py``); the paper has none, with
    which step sizes of the first steps are smaller by the same factor. Where 100 trials
    find nothing the code steps by 1e-6; here params stay and the next search brackets.

    Args:
      param_labels: as in `sls`.
      momentum: ``"none"``: the trial is what is kept, as in the paper's analysis;
        ``"kept"``: the step goes along :math:`-P m / (1 - b_1^k)`.
      c: in (0, 1).
      decrease_factor: in (0, 1).
      growth_per_epoch: at least 1.
      n_batches_per_epoch: above 0; only sets how fast step sizes grow.
      init_step_size: above 0.
      max_trials: loss evaluations a search may make, at least 1.
      b1: in [0, 1); unused while `momentum` is ``"none"``.
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
      >>> tx = optax_armijo.amsgrad_sls(n_batches_per_epoch=1)
      >>> updates, _ = tx.update(2 * w, tx.init(w), w, value=f(w), value_fn=f)
      >>> bool(jnp.allclose(updates, jnp.array([-2.0, 2.0])))
      True

    References:
      S. Vaswani et al., *Adaptive Gradient Methods Converge Faster with
      Over-Parameterization (but you should do a line-search)*, 2020, `arXiv 2006.06835
      <https://arxiv.org/abs/2006.06835>`_.
    """
    check_choice("momentum", momentum, ("none", "kept"))
    return published(
        param_labels,
        adam(b1=b1, b2=b2, eps=eps, momentum=momentum, amsgrad=True),
        c=c,
        decrease_factor=decrease_factor,
        increase_factor=growth_per_step(growth_per_epoch, n_batches_per_epoch),
        init_step_size=init_step_size,
        max_trials=max_trials,
    )


def ponos(
    param_labels: ParamLabels = one_group,
    *,
    direction: Literal["sgd", "adam"] = "sgd",
    c: Scalar = 0.5,
    c_p: Scalar = 0.1,
    decrease_factor: float = 0.5,
    lowest_loss: Scalar = 0.0,
    averaging: float = 1.0,
    remembers_backtracks: bool = True,
    min_start: float = 1e-6,
    max_start: float = 10.0,
    max_trials: Scalar = 100,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    r"""PoNoS: a non-monotone search from Polyak's step size.

    .. math::
      f_k(w + \eta d) \le \max(C_k, f_k(w)) - c\, \eta\, s, \qquad
      \eta_0 = \mathrm{clip}\left(\frac{f_k(w) - f^*}{c_p s}\, \delta^{n_k},
      \eta_{low}, \eta_{high}\right)

    with :math:`s = -\langle g, d \rangle`, and C Zhang and Hager's average of losses:
    :math:`C_k = (\xi Q_{k-1} C_{k-1} + f_k(w_k)) / Q_k`, :math:`Q_k = \xi Q_{k-1} + 1`.
    The memory of backtracks :math:`n_k = \max(n_{k-1} + b_{k-1} - 1, 0)`, with b those
    of a search, makes most first trials good. Along Adam's direction the trial has no
    momentum and the step that is kept has it. The released code stores :math:`f^*` and
    does not use it for SGD; its experiments with Adam take ``c=0.1``,
    ``decrease_factor=0.9`` and no memory. Where 100 trials find nothing it steps by
    1e-6; here params stay and the next search brackets.

    Args:
      param_labels: as in `sls`.
      direction: ``"sgd"`` or ``"adam"``.
      c: in (0, 1).
      c_p: of Polyak's step size, above 0.
      decrease_factor: :math:`\delta`, in (0, 1).
      lowest_loss: :math:`f^*`.
      averaging: :math:`\xi`, in [0, 1].
      remembers_backtracks: whether starts shrink by the memory of backtracks.
      min_start: above 0.
      max_start: at least `min_start`.
      max_trials: loss evaluations a search may make, at least 1.
      b1: in [0, 1); of Adam's direction, as the next two.
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
      >>> tx = optax_armijo.ponos()
      >>> updates, _ = tx.update(2 * w, tx.init(w), w, value=f(w), value_fn=f)
      >>> step_size = 25 / (0.1 * 100) * 0.5 ** 3  # 2.5 halved until below 1 - c
      >>> bool(jnp.allclose(updates, -2 * w * step_size))
      True

    References:
      L. Galli, H. Rauhut and M. Schmidt, *Don't be so Monotone: Relaxing Stochastic
      Line Search in Over-Parameterized Models*, 2023, `arXiv 2306.12747
      <https://arxiv.org/abs/2306.12747>`_.
    """
    check_choice("direction", direction, ("sgd", "adam"))
    along_adam = adam(b1=b1, b2=b2, eps=eps, momentum="kept")
    return published(
        param_labels,
        along_adam if direction == "adam" else steepest_descent(),
        acceptance=zhang_hager(averaging),
        start=polyak(
            lowest_loss,
            c_p=c_p,
            decrease_factor=decrease_factor if remembers_backtracks else None,
            min_start=min_start,
            max_start=max_start,
        ),
        c=c,
        decrease_factor=decrease_factor,
        increase_factor=1.0,
        init_step_size=min_start,
        max_trials=max_trials,
    )
