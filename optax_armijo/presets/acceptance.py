"""When is a trial good enough? Tests that look at this step alone."""

from typing import Any

import jax
import jax.numpy as jnp

from optax_armijo.presets.policies import Acceptance, Trial, no_state, unchanged


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


def _armijo(_: Any, trial: Trial) -> jax.Array:
    return below_line(trial, trial.value)


def below_line(trial: Trial, reference: jax.Array) -> jax.Array:
    """Tells whether a trial lies sufficiently below `reference`, bool[]."""
    required = trial.c * jnp.sum(trial.step_size * trial.slopes)
    return trial.trial_value <= reference - required + trial.tolerance
