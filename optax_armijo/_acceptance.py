"""When is a trial good enough? Tests that look at this step alone."""

from typing import Any

import jax
import jax.numpy as jnp

from optax_armijo._checks import check_range
from optax_armijo._policies import Acceptance, Trial, no_state, unchanged


def armijo() -> Acceptance:
    r"""The test of sufficient decrease.

    .. math:: f(w + u) \le f(w) - c \sum_l \eta_l s_l + \tau

    with :math:`u` the step of the groups that move, :math:`\eta_l` their step sizes,
    :math:`s_l = -\langle \nabla f(w), d_l \rangle` their slopes and :math:`\tau` the
    part of a difference of losses that is their own rounding (Armijo 1966; equation 2
    of arXiv 2403.18506, which has no :math:`\tau`).

    Example:
      >>> import jax.numpy as jnp
      >>> trial = Trial(value=1.0, trial_value=0.8, step_size=jnp.array([0.5]),
      ...     slopes=jnp.array([0.75]), c=0.5, tolerance=0.0)
      >>> bool(armijo().accept((), trial))
      True
      >>> bool(armijo().accept((), trial._replace(c=0.6)))
      False
    """
    return Acceptance(no_state, unchanged, _armijo, unchanged)


def approximate(epsilon: float = 1e-6) -> Acceptance:
    r"""Armijo's test, or its approximate form where losses cannot tell any more.

    A trial is accepted, too, when it does not raise the loss visibly and its own slope
    says that the decrease was sufficient:

    .. math::
      f(w + u) \le f(w) + \epsilon\,|f(w)| \quad \text{and} \quad
      \langle \nabla f(w + u), u \rangle \le (1 - 2c) \sum_l \eta_l s_l

    On a quadratic the second is Armijo's test exactly, and it does not suffer when the
    difference of the losses drowns in their rounding (Hager and Zhang 2005, equation
    4.2). The slope at the trial is a forward-mode derivative, so that a trial costs
    about two evaluations; the loss must allow ``jax.jvp``.

    Args:
      epsilon: by what part of itself the loss may seem to rise, at least 0.

    Raises:
      ValueError: `epsilon` outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> trial = Trial(value=1.0, trial_value=1.0000001, step_size=jnp.array([1e-9]),
      ...     slopes=jnp.array([1.0]), c=0.25, tolerance=0.0, slope=-1e-9)
      >>> bool(armijo().accept((), trial)), bool(approximate().accept((), trial))
      (False, True)
      >>> bool(approximate().accept((), trial._replace(slope=0.6e-9)))
      False
    """
    check_range("epsilon", epsilon, at_least=0)

    def accept(state: Any, trial: Trial) -> jax.Array:
        assert trial.slope is not None
        predicted = jnp.sum(trial.step_size * trial.slopes)
        slack = epsilon * jnp.abs(trial.value)
        is_low = trial.trial_value <= trial.value + slack
        is_falling = trial.slope <= (1 - 2 * trial.c) * predicted
        return _armijo(state, trial) | (is_low & is_falling)

    return Acceptance(no_state, unchanged, accept, unchanged, needs_slope=True)


def measure(rise: float = 1.0, *, decay: float = 0.9) -> Acceptance:
    r"""Nearly any trial: it measures, and what it tells is averaged over batches.

    For directions that the batch had no part in: on a batch of its own such a step
    raises the loss now and then though it lowers it in the mean, and how long it should
    be is for `expected` to say. A trial is refused when

    .. math:: f(w + u) > f(w) + r \max(|f(w)|, \bar f)

    with :math:`\bar f` the running average of the losses' sizes, or when it is not
    finite. Where a step size is looked for from nothing, Armijo's test decides.

    Args:
      rise: :math:`r`, above 0.
      decay: of the running average, in [0, 1).

    Raises:
      ValueError: an argument outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> test = measure()
      >>> state = test.observe(test.init(1, jnp.float32), jnp.float32(1.0))
      >>> trial = Trial(value=1.0, trial_value=1.9, step_size=jnp.array([0.5]),
      ...     slopes=jnp.array([-0.75]), c=0.5, tolerance=0.0)
      >>> bool(test.accept(state, trial))
      True
      >>> bool(test.accept(state, trial._replace(trial_value=2.1)))
      False
    """
    check_range("rise", rise, above=0)
    check_range("decay", decay, at_least=0, below=1)

    def init(_: int, dtype: jnp.dtype) -> jax.Array:
        return jnp.zeros((), dtype)

    def observe(average: jax.Array, value: jax.Array) -> jax.Array:
        # From zero, without correction: at first the loss itself is the larger.
        return decay * average + (1 - decay) * jnp.abs(value)

    def accept(average: jax.Array, trial: Trial) -> jax.Array:
        room = rise * jnp.maximum(jnp.abs(trial.value), average)
        is_bounded = trial.trial_value <= trial.value + room + trial.tolerance
        return jnp.where(trial.is_bracketing, _armijo((), trial), is_bounded)

    return Acceptance(
        init, observe, accept, unchanged, needs_descent=False, is_mean=True
    )


def _armijo(_: Any, trial: Trial) -> jax.Array:
    return below_line(trial, trial.value)


def below_line(trial: Trial, reference: jax.Array) -> jax.Array:
    """Tells whether a trial lies sufficiently below `reference`, bool[]."""
    required = trial.c * jnp.sum(trial.step_size * trial.slopes)
    return trial.trial_value <= reference - required + trial.tolerance
