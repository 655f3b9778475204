"""Fine-tunes as `finetune_bert` does, over all devices of one host or of many.

One host: ``python examples/finetune_sharded.py``. N processes, on this host or others:
the same command in each, with where the first one listens and who it is, as in
``--coordinator 10.0.0.1:9876 --num-processes 2 --process-id 0``; on SLURM, Cloud TPU
and the like ``--cluster`` finds these out. All other options are `finetune_bert`'s.
Params and moments are split over the devices as the rows are; ``--whole-params``
copies them instead. There are no checkpoints.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import jax
import metrics
import numpy as np
from arguments import Parser, count
from devices import join, place
from errors import UserError
from jax.sharding import Mesh
from job import Job, load, prepare, run_epoch
from optimizers import last_step
from report import Report
from settings import Settings, parse_settings
from training import TrainState


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code, 2 for what the user can mend."""
    try:
        options, rest = parse_options(argv)
        settings = parse_settings(rest)
        join(
            options.cluster,
            options.coordinator,
            options.num_processes,
            options.process_id,
        )
        run(settings, options.whole_params)
    except UserError as error:
        print(f"finetune_sharded.py: {error}", file=sys.stderr)
        return 2
    return 0


def parse_options(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Reads this program's own options; returns them and the others."""
    parser = Parser(
        prog="finetune_sharded.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0")
    parser.add_argument("--num-processes", type=count(), metavar="N")
    parser.add_argument("--process-id", type=count(0), metavar="I", help="from 0")
    parser.add_argument("--cluster", action="store_true", help="ask the cluster")
    parser.add_argument("--whole-params", action="store_true", help="do not split them")
    return parser.parse_known_args(argv)


def run(settings: Settings, whole_params: bool) -> None:
    """Fine-tunes as the settings say; the first process writes and tells."""
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    if settings.resume:
        raise UserError("--resume: there are no checkpoints")
    if settings.batch_size % mesh.size:
        size = settings.batch_size
        raise UserError(f"--batch-size {size}: not a multiple of {mesh.size} devices")
    data, pretrained = load(settings)
    job, state = prepare(settings, data, pretrained, settings.batch_size)
    job, state = over_devices(mesh, job, state, whole_params)
    is_first = jax.process_index() == 0
    path = start_metrics(settings) if is_first else Path(os.devnull)
    total = settings.epochs * job.steps_per_epoch
    with Report(total, 0, settings.quiet or not is_first) as report:
        report.say(f"{mesh.size} devices, {jax.process_count()} processes")
        for epoch in range(settings.epochs):
            state = run_epoch(job, state, epoch, report, path)
        report.say(last_step(job.optimizer, state.opt_state))


def start_metrics(settings: Settings) -> Path:
    """Begins metrics.jsonl in the output folder."""
    path = settings.output_dir / "metrics.jsonl"
    if path.exists() and not settings.overwrite:
        raise UserError(f"{path} is there: --overwrite replaces it")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("", encoding="utf-8")
    metrics.append(path, metrics.run_record(settings.of_the_run()))
    return path


def over_devices(
    mesh: Mesh, job: Job, state: TrainState, whole_params: bool
) -> tuple[Job, TrainState]:
    """Places params and rows; the rest is as on one device."""
    params = place(mesh, state.params, is_split=not whole_params)
    # From `init` on, the optimizer's state lies where params do.
    state = TrainState(params, job.optimizer.transform.init(params))

    def rows(batch: Any) -> Any:
        return place(mesh, batch, is_split=True)

    placed = job._replace(
        train_batches=lambda epoch: map(rows, job.train_batches(epoch)),
        eval_batches=lambda: map(rows, job.eval_batches()),
    )
    return placed, state


if __name__ == "__main__":
    sys.exit(main())
