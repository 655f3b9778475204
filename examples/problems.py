"""What a run trains: a BERT on texts, or what a Python file of the user's defines."""

import argparse
import functools
import importlib.util
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
from command_line import Parser, UserError
from flax import nnx
from run_folder import Record
from training import Job, evaluate, mean_loss, prepare

OF_TEXTS = ("task", "train_file", "validation_file", "text_column", "label_column")
NEEDED = {"init": "seed", "loss": "params, batch", "batches": "seed, epoch"}


class Problem(NamedTuple):
    """Params to train, their loss, batches and scores."""

    name: str  # for a figure
    title: str  # for a line
    facts: Record  # for metrics.jsonl
    program: Hashable  # problems that have the same one share their compiled steps
    params: Any
    loss_fn: Callable[[Any, Any, jax.Array], jax.Array]  # of params, batch and key
    steps_per_epoch: int
    train_batches: Callable[[int], Iterable[Any]]  # of an epoch, counted from 0
    weight_of: Callable[[Any], float]  # a batch's, in the mean loss of an epoch
    scores: tuple[str, ...]
    evaluate: Callable[[Any], dict[str, float]]  # params to scores, and their errors


def add_problem(parser: Parser) -> None:
    """Adds the option for a problem of the user's own."""
    text = "a Python file in the place of texts, with init(seed), loss(params, batch), "
    text += "batches(seed, epoch) and, if you like, evaluate(params), a loss"
    parser.add_path("--problem", text)


def check_problem(given: argparse.Namespace) -> None:
    """Refuses options on texts beside a problem of the user's own."""
    if given.problem and (wrong := [x for x in OF_TEXTS if getattr(given, x)]):
        flag = wrong[0].replace("_", "-")
        raise UserError(f"--problem {given.problem} takes no --{flag}: it has no texts")


def reader_of(options: argparse.Namespace) -> Callable[[argparse.Namespace], Problem]:
    """What reads the problem that the options name."""
    return read_own if options.problem else read_texts


def read_texts(options: argparse.Namespace) -> Problem:
    """Rows and a pretrained BERT, as the options say."""
    job = prepare(options)
    graphdef, params = nnx.split(job.model, nnx.Param)
    facts, labels = facts_of(job), ", ".join(job.data.labels)
    sizes = "{train_rows} examples to train, {validation_rows} to validate"
    sizes = sizes.format(**facts)
    return Problem(
        name=f"{options.task}, {options.train_size or 'all'} examples",
        title=f"{options.model}; {options.task}: {sizes}, labels {labels}",
        facts=facts,
        program=graphdef,
        params=params,
        loss_fn=lambda params, *batch: mean_loss(nnx.merge(graphdef, params), *batch),
        steps_per_epoch=job.steps_per_epoch,
        train_batches=job.train_batches,
        weight_of=lambda batch: float(batch.weights.sum()),
        scores=("accuracy", "log_loss"),
        evaluate=lambda params: evaluate(graphdef, params, job.eval_batches()),
    )


def facts_of(job: Job) -> Record:
    """The numbers of examples, and the accuracy of always predicting one label."""
    labels = [row.label for row in job.data.validation]
    most_frequent = max(job.data.labels, key=labels.count)
    return {
        "train_rows": len(job.data.train),
        "validation_rows": len(labels),
        "batch_size": job.batch_size,
        "most_frequent": most_frequent,
        "most_frequent_share": labels.count(most_frequent) / len(labels),
    }


def read_own(options: argparse.Namespace) -> Problem:
    """What the file of ``--problem`` defines."""
    path, seed = options.problem, options.seed
    own = load(path)
    params, batches = own.init(seed), own.batches
    first, *others = [*batches(seed, 0)] or [None]
    if first is None:
        raise UserError(f"--problem {path}: batches({seed}, 0) has none")
    shape = getattr(jax.eval_shape(own.loss, params, first), "shape", None)
    if shape != ():
        raise UserError(f"--problem {path}: loss has the shape {shape}, must be ()")
    steps, scores = 1 + len(others), ("loss",) if hasattr(own, "evaluate") else ()
    return Problem(
        name=path.name,
        title=f"{path}: {steps} steps an epoch",
        facts={"steps_per_epoch": steps},
        program=own,
        params=params,
        loss_fn=lambda params, batch, key: own.loss(params, batch),
        steps_per_epoch=steps,
        train_batches=lambda epoch: batches(seed, epoch),
        weight_of=lambda batch: 1.0,
        scores=scores,
        evaluate=lambda params: {x: float(own.evaluate(params)) for x in scores},
    )


@functools.cache  # one module for all runs, so that they share what is compiled
def load(path: Path) -> ModuleType:
    """Imports a Python file; what it lacks is an error."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if path.suffix != ".py" or not path.is_file() or not (spec and spec.loader):
        raise UserError(f"--problem {path}: no such Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, arguments in NEEDED.items():
        if not callable(getattr(module, name, None)):
            needed = ", ".join(f"{k}({v})" for k, v in NEEDED.items())
            raise UserError(f"--problem {path}: no {name}({arguments}); needs {needed}")
    return module
