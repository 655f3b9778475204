"""Noise from none to much: small regressions whose batches are spoilt in several ways.

A spoilt batch has wrong labels, or its loss is multiplied; the validation rows are
clean. Shapes: B rows of a batch, D inputs.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from regressions import NUM_EPOCHS, mean_squared_error, regression_task
from tasks import Setup, Task

WIDTH, NUM_BLOCKS = 48, 3  # of the residual network


class Batch(NamedTuple):
    """Rows, and what their loss is multiplied by."""

    inputs: np.ndarray  # float32 [B, D]
    labels: np.ndarray  # float32 [B, 1]
    scale: np.ndarray  # float32 []


def regression(kind: str, *, setup: Setup) -> Task:
    """A perceptron learns 256 rows of 8 inputs, which come again and again.

    Rare events are in each 50th batch of the run. The loss is of the same rows, clean.
    """
    x = np.random.default_rng(0).normal(size=(256, 8)).astype(np.float32)
    target = regression_target(x)
    fixed = np.random.default_rng(9).normal(size=target.shape)

    def drawn(rng: np.random.Generator, step: int, size: int) -> Batch:
        at, scale, is_50th = rng.integers(0, len(x), size), 1.0, step % 50 == 49
        y = target[at]
        match kind:
            case "clean":
                pass
            case "fresh-noise":
                y = y + 2 * rng.normal(size=y.shape)
            case "fixed-noise":
                y = y + fixed[at]
            case "outliers":
                is_wrong = rng.random(y.shape) < 0.2
                y = np.where(is_wrong, y + 5 * rng.normal(size=y.shape), y)
            case "bad-batches":
                y = 30 * y if is_50th else y
            case "loss-jumps":
                scale = 100.0 if is_50th else 1.0
            case _:
                raise ValueError(f"no such kind of regression: {kind!r}")
        return _batch(x[at], y, scale)

    return _task(
        *(_perceptron, _perceptron_output, drawn, _batch(x, target)),
        num_steps=600,
        batch_size=setup.batch_size or 16,
    )


def residual(kind: str, *, setup: Setup) -> Task:
    """A network with residual connections learns from rows of 12 inputs, each new.

    Only for "fixed-noise" 512 rows come again and again. The loss is of 1,000 others.
    """

    def inputs(rng: np.random.Generator, size: int) -> np.ndarray:
        return rng.uniform(-1, 1, (size, 12))

    rng = np.random.default_rng(3)
    x, rows = inputs(rng, 1000), inputs(rng, 512)
    labels = residual_target(rows) + 0.7 * rng.normal(size=(512, 1))

    def drawn(rng: np.random.Generator, step: int, size: int) -> Batch:
        x, scale = inputs(rng, size), 1.0
        y = residual_target(x)
        match kind:
            case "clean":
                pass
            case "heavy-tails":
                y = y + 0.5 * rng.standard_t(1.5, y.shape)
            case "fixed-noise":
                at = rng.integers(0, len(rows), size)
                x, y = rows[at], labels[at]
            case "swapped-labels":
                # Each of the chosen rows gets the next one's label.
                chosen = rng.permutation(size)[: round(0.3 * size)]
                y[chosen] = y[np.roll(chosen, 1)]
            case "loss-jumps":
                scale = np.exp(1.5 * rng.normal())
            case _:
                raise ValueError(f"no such kind of residual: {kind!r}")
        return _batch(x, y, scale)

    return _task(
        *(_residual, _residual_output, drawn, _batch(x, residual_target(x))),
        num_steps=1000,
        batch_size=setup.batch_size or 32,
    )


def regression_target(x: np.ndarray) -> np.ndarray:
    """[N, 8] -> [N, 1]: a wave of one projection, and a product of two others."""
    w = np.random.default_rng(1).normal(size=(8, 3)) / 8**0.5
    wave, first, second = np.split(x @ w, 3, axis=1)
    return np.sin(2 * wave) + first * np.tanh(second)


def residual_target(x: np.ndarray) -> np.ndarray:
    """[N, 12] -> [N, 1]: a wave of one projection, and products of inputs."""
    w = np.random.default_rng(2).normal(size=(12, 1)) * (3 / 12) ** 0.5
    products = x[:, :1] * x[:, 1:2] - x[:, 2:3] * x[:, 3:4]
    return np.sin(2 * x @ w) + 1.5 * products


def _batch(x: np.ndarray, y: np.ndarray, scale: float = 1.0) -> Batch:
    return Batch(
        x.astype(np.float32), y.astype(np.float32), np.array(scale, np.float32)
    )


def _layer(key: jax.Array, inputs: int, outputs: int) -> dict[str, jax.Array]:
    weights = jax.random.normal(key, (inputs, outputs)) / inputs**0.5
    return {"w": weights, "b": jnp.zeros(outputs)}


def _perceptron(seed: int) -> dict[str, Any]:
    keys, widths = jax.random.split(jax.random.key(seed), 3), (8, 32, 32, 1)
    return {f"layer_{i}": _layer(keys[i], *widths[i : i + 2]) for i in range(3)}


def _perceptron_output(params: Any, x: jax.Array) -> jax.Array:
    """[B, 8] -> [B, 1]."""
    for name in ("layer_0", "layer_1"):
        x = jnp.tanh(x @ params[name]["w"] + params[name]["b"])
    return x @ params["layer_2"]["w"] + params["layer_2"]["b"]


def _residual(seed: int) -> dict[str, Any]:
    first, last, *keys = jax.random.split(jax.random.key(seed), 2 + 2 * NUM_BLOCKS)
    params: dict[str, Any] = {"input": _layer(first, 12, WIDTH)}
    for i in range(NUM_BLOCKS):
        back = _layer(keys[2 * i + 1], WIDTH, WIDTH)["w"]
        params[f"block_{i}"] = _layer(keys[2 * i], WIDTH, WIDTH) | {"back": back}
    return params | {"output": _layer(last, WIDTH, 1)}


def _residual_output(params: Any, x: jax.Array) -> jax.Array:
    """[B, 12] -> [B, 1]; a block adds ``gelu(h w + b) back`` to the hidden units h."""
    h = x @ params["input"]["w"] + params["input"]["b"]
    for i in range(NUM_BLOCKS):
        block = params[f"block_{i}"]
        h = h + jax.nn.gelu(h @ block["w"] + block["b"]) @ block["back"]
    return h @ params["output"]["w"] + params["output"]["b"]


def _task(
    init: Callable[[int], Any],
    output: Callable[[Any, jax.Array], jax.Array],
    drawn: Callable[[np.random.Generator, int, int], Batch],
    validation: Batch,
    *,
    num_steps: int,
    batch_size: int,
) -> Task:
    """A task whose batches `drawn` makes, by the number of the step in the run."""
    epoch_steps, squared_error = num_steps // NUM_EPOCHS, mean_squared_error(output)

    def loss_fn(params: Any, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        return squared_error(params, batch) * batch.scale

    def batches(seed: int, epoch: int) -> Iterator[Batch]:
        rng = np.random.default_rng((seed, epoch))
        for step in range(epoch * epoch_steps, (epoch + 1) * epoch_steps):
            yield drawn(rng, step, batch_size)

    return regression_task(
        *(init, loss_fn, batches, validation), steps_per_epoch=epoch_steps
    )
