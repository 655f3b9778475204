"""Fine-tunes a pretrained BERT on texts, with step sizes that Armijo's test finds.

Run ``python examples/finetune_bert.py``: MiniLM learns the mood of 500 tweets in a few
minutes on two cores; ``--help`` lists what else it can do.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# transformers says at import that it found no PyTorch; none is wanted here.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import checkpoint
import jax
import metrics
from errors import UserError
from job import Job, load, prepare, run_epoch
from optimizers import last_step
from plot import plot_run
from report import Report
from settings import Settings, parse_settings
from text_data import TextData
from training import Scores, TrainState


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code, 2 for what the user can mend."""
    try:
        run(parse_settings(argv))
    except UserError as error:
        print(f"finetune_bert.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; --resume goes on after the last whole epoch", file=sys.stderr)
        return 130
    return 0


def run(settings: Settings) -> None:
    """Fine-tunes as the settings say."""
    folder = settings.output_dir
    metrics_path = folder / "metrics.jsonl"
    checkpoints_path = folder / "checkpoints"
    _check_output(folder, checkpoints_path, settings)
    data, pretrained = load(settings)
    job, state = prepare(settings, data, pretrained)
    if not settings.resume:
        # Only now: what is wrong with data or model must not cost the old run.
        _start_anew(checkpoints_path, metrics_path, settings, data)
    with checkpoint.open_checkpoints(checkpoints_path) as checkpoints:
        done = 0
        if settings.resume:
            state, done = checkpoint.restore(checkpoints, state, settings.of_the_run())
            metrics.forget_after(metrics_path, done)
        per_epoch = job.steps_per_epoch
        report = Report(settings.epochs * per_epoch, done * per_epoch, settings.quiet)
        with report:
            report.say(_describe(data, job, state))
            for epoch in range(done, settings.epochs):
                state = run_epoch(job, state, epoch, report, metrics_path)
                checkpoint.save(checkpoints, epoch + 1, state, settings.of_the_run())
            report.say(last_step(job.optimizer, state.opt_state))
    finish(job, report, metrics_path)


def _check_output(folder: Path, checkpoints: Path, settings: Settings) -> None:
    """Sees that the output folder fits what is asked, before the work begins."""
    has_run = checkpoints.is_dir() and any(checkpoints.iterdir())
    if settings.resume and not has_run:
        raise UserError(f"--resume: no checkpoint in {folder}")
    if has_run and not (settings.resume or settings.overwrite):
        raise UserError(
            f"{folder} holds a run: --resume goes on with it, --overwrite replaces it, "
            "--output-dir leaves it alone"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output-dir {folder}: {error}") from error


def _start_anew(
    checkpoints: Path, metrics_path: Path, settings: Settings, data: TextData
) -> None:
    shutil.rmtree(checkpoints, ignore_errors=True)
    metrics_path.write_text("", encoding="utf-8")
    record = metrics.run_record(settings.of_the_run(), data=_facts(data))
    metrics.append(metrics_path, record)


def _facts(data: TextData) -> dict[str, Any]:
    labels = [row.label for row in data.validation]
    most_frequent = max(data.labels, key=labels.count)
    return {
        "train_rows": len(data.train),
        "validation_rows": len(labels),
        "most_frequent": most_frequent,
        "most_frequent_share": labels.count(most_frequent) / len(labels),
    }


def finish(job: Job, report: Report, metrics_path: Path) -> None:
    """Writes the summary's record and the PNG, and shows the summary."""
    records = metrics.read(metrics_path)
    steps = [record for record in records if record["kind"] == "step"]
    epochs = [record for record in records if record["kind"] == "epoch"]
    evaluations = sum(1 + step["num_evaluations"] for step in steps)
    summary = {
        "kind": "summary",
        **{name: epochs[-1][name] for name in Scores._fields},
        "evaluations": evaluations,
        "evaluations_per_step": evaluations / len(steps),
        "seconds": sum(epoch["seconds"] for epoch in epochs),
        "compile_seconds": sum(epoch["compile_seconds"] for epoch in epochs),
    }
    metrics.append(metrics_path, summary)
    picture = metrics_path.with_name("curves.png")
    plot_run(records, picture)
    programs = len(job.train_step.programs), len(job.eval_step.programs)
    report.summary(
        {
            "validation accuracy": f"{summary['accuracy']:.4f}",
            "validation log loss": f"{summary['log_loss']:.4f}",
            "loss evaluations": f"{evaluations}, "
            f"{summary['evaluations_per_step']:.2f} a step",
            "time": f"{summary['seconds']:.1f} s in {len(steps)} steps and "
            f"{len(epochs)} validations",
            "compile time": f"{summary['compile_seconds']:.1f} s for "
            f"{programs[0]} training and {programs[1]} validation programs",
            "written to": f"{metrics_path}, {picture.name}, checkpoints",
        }
    )


def _describe(data: TextData, job: Job, state: TrainState) -> str:
    settings = job.settings
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return (
        f"{settings.model}, {size / 1e6:.1f} million weights; {settings.task}: "
        f"{len(data.train)} rows to train, {len(data.validation)} to validate, labels "
        f"{', '.join(data.labels)}; {settings.optimizer}"
    )


if __name__ == "__main__":
    sys.exit(main())
