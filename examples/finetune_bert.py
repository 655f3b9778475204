"""Fine-tunes a pretrained BERT on texts, with step sizes found by Armijo's test.

Run ``python examples/finetune_bert.py``: MiniLM learns the sentiment of 500 tweets in a
few minutes on two cores. ``--help`` lists what else it can do.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from command_line import UserError, positive_number, tell
from display import SPAN, Table, plot_run, span
from flax import nnx
from rich.progress import track
from run_folder import Record, open_checkpoints, read, restore, run_record, save
from training import Job, evaluate, make_parser, mean_loss, parse, prepare

import optax_armijo

GROUPS = {
    "layer": optax_armijo.by_layer,
    "one": optax_armijo.one_group,
    "depth": optax_armijo.by_depth(4),
    "attention": optax_armijo.by_attention,
}
COMMON_RATE, WEIGHT_DECAY = 2e-5, 0.01  # of AdamW for BERT
HEADER = ("epoch", "train loss", "accuracy", "log loss", SPAN, "evaluations", "seconds")
NOT_OF_THE_RUN = ("output_dir", "resume", "overwrite", "rates", "seeds")


def options_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = make_parser(__doc__)
    names, default = ("armijo_adam", "adamw"), " (default %(default)s)"
    text = "adamw is the baseline: 10%% warm-up, cosine decay" + default
    parser.add_argument("--optimizer", choices=names, default=names[0], help=text)
    text = "what has a step size of its own: each layer, everything as one, 4 parts by "
    text += "depth, or queries, keys, values and the rest" + default
    parser.add_argument("--groups", choices=GROUPS, default="layer", help=text)
    text = f"of adamw alone (default {COMMON_RATE:g})"
    parser.add_argument("--learning-rate", type=positive_number, metavar="X", help=text)
    text = "validate the average of the last iterates"
    parser.add_argument("--average", action="store_true", help=text)
    text = "for metrics.jsonl, curves.png, checkpoints (default runs/TASK-OPTIMIZER)"
    parser.add_path("--output-dir", text)
    either = parser.add_mutually_exclusive_group()
    text = "go on after the last whole epoch of the run in the output folder"
    either.add_argument("--resume", action="store_true", help=text)
    text = "replace the run in the output folder"
    either.add_argument("--overwrite", action="store_true", help=text)
    options = parse(parser, argv)
    if options.optimizer == "adamw":
        options.learning_rate = options.learning_rate or COMMON_RATE
    elif options.learning_rate:
        raise UserError(f"--learning-rate: {options.optimizer} has none")
    name = f"{options.task}-{options.optimizer}"
    options.output_dir = options.output_dir or Path("runs") / name
    return options


def settings_of(options: argparse.Namespace) -> Record:
    """The options that a resumed run must share, as JSON."""
    given = {k: v for k, v in vars(options).items() if k not in NOT_OF_THE_RUN}
    return json.loads(json.dumps(given, default=str))


def make_optimizer(options: argparse.Namespace, num_steps: int) -> tuple[Any, Any]:
    """Returns the optimizer, and its schedule or None."""
    tx, schedule = optax_armijo.armijo_adam(GROUPS[options.groups]), None
    if options.optimizer == "adamw":
        # The common schedule: warm-up over a tenth of the steps, then a cosine to 0.
        # Neither the first nor the last step is wasted on a learning rate of 0.
        peak, warmup = options.learning_rate, max(1, num_steps // 10)
        curve = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, num_steps + 1)
        schedule = lambda count: curve(count + 1)  # noqa: E731
        tx = optax.adamw(schedule, weight_decay=WEIGHT_DECAY, mask=matrices)
    return optax_armijo.average_iterates(tx) if options.average else tx, schedule


def matrices(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    try:
        run(options_of(argv))
    except KeyboardInterrupt:
        hint = "; --resume goes on after the last whole epoch"
        raise KeyboardInterrupt(hint) from None


def run(options: argparse.Namespace) -> list[Record]:
    """Fine-tunes as the options say; returns the lines of `metrics.jsonl`."""
    folder = options.output_dir
    with open_checkpoints(folder) as checkpoints:
        done = checkpoints.latest_step() or 0
        records = [x for x in read(folder) if x.get("epoch", 0) <= done] if done else []
        check_old(records, options)
        job = prepare(options)
        graphdef, params = nnx.split(job.model, nnx.Param)
        num_steps = options.epochs * job.steps_per_epoch
        tx, schedule = make_optimizer(options, num_steps)
        state, facts = (params, tx.init(params)), facts_of(job)
        if records and options.resume:
            state = restore(checkpoints, like=state)
        else:
            # Not before: an error in data or model must not cost the old run.
            for old in checkpoints.all_steps():
                checkpoints.delete(old)
            done, records = 0, [run_record(settings_of(options), data=facts)]
        params, opt_state = state
        step = optax_armijo.make_train_step(
            lambda params, *batch: mean_loss(nnx.merge(graphdef, params), *batch), tx
        )
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        print(
            f"{options.model}, {size / 1e6:.1f} million weights; {options.task}: "
            f"{facts['train_rows']} rows to train, {facts['validation_rows']} to "
            f"validate, labels {', '.join(job.data.labels)}; {options.optimizer}"
        )
        table, num_rows = Table(*HEADER), facts["train_rows"]
        for epoch in range(done, options.epochs):
            start, steps, first = time.perf_counter(), [], epoch * job.steps_per_epoch
            bar: dict[str, Any] = {"transient": True, "total": job.steps_per_epoch}
            bar["disable"] = not sys.stdout.isatty()  # in a log file it is noise
            batches = track(job.train_batches(epoch), f"epoch {epoch + 1}", **bar)
            for number, batch in enumerate(batches, first):
                # From seed and step only, so that a resumed run draws the same masks.
                masks = jax.random.fold_in(jax.random.key(options.seed), number)
                params, opt_state, metrics = step(params, opt_state, batch, masks)
                loss, info = jax.device_get((metrics.loss, metrics.info))
                rate = 0.0 if schedule is None else float(schedule(number))
                record = {"kind": "step", "epoch": epoch + 1, "step": number + 1}
                record |= {"rows": float(batch.weights.sum()), "loss": float(loss)}
                steps.append({**record, **searched(info, rate)})
            tested = params
            if options.average:
                tested = optax_armijo.averaged_params(opt_state, params)
            record = {
                **{"kind": "epoch", "epoch": epoch + 1, "step": steps[-1]["step"]},
                "train_loss": sum(x["rows"] * x["loss"] for x in steps) / num_rows,
                **evaluate(graphdef, tested, job.eval_batches()),
                "seconds": time.perf_counter() - start,  # with compilation
            }
            records += [*steps, record]
            save(folder, checkpoints, (params, opt_state), records)
            sizes = [x for step in steps for x in step["step_size"].values()]
            evaluations = np.mean([step["evaluations"] for step in steps])
            scores = record["train_loss"], record["accuracy"], record["log_loss"]
            table.row(epoch + 1, *scores, span(sizes), evaluations, record["seconds"])
    if schedule is None:
        print(optax_armijo.armijo_info(opt_state))
    title = f"{options.task}, {options.train_size or 'all'} rows, {options.optimizer}"
    plot_run(records, title, folder / "curves.png")
    print(f"written to {folder}: metrics.jsonl, curves.png, checkpoints")
    return records


def check_old(records: list[Record], options: argparse.Namespace) -> None:
    """Refuses to lose an old run, or to resume it with other options."""
    if not records or options.overwrite:
        return
    if not options.resume:
        raise UserError(
            f"{options.output_dir} holds a run: --resume goes on with it, --overwrite "
            "replaces it, --output-dir leaves it alone"
        )
    made, now = records[0]["settings"], settings_of(options)
    for name, value in made.items():
        if now.get(name) != value:
            text = f"--{name.replace('_', '-')} {value} (now {now.get(name)})"
            raise UserError("--resume: the run was made with " + text)


def facts_of(job: Job) -> Record:
    """The numbers of rows, and the accuracy of always predicting one label."""
    labels = [row.label for row in job.data.validation]
    most_frequent = max(job.data.labels, key=labels.count)
    return {
        "train_rows": len(job.data.train),
        "validation_rows": len(labels),
        "batch_size": job.batch_size,
        "most_frequent": most_frequent,
        "most_frequent_share": labels.count(most_frequent) / len(labels),
    }


def searched(info: optax_armijo.ArmijoInfo | None, rate: float) -> Record:
    """What a step's search did; without a search all params moved by `rate`."""
    if info is None:
        return {"step_size": {"all": rate}, "evaluations": 1}
    sizes = dict(zip(info.labels, info.applied_step_size.tolist(), strict=True))
    return {"step_size": sizes, "evaluations": 1 + int(info.num_evaluations)}


if __name__ == "__main__":
    sys.exit(tell(main))
