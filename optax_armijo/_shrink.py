"""By what is a refused trial shrunk?"""

import jax
import jax.numpy as jnp

from optax_armijo._checks import check_range
from optax_armijo._policies import Shrink
from optax_armijo._start import quadratic_factor


def constant() -> Shrink:
    """Shrinks by the search's ``decrease_factor``, always.

    Example:
      >>> import jax.numpy as jnp
      >>> float(constant().factor(jnp.array(-2.0), 0.5, 0.75))
      0.75
    """

    def factor(ratio: jax.Array, _: jax.Array, decrease_factor: jax.Array) -> jax.Array:
        return jnp.broadcast_to(decrease_factor, ratio.shape)

    return Shrink(factor)


def quadratic(lowest: float = 0.1) -> Shrink:
    r"""Shrinks to the best point of the quadratic that the refused trial fixes.

    .. math:: \mathrm{clip}\left(\frac{\min(1/2, 1 - c)}{1 - \rho}, low,
      \mathtt{decrease\_factor}\right)

    with :math:`\rho` the actual over the predicted decrease of the trial (safeguarded
    interpolation; Nocedal and Wright, *Numerical Optimization*, equation 3.58). A trial
    that is not finite shrinks by `lowest`.

    Args:
      lowest: in (0, 1).

    Raises:
      ValueError: `lowest` outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> float(quadratic().factor(jnp.array(-1.0), 0.5, 0.75))  # its minimum
      0.25
      >>> float(quadratic(0.125).factor(jnp.array(-jnp.inf), 0.5, 0.75))
      0.125
    """
    check_range("lowest", lowest, above=0, below=1)

    def factor(ratio: jax.Array, c: jax.Array, decrease_factor: jax.Array) -> jax.Array:
        # In this order: `decrease_factor` may be below `lowest`.
        return jnp.minimum(
            jnp.maximum(quadratic_factor(ratio, c), lowest), decrease_factor
        )

    return Shrink(factor)
