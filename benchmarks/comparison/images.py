"""Convolutional networks with batch normalisation: random weights and ImageNet's.

In training, batch normalisation uses the statistics of the batch and of nothing else:
the loss is a function of params and batch. For validation, statistics are computed anew
with the params to be validated, be they the last or an average. Images are
[N, 32, 32, 3] with values in [-1, 1].
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from classification import Rows, digit_rows, scratch_task
from efficientnet import WEIGHTS, BatchNorm, load_efficientnet, read_tensors
from flax import nnx
from sklearn.datasets import load_sample_image
from tasks import Setup, Task
from text_data import SPLIT_SEED, fetch

NUM_TRAIN = 500
NUM_STATISTICS, STATISTICS_BATCH = 480, 32  # images, of the pool: the same in every run
SIZE = 32  # pixels
NUM_STRIPS, NUM_BANDS = 4, 7  # of a photograph
NUM_POOL_PATCHES, NUM_TEST_PATCHES = 4000, 400


def efficientnet(data: str, *, setup: Setup) -> Task:
    """All weights of EfficientNet-Lite0, pretrained; the seed draws its classifier."""
    pool, validation = DATA[data]()
    classes, tensors = int(pool.labels.max()) + 1, read_tensors(fetch(WEIGHTS))
    return image_task(
        lambda seed: load_efficientnet(tensors, classes, seed),
        *(pool, validation, setup, 5),
    )


def batchnorm(data: str, *, setup: Setup) -> Task:
    """A small network from random weights."""
    pool, validation = DATA[data]()
    classes = int(pool.labels.max()) + 1
    return image_task(
        lambda seed: ConvNet(classes, nnx.Rngs(seed)), *(pool, validation, setup, 10)
    )


class ConvNet(nnx.Module):
    """Three convolutions, each normalised, and a linear classifier."""

    def __init__(self, num_classes: int, rngs: nnx.Rngs):
        widths = (3, 16, 32, 64)
        self.convs = nnx.List(
            nnx.Conv(inputs, outputs, (3, 3), use_bias=False, rngs=rngs)
            for inputs, outputs in zip(widths, widths[1:], strict=False)
        )
        self.norms = nnx.List(BatchNorm(width) for width in widths[1:])
        self.head = nnx.Linear(widths[-1], num_classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """[N, 32, 32, 3] images -> logits [N, classes]."""
        x = images
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.max_pool(nnx.relu(norm(conv(x))), (2, 2), (2, 2))
        return self.head(x.mean(axis=(1, 2)))


# Data: a pool of training rows, and validation rows


def digits() -> tuple[Rows, Rows]:
    """scikit-learn's 8 x 8 digits, enlarged; 360 are validated on."""

    def enlarge(rows: Rows) -> Rows:
        images = np.repeat(2 * rows.inputs - 1, 3, axis=-1)
        shape = (len(images), SIZE, SIZE, 3)
        return Rows(np.asarray(jax.image.resize(images, shape, "linear")), rows.labels)

    pool, validation = digit_rows()
    return enlarge(pool), enlarge(validation)


def patches() -> tuple[Rows, Rows]:
    """Crops of two photographs, to be told apart by where they are from.

    Each photograph has four vertical strips of equal width: eight classes. Crops of the
    pool lie in every other of its seven horizontal bands, those of validation in the
    rest, so that they share no pixel.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    photographs = np.stack([load_sample_image(f"{x}.jpg") for x in ("china", "flower")])

    def cut(number: int, bands: range) -> Rows:
        labels = np.arange(number) % (2 * NUM_STRIPS)
        places = crop_places(rng, labels % NUM_STRIPS, bands, photographs.shape[1:3])
        crops = [
            photographs[photo, top : top + SIZE, left : left + SIZE]
            for photo, (top, left) in zip(labels // NUM_STRIPS, places, strict=True)
        ]
        images = (np.stack(crops) / 127.5 - 1).astype(np.float32)
        return Rows(images, labels.astype(np.int32))

    return (
        cut(NUM_POOL_PATCHES, range(0, NUM_BANDS, 2)),
        cut(NUM_TEST_PATCHES, range(1, NUM_BANDS, 2)),
    )


def crop_places(
    rng: np.random.Generator, strips: np.ndarray, bands: range, shape: tuple[int, ...]
) -> np.ndarray:
    """Places a crop in each of these strips [N], in any of the bands: top, left [N, 2].

    Example:
      >>> crop_places(np.random.default_rng(0), np.array([0, 3]), range(1), (224, 128))
      array([[ 0,  0],
             [ 0, 96]])
    """
    height, width = shape[0] // NUM_BANDS, shape[1] // NUM_STRIPS
    corner = np.stack([height * rng.choice(bands, len(strips)), width * strips], axis=1)
    room = np.array([height, width]) - SIZE + 1
    return corner + rng.integers(0, room, (len(strips), 2))


DATA: dict[str, Callable[[], tuple[Rows, Rows]]] = {
    "digits": functools.cache(digits),
    "patches": functools.cache(patches),
}


# The task


def image_task(
    new_model: Callable[[int], Any],
    pool: Rows,
    validation: Rows,
    setup: Setup,
    num_epochs: int,
) -> Task:
    """A task on 500 rows of a pool, of a module with batch normalisation."""

    def validated_model(seed: int) -> Any:
        model = new_model(seed)
        model.eval()
        return model

    rows = (pool, NUM_TRAIN, validation, setup)
    # Both kinds of arrays are given to the model in validation.
    both = nnx.Any(nnx.Param, nnx.BatchStat)
    validated = scratch_task(validated_model, *rows, trained=both)
    statistics = batch_statistics(new_model(0), pool.inputs[:NUM_STATISTICS], setup)

    def evaluate(params: Any) -> dict[str, float]:
        return validated.evaluate(nnx.merge_state(params, statistics(params)))

    task = scratch_task(new_model, *rows)
    return task._replace(num_epochs=num_epochs, evaluate=evaluate)


def batch_statistics(
    model: Any, images: np.ndarray, setup: Setup
) -> Callable[[Any], Any]:
    """Returns ``(params) -> statistics``, averages of those of batches of 32 images.

    A batch's statistics are the mean and the variance of what each normalisation is
    given.
    """
    graphdef, _, state = nnx.split(model, nnx.Param, ...)
    batches = np.split(images, len(images) // STATISTICS_BATCH)

    @jax.jit
    def of_batch(params: Any, batch: jax.Array) -> Any:
        cast = functools.partial(jax.tree.map, lambda x: jnp.asarray(x, setup.compute))
        model = nnx.merge(graphdef, cast(params), cast(state))
        model(cast(batch))
        return nnx.state(model, nnx.BatchStat)

    def averages(params: Any) -> Any:
        found = [of_batch(params, batch) for batch in batches]
        return jax.tree.map(lambda *x: np.mean(x, axis=0, dtype=np.float32), *found)

    return averages
