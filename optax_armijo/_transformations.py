"""The public transformations: Adam with found step sizes, and the search alone."""

from collections.abc import Callable
from typing import Any

import optax

from optax_armijo._types import ParamLabels, Scalar
from optax_armijo.search.refusals import names_unknown_options
from optax_armijo.search.transformation import search_along_adam, search_along_updates


@names_unknown_options
def armijo_adam(
    param_labels: ParamLabels = None,
    num_steps: int | None = None,
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam that finds its step sizes, one for each parameter group.

    .. math::
      m &\leftarrow b_1 m + (1 - b_1) g, \qquad v \leftarrow b_2 v + (1 - b_2) g^2, \\
      P &= \frac{1}{\sqrt{v / (1 - b_2^k)} + \epsilon}, \qquad
      d = -P m / (1 - b_1^k), \qquad w_l \leftarrow w_l + \tau_k\,\eta_l\,d_l

    with :math:`g` the gradient, clipped where it is far larger than those before, and
    :math:`k` the number of batches so far, without those whose loss or gradient is not
    finite and those that roll a step back. There is no learning rate: the search finds
    the step sizes :math:`\eta_l` of the groups :math:`l`. They share the factor
    :math:`\tau_k` of the warm-up, the decay, the bound of the noise and the test.

    **First step.** Step sizes begin in proportion to the root mean square of the params
    of each group, up to three times as long where a group would promise less than the
    median one. Armijo's test on the mini-batch, with c = 0.8, brackets a common factor.
    In the first twenty steps :math:`\tau_k` is at most k / 20.

    **Later steps.** A step :math:`u` promises the decrease :math:`p = -\langle g, u
    \rangle` on its own mini-batch. The next mini-batch, with the loss :math:`f'`,
    measures what the step was worth on other examples: the slope
    :math:`S = 2 (f'(w) - f'(w + u)) + s` and the curvature :math:`C = S + s`
    along it, with :math:`s = \langle g'(w + u), u \rangle`. The *signal fraction*
    :math:`\varphi = \sum S / \sum p` is the fraction of what steps promise that holds
    on other examples. Step sizes grow while :math:`C < \kappa S`, and shrink while C is
    above, with :math:`\kappa = 0.5 + 1.1 \varphi`: without noise almost to where a step
    stops decreasing the loss, and in noise to half of the best step. From the 51st step
    on, they shrink less, the faster the loss falls. With ``num_steps`` above 100, they
    do not shrink together in the first half of the decay while losses fall at least
    like :math:`k^{-1/4}`, if the mean of :math:`\varphi` over steps 21 to 50 is above a
    half. Each group follows its own share of :math:`\kappa S - C`.

    **Armijo's test** stops steps that go wrong at once. A step must decrease the loss
    of its own mini-batch by a tenth of what it promises, or it is halved until it does.
    A test that passes at once costs one evaluation of the loss, and so does a
    measurement. A test is made whenever k has grown by a fifth, and a measurement
    whenever it has grown by a twentieth, so both become ever rarer. With ``num_steps``,
    no test is made between the tenth step and the middle of the decay, except after a
    step that was rolled back.

    **Safeguards.** A gradient more than twice as large as the average of those before
    is clipped. A step is shortened until :math:`\varphi (1 - \varphi) p` is at most a
    twentieth of a positive loss, or a fifth after 40 steps of a run whose length is
    known; if less than an eighth of it is left, step sizes shrink, too. A step is
    rolled back, and the next one is half as long, if the loss after it is not finite or
    30 mean deviations above its average, and the step is to blame.

    The page `Formulas </armijo_adam>`_ has the details.

    Args:
      param_labels: which leaves share a step size: a pytree of labels that is a prefix
        of params' tree, or a function from params to one, as in ``optax.partition``.
        None groups `by_layer`: each block (a layer with a number in its name) is a
        group, or in a tree without blocks each top-level entry of the params.
        `one_group` gives all leaves one step size. Leaves labelled `FROZEN` never move.
        Inside ``optax.inject_hyperparams`` a function must be named in
        ``static_args``.
      num_steps: the number of updates in the run, at least 1, if it is known. Then
        :math:`\tau_k` falls linearly to 0 after the warm-up of twenty steps. Updates
        that are skipped or rolled back do not count and put off its end. With None
        there is no decay, and you should keep the average of the iterates
        (`average_iterates`).
      b1: decay rate of the first moment, in [0, 1). Rolling back a step is exact if b1,
        b2 and eps are constant.
      b2: decay rate of the second moment, in [0, 1).
      eps: added to the root of the second moment, above 0.

    Returns:
      A transformation whose ``update(updates, state, params, *, value, value_fn,
      grad=None, **extra_args)`` needs ``value``, the loss at params, and
      ``value_fn``, a function from params (and those of the extra arguments that it
      names) to the loss of the same batch. The incoming updates are the gradient of
      the loss, unless ``grad`` is given: then Adam uses the updates, which may be
      clipped, and the search uses the gradient. The state is an `ArmijoState` with the
      moments in float32 or wider. Updates are in the params' dtypes. On a batch whose
      loss or gradient is not finite, nothing moves, moments included, or the last step
      is rolled back.

    Raises:
      ValueError: a hyper-parameter outside its range; when traced, missing ``params``,
        ``value`` or ``value_fn``, a loss that is not a scalar, or labels that do not
        fit.
      TypeError: a learning rate; when traced, a complex or integer leaf that is not
        `FROZEN`, or a ``value_fn`` that needs arguments which ``update`` is not given.

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
      Search Methods*, 2024, `arXiv 2403.18506 <https://arxiv.org/abs/2403.18506>`_.

      D. Kingma and J. Ba, *Adam: A Method for Stochastic Optimization*, 2014,
      `arXiv 1412.6980 <https://arxiv.org/abs/1412.6980>`_.
    """
    return search_along_adam(param_labels, num_steps, b1=b1, b2=b2, eps=eps)


@names_unknown_options
def armijo_adamw(
    param_labels: ParamLabels = None,
    num_steps: int | None = None,
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 1e-4,
    mask: Any | Callable[[Any], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""`armijo_adam` with decoupled weight decay.

    To the updates of `armijo_adam` it adds

    .. math:: -\min(\tau_k \eta_l \lambda, 1)\, w_l

    with :math:`\lambda` the weight decay and :math:`\tau_k \eta_l` the step size that
    group :math:`l` moved by, just as AdamW decays by the learning rate times
    :math:`\lambda`. The tested loss does not include the decay. A group that does not
    move does not decay. Rolling back a step does not roll back its decay.

    Args:
      param_labels: see `armijo_adam`, for all arguments except the last two.
      num_steps: at least 1.
      b1: in [0, 1).
      b2: in [0, 1).
      eps: above 0.
      weight_decay: :math:`\lambda`, at least 0.
      mask: a pytree of bools that is a prefix of params' tree, or a function from
        params to one, as in ``optax.adamw``: where it is False there is no decay.

    Returns:
      A transformation with the same ``update`` and state as `armijo_adam`.

    Raises:
      ValueError: as `armijo_adam`; when traced, a mask that does not fit params, or
        whose leaves are not bools.
      TypeError: as `armijo_adam`.

    Example:
      >>> import jax, jax.numpy as jnp, optax_armijo
      >>> tx = optax_armijo.armijo_adamw(weight_decay=0.1, mask={"w": True, "b": False})
      >>> params = {"w": jnp.array(2.0), "b": jnp.array(2.0)}
      >>> f = lambda p: (p["w"] + p["b"]) ** 2
      >>> grads = {"w": jnp.array(8.0), "b": jnp.array(8.0)}
      >>> update = jax.jit(tx.update, static_argnames="value_fn")
      >>> updates, _ = update(
      ...     grads, tx.init(params), params, value=f(params), grad=grads, value_fn=f)
      >>> bool(updates["w"] < updates["b"] < 0)
      True

    References:
      I. Loshchilov and F. Hutter, *Decoupled Weight Decay Regularization*, 2017,
      `arXiv 1711.05101 <https://arxiv.org/abs/1711.05101>`_.
    """
    return search_along_adam(
        param_labels,
        num_steps,
        b1=b1,
        b2=b2,
        eps=eps,
        weight_decay=weight_decay,
        mask=mask,
    )


@names_unknown_options
def scale_by_armijo(
    param_labels: ParamLabels = None, num_steps: int | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Scales any descent direction by step sizes that an Armijo search finds.

    The incoming updates :math:`d` are a direction to be *added* to the params, as
    always in optax: put this after ``optax.sgd(1.0)``, ``optax.lion(1.0)`` or
    ``optax.scale(-1.0)``. It finds step sizes in the same way as `armijo_adam`, except
    that it clips no gradient. The state keeps the direction of the last step, which is
    one more array of the shape of each param.

    Args:
      param_labels: which leaves share a step size; see `armijo_adam`.
      num_steps: the length of the run, if it is known; see `armijo_adam`.

    Returns:
      A transformation whose ``update(updates, state, params, *, value, grad,
      value_fn, **extra_args)`` needs ``value``, the loss at params; ``grad``, its
      gradient; and ``value_fn``, a function from params, and those of the extra
      arguments that it names, to the loss of the same batch. The state is an
      `ArmijoState`.

    Raises:
      ValueError: `num_steps` below 1; when traced, missing ``params``, ``value``,
        ``grad`` or ``value_fn``, a loss that is not a scalar, or labels that do not
        fit.
      TypeError: as `armijo_adam`.

    Example:
      >>> import jax, jax.numpy as jnp, optax, optax_armijo
      >>> tx = optax.chain(optax.sgd(1.0, momentum=0.9), optax_armijo.scale_by_armijo())
      >>> f = lambda w: jnp.sum((w - 1.0) ** 2)
      >>> w = jnp.array([3.0, -4.0])
      >>> state = tx.init(w)
      >>> @jax.jit
      ... def step(w, state):
      ...   value, grads = jax.value_and_grad(f)(w)
      ...   updates, state = tx.update(
      ...       grads, state, w, value=value, grad=grads, value_fn=f)
      ...   return optax.apply_updates(w, updates), state
      >>> for _ in range(200):
      ...   w, state = step(w, state)
      >>> bool(f(w) < 1e-2)
      True

    References:
      L. Armijo, *Minimization of functions having Lipschitz continuous first partial
      derivatives*, 1966.
    """
    return search_along_updates(param_labels, num_steps)
