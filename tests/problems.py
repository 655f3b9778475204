"""A classification problem twice: in NumPy, with gradients by hand, and in JAX.

Its batches are large and its penalty strong, so that two runs that differ by rounding
stay together: with 24 rows and no penalty their distance grows a millionfold and more
in 100 steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SIZES = (6, 10, 8, 4)
NAMES = ("w0", "b0", "w1", "b1", "w2", "b2")
PENALTY = 0.05


class Batch(NamedTuple):
    """A mini-batch, or with one more leading axis a row of them.

    The last two meddle with the loss at params and the first leaf of its gradient; the
    losses of the trials stay as they are.
    """

    x: np.ndarray  # f[B, D]
    y: np.ndarray  # f[B, C], one-hot
    loss_offset: np.ndarray  # f[]
    grad_scale: np.ndarray  # f[]


def make_batches(num_steps: int, batch_size: int = 64, seed: int = 0) -> Batch:
    """Others of 96 rows at each step; nine labels in ten obey a rule."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(96, SIZES[0]))
    y = np.argmax(x[:, :4] + np.square(x[:, 2:6]), axis=1)
    y = np.where(rng.uniform(size=y.shape) < 0.1, rng.integers(4, size=y.shape), y)
    rows = rng.integers(y.size, size=(num_steps, batch_size))
    zeros, ones = np.zeros(num_steps), np.ones(num_steps)
    y = np.eye(SIZES[-1])[y]
    return Batch(x=x[rows], y=y[rows], loss_offset=zeros, grad_scale=ones)


def make_params(seed: int = 1) -> list[np.ndarray]:
    """Weights and biases of three layers, named by `NAMES`."""
    rng = np.random.default_rng(seed)
    params = []
    for fan_in, fan_out in zip(SIZES[:-1], SIZES[1:], strict=True):
        params.append(rng.normal(size=(fan_in, fan_out)) / np.sqrt(fan_in))
        params.append(0.1 * rng.normal(size=fan_out))
    return params


def forward(params: list[np.ndarray], x: np.ndarray) -> list[np.ndarray]:
    """The activations of every layer: inputs first, log-probabilities last."""
    w0, b0, w1, b1, w2, b2 = params
    h0 = np.tanh(x @ w0 + b0)
    h1 = np.tanh(h0 @ w1 + b1)
    logits = h1 @ w2 + b2
    logits = logits - np.max(logits, axis=1, keepdims=True)
    logs = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
    return [x, h0, h1, logs]


def square_norm(params: list[np.ndarray]) -> float:
    return sum(float(np.sum(np.square(w))) for w in params)


def loss(
    params: list[np.ndarray],
    batch: Batch,
    radius: float = np.inf,
    outside: float = np.inf,
) -> float:
    """Mean cross entropy with a penalty; `outside` if params are beyond `radius`."""
    if square_norm(params) > radius**2:
        return outside
    logs = forward(params, batch.x)[-1]
    mean = -float(np.sum(batch.y * logs)) / len(logs)
    return mean + 0.5 * PENALTY * square_norm(params)


def gradient(params: list[np.ndarray], batch: Batch) -> list[np.ndarray]:
    """The gradient of `loss` inside the ball, by back-propagation."""
    *inputs, logs = forward(params, batch.x)
    delta = (np.exp(logs) - batch.y) / len(logs)
    grads = []
    for h, w in zip(reversed(inputs), (params[4], params[2], params[0]), strict=True):
        grads = [h.T @ delta, np.sum(delta, axis=0), *grads]
        delta = (delta @ w.T) * (1 - np.square(h))  # unused after the first layer
    return [g + PENALTY * w for g, w in zip(grads, params, strict=True)]


def loss_jax(
    params: list[jax.Array],
    batch: Batch,
    radius: float = np.inf,
    outside: float = np.inf,
) -> jax.Array:
    """`loss` for JAX, to be differentiated by it."""
    h = jnp.asarray(batch.x)
    for i in (0, 2, 4):
        h = h @ params[i] + params[i + 1][None]
        h = h if i == 4 else jnp.tanh(h)
    mean = -jnp.sum(batch.y * jax.nn.log_softmax(h)) / h.shape[0]
    square = sum(jnp.sum(jnp.square(w)) for w in params)
    return jnp.where(square <= radius**2, mean + 0.5 * PENALTY * square, outside)
