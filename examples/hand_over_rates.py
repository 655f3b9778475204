"""Learning rates for your own trainer: a peak for each layer, from forty steps.

Run ``python examples/hand_over_rates.py --train-file mine.csv``, or ``--problem
mine.py`` with a loss of your own, as for ``trial.py``. It prints a table, and writes
``learning_rates.json`` and a figure. Any framework can read the rates: use them as
peaks of a warm-up and a decay to zero.
"""

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from command_line import UserError, start
from display import BLUE, Table, progress
from finetune_bert import GROUPS
from matplotlib.figure import Figure
from problems import Problem, add_problem, check_problem, reader_of
from training import make_parser, parse

from optax_armijo import find_learning_rates
from optax_armijo.training.learning_rates import NUM_STEPS


def options_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = make_parser(__doc__)
    add_problem(parser)
    text = "what has a rate of its own (default %(default)s)"
    parser.add_argument("--groups", choices=GROUPS, default="layer", help=text)
    text = "for learning_rates.json and learning_rates.png (default %(default)s)"
    parser.add_path("--output-dir", text, Path("runs") / "learning_rates")
    check_problem(parser.parse_args(argv))
    return parse(parser, argv)


def batches_of(problem: Problem, seed: int) -> Iterator[tuple[Any, jax.Array]]:
    """The first mini-batches, of as many epochs as it takes, each with its own key."""
    epochs = itertools.count()
    batches = itertools.chain.from_iterable(map(problem.train_batches, epochs))
    first = itertools.islice(batches, NUM_STEPS)
    for number, batch in enumerate(progress(first, "search", NUM_STEPS)):
        yield batch, jax.random.fold_in(jax.random.key(seed), number)


def plotted(rates: dict[Any, float], title: str) -> Figure:
    """A bar for each group."""
    figure = Figure(figsize=(6, 1.5 + 0.25 * len(rates)), layout="constrained")
    axes = figure.subplots()
    axes.barh([*map(str, rates)], [*rates.values()], color=BLUE)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="learning rate, peak", title=title)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    options = options_of(argv)
    problem = reader_of(options)(options)
    print(problem.title)
    folder = options.output_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output-dir {folder}: {error.strerror}") from error
    batches = batches_of(problem, options.seed)
    labels: Any = GROUPS[options.groups]
    try:
        rates = find_learning_rates(problem.loss_fn, problem.params, batches, labels)
    except ValueError as error:
        raise UserError(str(error)) from error
    table = Table("learning rate", "group")
    for label, rate in rates.items():
        table.row(rate, str(label))
    (folder / "learning_rates.json").write_text(json.dumps(rates, indent=2) + "\n")
    plotted(rates, problem.name).savefig(folder / "learning_rates.png", dpi=140)
    print(f"written to {folder}: learning_rates.json, learning_rates.png")


if __name__ == "__main__":
    start(main)
