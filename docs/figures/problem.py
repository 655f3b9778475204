"""The problem behind the figures: a small network that learns 512 digits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

BATCH = 32


def load_batches() -> tuple[jax.Array, jax.Array]:
    """Returns images and digits by batch, f[B, 32, 64] and i[B, 32]."""
    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(digits))[:512]
    x = jnp.asarray(images[order] / 16.0, jnp.float32).reshape(-1, BATCH, 64)
    return x, jnp.asarray(digits[order]).reshape(-1, BATCH)


def init_params() -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(0))
    return {
        "w1": jax.random.normal(keys[0], (64, 32)) / 8.0,
        "b1": jnp.zeros(32),
        "w2": jax.random.normal(keys[1], (32, 10)) / 32**0.5,
        "b2": jnp.zeros(10),
    }


def loss_fn(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    hidden = jnp.tanh(x @ params["w1"] + params["b1"])
    logits = hidden @ params["w2"] + params["b2"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def along(params: Any, direction: Any, step_size: Any) -> Any:
    """Returns ``params + step_size * direction``."""
    return jax.tree.map(lambda p, d: p + step_size * d, params, direction)
