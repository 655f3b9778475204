"""Fine-tunes LoRA adapters on a pretrained BERT in Flax NNX, without a learning rate.

Run ``python examples/finetune_lora.py``: MiniLM learns the sentiment of 500 tweets, and
only adapters of rank 8 and a classifier are trained. All other weights have neither
gradient nor optimizer state, and no trial copies them. It draws losses, accuracy and
the step size of each layer. ``--optimizer lora_plus`` trains the same by LoRA+.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from bert import BertClassifier
from command_line import UserError, positive_number, start
from compiling import Announced
from display import Table, plot_run, progress
from fitting import save
from flax import nnx
from rivals import LORA_PLUS_RATIO, LORA_RATE, lora_plus
from training import evaluate, make_parser, mean_loss, parse, prepare

import optax_armijo
from optax_armijo.nnx import make_train_step

PICTURE = Path("runs") / "lora.png"
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


def options_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = make_parser(__doc__)
    parser.set_defaults(epochs=3)  # in under two minutes on two cores
    parser.add_count("--rank", 8, "of the adapters")
    names = "armijo_adam", "lora_plus"
    text = "lora_plus is the baseline: AdamW, 10%% warm-up, cosine decay, the matrices "
    text += f"B at {LORA_PLUS_RATIO} times the rate of A (default %(default)s)"
    parser.add_argument("--optimizer", choices=names, default=names[0], help=text)
    text = f"of A, of lora_plus alone (default {LORA_RATE:g})"
    parser.add_argument("--learning-rate", type=positive_number, metavar="X", help=text)
    options = parse(parser, argv)
    if options.optimizer == "lora_plus":
        options.learning_rate = options.learning_rate or LORA_RATE
    elif options.learning_rate:
        raise UserError(f"--learning-rate: {options.optimizer} has none")
    return options


def main(argv: Sequence[str] | None = None) -> float:
    """Runs the command line; returns the validation accuracy."""
    options = options_of(argv)
    job = prepare(options)
    model, searches = job.model, options.optimizer == "armijo_adam"
    add_adapters(model, options.rank, nnx.Rngs(options.seed))
    num_steps = options.epochs * job.steps_per_epoch
    tx = optax_armijo.armijo_adam(num_steps=num_steps)
    if not searches:
        tx = lora_plus(options.learning_rate, num_steps)
    optimizer = nnx.Optimizer(model, tx, wrt=TRAINED)

    trained, whole = size_of(nnx.state(model, TRAINED)), size_of(nnx.state(model))
    state = size_of(nnx.state(optimizer, nnx.optimizer.OptState))
    print(f"{trained:,} of {whole:,} weights train; the state has {state:,} numbers")
    opt_state = nnx.as_pure(optimizer.opt_state)
    labels = optax_armijo.armijo_info(opt_state).labels if searches else ()
    table = Table("epoch", "train loss", "accuracy", "log loss", *labels)
    step = Announced(make_train_step(mean_loss), "a training step")
    key = jax.random.key(options.seed)
    scores, records, per_epoch = {}, [], job.steps_per_epoch
    for epoch in range(options.epochs):
        steps = []
        batches = job.train_batches(epoch)
        for batch in progress(batches, f"epoch {epoch + 1}", per_epoch):
            key, dropout = jax.random.split(key)
            loss, _, info = step(model, optimizer, batch, dropout)
            steps.append((loss, info.step_size if info else ()))
        losses, sizes = zip(*jax.device_get(steps), strict=True)
        scores = evaluate(*nnx.split(model), job.eval_batches())
        shown = scores["accuracy"], scores["log_loss"]
        table.row(epoch + 1, np.mean(losses), *shown, *sizes[-1])
        found = zip(losses, sizes, strict=True)
        for number, (loss, size) in enumerate(found, epoch * per_epoch + 1):
            record = {"kind": "step", "step": number, "loss": loss}
            record["step_size"] = dict(zip(labels, size, strict=True))
            records.append(record)
        record = {"kind": "epoch", "step": (epoch + 1) * per_epoch}
        records.append(record | {"train_loss": np.mean(losses)} | scores)
    if searches:
        save(plot_run(records, f"LoRA, rank {options.rank}"), PICTURE)
    return scores["accuracy"]


if __name__ == "__main__":
    start(main)
