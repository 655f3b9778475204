"""Trains a BatchNorm CNN in Flax Linen on handwritten digits, without a learning rate.

Run ``python examples/train_digits.py``: it learns 1,437 of scikit-learn's 8 x 8 images
in a quarter of a minute on two cores and is tested on the other 360. Batch statistics
move on in the gradient's pass alone; trials of step sizes leave no trace in them.
Shapes: B rows.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from arguments import Parser, count, tell
from errors import UserError
from flax import linen as nn
from sklearn.datasets import load_digits
from table import Table

import optax_armijo
import optax_armijo.linen

NUM_TEST, SPLIT_SEED = 360, 0


class Block(nn.Module):
    """Convolution, batch normalisation, relu, and half the width and height."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(self.features, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.max_pool(x, (2, 2), strides=(2, 2))


class Network(nn.Module):
    """Three blocks and a linear classifier."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, 8, 8, 1] images -> logits [B, 10]."""
        for features in (16, 32, 64):
            x = Block(features)(x, train)
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


class TrainState(optax_armijo.linen.TrainState):
    """With what BatchNorm keeps beside params."""

    batch_stats: Any


@jax.jit
def train_step(
    state: TrainState, images: jax.Array, labels: jax.Array
) -> tuple[TrainState, jax.Array]:
    """Returns the state after a step, and the loss before it."""

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
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
def accuracy(state: TrainState, images: jax.Array, labels: jax.Array) -> jax.Array:
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = state.apply_fn(variables, images, train=False)
    return jnp.mean(logits.argmax(axis=-1) == labels)


def batches(
    images: np.ndarray, labels: np.ndarray, size: int, seed: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields whole batches in an order that the seed decides."""
    order = np.random.default_rng(seed).permutation(len(labels))
    for i in range(0, len(order) - size + 1, size):
        yield images[order[i : i + size]], labels[order[i : i + size]]


def main(argv: Sequence[str] | None = None) -> float:
    """Runs the command line; returns the accuracy on the test digits."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    add, default = parser.add_argument, "(default %(default)s)"
    add("--epochs", type=count(), default=10, metavar="N", help=default)
    text = "rows a step " + default
    add("--batch-size", type=count(), default=64, metavar="N", help=text)
    text = "of weights and order " + default
    add("--seed", type=count(0), default=0, metavar="N", help=text)
    options = parser.parse_args(argv)

    digits: Any = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[..., None]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    test, train = order[:NUM_TEST], order[NUM_TEST:]
    if options.batch_size > len(train):
        size = options.batch_size
        raise UserError(f"--batch-size {size}: there are {len(train)} rows to train on")

    network = Network()
    state = TrainState.create(
        apply_fn=network.apply,
        # No learning rate: a step size for each block, of weights that begin at random.
        tx=optax_armijo.armijo_adam(
            linesearch=optax_armijo.Backtracking(loss_fraction=None)
        ),
        **network.init(jax.random.key(options.seed), images[:1], train=False),
    )
    groups = optax_armijo.armijo_info(state.opt_state).labels
    table = Table("epoch", "train loss", "accuracy", *groups)
    tested = 0.0
    for epoch in range(1, options.epochs + 1):
        losses = []
        rows = (images[train], digits.target[train])
        for batch in batches(*rows, options.batch_size, (options.seed, epoch)):
            state, loss = train_step(state, *batch)
            losses.append(loss)
        tested = float(accuracy(state, images[test], digits.target[test]))
        sizes = optax_armijo.armijo_info(state.opt_state).step_size
        table.row(epoch, np.mean(losses), tested, *sizes)
    return tested


if __name__ == "__main__":
    sys.exit(tell(main))
