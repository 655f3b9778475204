"""`Backtracking`: what a line search of a step size a group can be told."""

import dataclasses

from optax_armijo._checks import check_range
from optax_armijo._types import Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backtracking:
    r"""Armijo backtracking of a step size for each parameter group.

    With :math:`f` the loss of the batch, :math:`g` its gradient, :math:`p = -P g` and
    :math:`d = -P m / (1 - b_1^k)` Adam's direction without momentum and with it, group
    :math:`l` has a step size :math:`\eta_l`, and all groups share a factor
    :math:`\tau`. Two tests decide, each in a ``jax.lax.while_loop``:

    .. math::
      f(w + \eta_l p_l) &\le f(w) + c_l \eta_l \langle g_l, p_l \rangle \\
      f(w + \tau \sum_l \eta_l d_l) &\le f(w) +
        c\,\tau \sum_l \eta_l \langle g_l, d_l \rangle

    The first is a group's own and settles how the groups' step sizes compare, with
    nothing but that group moved. The second is that of the whole step, as it is
    applied: groups that were searched alone do not see one another, and how far they
    go together it alone can tell. Updates are :math:`\tau \eta_l d_l`.

    **When.** The whole step is tested whenever the number of steps k has grown by
    `search_growth` since its last test: ever more rarely. The test begins where the
    last one ended, times the growth of k since then (8 at most): so a step size grows
    no faster than k, whatever the number of groups. It shrinks by `decrease_factor`
    until the test passes, in `max_trials` evaluations at most; if none does, the last
    one is taken where the loss does not rise, else nothing moves. Where momentum
    ascends on this batch, the loss may rise by 2 - c times what the slope says, and
    :math:`\tau` stays.

    Groups are compared in the second step, and again whenever k is four times as large:
    each is tested on the same batch, 16 in a step at most, and the whole step stays as
    long as it was. A group's own test takes one evaluation; the first one, which begins
    at twice the group's step size, takes two at most. It ends at the step size at
    which, on the quadratic that slope and decrease fix, the test would just pass. It
    says what the group bears alone, on one batch: so the step size moves a part of the
    way there, in logarithms three quarters the first time and half later.

    **First step.** Groups begin with step sizes in proportion to the root mean square
    of their params, and one bracket finds the common factor. It goes down while trials
    fail, by 16. A trial whose promise is not kept far better at a 16th of the step,
    though it misses by less than bfloat16 may hide, 1/32 of the loss, is taken for
    noise, twice of which is allowed for on the way up again. Groups whose gradient is
    zero, or whose params are, get the step size that promises the decrease of the
    median group. What a group's first own test finds is multiplied by the root mean
    square of :math:`P g` where that is below 1: it is so where most of the gradient is
    zero, as of the embeddings of words that are not in the batch, and what such a group
    bears is borne by few params. Nothing else ties groups to one another: multiplying
    the params of a group by a power of two, and dividing them by it within the loss,
    changes nothing.

    **Few rows.** The step is shortened where it would promise to remove more than
    `loss_fraction` of the batch's loss, as Polyak's step size would (Loizou et al.,
    2021), and between tests :math:`\tau` follows what was applied, by a geometric
    moving average: on few rows, which can be fitted to a loss of zero, step sizes so
    come down by themselves. In the first 32 steps the part is 32 / k times as large.
    This holds while no loss below zero has been seen. Training from random weights is
    faster without it: ``loss_fraction=None``.

    **Safeguard.** From the tenth step on, a step that turns out to have led to a loss
    that is not finite, or three mean deviations above the moving average of the losses,
    is taken back at the next update if going back removes half of the excess; the step
    sizes shrink to a quarter. What it takes is one evaluation, and no memory.

    Args:
      c: sufficient-decrease constant of the whole step, in (0, 1).
      group_c: that of a group's own test, in (0, 1).
      decrease_factor: in (0, 1).
      search_growth: of the number of steps between searches, above 1.
      max_trials: evaluations of the whole step's test in a step, at least 1.
      loss_fraction: the part of the loss that a step may promise to remove, above 0;
        None for any.
      max_step_size: upper bound of what is applied, above 0; None for none.

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
      >>> for _ in range(60):
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
    loss_fraction: Scalar | None = 0.1
    max_step_size: Scalar | None = None

    def __post_init__(self) -> None:
        check_range("c", self.c, above=0, below=1)
        check_range("group_c", self.group_c, above=0, below=1)
        check_range("decrease_factor", self.decrease_factor, above=0, below=1)
        check_range("search_growth", self.search_growth, above=1)
        check_range("max_trials", self.max_trials, at_least=1)
        if self.loss_fraction is not None:
            check_range("loss_fraction", self.loss_fraction, above=0)
        if self.max_step_size is not None:
            check_range("max_step_size", self.max_step_size, above=0)
