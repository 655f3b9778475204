"""Fine-tunes LoRA adapters on a pretrained BERT in Flax NNX, without a learning rate.

Run ``python examples/finetune_lora.py``: MiniLM learns the mood of 500 tweets by
adapters of rank 8 and a classifier alone. What ``wrt`` leaves out has neither gradient
nor optimizer state, and no trial holds a copy of it.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

# transformers says at import that it found no PyTorch; none is wanted here.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from arguments import Parser, count, tell
from batches import Batch, encode, eval_batches, train_batches
from bert import BertClassifier
from bert_weights import load_bert
from flax import nnx
from pretrained import load_pretrained
from table import Table
from text_data import Sizes, load_data
from training import evaluate, make_eval_step

import optax_armijo
from optax_armijo.nnx import make_train_step

TRAINED = nnx.Any(nnx.LoRAParam, nnx.PathContains("classifier"))
EVAL_BATCH_SIZE = 50
MAX_LENGTH = 64  # of the tweets, 1 in 200 is longer


def add_adapters(model: BertClassifier, rank: int, rngs: nnx.Rngs) -> None:
    """Puts ``x @ a @ b`` beside the queries and values of each layer; b begins at 0."""
    for layer in model.layers:
        for name in ("query", "value"):
            linear = getattr(layer.attention, name)
            adapted = nnx.LoRA(
                linear.in_features,
                rank,
                linear.out_features,
                base_module=linear,
                rngs=rngs,
            )
            setattr(layer.attention, name, adapted)


def loss_fn(model: BertClassifier, batch: Batch, key: jax.Array) -> jax.Array:
    """The mean cross entropy, with the dropout masks of `key`."""
    ids, mask, types = map(jnp.asarray, batch[:3])
    logits = model(ids, mask, types, nnx.Rngs(dropout=key))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    return (losses * batch.weights).sum() / batch.weights.sum()


def size_of(tree: Any) -> tuple[int, float]:
    """How many numbers there are in a tree, and how many MB."""
    leaves = jax.tree.leaves(tree)
    return sum(x.size for x in leaves), sum(x.nbytes for x in leaves) / 1e6


def main(argv: Sequence[str] | None = None) -> float:
    """Runs the command line; returns the validation accuracy."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    add, default = parser.add_argument, " (default %(default)s)"
    text = "of the adapters" + default
    add("--rank", type=count(), default=8, metavar="N", help=text)
    add("--epochs", type=count(), default=5, metavar="N", help=default)
    text = "rows a step" + default
    add("--batch-size", type=count(), default=32, metavar="N", help=text)
    text = "rows to train on" + default
    add("--train-size", type=count(), default=500, metavar="N", help=text)
    text = "rows to validate on" + default
    add("--validation-size", type=count(), default=1000, metavar="N", help=text)
    text = "use only the first so many"
    add("--num-layers", type=count(), metavar="N", help=text)
    text = "of all but the rows" + default
    add("--seed", type=count(0), default=0, metavar="N", help=text)
    options = parser.parse_args(argv)

    sizes = Sizes(options.train_size, options.validation_size)
    data = load_data("tweets", sizes, data_seed=0)
    config, tokenizer, tensors = load_pretrained("minilm", options.num_layers)
    train, validation = (
        encode(tokenizer, rows, data.labels, MAX_LENGTH)
        for rows in (data.train, data.validation)
    )
    model = load_bert(config, tensors, len(data.labels), options.seed)
    add_adapters(model, options.rank, nnx.Rngs(options.seed))
    optimizer = nnx.Optimizer(model, optax_armijo.armijo_adam(), wrt=TRAINED)

    (trained, _), (all_weights, _) = map(
        size_of, (nnx.state(model, TRAINED), nnx.state(model))
    )
    state_size = size_of(nnx.state(optimizer, nnx.optimizer.OptState))[1]
    print(f"{trained:,} of {all_weights:,} weights train; ", end="")
    print(f"the optimizer's state has {state_size:.2f} MB")
    info = optax_armijo.armijo_info(nnx.as_pure(optimizer.opt_state))
    table = Table("epoch", "train loss", "accuracy", *info.labels)
    step, key = make_train_step(loss_fn), jax.random.key(options.seed)
    eval_step = make_eval_step(nnx.graphdef(model))
    accuracy, order = 0.0, (options.batch_size, MAX_LENGTH, options.seed)
    for epoch in range(1, options.epochs + 1):
        losses = []
        for batch in train_batches(train, *order, epoch):
            key, dropout = jax.random.split(key)
            losses.append(step(model, optimizer, batch, dropout).loss)
        tested = eval_batches(validation, EVAL_BATCH_SIZE, MAX_LENGTH)
        accuracy = evaluate(eval_step, nnx.state(model), tested).accuracy
        info = optax_armijo.armijo_info(nnx.as_pure(optimizer.opt_state))
        table.row(epoch, np.mean(losses), accuracy, *info.step_size)
    return accuracy


if __name__ == "__main__":
    sys.exit(tell(main))
