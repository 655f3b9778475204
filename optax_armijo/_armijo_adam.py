"""`armijo_adam`: Adam's direction, then the search."""

import optax

from optax_armijo._adam import adam
from optax_armijo._assembly import search_along
from optax_armijo._choices import choose_policies
from optax_armijo._defaults import fill_in
from optax_armijo._linesearch import Backtracking
from optax_armijo._options import Options
from optax_armijo._policies import (
    Acceptance,
    Frequency,
    Merging,
    Selection,
    Shrink,
    Start,
)
from optax_armijo._refusals import check_only
from optax_armijo._subtree_search import adam_with_backtracking
from optax_armijo._types import Momentum, Net, ParamLabels, Scalar, ScalarOrSchedule

ADAM = ("b1", "b2", "eps")


def armijo_adam(
    param_labels: ParamLabels = None,
    *,
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
    linesearch: Backtracking | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam that finds its step sizes.

    Adam's step, with a step size that moves towards the largest one that passes
    Armijo's test in the mean over batches:

    .. math::
      m' &= b_1 m + (1 - b_1) g, \qquad v' = b_2 v + (1 - b_2) g^2, \qquad
      P = \frac{1}{\sqrt{v' / (1 - b_2^k)} + \epsilon} \\
      w &\leftarrow w - \eta\,P m' / (1 - b_1^k) \\
      d &= -P m / (1 - b_1^{k - 1}), \qquad s = -\langle g, d \rangle, \qquad
      h = 2 (f(w + \eta d) - f(w) + \eta s) / \eta^2 \\
      \eta &\leftarrow \eta\,\mathrm{clip}(\eta^* / \eta, q_-, q_+), \qquad
      \eta^* = 2 (1 - c)\,\bar s / \bar h

    with :math:`g` the gradient and :math:`k` the number of batches so far. The trial's
    direction :math:`d` is the momentum before this batch's gradient entered it: the
    rows on which a step is tested had no part in its direction, so that slope and
    trial measure what it does to all rows, where a search on a step's own rows measures
    how far these can be fitted. Single measurements are noisy, and
    :math:`\bar s, \bar h` average them over batches. The slope costs nothing; a trial
    costs one evaluation of the loss, in the first ten steps, then ever more rarely, and
    from the hundredth step on in one of ten. A step size changes by at most a factor
    :math:`q_- = 0.8, q_+ = 1.25` a step, and ever less, as
    `optax_armijo.policies.expected` says, which has another :math:`\eta^*` while the
    loss falls, and none below a hundredth of the longest so far. The very first step
    size is found by a search along :math:`-P g` on its own rows, and a quarter of it is
    taken.

    With another `momentum` each group of leaves :math:`l` has a step size
    :math:`\eta_l` of its own, searched for with Armijo's test on the step's own rows,
    as in arXiv 2403.18506, and all groups move:

    .. math::
      &f(w + \eta_l d_l) \le f(w) + c\,\eta_l \langle g_l, d_l \rangle + \tau,
      \qquad d = -P g \\
      w &\leftarrow w + \kappa \sum_l \eta_l d_l

    with :math:`\tau` the rounding of the loss and :math:`\kappa \le 1` from the net.
    `scale_by_armijo` documents that search, its safeguards and its arguments.

    Args:
      param_labels: how the leaves are grouped; None groups `by_layer`. Inside
        ``optax.inject_hyperparams`` a function must be named in ``static_args``.
      b1: decay of the momentum, in [0, 1); unused while `momentum` is ``"none"``.
      b2: decay of the second moment, in [0, 1).
      eps: added to the root of the second moment, above 0.
      momentum: ``"held_out"``: steps along momentum, trials along that of the batches
        before. ``"none"``: the trial goes along :math:`-P g` and is what is kept.
        ``"kept"``: the trial goes along :math:`-P g`, the step that is kept along
        :math:`-P m' / (1 - b_1^k)` with the step size found (arXiv 2403.18506); what
        is applied is then tested by the net alone. ``"searched"``: trial and step
        both go along the momentum direction; in a group where that does not descend
        on this batch, :math:`\langle g_l, P_l m'_l \rangle \le 0`, both go along
        :math:`-P g` for this step. ``"unsearched"``: groups that are searched go to
        the trial along :math:`-P g`, the others along momentum (arXiv 2407.20650).
        None is ``"held_out"`` or, when an `acceptance` or a `start` is given that looks
        at each batch by itself, ``"none"``.
      c: see `scale_by_armijo`, as for all that follow. Here and below, the mean over
        batches decides when `start` is ``"expected"`` or, where that is left open,
        when `momentum` is ``"held_out"``. None is 0.7 when the mean
        decides, else 0.5.
      decrease_factor: in (0, 1).
      increase_factor: at least 1.
      init_step_size: in [`min_step_size`, `max_step_size`].
      min_step_size: above 0.
      max_step_size: at least `min_step_size`; may be an ``optax.Schedule``.
      max_trials: at least 1.
      num_joint_steps: at least 0.
      net: ``"no_rise"``, ``"average"`` or ``"off"``; None is ``"off"`` when the mean
        decides, else ``"no_rise"``.
      rounding_ulps: at least 0.
      relative_floor: in [0, 1).
      lower_bound: a number below the loss, or None.
      acceptance: ``"armijo"``, ``"smoothed"``, ``"zhang_hager"``, ``"window_max"``,
        ``"approximate"``, ``"measure"``, or an `Acceptance` from
        `optax_armijo.policies`; None is ``"measure"`` when the mean decides, else
        ``"armijo"``.
      start: ``"grow"``, ``"keep"``, ``"reset"``, ``"polyak"``, ``"quadratic"``,
        ``"expected"``, or a `Start`; None is ``"expected"`` when the mean decides,
        else ``"grow"``.
      shrink: ``"constant"``, ``"quadratic"``, or a `Shrink`.
      search: ``"cycle"``, ``"joint"``, ``"each"``, ``"weighted"``, or a `Selection`;
        None is ``"joint"`` when the mean decides, else ``"cycle"``.
      frequency: ``"every"``, ``"thinning"``, ``"adaptive"``, or a `Frequency`; None is
        ``"thinning"`` when the mean decides, else ``"every"``.
      merging: ``"separate"``, ``"combine"``, or a `Merging`.
      linesearch: a `Backtracking` is another search, which takes the place of all that
        is described here but Adam: it finds a step size of its own for each group,
        which are tested together. Beside it only `param_labels` and Adam's numbers may
        be given. State: `BacktrackingState`.

    Returns:
      A transformation whose ``update(updates, state, params, *, value, value_fn,
      grad=None, **extra_args)`` needs ``value``, the loss at params, and
      ``value_fn``, a function from params (and those of the extra arguments that it
      names) to the loss of the same batch. The incoming updates are the gradient,
      unless ``grad`` is given: then Adam takes the updates and the search the
      gradient. State: ``(optax.ScaleByAdamState, ArmijoState)``, the moments in
      float32 or wider. Updates are in the params' dtypes. On a batch whose loss or
      gradient is not finite nothing changes, moments included.

    Raises:
      ValueError: a hyper-parameter outside its range; when traced, missing ``value``
        or ``value_fn``, a loss that is not a scalar, labels that do not fit.
      TypeError: when traced, a complex or integer leaf that is not `FROZEN`.

    Example:
      >>> import jax, jax.numpy as jnp, optax, optax_armijo
      >>> x = jnp.linspace(-1.0, 1.0, 32)
      >>> f = lambda p: jnp.mean((p["b"] * jnp.tanh(p["a"] * x) - x ** 3) ** 2)
      >>> params = {"a": jnp.array(0.1), "b": jnp.array(0.1)}
      >>> tx = optax_armijo.armijo_adam({"a": "first", "b": "last"})
      >>> state = tx.init(params)
      >>> @jax.jit
      ... def step(params, state):
      ...   value, grads = jax.value_and_grad(f)(params)
      ...   updates, state = tx.update(
      ...       grads, state, params, value=value, grad=grads, value_fn=f)
      ...   return optax.apply_updates(params, updates), state
      >>> before = f(params)
      >>> for _ in range(50):
      ...   params, state = step(params, state)
      >>> bool(f(params) < 0.5 * before)
      True

    References:
      P. Kenneweg et al., *Faster Convergence for Transformer Fine-tuning with Line
      Search Methods*, 2023, `arXiv 2403.18506 <https://arxiv.org/abs/2403.18506>`_.

      D. Kingma and J. Ba, *Adam: A Method for Stochastic Optimization*, 2014,
      `arXiv 1412.6980 <https://arxiv.org/abs/1412.6980>`_.
    """
    if linesearch is not None:
        check_only(armijo_adam, locals(), ("param_labels", "linesearch", *ADAM))
        return adam_with_backtracking(param_labels, linesearch, b1=b1, b2=b2, eps=eps)
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
        ),
    )
