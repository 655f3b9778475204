"""Small networks that begin from random weights: of digits, and of bytes of news.

Shapes: N rows, L bytes.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from task import EVAL_BATCH_SIZE, Setup, Task, scores
from text_data import SPLIT_SEED, Sizes, load_data
from train_language_model import CONTEXT, LanguageModel, join

HELD_OUT_DIGITS = 360
HELD_OUT_NEWS, HELD_OUT_WINDOWS = 200, 500
WIDTH, NUM_LAYERS = 64, 2  # of the language model


class Rows(NamedTuple):
    """Inputs and what is to be predicted of them, [N, ...] each."""

    inputs: np.ndarray
    targets: np.ndarray


class Digits(nnx.Module):
    """Two convolutions and a linear classifier; nothing that batches leave behind."""

    def __init__(self, rngs: nnx.Rngs):
        self.narrow = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.wide = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.head = nnx.Linear(32 * 4, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """[N, 8, 8, 1] images -> logits [N, 10]."""
        x = images
        for layer in (self.narrow, self.wide):
            x = nnx.max_pool(nnx.relu(layer(x)), (2, 2), (2, 2))
        return self.head(x.reshape(x.shape[0], -1))


def digits_task(num_train: int, setup: Setup) -> Task:
    """scikit-learn's 8 x 8 images of ten digits; 360 are held out."""
    digits: Any = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[..., None]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    rows = Rows(images[order], digits.target[order].astype(np.int32))
    validation = Rows(*(x[:HELD_OUT_DIGITS] for x in rows))
    pool = Rows(*(x[HELD_OUT_DIGITS:] for x in rows))
    return from_scratch(
        lambda seed: Digits(nnx.Rngs(seed)),
        lambda seed: drawn(pool, num_train, seed),
        validation,
        setup,
    )


def language_task(num_train: int, setup: Setup) -> Task:
    """Windows of news, each byte to be predicted from those before it."""
    news = load_data("bbc", Sizes(train=None, validation=HELD_OUT_NEWS), data_seed=0)
    train, held_out = join(news.train), join(news.validation)
    return from_scratch(
        lambda seed: LanguageModel(WIDTH, NUM_LAYERS, nnx.Rngs(seed)),
        lambda seed: drawn(windows(train, len(train) // CONTEXT), num_train, seed),
        windows(held_out, HELD_OUT_WINDOWS),
        setup,
    )


def windows(text: np.ndarray, number: int) -> Rows:
    """Cuts so many windows out of a text, evenly spaced: uint8 [N, L] and what follows.

    Example:
      >>> inputs, targets = windows(np.arange(200, dtype=np.uint8), 2)
      >>> inputs[:, 0].tolist(), targets[:, 0].tolist()
      ([0, 135], [1, 136])
    """
    starts = np.linspace(0, len(text) - CONTEXT - 1, number, dtype=int)
    cut = text[starts[:, None] + np.arange(CONTEXT + 1)]
    return Rows(cut[:, :-1], cut[:, 1:].astype(np.int32))


def drawn(rows: Rows, number: int, seed: int) -> Rows:
    """Draws rows without replacement, all of them if there are fewer."""
    order = np.random.default_rng(seed).permutation(len(rows.targets))[:number]
    return Rows(*(x[order] for x in rows))


def batches(rows: Rows, size: int, seed: int, epoch: int) -> Iterator[Rows]:
    """Yields whole batches in an order that (seed, epoch) alone decide."""
    order = np.random.default_rng((seed, epoch)).permutation(len(rows.targets))
    for i in range(0, len(order) - size + 1, size):
        yield Rows(*(x[order[i : i + size]] for x in rows))


def from_scratch(
    new_model: Callable[[int], Any],
    train: Callable[[int], Rows],
    validation: Rows,
    setup: Setup,
) -> Task:
    """A task on arrays, of a module that maps inputs to logits, ``[..., classes]``.

    Raises:
      ValueError: `setup` asks for dropout, which these models do not have.
    """
    if setup.dropout:
        raise ValueError("dropout must be False for a task from scratch; got True")
    train = functools.lru_cache(maxsize=1)(train)
    graphdef = nnx.graphdef(new_model(0))
    num_train = len(train(0).targets)

    def losses_and_hits(params: Any, batch: Rows) -> tuple[jax.Array, jax.Array]:
        dtype = jnp.dtype(setup.compute)
        inputs, targets = map(jnp.asarray, batch)
        if jnp.issubdtype(inputs.dtype, jnp.floating):
            inputs = inputs.astype(dtype)
        model = nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(dtype), params))
        logits = model(inputs).astype(jnp.float32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return jnp.asarray(losses), logits.argmax(axis=-1) == targets

    def loss_fn(params: Any, batch: Rows, key: jax.Array) -> jax.Array:
        del key
        return losses_and_hits(params, batch)[0].mean()

    @jax.jit
    def sums(params: Any, batch: Rows) -> jax.Array:
        losses, hits = losses_and_hits(params, batch)
        return jnp.stack([hits.sum(), losses.sum(), losses.size])

    def evaluate(params: Any, num_rows: int | None) -> dict[str, float]:
        rows = Rows(*(x[:num_rows] for x in validation))
        parts = [
            Rows(*(x[i : i + EVAL_BATCH_SIZE] for x in rows))
            for i in range(0, len(rows.targets), EVAL_BATCH_SIZE)
        ]
        return scores(sums(params, part) for part in parts)

    return Task(
        init=lambda seed: nnx.state(new_model(seed), nnx.Param),
        loss_fn=loss_fn,
        batches=lambda seed, epoch: batches(train(seed), setup.batch_size, seed, epoch),
        steps_per_epoch=num_train // setup.batch_size,
        evaluate=evaluate,
        num_rows=(num_train, len(validation.targets)),
    )
