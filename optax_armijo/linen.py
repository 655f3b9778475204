"""Flax Linen: a `TrainState` that passes the loss on to a line search."""

from collections.abc import Callable
from typing import Any, Self

import jax
import optax
from flax.training import train_state

from optax_armijo.training.train_step import apply_updates


class TrainState(train_state.TrainState):
    """``flax.training.train_state.TrainState``, which also takes the loss.

    It does not support params with ``_overwrite_with_gradient`` (fp8). Subclass it to
    add fields, as you would with Flax's.

    Example:
      >>> import jax, jax.numpy as jnp, optax_armijo
      >>> from flax import linen as nn
      >>> model, x = nn.Dense(1), jnp.eye(4)
      >>> state = TrainState.create(
      ...     apply_fn=model.apply,
      ...     params=model.init(jax.random.key(0), x)["params"],
      ...     tx=optax_armijo.armijo_adam(),
      ... )
      >>> @jax.jit
      ... def step(state, x, y):
      ...   def loss_fn(params):
      ...     return jnp.mean((state.apply_fn({"params": params}, x) - y) ** 2)
      ...   loss, grads = jax.value_and_grad(loss_fn)(state.params)
      ...   return state.apply_gradients(
      ...       grads=grads, value=loss, value_fn=loss_fn), loss
      >>> losses = []
      >>> for _ in range(40):
      ...   state, loss = step(state, x, jnp.arange(4.0)[:, None])
      ...   losses.append(float(loss))
      >>> losses[-1] < 0.1 * losses[0], int(state.step)
      (True, 40)
    """

    def apply_gradients(
        self,
        *,
        grads: Any,
        value: jax.Array | None = None,
        value_fn: Callable[[Any], jax.Array] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Returns the state after a step.

        Args:
          grads: the gradient, structured like ``params``.
          value: the loss at ``params``. Only a line search needs it, and `value_fn`.
          value_fn: a function from params to the loss of the same batch, with the same
            examples, dropout masks and batch statistics. If the loss function returns
            aux: ``lambda params: loss_fn(params)[0]``.
          **kwargs: other fields to replace, such as ``batch_stats``.
        """
        tx = optax.with_extra_args_support(self.tx)
        updates, opt_state = tx.update(
            grads,
            self.opt_state,
            self.params,
            value=value,
            grad=grads,
            value_fn=value_fn,
        )
        return self.replace(
            step=self.step + 1,
            params=apply_updates(self.params, updates),
            opt_state=opt_state,
            **kwargs,
        )
