"""A small network, for examples in which it is only a part."""

from typing import Any

import jax
import jax.numpy as jnp


def network(seed: int, widths: tuple[int, ...], first: float = 1.0) -> list[Any]:
    """Weights and biases of a perceptron; `first` widens those of the first layer."""
    keys = jax.random.split(jax.random.key(seed), 2 * len(widths))
    layers = []
    for i, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        scale = first if i == 0 else 1.0
        weights = jax.random.normal(keys[2 * i], (inputs, outputs)) / inputs**0.5
        bias = 0.1 * jax.random.normal(keys[2 * i + 1], (outputs,))
        layers.append({"weights": scale * weights, "bias": scale * bias})
    return layers


def output(layers: list[Any], x: jax.Array) -> jax.Array:
    """What a perceptron returns."""
    for layer in layers[:-1]:
        x = jnp.tanh(x @ layer["weights"] + layer["bias"])
    return x @ layers[-1]["weights"] + layers[-1]["bias"]


def with_constants(layers: list[Any], constants: dict[str, float]) -> dict[str, Any]:
    """Params: a network and, beside it, constants by name."""
    arrays = {name: jnp.array(x, jnp.float32) for name, x in constants.items()}
    return {"network": layers} | arrays
