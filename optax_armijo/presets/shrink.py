"""By what is a refused trial shrunk?"""

import jax
import jax.numpy as jnp

from optax_armijo.presets.policies import Shrink


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
