"""Fine-tunes LoRA adapters on a pretrained BERT in Flax NNX, without a learning rate.

Run ``python examples/finetune_lora.py``: MiniLM learns the sentiment of 500 tweets, and
only adapters of rank 8 and a classifier are trained. All other weights have neither
gradient nor optimizer state, and no trial copies them.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from bert import BertClassifier
from command_line import start
from compiling import Announced
from display import Table
from flax import nnx
from training import evaluate, make_parser, mean_loss, parse, prepare

import optax_armijo
from optax_armijo.nnx import make_train_step

TRAINED = nnx.Any(nnx.LoRAParam, nnx.PathContains("classifier"))


def add_adapters(model: BertClassifier, rank: int, rngs: nnx.Rngs) -> None:
    """Adds ``x @ a @ b`` to the queries and values of each layer; b is 0 at first."""
    for layer in model.layers:
        for name in ("query", "value"):
            linear = getattr(layer.attention, name)
            shape = linear.in_features, rank, linear.out_features
            adapted = nnx.LoRA(*shape, base_module=linear, rngs=rngs)
            setattr(layer.attention, name, adapted)


def size_of(tree: Any) -> int:
    """How many numbers there are in a tree."""
    return sum(x.size for x in jax.tree.leaves(tree))


def main(argv: Sequence[str] | None = None) -> float:
    """Runs the command line; returns the validation accuracy."""
    parser = make_parser(__doc__)
    parser.add_count("--rank", 8, "of the adapters")
    options = parse(parser, argv)
    job = prepare(options)
    model = job.model
    add_adapters(model, options.rank, nnx.Rngs(options.seed))
    optimizer = nnx.Optimizer(model, optax_armijo.armijo_adam(), wrt=TRAINED)

    trained, whole = size_of(nnx.state(model, TRAINED)), size_of(nnx.state(model))
    state = size_of(nnx.state(optimizer, nnx.optimizer.OptState))
    print(f"{trained:,} of {whole:,} weights train; the state has {state:,} numbers")
    info = optax_armijo.armijo_info(nnx.as_pure(optimizer.opt_state))
    table = Table("epoch", "train loss", "accuracy", *info.labels)
    step = Announced(make_train_step(mean_loss), "a training step")
    key = jax.random.key(options.seed)
    accuracy = 0.0
    for epoch in range(options.epochs):
        losses = []
        for batch in job.train_batches(epoch):
            key, dropout = jax.random.split(key)
            losses.append(step(model, optimizer, batch, dropout).loss)
        accuracy = evaluate(*nnx.split(model), job.eval_batches())["accuracy"]
        info = optax_armijo.armijo_info(nnx.as_pure(optimizer.opt_state))
        table.row(epoch + 1, np.mean(losses), accuracy, *info.step_size)
    return accuracy


if __name__ == "__main__":
    start(main)
