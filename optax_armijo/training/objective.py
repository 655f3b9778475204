"""The loss of a whole batch, with its gradient and without: what a train step is of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo.search.value_fn import check_loss
from optax_armijo.training.collectives import mean_over, varying

LossFn = Callable[..., Any]
"""From params and the batch's arrays to the loss, or to loss and aux."""


class Objective(NamedTuple):
    """The loss of a batch as a function of params.

    Attributes:
      value_and_grad: ``(params, *batch) -> ((loss, aux), grads)``.
      value: ``(params, *batch) -> loss``: the same loss, for trials.
    """

    value_and_grad: Callable[..., tuple[tuple[jax.Array, Any], Any]]
    value: Callable[..., jax.Array]


def with_aux(loss_fn: LossFn, has_aux: bool) -> LossFn:
    """Returns the loss function that always gives ``(loss, aux)``, aux None if none.

    Raises:
      ValueError: when traced, a loss that is not one real number.
    """

    def loss_and_aux(*args: Any) -> tuple[jax.Array, Any]:
        result = loss_fn(*args)
        if not has_aux:
            if isinstance(result, tuple):
                raise ValueError(
                    f"loss_fn must give a scalar loss; got a tuple of {len(result)}. "
                    "Say has_aux=True for one that gives (loss, aux)."
                )
            result = (result, None)
        elif not (isinstance(result, tuple) and len(result) == 2):
            raise ValueError(
                f"with has_aux=True loss_fn must give (loss, aux); got {type(result)}"
            )
        loss, aux = result
        return check_loss("loss_fn's result", loss), aux

    return loss_and_aux


def objective(loss_fn: LossFn, loss_scale: jax.Array | None = None) -> Objective:
    """Returns the objective of a loss function with aux, on the batch at once.

    With a `loss_scale` the gradient, and nothing else, comes multiplied by it.
    """

    def scaled_loss(params: Any, *batch: Any) -> Any:
        loss, aux = loss_fn(params, *batch)
        scaled = loss if loss_scale is None else loss * loss_scale.astype(loss.dtype)
        return scaled, (loss, aux)

    def value_and_grad(params: Any, *batch: Any) -> Any:
        grad_fn = jax.value_and_grad(scaled_loss, has_aux=True)
        (_, loss_and_aux), grads = grad_fn(params, *batch)
        return loss_and_aux, grads

    return Objective(value_and_grad, lambda *args: loss_fn(*args)[0])


def over_devices(local: Objective, axis_name: Any) -> Objective:
    """Returns the objective whose batch is split over a mapped axis.

    Params are the same on all devices, and so are loss, aux and gradient that come
    back: means over the axis. Aux that is not floating point stays each device's own.
    """

    def value_and_grad(params: Any, *batch: Any) -> Any:
        # Varying params keep the gradient local until the one mean below, whether or
        # not the map itself keeps account of what varies.
        loss_and_aux, grads = local.value_and_grad(varying(params, axis_name), *batch)
        return mean_over((loss_and_aux, grads), axis_name)

    def value(params: Any, *batch: Any) -> jax.Array:
        return mean_over(local.value(varying(params, axis_name), *batch), axis_name)

    return Objective(value_and_grad, value)


def is_floating(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)
