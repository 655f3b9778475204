"""When is a trial good enough?"""

import jax

from optax_armijo._numerics import nan_to_inf


def armijo(
    value: jax.Array,
    trial_value: jax.Array,
    required_decrease: jax.Array,
    tolerance: jax.Array,
) -> jax.Array:
    r"""Tells whether a trial decreases the loss sufficiently.

    .. math:: f(w + \eta d) \le f(w) - c\,\eta\,s + \tau

    with :math:`s = -\langle \nabla f(w), d \rangle` the slope and :math:`\tau` the
    part of a difference of losses that is their own rounding (Armijo 1966; equation
    2 of arXiv 2403.18506, which has no :math:`\tau`).

    Args:
      value: :math:`f(w)`, shape [].
      trial_value: :math:`f(w + \eta d)`, shape []; NaN counts as +inf.
      required_decrease: :math:`c\,\eta\,s`, shape [].
      tolerance: :math:`\tau \ge 0`, shape [].

    Returns:
      bool, shape [].
    """
    return nan_to_inf(trial_value) <= value - required_decrease + tolerance
