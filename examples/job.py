"""A run's parts put together, and its epochs and steps."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import metrics
from batches import Batch, encode, eval_batches, train_batches
from bert_weights import load_bert
from errors import UserError
from flax import nnx
from optimizers import Optimizer, make_optimizer, step_facts
from pretrained import Pretrained, load_pretrained
from report import Report
from settings import DEFAULT_VALIDATION_SIZE, Settings
from text_data import Sizes, TextData, load_data
from training import (
    CompiledByShape,
    TrainState,
    evaluate,
    make_eval_step,
    make_train_step,
)

EVAL_BATCH_SIZE = 50
VALIDATION_SHARE = 0.2  # of a file without one for validation, unless a size is given


class Job(NamedTuple):
    """What stays the same through a run."""

    settings: Settings
    optimizer: Optimizer
    steps_per_epoch: int
    train_batches: Callable[[int], Iterator[Batch]]
    eval_batches: Callable[[], Iterator[Batch]]
    train_step: CompiledByShape
    eval_step: CompiledByShape


def sizes_of(settings: Settings) -> Sizes:
    """Returns how many rows the settings ask for."""
    train = settings.train_size or None  # 0 is all of them
    if settings.validation_size is None:
        return Sizes(train, DEFAULT_VALIDATION_SIZE, VALIDATION_SHARE)
    return Sizes(train, settings.validation_size or None)


def load(settings: Settings) -> tuple[TextData, Pretrained]:
    """Loads what the settings name: texts and a pretrained model."""
    data = load_data(
        settings.task,
        sizes_of(settings),
        settings.data_seed,
        settings.data_dir,
        settings.train_file,
        settings.validation_file,
    )
    pretrained = load_pretrained(settings.model, settings.num_layers)
    return data, pretrained


def prepare(
    settings: Settings,
    data: TextData,
    pretrained: Pretrained,
    eval_batch_size: int = EVAL_BATCH_SIZE,
) -> tuple[Job, TrainState]:
    """Builds model, optimizer, steps and batches, and the state to begin with."""
    config, limit = pretrained.config, settings.max_length
    if limit > config.max_position_embeddings:
        raise UserError(
            f"--max-length {limit}: the model has {config.max_position_embeddings} "
            "positions"
        )
    model = load_bert(config, pretrained.tensors, len(data.labels), settings.seed)
    graphdef, params = nnx.split(model, nnx.Param)
    train, validation = (
        encode(pretrained.tokenizer, rows, data.labels, limit)
        for rows in (data.train, data.validation)
    )
    size, seed = settings.batch_size, settings.seed
    steps_per_epoch = -(-len(train) // size)
    optimizer = make_optimizer(settings, settings.epochs * steps_per_epoch)
    train_step = make_train_step(graphdef, optimizer.transform, not settings.no_dropout)
    job = Job(
        settings=settings,
        optimizer=optimizer,
        steps_per_epoch=steps_per_epoch,
        train_batches=lambda epoch: train_batches(train, size, limit, seed, epoch),
        eval_batches=lambda: eval_batches(validation, eval_batch_size, limit),
        train_step=CompiledByShape(train_step),
        eval_step=CompiledByShape(make_eval_step(graphdef)),
    )
    return job, TrainState(params, optimizer.transform.init(params))


def run_epoch(
    job: Job, state: TrainState, epoch: int, report: Report, metrics_path: Path
) -> TrainState:
    """Trains for an epoch, counted from 0, and validates; writes and shows both."""
    start, compiling = time.perf_counter(), _compile_seconds(job)
    steps, weights = [], []
    for i, batch in enumerate(job.train_batches(epoch)):
        state, record = run_step(job, state, batch, epoch, i)
        metrics.append(metrics_path, record)
        report.step(record)
        steps.append(record)
        weights.append(float(batch.weights.sum()))
    total = sum(w * step["loss"] for w, step in zip(weights, steps, strict=True))
    params = job.optimizer.eval_params(state.opt_state, state.params)
    scores = evaluate(job.eval_step, params, job.eval_batches())
    compiling = _compile_seconds(job) - compiling
    record = {
        "kind": "epoch",
        "epoch": epoch + 1,
        "step": (epoch + 1) * job.steps_per_epoch,
        "train_loss": total / sum(weights),
        **scores._asdict(),
        "seconds": time.perf_counter() - start - compiling,
        "compile_seconds": compiling,
    }
    metrics.append(metrics_path, record)
    report.epoch(record, steps)
    return state


def run_step(
    job: Job, state: TrainState, batch: Batch, epoch: int, i: int
) -> tuple[TrainState, dict[str, Any]]:
    """Makes step `i` of an epoch, and its record; both are counted from 0."""
    step = epoch * job.steps_per_epoch + i
    # From seed and step alone, so that a continued run draws the same masks.
    key = jax.random.fold_in(jax.random.key(job.settings.seed), step)
    start, compiling = time.perf_counter(), _compile_seconds(job)
    state, loss = job.train_step(state, batch, key)
    record = {
        "kind": "step",
        "step": step + 1,
        "epoch": epoch + 1,
        "loss": float(loss),
        **step_facts(job.optimizer, state.opt_state, step),
    }
    compiling = _compile_seconds(job) - compiling
    record["seconds"] = time.perf_counter() - start - compiling
    return state, record


def _compile_seconds(job: Job) -> float:
    return job.train_step.seconds + job.eval_step.seconds
