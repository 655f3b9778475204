"""Small problems to run the optimizers on, and the loop that runs them."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

GROUPS = ("embed", "layers", "head")


def network_params(dtype: Any = jnp.float32, seed: int = 0) -> dict[str, Any]:
    """A 3-layer tanh network, 8 -> 8 -> 8 -> 3, one top-level entry a layer."""
    rng = np.random.default_rng(seed)
    sizes = [(8, 8), (8, 8), (8, 3)]
    return {
        name: {
            "w": jnp.asarray(0.4 * rng.normal(size=size), dtype),
            "b": jnp.zeros(size[1], dtype),
        }
        for name, size in zip(GROUPS, sizes, strict=True)
    }


LABELS = {name: name for name in GROUPS}


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class CallableLayer:
    """Params of a layer that can be called, as in Equinox."""

    w: Any
    b: Any

    def __call__(self, x):
        return self.w * x + self.b


_RNG = np.random.default_rng(1)
_X = _RNG.normal(size=(64, 8))
_Y = np.argmax(_X[:, :3] + _X[:, 3:6] ** 2, axis=1)


def network_loss(params: Any, step: Any = 0) -> jax.Array:
    """Mean cross entropy on 16 of 64 rows, others at each step."""
    rows = (16 * jnp.asarray(step) + jnp.arange(16)) % 64
    h = jnp.asarray(_X, params["embed"]["w"].dtype)[rows]
    for name in GROUPS:
        h = h @ params[name]["w"] + params[name]["b"]
        h = h if name == "head" else jnp.tanh(h)
    targets = jnp.asarray(_Y)[rows]
    return optax.softmax_cross_entropy_with_integer_labels(h, targets).mean()


def init(tx: optax.GradientTransformation, params: Any) -> Any:
    """Returns ``tx.init(params)``: optax's own type hides what a state holds."""
    return tx.init(params)


def one_step(
    tx: optax.GradientTransformation,
    params: Any,
    loss_fn: Callable[..., jax.Array] = network_loss,
    **extra_args: Any,
) -> tuple[Any, Any]:
    """Returns updates and state of a first step."""
    value, grads = jax.value_and_grad(loss_fn)(params)
    more = {"value": value, "grad": grads} | extra_args
    value_fn = more.pop("value_fn", loss_fn)
    with_extra_args = optax.with_extra_args_support(tx)

    # All arrays are arguments: steps of other tests are the same program.
    @jax.jit
    def update(grads: Any, state: Any, params: Any, more: Any) -> tuple[Any, Any]:
        return with_extra_args.update(grads, state, params, value_fn=value_fn, **more)

    return update(grads, tx.init(params), params, more)


class Step(NamedTuple):
    """What `run` records at each step."""

    params: Any
    value: jax.Array
    updates: Any
    state: Any


def run(
    tx: optax.GradientTransformationExtraArgs,
    params: Any,
    loss_fn: Callable[..., jax.Array] = network_loss,
    num_steps: int = 20,
) -> list[Step]:
    """Trains with a jitted step; `loss_fn(params, step)` is the loss of a batch.

    Each entry holds params and loss before its step, and updates and state after it.
    """

    @jax.jit
    def step_fn(params: Any, state: Any, step: jax.Array) -> tuple[Any, Step]:
        def batch_loss(params: Any) -> jax.Array:
            return loss_fn(params, step)

        value, grads = jax.value_and_grad(batch_loss)(params)
        updates, state = tx.update(
            grads, state, params, value=value, grad=grads, value_fn=batch_loss
        )
        new_params = optax.apply_updates(params, updates)
        return new_params, Step(params, value, updates, state)

    history = []
    state = tx.init(params)
    for step in range(num_steps):
        params, entry = step_fn(params, state, jnp.asarray(step))
        state = entry.state
        history.append(entry)
    return history


def row_losses(params, x, y):
    """The loss of each row, shape [B]."""
    h = x
    for name in GROUPS:
        h = h @ params[name]["w"] + params[name]["b"]
        h = h if name == "head" else jnp.tanh(h)
    return optax.softmax_cross_entropy_with_integer_labels(h, y)


def mean_loss(params, x, y):
    """The toy network's loss on rows that are given."""
    return row_losses(params, x, y).mean()


def batch(size=16, seed=0):
    """Rows and their classes, other ones for each seed."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, 8))
    y = np.argmax(x[:, :3] + x[:, 3:6] ** 2, axis=1)
    return jnp.asarray(x, jnp.float32), jnp.asarray(y)


def trained(step, tx, batches, params=None):
    """Takes steps of `make_train_step`; gives params, and the metrics of each step."""
    params = network_params() if params is None else params
    opt_state, history = tx.init(params), []
    for arguments in batches:
        params, opt_state, metrics = step(params, opt_state, *arguments)
        history.append(metrics)
    return params, history
