"""Small networks that begin from random weights: of digits, and of the bytes of texts.

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
from tasks import Setup, Task
from text import SOURCES
from text_data import SPLIT_SEED, split_pool
from train_language_model import CONTEXT, LanguageModel, join

NUM_TEST_DIGITS, NUM_TEST_TEXTS, NUM_TEST_WINDOWS = 360, 200, 500
NUM_WINDOWS = 2000  # that the language model trains on
WIDTH, NUM_LAYERS = 64, 2  # of the language model
EVAL_BATCH_SIZE = 100


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


def digits(num_train: int, *, setup: Setup) -> Task:
    """scikit-learn's 8 x 8 images of ten digits; 360 are validated on."""
    data: Any = load_digits()
    images = (data.images / 16.0).astype(np.float32)[..., None]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    rows = Rows(images[order], data.target[order].astype(np.int32))
    validation, pool = (
        Rows(*(x[part] for x in rows))
        for part in (slice(NUM_TEST_DIGITS), slice(NUM_TEST_DIGITS, None))
    )
    train = functools.partial(drawn, pool, num_train)
    return _task(lambda seed: Digits(nnx.Rngs(seed)), train, validation, setup)


def language_model(source: str, *, setup: Setup) -> Task:
    """Windows of text, each byte to be predicted from those before it."""
    pool, validation = split_pool(SOURCES[source](), NUM_TEST_TEXTS)
    train, test = join(pool), join(validation)
    all_windows = windows(train, min(20_000, len(train) // CONTEXT))
    return _task(
        lambda seed: LanguageModel(WIDTH, NUM_LAYERS, nnx.Rngs(seed)),
        functools.partial(drawn, all_windows, NUM_WINDOWS),
        windows(test, NUM_TEST_WINDOWS),
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


def _task(
    new_model: Callable[[int], Any],
    train: Callable[[int], Rows],
    validation: Rows,
    setup: Setup,
) -> Task:
    """A task on arrays, of a module that maps inputs to logits, ``[..., classes]``."""
    if setup.dropout:
        raise ValueError("dropout must be False for a task from scratch; got True")
    train = functools.lru_cache(maxsize=1)(train)
    graphdef = nnx.graphdef(new_model(0))
    batch_size, num_train = setup.batch_size or 32, len(train(0).targets)

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

    def evaluate(params: Any) -> dict[str, float]:
        parts = [
            Rows(*(x[i : i + EVAL_BATCH_SIZE] for x in validation))
            for i in range(0, len(validation.targets), EVAL_BATCH_SIZE)
        ]
        hits, loss, number = np.sum([sums(params, part) for part in parts], axis=0)
        return {"score": float(hits / number), "loss": float(loss / number)}

    return Task(
        init=lambda seed: nnx.state(new_model(seed), nnx.Param),
        loss_fn=loss_fn,
        batches=lambda seed, epoch: batches(train(seed), batch_size, seed, epoch),
        steps_per_epoch=num_train // batch_size,
        num_epochs=5,
        evaluate=evaluate,
        num_rows=(num_train, len(validation.targets)),
    )
