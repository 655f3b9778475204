"""Fine-tunes a pretrained BERT over all devices of one host or of many.

One host: ``python examples/finetune_sharded.py``. Several processes, on this host or
others: the same command in each, with the address of the first and its own number, as
in ``--coordinator 10.0.0.1:9876 --num-processes 2 --process-id 0``. On SLURM, Cloud TPU
and the like, ``--cluster`` finds these. Params and moments are split over the devices,
as the rows are. The steps are those of one device, to rounding.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from command_line import UserError, start
from compiling import Announced
from display import Table
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from training import evaluate, make_parser, mean_loss, parse, prepare

import optax_armijo


def sharding_of(mesh: Mesh, shape: tuple[int, ...], *, is_split: bool) -> NamedSharding:
    """Splits an array along its first axis that can be split, else replicates it."""
    axes = [i for i, size in enumerate(shape) if size % mesh.size == 0]
    where = [None] * axes[0] + ["data"] if is_split and axes else []
    return NamedSharding(mesh, PartitionSpec(*where))


def place(mesh: Mesh, tree: Any, *, is_split: bool = True) -> Any:
    """Puts leaves, which every process has, on the devices of all processes."""

    def put(leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        sharding = sharding_of(mesh, array.shape, is_split=is_split)
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(put, tree)


def main(argv: Sequence[str] | None = None) -> list[float]:
    """Runs the command line; returns the loss before each step."""
    parser = make_parser(__doc__)
    text = "where process 0 listens"
    parser.add_argument("--coordinator", metavar="HOST:PORT", help=text)
    parser.add_count("--num-processes", None, "how many there are")
    parser.add_count("--process-id", None, "this one's, from 0", least=0)
    text = "ask SLURM, Cloud TPU or the like for all three"
    parser.add_argument("--cluster", action="store_true", help=text)
    text = "copy params and moments, do not split them"
    parser.add_argument("--whole-params", action="store_true", help=text)
    options = parse(parser, argv)
    processes = options.coordinator, options.num_processes, options.process_id
    # Before the first computation, or it is too late.
    if options.cluster:
        jax.distributed.initialize()
    elif None not in processes:
        jax.distributed.initialize(*processes)
    elif processes != (None, None, None):
        raise UserError("--coordinator, --num-processes and --process-id go together")
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    job = prepare(options)
    if (size := job.batch_size) % mesh.size:
        raise UserError(f"--batch-size {size}: not a multiple of {mesh.size} devices")

    graphdef, params = nnx.split(job.model, nnx.Param)
    params = place(mesh, params, is_split=not options.whole_params)
    tx = optax_armijo.armijo_adam(num_steps=options.epochs * job.steps_per_epoch)
    opt_state = tx.init(params)  # lies where params do
    step = optax_armijo.make_train_step(
        lambda params, *batch: mean_loss(nnx.merge(graphdef, params), *batch), tx
    )
    step = Announced(step, "a training step")
    labels = optax_armijo.armijo_info(opt_state).labels  # in all processes, as below
    table = None
    if jax.process_index() == 0:
        table = Table("epoch", "train loss", "accuracy", *labels)
    losses, key = [], jax.random.key(options.seed)
    for epoch in range(1, options.epochs + 1):
        for batch in job.train_batches(epoch - 1):
            batch = place(mesh, batch), jax.random.fold_in(key, len(losses))
            params, opt_state, metrics = step(params, opt_state, *batch)
            losses.append(float(metrics.loss))
        tested = (place(mesh, x) for x in job.eval_batches())
        accuracy = evaluate(graphdef, params, tested)["accuracy"]
        info = jax.device_get(optax_armijo.armijo_info(opt_state))
        if table:
            loss = np.mean(losses[-job.steps_per_epoch :])
            table.row(epoch, loss, accuracy, *info.applied_step_size)
    return losses


if __name__ == "__main__":
    start(main)
