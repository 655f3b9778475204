"""Trains a small language model in Flax NNX from scratch, without a learning rate.

Run ``python examples/train_language_model.py``: a causal Transformer reads BBC news
byte by byte for some minutes on two cores.
Shapes: B rows, L bytes, D width.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import optax
from command_line import Parser, UserError, start
from compiling import Announced
from display import Table
from flax import nnx
from jax import Array
from text_data import Row, load_data

import optax_armijo
from optax_armijo.nnx import make_train_step

NUM_BYTES, NUM_HEADS, CONTEXT = 256, 4, 64
NUM_TESTED = 128  # windows of validation text


class Block(nnx.Module):
    """Causal attention and a two-layer network, each added to its input."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        heads = nnx.MultiHeadAttention(NUM_HEADS, width, decode=False, rngs=rngs)
        self.attention = heads
        self.wide_norm = nnx.LayerNorm(width, rngs=rngs)
        self.wide = nnx.Linear(width, 4 * width, rngs=rngs)
        self.narrow = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """[B, L, D] -> [B, L, D]."""
        mask = nnx.make_causal_mask(x[..., 0])
        x = x + self.attention(self.norm(x), mask=mask)
        return x + self.narrow(nnx.gelu(self.wide(self.wide_norm(x))))


class LanguageModel(nnx.Module):
    """Predicts each byte from those before it."""

    def __init__(self, width: int, num_layers: int, rngs: nnx.Rngs):
        self.byte_embedding = nnx.Embed(NUM_BYTES, width, rngs=rngs)
        self.position_embedding = nnx.Embed(CONTEXT, width, rngs=rngs)
        # One byte says little: the first layer sees four at a time.
        self.embedding_mix = nnx.Conv(width, width, 4, padding="CAUSAL", rngs=rngs)
        self.blocks = nnx.List([Block(width, rngs) for _ in range(num_layers)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, NUM_BYTES, rngs=rngs)

    def __call__(self, text: Array) -> Array:
        """Bytes [B, L] -> logits of the bytes that follow [B, L, 256]."""
        positions = self.position_embedding(jnp.arange(text.shape[1]))
        x = self.embedding_mix(self.byte_embedding(text)) + positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def bits_per_byte(model: LanguageModel, windows: Array) -> Array:
    """The mean over uint8 [B, L + 1], of all bytes but each row's first."""
    logits, following = model(windows[:, :-1]), windows[:, 1:].astype(jnp.int32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, following)
    return jnp.mean(losses) / jnp.log(2.0)


def join(rows: Sequence[Row]) -> np.ndarray:
    """All texts one after the other, as uint8."""
    return np.frombuffer("\n\n".join(row.text for row in rows).encode(), np.uint8)


def windows_at(text: np.ndarray, starts: np.ndarray) -> Array:
    """Cuts uint8 [B, CONTEXT + 1] out of a text."""
    return jnp.asarray(text[starts[:, None] + np.arange(CONTEXT + 1)])


def main(argv: Sequence[str] | None = None) -> float:
    """Runs the command line; returns the bits per byte of validation text."""
    parser = Parser(__doc__)
    parser.add_count("--steps", 1000, "to train for")
    parser.add_count("--batch-size", 16, "examples per step")
    parser.add_count("--width", 96, f"a multiple of {NUM_HEADS}")
    parser.add_count("--layers", 3, "blocks of attention")
    parser.add_count("--seed", 0, "of weights and batches", least=0)
    options = parser.parse_args(argv)
    if options.width % NUM_HEADS:
        raise UserError(f"--width {options.width}: not a multiple of {NUM_HEADS} heads")

    data = load_data("bbc", train_size=0, validation_size=200)
    train, validation = join(data.train), join(data.validation)
    places = np.linspace(0, len(validation) - CONTEXT - 1, NUM_TESTED, dtype=int)
    tested = windows_at(validation, places)
    model = LanguageModel(options.width, options.layers, nnx.Rngs(options.seed))
    tx = optax_armijo.armijo_adam(num_steps=options.steps)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    step = Announced(make_train_step(bits_per_byte), "a training step")
    validate = nnx.jit(bits_per_byte)

    rng, result, losses = np.random.default_rng(options.seed), float("nan"), []
    groups = optax_armijo.armijo_info(nnx.as_pure(optimizer.opt_state)).labels
    print("bits per byte, and the step sizes")
    table = Table("step", "train", "validation", *groups)
    for number in range(1, options.steps + 1):
        starts = rng.integers(len(train) - CONTEXT, size=options.batch_size)
        losses.append(step(model, optimizer, windows_at(train, starts)).loss)
        if number % max(1, options.steps // 10) == 0:
            result = float(validate(model, tested))
            info = optax_armijo.armijo_info(nnx.as_pure(optimizer.opt_state))
            table.row(number, np.mean(losses), result, *info.step_size)
            losses.clear()
    return result


if __name__ == "__main__":
    start(main)
