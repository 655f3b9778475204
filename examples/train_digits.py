"""Trains a BatchNorm CNN in Flax Linen on handwritten digits, without a learning rate.

Run ``python examples/train_digits.py``: it learns 1,437 of scikit-learn's 8 x 8 images
in a quarter of a minute on two cores, and is tested on the other 360. Batch statistics
are updated in the gradient's pass only; trials of step sizes do not change them.
Shapes: B rows.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from command_line import Parser, UserError, start
from compiling import Announced
from display import Table, progress
from flax import linen as nn
from jax import Array
from sklearn.datasets import load_digits

import optax_armijo
import optax_armijo.linen

NUM_TEST, SPLIT_SEED = 360, 0


class Block(nn.Module):
    """Convolution, batch normalisation, relu, and half the width and height."""

    features: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = nn.Conv(self.features, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.max_pool(x, (2, 2), strides=(2, 2))


class Network(nn.Module):
    """Three blocks and a linear classifier."""

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[B, 8, 8, 1] images -> logits [B, 10]."""
        for features in (16, 32, 64):
            x = Block(features)(x, train)
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


class TrainState(optax_armijo.linen.TrainState):
    """With the running statistics of BatchNorm."""

    batch_stats: Any


@jax.jit
def train_step(state: TrainState, images: Array, labels: Array) -> Any:
    """Returns the state after a step, and the loss before it."""

    def loss_fn(params: Any) -> tuple[Array, Any]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updated = state.apply_fn(
            variables, images, train=True, mutable=["batch_stats"]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), updated["batch_stats"]

    (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    state = state.apply_gradients(
        grads=grads,
        value=loss,
        value_fn=lambda params: loss_fn(params)[0],
        batch_stats=stats,
    )
    return state, loss


@jax.jit
def accuracy(state: TrainState, images: Array, labels: Array) -> Array:
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = state.apply_fn(variables, images, train=False)
    return jnp.mean(logits.argmax(axis=-1) == labels)


def main(argv: Sequence[str] | None = None) -> float:
    """Runs the command line; returns the accuracy on the test digits."""
    parser = Parser(__doc__)
    parser.add_count("--epochs", 10, "passes over the training examples")
    parser.add_count("--batch-size", 64, "examples per step")
    parser.add_count("--seed", 0, "of weights and order", least=0)
    options = parser.parse_args(argv)

    digits: Any = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[..., None]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    test, train = order[:NUM_TEST], order[NUM_TEST:]
    if (size := options.batch_size) > len(train):
        raise UserError(f"--batch-size {size}: only {len(train)} examples to train on")

    # No learning rate.
    num_steps = options.epochs * (len(train) // size)
    network, tx = Network(), optax_armijo.armijo_adam(num_steps=num_steps)
    variables = network.init(jax.random.key(options.seed), images[:1], train=False)
    state = TrainState.create(apply_fn=network.apply, tx=tx, **variables)
    labels = optax_armijo.armijo_info(state.opt_state).labels  # a step size each
    step = Announced(train_step, "a training step")
    table, tested = Table("epoch", "train loss", "accuracy", *labels), 0.0
    for epoch in range(1, options.epochs + 1):
        losses = []
        rows = np.random.default_rng((options.seed, epoch)).permutation(train)
        starts = range(0, len(rows) - size + 1, size)
        for i in progress(starts, f"epoch {epoch}"):
            batch = rows[i : i + size]
            state, loss = step(state, images[batch], digits.target[batch])
            losses.append(loss)
        tested = float(accuracy(state, images[test], digits.target[test]))
        sizes = optax_armijo.armijo_info(state.opt_state).step_size
        table.row(epoch, np.mean(losses), tested, *sizes)
    return tested


if __name__ == "__main__":
    start(main)
