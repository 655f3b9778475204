"""`salsa`, of arXiv 2407.20650, and `kensls`, of arXiv 2403.18519."""

from typing import Literal

import optax

from optax_armijo._checks import check_choice
from optax_armijo._types import ParamLabels, Scalar
from optax_armijo.labels.functions import one_group
from optax_armijo.presets.acceptance import smoothed
from optax_armijo.presets.directions import adam, steepest_descent
from optax_armijo.presets.published import published
from optax_armijo.presets.selection import adaptive, every_step
from optax_armijo.presets.start import grow


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
    r"""SaLSA: a smoothed Armijo search, made only as often as step sizes change.

    .. math::
      &h \leftarrow \beta_3 h + (1 - \beta_3) (f(w) - f(w + \eta d)), \qquad
      s \leftarrow \beta_3 s - (1 - \beta_3) \langle g, d \rangle \\
      &h \ge c\, \eta\, s

    Without `use_mv` trials go along :math:`d = -P g`; a step with a search ends at the
    trial that it accepted, a step without one goes along :math:`-P m / (1 - b_1^k)`, by
    `increase_factor` times the last step size found. With `use_mv` trials and steps all
    go along the momentum direction. Along the gradient itself (``direction="sgd"``)
    there is no momentum. Averages take in accepted trials alone. With r the ratio of a
    fast and a slow average of the step sizes found, the larger to the smaller, a search
    is due :math:`\min(10, 1 / (r - 1))` steps after the last one, and in the first 9.

    It follows the released code (package SaLSa-Optimizer 0.1.0) step for step, as long
    as no search fails. Where one does, the code leaves params at the last trial; here
    they stay and the next search brackets. With `use_mv` a step whose momentum does not
    descend on the batch goes along :math:`-P g` here; the code skips the search and
    steps all the same. The code takes exactly equal losses for a success. Its SGD form
    is not in the package: that one is from the paper.

    Args:
      param_labels: as in `armijo_adam`; with several groups one common factor is
        searched, and leaves labelled `FROZEN` never move.
      direction: ``"adam"`` or ``"sgd"``.
      use_mv: whether trials go along the momentum direction.
      c: in (0, 1).
      decrease_factor: in (0, 1).
      increase_factor: at least 1.
      init_step_size: above 0.
      max_trials: loss evaluations a search may make, at least 1.
      smoothing: :math:`\beta_3`, in [0, 1).
      frequency: ``"adaptive"``: searches as often as step sizes change, from every
        step to every tenth; ``"every"``: in every step.
      weight_decay: decoupled; params decay by the last step size before the trials are
        made, which see it; the loss compared with is from before. At least 0.
      form: ``"code"``: the released code counts its step before it corrects the moments
        and then adds one, so that the first correction is that of a second step;
        ``"paper"``: corrected as in Adam.
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
      >>> tx = optax_armijo.salsa(direction="sgd")
      >>> updates, _ = tx.update(2 * w, tx.init(w), w, value=f(w), value_fn=f)
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
    frequencies = {"adaptive": adaptive, "every": every_step}
    check_choice("frequency", frequency, tuple(frequencies))
    along_adam = adam(
        b1=b1,
        b2=b2,
        eps=eps,
        momentum="searched" if use_mv else "unsearched",
        count_ahead=int(form == "code"),
    )
    return published(
        param_labels,
        along_adam if direction == "adam" else steepest_descent(),
        acceptance=smoothed(smoothing),
        start=grow(unsearched="grow_once"),
        frequency=frequencies[frequency](),
        c=c,
        decrease_factor=decrease_factor,
        increase_factor=increase_factor,
        init_step_size=init_step_size,
        max_trials=max_trials,
        weight_decay=weight_decay,
    )


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

    What is tested is what is kept, and it may ascend on a batch as long as the averages
    allow. The slope is exact here; the released code (``Ken_sls.py``) takes a finite
    difference over :math:`5 \cdot 10^{-9}`, at the price of one evaluation a step, and
    stops searches at that step size. A search that finds nothing moves no param here
    and makes the next one bracket.

    Args:
      param_labels: as in `adamsls`.
      c: in (0, 1); 0.3 in the released script.
      decrease_factor: in (0, 1).
      increase_factor: at least 1.
      init_step_size: above 0.
      max_trials: loss evaluations a search may make, at least 1.
      smoothing: :math:`\beta`, in [0, 1).
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
      >>> tx = optax_armijo.kensls()
      >>> updates, _ = tx.update(2 * w, tx.init(w), w, value=f(w), value_fn=f)
      >>> bool(jnp.allclose(updates, jnp.array([-0.1, 0.1]) / 0.999))
      True

    References:
      P. Kenneweg et al., *Improving Line Search Methods for Large Scale Neural Network
      Training*, 2024, `arXiv 2403.18519 <https://arxiv.org/abs/2403.18519>`_.
    """
    return published(
        param_labels,
        adam(b1=b1, b2=b2, eps=eps, momentum="searched", falls_back=False),
        acceptance=smoothed(smoothing, allow_ascent=True),
        c=c,
        decrease_factor=decrease_factor,
        increase_factor=increase_factor,
        init_step_size=init_step_size,
        max_trials=max_trials,
    )
