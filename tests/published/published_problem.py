"""The problem of the published trajectories, twice: in NumPy, and in JAX.

A 3-layer tanh network with softmax cross entropy, its gradients by hand in NumPy.
Step t sees 16 of 64 rows.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from reference_methods import Arrays

import optax_armijo

RECORD = json.loads(
    (Path(__file__).parents[1] / "data" / "published_trajectories.json").read_text()
)
PROBLEM = RECORD["problem"]
NAMES = ("w1", "b1", "w2", "b2", "w3", "b3")
LABELS = {name: f"layer_{name[1]}" for name in NAMES}
GROUPS = [int(name[1]) - 1 for name in NAMES]
NUM_STEPS = PROBLEM["num_steps"]
PARAMS = [np.array(PROBLEM["params"][name]) for name in NAMES]
ROWS = np.array([(16 * t + np.arange(16)) % 64 for t in range(NUM_STEPS)])
_X, _Y = np.array(PROBLEM["inputs"]), np.array(PROBLEM["labels"])


def numpy_problems():
    """One pair of loss and value_and_grad a step, for the NumPy twins."""
    return [(_loss(rows), _value_and_grad(rows)) for rows in ROWS]


def jax_loss(params: dict[str, jax.Array], rows: jax.Array) -> jax.Array:
    h = jnp.asarray(_X)[rows]
    h = jnp.tanh(h @ params["w1"] + params["b1"])
    h = jnp.tanh(h @ params["w2"] + params["b2"])
    logits = h @ params["w3"] + params["b3"]
    targets = jnp.asarray(_Y)[rows]
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def jax_params() -> dict[str, jax.Array]:
    return {name: jnp.asarray(p) for name, p in zip(NAMES, PARAMS, strict=True)}


def trajectory(
    tx: optax.GradientTransformationExtraArgs,
) -> tuple[dict[str, jax.Array], list[np.ndarray]]:
    """Losses, step sizes and trials of all steps, and the last params."""

    def step_fn(carry, rows):
        params, state = carry

        def loss_fn(params):
            return jax_loss(params, rows)

        value, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = tx.update(grads, state, params, value=value, value_fn=loss_fn)
        info = optax_armijo.armijo_info(state)
        facts = (value, info.step_size, info.num_evaluations, info.accepted)
        return (optax.apply_updates(params, updates), state), (*facts, info.searched)

    @jax.jit
    def run_all(params):
        return jax.lax.scan(step_fn, (params, tx.init(params)), jnp.asarray(ROWS))

    (params, _), facts = run_all(jax_params())
    return params, [np.asarray(fact) for fact in facts]


def _forward(params: Arrays, rows: np.ndarray) -> list[np.ndarray]:
    """Inputs, both hidden layers, and log-probabilities."""
    w1, b1, w2, b2, w3, b3 = params
    h1 = np.tanh(_X[rows] @ w1 + b1)
    h2 = np.tanh(h1 @ w2 + b2)
    logits = h2 @ w3 + b3
    logits = logits - logits.max(axis=1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return [_X[rows], h1, h2, logs]


def _loss(rows: np.ndarray):
    def loss(params: Arrays) -> float:
        logs = _forward(params, rows)[-1]
        return -float(np.mean(logs[np.arange(len(rows)), _Y[rows]]))

    return loss


def _value_and_grad(rows: np.ndarray):
    def value_and_grad(params: Arrays) -> tuple[float, Arrays]:
        x, h1, h2, logs = _forward(params, rows)
        w2, w3 = params[2], params[4]
        delta3 = (np.exp(logs) - np.eye(3)[_Y[rows]]) / len(rows)
        delta2 = (delta3 @ w3.T) * (1 - h2**2)
        delta1 = (delta2 @ w2.T) * (1 - h1**2)
        grads: Any = []
        for h, delta in ((x, delta1), (h1, delta2), (h2, delta3)):
            grads += [h.T @ delta, delta.sum(axis=0)]
        return _loss(rows)(params), grads

    return value_and_grad
