"""The published methods. `docs/methods.md` has their formulas and how they differ.

When a search finds nothing, its groups do not move, and the next search brackets. The
released codes go on from its last trial, or from a tiny step.
"""

from typing import Literal

import optax

from optax_armijo._checks import check_choice, check_range
from optax_armijo._types import ParamLabels, Scalar
from optax_armijo.labels.functions import one_group
from optax_armijo.published.directions import Adam
from optax_armijo.published.memory import Smoothing
from optax_armijo.published.step import Method, Polyak, published
from optax_armijo.search.refusals import names_unknown_options


@names_unknown_options
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

    Each search begins at :math:`\gamma^{1/n}` times the last step size and shrinks it
    by `decrease_factor` until the test passes. :doc:`Methods <../methods>` says how
    this and the other methods differ from the released codes.

    Args:
      param_labels: as in `armijo_adam`; with several groups the search finds one common
        factor, and leaves labelled `FROZEN` never move.
      c: the sufficient-decrease constant, in (0, 1).
      decrease_factor: in (0, 1).
      growth_per_epoch: :math:`\gamma`, at least 1.
      n_batches_per_epoch: n, above 0; only sets how fast step sizes grow.
      init_step_size: the step size before the first search, in [1e-30, 1e6].
      max_trials: largest number of loss evaluations per search, at least 1.
      start: where a search begins: ``"grow"`` as above, ``"keep"`` at the last step
        size, ``"reset"`` at `init_step_size` (the paper's options 2, 0 and 1).

    Returns:
      A transformation with the same ``update`` as `armijo_adam`.

    Raises:
      ValueError: an argument outside its range.

    Example:
      >>> import jax, jax.numpy as jnp, optax_armijo
      >>> f = lambda w: jnp.sum(w**2)
      >>> w = jnp.array([3.0, -4.0])
      >>> tx = optax_armijo.sls(start="reset")
      >>> update = jax.jit(tx.update, static_argnames="value_fn")
      >>> updates, _ = update(2 * w, tx.init(w), w, value=f(w), value_fn=f)
      >>> bool(jnp.allclose(updates, -2 * w * 0.9))  # 1.0 fails, 0.9 <= 1 - c passes
      True

    References:
      S. Vaswani et al., *Painless Stochastic Gradient: Interpolation, Line-Search, and
      Convergence Rates*, 2019, `arXiv 1905.09997 <https://arxiv.org/abs/1905.09997>`_,
      algorithms 1 and 2.
    """
    check_choice("start", start, ("grow", "keep", "reset"))
    method = Method(
        adam=None,
        c=c,
        decrease_factor=decrease_factor,
        increase_factor=_growth_per_step(growth_per_epoch, n_batches_per_epoch),
        init_step_size=init_step_size,
        max_trials=max_trials,
        start=start,
    )
    return published(param_labels, method)


@names_unknown_options
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

    Args:
      param_labels: as in `sls`, like all arguments that are not named here.
      momentum: ``"none"``: the step ends at the trial, as in the paper's analysis;
        ``"kept"``: the step goes along :math:`-P m / (1 - b_1^k)`.
      b1: in [0, 1); unused while `momentum` is ``"none"``.
      b2: in [0, 1).
      eps: above 0.

    Returns:
      A transformation with the same ``update`` as `armijo_adam`.

    Raises:
      ValueError: an argument outside its range.

    Example:
      >>> import jax, jax.numpy as jnp, optax_armijo
      >>> f = lambda w: jnp.sum(w**2)
      >>> w = jnp.array([3.0, -4.0])
      >>> tx = optax_armijo.amsgrad_sls(n_batches_per_epoch=1)
      >>> update = jax.jit(tx.update, static_argnames="value_fn")
      >>> updates, _ = update(2 * w, tx.init(w), w, value=f(w), value_fn=f)
      >>> bool(jnp.allclose(updates, jnp.array([-2.0, 2.0])))
      True

    References:
      S. Vaswani et al., *Adaptive Gradient Methods Converge Faster with
      Over-Parameterization (but you should do a line-search)*, 2020, `arXiv 2006.06835
      <https://arxiv.org/abs/2006.06835>`_.
    """
    check_choice("momentum", momentum, ("none", "kept"))
    method = Method(
        adam=Adam(b1, b2, eps, momentum, amsgrad=True),
        c=c,
        decrease_factor=decrease_factor,
        increase_factor=_growth_per_step(growth_per_epoch, n_batches_per_epoch),
        init_step_size=init_step_size,
        max_trials=max_trials,
    )
    return published(param_labels, method)


@names_unknown_options
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
    The memory of backtracks, :math:`n_k = \max(n_{k-1} + b_{k-1} - 1, 0)` with b the
    number of backtracks of a search, makes most first trials pass. With Adam's
    direction, trials have no momentum, but the step does; for it the authors' runs use
    ``c=0.1``, ``decrease_factor=0.9`` and no memory.

    Args:
      param_labels: as in `sls`.
      direction: ``"sgd"`` or ``"adam"``.
      c: in (0, 1).
      c_p: the constant of Polyak's step size, above 0.
      decrease_factor: :math:`\delta`, in (0, 1).
      lowest_loss: :math:`f^*`.
      averaging: :math:`\xi`, in [0, 1].
      remembers_backtracks: whether starts shrink by the memory of backtracks.
      min_start: :math:`\eta_{low}`, in [1e-30, 1e6].
      max_start: :math:`\eta_{high}`, at least `min_start`.
      max_trials: largest number of loss evaluations per search, at least 1.
      b1: in [0, 1); only for Adam's direction, like the next two.
      b2: in [0, 1).
      eps: above 0.

    Returns:
      A transformation with the same ``update`` as `armijo_adam`.

    Raises:
      ValueError: an argument outside its range.

    Example:
      >>> import jax, jax.numpy as jnp, optax_armijo
      >>> f = lambda w: jnp.sum(w**2)
      >>> w = jnp.array([3.0, -4.0])
      >>> tx = optax_armijo.ponos()
      >>> update = jax.jit(tx.update, static_argnames="value_fn")
      >>> updates, _ = update(2 * w, tx.init(w), w, value=f(w), value_fn=f)
      >>> step_size = 25 / (0.1 * 100) * 0.5 ** 3  # 2.5 halved until below 1 - c
      >>> bool(jnp.allclose(updates, -2 * w * step_size))
      True

    References:
      L. Galli, H. Rauhut and M. Schmidt, *Don't be so Monotone: Relaxing Stochastic
      Line Search in Over-Parameterized Models*, 2023, `arXiv 2306.12747
      <https://arxiv.org/abs/2306.12747>`_.
    """
    check_choice("direction", direction, ("sgd", "adam"))
    method = Method(
        adam=Adam(b1, b2, eps, "kept") if direction == "adam" else None,
        c=c,
        decrease_factor=decrease_factor,
        increase_factor=1.0,
        init_step_size=min_start,
        max_trials=max_trials,
        start=Polyak(lowest_loss, c_p, remembers_backtracks, min_start, max_start),
        averaging=averaging,
    )
    return published(param_labels, method)


@names_unknown_options
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
    r"""AdamSLS: one Armijo search per step, along Adam's direction without momentum.

    .. math::
      &f(w - \eta P g) \le f(w) - c\, \eta\, \langle g, P g \rangle, \qquad
      P = \frac{1}{\sqrt{v / (1 - b_2^k)} + \epsilon} \\
      &w \leftarrow w - \eta P m / (1 - b_1^k)

    The step goes along the momentum direction by the step size found, so it does not
    end at the tested point. AdamSLS follows the released code (``adam_sls.py``) step
    for step, as long as no search fails.

    Args:
      param_labels: as in `sls`, like all arguments that are not named here.
      c: in (0, 1); 0.1 in the paper's runs.
      init_step_size: above 0; 1 in the code of arXiv 2006.06835, from which it comes.
      smoothing: decay of the averages of both sides of the test, in [0, 1); None for
        none. The released code's ``smooth`` is 0.999, with bias correction.
      b1: in [0, 1).
      b2: in [0, 1).
      eps: above 0.

    Returns:
      A transformation with the same ``update`` as `armijo_adam`.

    Raises:
      ValueError: an argument outside its range.

    Example:
      >>> import jax, jax.numpy as jnp, optax_armijo
      >>> f = lambda w: jnp.sum(w**2)
      >>> w = jnp.array([3.0, -4.0])
      >>> tx = optax_armijo.adamsls(init_step_size=1.0)
      >>> update = jax.jit(tx.update, static_argnames="value_fn")
      >>> updates, _ = update(2 * w, tx.init(w), w, value=f(w), value_fn=f)
      >>> updates.round(3).tolist()  # accepts at once, at 1.0 * 2 ** (1 / 500)
      [-1.00100..., 1.00100...]

    References:
      P. Kenneweg et al., *Faster Convergence for Transformer Fine-tuning with Line
      Search Methods*, 2024, `arXiv 2403.18506 <https://arxiv.org/abs/2403.18506>`_,
      section 2.
    """
    method = Method(
        adam=Adam(b1, b2, eps, "kept"),
        c=c,
        decrease_factor=decrease_factor,
        increase_factor=_growth_per_step(growth_per_epoch, n_batches_per_epoch),
        init_step_size=init_step_size,
        max_trials=max_trials,
        smoothing=None if smoothing is None else Smoothing(smoothing, debias=True),
    )
    return published(param_labels, method)


@names_unknown_options
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

    After a few joint steps, each step searches one group l, in turn, and moves all:

    .. math::
      &f(w' - \eta_l P_l g_l) \le f(w) - c\, \eta_l \langle g_l, P_l g_l \rangle \\
      &w \leftarrow w - \sum_k \eta_k P_k m_k / (1 - b_1^t)

    Every group's step size grows by :math:`\gamma^{1/n}` in every step, searched or
    not. In the paper's form :math:`w' = w`: the group is tested by itself. In the
    released code, the groups before it in the order have already made this step's move
    when it is tested, while :math:`f(w)` is the loss before these moves. So searches
    fail that should not, and step sizes collapse. Use ``form="code"`` to reproduce it,
    step for step as long as no search fails and except for what ``docs/methods.md``
    lists, and ``form="paper"`` for what the paper says.

    Args:
      param_labels: as in `armijo_adam`; None groups `by_layer`. Turns follow the order
        of the labels, with numbers in them ordered by size. Arguments that are not
        named here are as in `sls`.
      num_joint_steps: number of first steps that search one common factor, at least 0.
      smoothing: each group has its own averages.
      search: ``"cycle"``: the next group in order; ``"weighted"``: more often the
        groups whose searches lowered the loss, as the paper says and the code never
        does.
      merge_below: merge the two groups with the smallest step sizes when one falls
        below this (the paper's ``combine``; its runs use 1e-12); None for never.
      form: ``"code"`` or ``"paper"``.
      b1: in [0, 1).
      b2: in [0, 1).
      eps: above 0.

    Returns:
      A transformation with the same ``update`` as `armijo_adam`.

    Raises:
      ValueError: an argument outside its range.

    Example:
      >>> import jax, jax.numpy as jnp, optax_armijo
      >>> f = lambda p: p["a"] ** 2 + p["b"] ** 2
      >>> params = {"a": jnp.array(3.0), "b": jnp.array(-4.0)}
      >>> grads = {"a": jnp.array(6.0), "b": jnp.array(-8.0)}
      >>> tx = optax_armijo.plasls({"a": "a", "b": "b"}, num_joint_steps=0)
      >>> update = jax.jit(tx.update, static_argnames="value_fn")
      >>> _, state = update(
      ...     grads, tx.init(params), params, value=f(params), grad=grads, value_fn=f)
      >>> optax_armijo.armijo_info(state).searched.tolist()
      [True, False]

    References:
      P. Kenneweg et al., *Faster Convergence for Transformer Fine-tuning with Line
      Search Methods*, 2024, `arXiv 2403.18506 <https://arxiv.org/abs/2403.18506>`_,
      sections 3 and 4.
    """
    check_choice("form", form, ("code", "paper"))
    check_choice("search", search, ("cycle", "weighted"))
    method = Method(
        adam=Adam(b1, b2, eps, "kept"),
        c=c,
        decrease_factor=decrease_factor,
        increase_factor=_growth_per_step(growth_per_epoch, n_batches_per_epoch),
        init_step_size=init_step_size,
        max_trials=max_trials,
        smoothing=None if smoothing is None else Smoothing(smoothing, debias=True),
        selection=search,
        num_joint_steps=num_joint_steps,
        merge_below=merge_below,
        earlier_groups_moved=form == "code",
    )
    return published(param_labels, method)


@names_unknown_options
def salsa(
    param_labels: ParamLabels = one_group,
    *,
    direction: Literal["adam", "sgd"] = "adam",
    use_mv: bool = False,
    c: Scalar = 0.5,
    decrease_factor: Scalar = 0.8,
    increase_factor: Scalar = 1.1,
    init_step_size: Scalar = 1.0,
    max_trials: Scalar = 100,
    smoothing: float = 0.9,
    frequency: Literal["adaptive", "every"] = "adaptive",
    weight_decay: Scalar = 0.0,
    form: Literal["code", "paper"] = "code",
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    r"""SaLSA: a smoothed Armijo search that runs only as often as step sizes change.

    .. math::
      &h \leftarrow \beta_3 h + (1 - \beta_3) (f(w) - f(w + \eta d)), \qquad
      s \leftarrow \beta_3 s - (1 - \beta_3) \langle g, d \rangle \\
      &h \ge c\, \eta\, s

    Without `use_mv`, trials go along :math:`d = -P g`. A step with a search ends at the
    trial that it accepted; a step without one goes along :math:`-P m / (1 - b_1^k)`, by
    `increase_factor` times the last step size found. With `use_mv`, trials and steps
    all go along the momentum direction, but along :math:`-P g` where that does not
    descend. Only accepted trials enter the averages. With r the ratio of a fast and a
    slow average of the step sizes found, the larger to the smaller, a search is due
    :math:`\min(10, 1 / (r - 1))` steps after the last one, and in the first 9 steps.
    SaLSA follows the released code (package SaLSa-Optimizer 0.1.0) step for step, as
    long as no search fails and except for what ``docs/methods.md`` lists.

    Args:
      param_labels: as in `sls`, like all arguments that are not named here.
      direction: ``"adam"`` or ``"sgd"``, the gradient itself, for which `use_mv`,
        `form`, `b1`, `b2` and `eps` mean nothing.
      use_mv: whether trials go along the momentum direction.
      increase_factor: at least 1.
      smoothing: :math:`\beta_3`, in [0, 1).
      frequency: ``"adaptive"``: searches as often as step sizes change, from every
        step to every tenth; ``"every"``: in every step.
      weight_decay: decoupled, at least 0. Params decay by the last step size before the
        trials, which see the decay; they are compared with the loss before it.
      form: ``"code"``: the moments are corrected by one step too many, as in the
        released code; ``"paper"``: as in Adam.
      b1: in [0, 1).
      b2: in [0, 1).
      eps: above 0.

    Returns:
      A transformation with the same ``update`` as `armijo_adam`.

    Raises:
      ValueError: an argument outside its range.

    Example:
      >>> import jax, jax.numpy as jnp, optax_armijo
      >>> f = lambda w: jnp.sum(w**2)
      >>> w = jnp.array([3.0, -4.0])
      >>> tx = optax_armijo.salsa(direction="sgd")
      >>> update = jax.jit(tx.update, static_argnames="value_fn")
      >>> updates, _ = update(2 * w, tx.init(w), w, value=f(w), value_fn=f)
      >>> step_size = 1.1 * 0.8 ** 4  # 0.45: below 1 - c, as it must be on this loss
      >>> bool(jnp.allclose(updates, -2 * w * step_size))
      True

    References:
      P. Kenneweg et al., *No learning rates needed: Introducing SALSA - Stable Armijo
      Line Search Adaptation*, 2024, `arXiv 2407.20650
      <https://arxiv.org/abs/2407.20650>`_.
    """
    check_choice("form", form, ("code", "paper"))
    check_choice("direction", direction, ("adam", "sgd"))
    check_choice("frequency", frequency, ("adaptive", "every"))
    adam = Adam(
        b1,
        b2,
        eps,
        momentum="searched" if use_mv else "unsearched",
        count_ahead=int(form == "code"),
    )
    # A decay that is known to be zero costs no pass over the params.
    has_decay = type(weight_decay) not in (int, float) or weight_decay != 0
    method = Method(
        adam=adam if direction == "adam" else None,
        c=c,
        decrease_factor=decrease_factor,
        increase_factor=increase_factor,
        init_step_size=init_step_size,
        max_trials=max_trials,
        smoothing=Smoothing(smoothing),
        is_adaptive=frequency == "adaptive",
        weight_decay=weight_decay if has_decay else None,
    )
    return published(param_labels, method)


@names_unknown_options
def kensls(
    param_labels: ParamLabels = one_group,
    *,
    c: Scalar = 0.1,
    decrease_factor: Scalar = 0.9,
    increase_factor: Scalar = 1 / 0.999,
    init_step_size: Scalar = 0.1,
    max_trials: Scalar = 100,
    smoothing: float = 0.99,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    r"""KenSLS: a smoothed Armijo search along Adam's momentum direction.

    .. math::
      &d = -P m / (1 - b_1^k), \qquad
      h \leftarrow \beta h + (1 - \beta) (f(w) - f(w + \eta d)), \qquad
      s \leftarrow \beta s - (1 - \beta) \langle g, d \rangle \\
      &h \ge c\, \eta\, s \quad (s > 0), \qquad h \ge \eta\, s / c \quad (s \le 0)

    The step ends at the tested point, and may ascend on a batch as long as the averages
    allow. The slope is exact here, but a finite difference in the released code.

    Args:
      param_labels: as in `sls`, like all arguments that are not named here.
      c: in (0, 1); 0.3 in the released script.
      increase_factor: at least 1.
      smoothing: :math:`\beta`, in [0, 1).
      b1: in [0, 1).
      b2: in [0, 1).
      eps: above 0.

    Returns:
      A transformation with the same ``update`` as `armijo_adam`.

    Raises:
      ValueError: an argument outside its range.

    Example:
      >>> import jax, jax.numpy as jnp, optax_armijo
      >>> f = lambda w: jnp.sum(w**2)
      >>> w = jnp.array([3.0, -4.0])
      >>> tx = optax_armijo.kensls()
      >>> update = jax.jit(tx.update, static_argnames="value_fn")
      >>> updates, _ = update(2 * w, tx.init(w), w, value=f(w), value_fn=f)
      >>> bool(jnp.allclose(updates, jnp.array([-0.1, 0.1]) / 0.999))
      True

    References:
      P. Kenneweg et al., *Improving Line Search Methods for Large Scale Neural Network
      Training*, 2024, `arXiv 2403.18519 <https://arxiv.org/abs/2403.18519>`_.
    """
    method = Method(
        adam=Adam(b1, b2, eps, "searched"),
        c=c,
        decrease_factor=decrease_factor,
        increase_factor=increase_factor,
        init_step_size=init_step_size,
        max_trials=max_trials,
        smoothing=Smoothing(smoothing, allows_ascent=True),
    )
    return published(param_labels, method)


def _growth_per_step(growth_per_epoch: Scalar, n_batches_per_epoch: Scalar) -> Scalar:
    r"""Returns :math:`\gamma^{1/n}`."""
    check_range("n_batches_per_epoch", n_batches_per_epoch, above=0)
    check_range("growth_per_epoch", growth_per_epoch, at_least=1)
    return growth_per_epoch ** (1 / n_batches_per_epoch)
