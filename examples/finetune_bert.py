"""Fine-tunes a pretrained BERT on texts, with step sizes found by Armijo's test.

Run ``python examples/finetune_bert.py``: MiniLM learns the sentiment of 500 tweets in a
few minutes on two cores. ``--help`` lists what else it can do.
"""

import argparse
import json
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from command_line import UserError, positive_number, start
from compiling import Announced
from display import SPAN, Table, plot_run, progress, span
from problems import Problem, read_texts
from run_folder import Record, open_checkpoints, read, restore, run_record, save
from training import make_parser, parse, sums

import optax_armijo

GROUPS = {
    "layer": optax_armijo.by_layer,
    "one": optax_armijo.one_group,
    "depth": optax_armijo.by_depth(4),
    "attention": optax_armijo.by_attention,
}
COMMON_RATE, WEIGHT_DECAY = 1e-4, 0.01  # of AdamW for a small BERT
NOT_OF_THE_RUN = ("output_dir", "resume", "overwrite", "rates", "seeds")
STEPS: dict[Hashable, Announced] = {}  # each is compiled once in a process


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
    tx, schedule = optax_armijo.armijo_adam(GROUPS[options.groups], num_steps), None
    if options.optimizer == "adamw":
        # The common schedule: warm-up over a tenth of the steps, then a cosine to 0.
        # Neither the first nor the last step is wasted on a learning rate of 0.
        peak, warmup = options.learning_rate, max(1, num_steps // 10)
        curve = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, num_steps + 1)
        schedule = lambda count: peak * curve(count + 1)  # noqa: E731
        tx = optax.chain(
            optax.adamw(
                lambda count: curve(count + 1), weight_decay=WEIGHT_DECAY, mask=matrices
            ),
            # In the state: one compiled step serves all learning rates.
            optax.inject_hyperparams(optax.scale)(step_size=peak),
        )
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


def run(
    options: argparse.Namespace,
    make_problem: Callable[[argparse.Namespace], Problem] = read_texts,
) -> list[Record]:
    """Trains as the options say; returns the lines of `metrics.jsonl`."""
    folder = options.output_dir
    with open_checkpoints(folder) as checkpoints:
        done = checkpoints.latest_step() or 0
        records = [x for x in read(folder) if x.get("epoch", 0) <= done] if done else []
        check_old(records, options)
        problem = make_problem(options)
        params, steps_per_epoch = problem.params, problem.steps_per_epoch
        num_steps = options.epochs * steps_per_epoch
        tx, schedule = make_optimizer(options, num_steps)
        state = params, tx.init(params)
        if records and options.resume:
            state = restore(checkpoints, like=state)
        else:
            # Not before: an error in data or model must not cost the old run.
            for old in checkpoints.all_steps():
                checkpoints.delete(old)
            done, records = 0, [run_record(settings_of(options), data=problem.facts)]
        params, opt_state = state
        chosen = options.optimizer, options.groups, options.average, num_steps
        step = optax_armijo.make_train_step(problem.loss_fn, tx)
        step = Announced(step, f"a step of {options.optimizer}")
        step = STEPS.setdefault((problem.program, *chosen), step)
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        print(f"{problem.title}; {size:,} params; {options.optimizer}")
        scores = [name.replace("_", " ") for name in problem.scores]
        table = Table("epoch", "train loss", *scores, SPAN, "evaluations", "seconds")
        for epoch in range(done, options.epochs):
            begun, compiled = time.perf_counter(), step.seconds + sums.seconds
            steps, first = [], epoch * steps_per_epoch
            batches = problem.train_batches(epoch)
            shown = progress(batches, f"epoch {epoch + 1}", steps_per_epoch)
            for number, batch in enumerate(shown, first):
                # From seed and step only, so that a resumed run draws the same masks.
                masks = jax.random.fold_in(jax.random.key(options.seed), number)
                params, opt_state, metrics = step(params, opt_state, batch, masks)
                loss, info = jax.device_get((metrics.loss, metrics.info))
                rate = 0.0 if schedule is None else float(schedule(number))
                record = {"kind": "step", "epoch": epoch + 1, "step": number + 1}
                record |= {"rows": problem.weight_of(batch), "loss": float(loss)}
                steps.append({**record, **searched(info, rate)})
            tested = params
            if options.average:
                tested = optax_armijo.averaged_params(opt_state, params)
            num_rows = sum(x["rows"] for x in steps)
            record = {
                **{"kind": "epoch", "epoch": epoch + 1, "step": steps[-1]["step"]},
                "train_loss": sum(x["rows"] * x["loss"] for x in steps) / num_rows,
                **problem.evaluate(tested),
                "seconds": time.perf_counter() - begun,  # with compilation
                "compile_seconds": step.seconds + sums.seconds - compiled,
            }
            records += [*steps, record]
            save(folder, checkpoints, (params, opt_state), records)
            sizes = [x for step in steps for x in step["step_size"].values()]
            evaluations = np.mean([step["evaluations"] for step in steps])
            losses = [record[name] for name in ("train_loss", *problem.scores)]
            table.row(epoch + 1, *losses, span(sizes), evaluations, record["seconds"])
    if schedule is None:
        print(optax_armijo.armijo_info(opt_state))
    figure = plot_run(records, f"{problem.name}, {options.optimizer}")
    figure.savefig(folder / "curves.png", dpi=140)
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


def searched(info: optax_armijo.ArmijoInfo | None, rate: float) -> Record:
    """What a step's search did; without a search all params moved by `rate`."""
    if info is None:
        return {"step_size": {"all": rate}, "evaluations": 1}
    sizes = dict(zip(info.labels, info.applied_step_size.tolist(), strict=True))
    return {"step_size": sizes, "evaluations": 1 + int(info.num_evaluations)}


if __name__ == "__main__":
    start(main)
