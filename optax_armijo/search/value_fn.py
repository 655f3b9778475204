"""Calls the user's loss with the extra arguments that it names, and checks it."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from optax_armijo._types import ValueFn


def bind_value_fn(
    value_fn: ValueFn, extra_args: Mapping[str, Any]
) -> Callable[[Any], jax.Array]:
    """Returns ``params -> loss`` with those of `extra_args` that `value_fn` names.

    The others are for other members of an ``optax.chain``. A loss that takes
    ``**kwargs``, or a callable without a signature, gets all of them.
    """
    arguments = {name: extra_args[name] for name in _named(value_fn, extra_args)}

    def loss_fn(params: Any) -> jax.Array:
        try:
            result = value_fn(params, **arguments)
        except (AttributeError, TypeError) as error:
            is_call = isinstance(error, TypeError)
            if is_call and _lacks_arguments(value_fn, params, arguments):
                raise TypeError(
                    f"value_fn takes params alone: lambda p: loss_fn(p, batch); {error}"
                ) from error
            if not type(params).__module__.startswith("flax.nnx"):
                raise
            raise TypeError(
                "value_fn must be a function of the params, here an nnx.State, and "
                f"with that it raised {error}. For a loss of the model take "
                "optax_armijo.nnx.make_train_step"
            ) from error
        return check_loss("value_fn's result", result)

    return loss_fn


def _lacks_arguments(value_fn: ValueFn, params: Any, arguments: Any) -> bool:
    """Whether a call that raised was itself wrong, rather than the code inside."""
    try:
        inspect.signature(value_fn).bind(params, **arguments)
    except ValueError:  # a callable written in C
        return False
    except TypeError:
        return True
    return False


def check_loss(name: str, value: Any) -> jax.Array:
    """Returns `value` as an array; raises unless it is one real number."""
    if isinstance(value, tuple):
        raise ValueError(
            f"{name} must be a scalar loss; got a tuple of {len(value)}. For a loss "
            "with aux write value_fn=lambda params: loss_fn(params)[0]."
        )
    value = jnp.asarray(value)
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"{name} must be a scalar of floating point, the loss of this batch; got "
            f"shape {value.shape} and dtype {value.dtype}. Take the mean over the "
            "batch."
        )
    return value


def _named(value_fn: ValueFn, extra_args: Mapping[str, Any]) -> list[str]:
    try:
        parameters = list(inspect.signature(value_fn).parameters.values())
    except ValueError:  # a callable written in C has no signature
        return list(extra_args)
    kinds = {parameter.kind for parameter in parameters}
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return list(extra_args)
    # The first parameter is params, whatever its name.
    names = {parameter.name for parameter in parameters[1:]}
    return [name for name in extra_args if name in names]
