"""`Backtracking`: the options of the line search."""

import dataclasses

import optax

from optax_armijo._checks import check_range
from optax_armijo._types import Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backtracking:
    r"""Armijo backtracking of a step size for each parameter group.

    With :math:`f` the loss of the batch, :math:`g` its gradient, and k, P and m those
    of `armijo_adam`, Adam's direction is :math:`p = -P g` without momentum and
    :math:`d = -P m / (1 - b_1^k)` with it. Group :math:`l` has a step size
    :math:`\eta_l`, and all groups share a factor :math:`\tau`. Two tests decide, each
    in a ``jax.lax.while_loop``:

    .. math::
      f(w + \eta_l p_l) &\le f(w) + c_l \eta_l \langle g_l, p_l \rangle \\
      f(w + \tau \sum_l \eta_l d_l) &\le f(w) +
        c\,\tau \sum_l \eta_l \langle g_l, d_l \rangle

    The first is the group's test. It moves that group alone, and sets the ratios of
    the groups' step sizes. The second is the test of the whole step. It sets the
    factor: groups that were tested alone do not see one another. Updates are
    :math:`\tau \eta_l d_l`, and in the first nine steps a part of that.

    **When.** The whole step is tested whenever k has grown by a factor of
    `search_growth` since its last test, so ever more rarely. The test begins at the
    last factor times the growth of k since then (8 at most), so that step sizes grow no
    faster than k. The factor shrinks by `decrease_factor` until the test passes, in
    `max_trials` evaluations at most. If none passes, the last trial is applied if it
    does not raise the loss; else nothing moves. A trial that leaves the loss exactly
    as it was passes: its step may have been rounded away. Where momentum ascends on
    this batch, the loss may rise by 2 - c times what the slope says, and :math:`\tau`
    stays.

    Groups are compared in the second step, and again whenever k has grown eightfold.
    Up to 16 are tested in a step, on its batch, those first whose last test is longest
    ago; others follow in the next step. The length of the whole step stays as it was. A
    group's test takes one evaluation; its first test begins at twice the group's step
    size and takes two at most. The result is the step size at which the test would just
    pass on the quadratic that has this slope and this decrease. The group's step size
    moves part of the way there, since it was tested alone and on one batch: on a
    logarithmic scale three quarters the first time, and half later.

    **First step.** Groups begin with step sizes in proportion to the root mean square
    of their params, and their common factor is bracketed: times 4 while trials pass,
    divided by 16 while they fail, then bisected. Losses may be too coarse for this, as
    in bfloat16: if the error of a prediction is below 1/32 of the loss and hardly
    shrinks with the step, it is noise, and twice as much is tolerated. A group whose
    params or gradient are zero at first gets the step size whose predicted decrease is
    that of the median group. This is limited to the largest of the other step sizes if
    its gradient may be rounding alone, or if the first trial fails without the limit
    and passes with it. What a group's first test finds is multiplied by the root mean
    square of :math:`P g` where that is below 1: most entries of the gradient are zero
    then, as for embeddings of words that are not in the batch. Scaling the params of a
    group by a power of two, and dividing by it in the loss, changes nothing.

    **Warm-up.** In step k of the first nine, the part k / 10 of the tested step is
    applied. Adam's first directions are little more than the signs of one gradient:
    they move all params by as much, and the loss of a few rows does not tell that this
    is too far.

    **Small data sets.** A step is shortened if its predicted decrease is more than
    `loss_fraction` of the batch's loss; this is Polyak's step size as a bound (Loizou
    et al., 2021). Between tests, :math:`\tau` follows by an exponential moving average
    on a logarithmic scale. So step sizes come down where a small data set can be fitted
    to a loss of zero. In the first 32 steps the fraction is 32 / k times as large. The
    bound is off once a loss below zero has been seen; where it holds :math:`\tau` below
    1/32, a test looks for one at the step whose predicted decrease is four times the
    loss. Training from random weights is faster without it: ``loss_fraction=None``.

    **Gradient clipping.** Before :math:`g` enters Adam's moments and :math:`p`, but not
    the tests, it is multiplied by :math:`\lambda_k`:

    .. math::
      \lambda_k = \min(1, 2 \max(1, a_{k-1}) / r_k), \qquad
      a_k = 0.9\, a_{k-1} + 0.1\, \lambda_k r_k

    Here :math:`r_k` is the root mean square of :math:`g / \sqrt{v / (1 - b_2^{k-1})}`
    over all trainable params, with :math:`v` of the batches before; where that is 0, a
    param counts as 0. In the first five steps :math:`\lambda_k = 1`, and
    :math:`a_1 = 1`. If :math:`r_k` is not finite, :math:`\lambda_k = 1` and :math:`a`
    stays. So a spoilt batch changes the moments hardly more than others do, and the
    limit follows gradients that grow, by a tenth a step at most.

    **Safeguard.** The last step is undone in three cases: the loss is not finite, and
    that of the same batch before the step is; from the tenth step on, the loss is three
    mean deviations above its moving average, and before the step it is lower by at
    least half of the excess; or two gradients in a row are not finite, of losses that
    are. The next step is a quarter as long. The check costs one evaluation and, along
    Adam's direction, no memory.

    Args:
      c: sufficient-decrease constant of the whole step, in (0, 1).
      group_c: sufficient-decrease constant of a group's test, in (0, 1).
      decrease_factor: by which a failed test shrinks the step, in (0, 1).
      search_growth: growth of the number of steps between tests, above 1.
      max_trials: evaluations in a test of the whole step, at least 1.
      loss_fraction: bound of a step's predicted decrease, as a fraction of the loss,
        above 0; 32 / k times that in step k of the first 32. None for no bound.
      max_step_size: upper bound of the step sizes that are applied, above 0, or a
        schedule of it, called with the number of steps so far, bad batches not counted
        (0, 1, ...); None for no bound. The warm-up shortens what it allows.

    Raises:
      ValueError: an argument outside its range.

    Example:
      >>> import jax, jax.numpy as jnp, optax, optax_armijo
      >>> f = lambda w: (w["a"] - 1.0) ** 2 + (1e4 * w["b"] - 1.0) ** 2
      >>> tx = optax_armijo.armijo_adam(
      ...     {"a": "a", "b": "b"}, linesearch=optax_armijo.Backtracking())
      >>> params = {"a": jnp.array(2.0), "b": jnp.array(2e-4)}
      >>> step = optax_armijo.make_train_step(f, tx)
      >>> state = tx.init(params)
      >>> for _ in range(80):
      ...   params, state, metrics = step(params, state)
      >>> bool(metrics.loss < 1e-2), metrics.info.labels
      (True, ('a', 'b'))

    References:
      L. Armijo, *Minimization of functions having Lipschitz continuous first partial
      derivatives*, 1966.
      P. Kenneweg et al., *Faster Convergence for Transformer Fine-tuning with Line
      Search Methods*, 2024, `arXiv 2403.18506 <https://arxiv.org/abs/2403.18506>`_.
      N. Loizou et al., *Stochastic Polyak Step-size for SGD*, 2021, `arXiv 2002.10542
      <https://arxiv.org/abs/2002.10542>`_.
    """

    c: Scalar = 0.6
    group_c: Scalar = 0.5
    decrease_factor: Scalar = 0.8
    search_growth: Scalar = 1.2
    max_trials: Scalar = 3
    loss_fraction: Scalar | None = 0.05
    max_step_size: Scalar | optax.Schedule | None = None

    def __post_init__(self) -> None:
        check_range("c", self.c, above=0, below=1)
        check_range("group_c", self.group_c, above=0, below=1)
        check_range("decrease_factor", self.decrease_factor, above=0, below=1)
        check_range("search_growth", self.search_growth, above=1)
        check_range("max_trials", self.max_trials, at_least=1, is_integer=True)
        if self.loss_fraction is not None:
            check_range("loss_fraction", self.loss_fraction, above=0)
        if self.max_step_size is not None and not callable(self.max_step_size):
            check_range("max_step_size", self.max_step_size, above=0)
