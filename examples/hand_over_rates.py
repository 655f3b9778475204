"""Learning rates for your own trainer: a peak for each layer, from forty steps.

Run ``python examples/hand_over_rates.py --train-file mine.csv``, or ``--problem
mine.py`` with a loss of your own, as for ``trial.py``. It prints a table, and writes
``learning_rates.json`` and a figure: how the loss of another mini-batch depends on the
step size of each layer. Any framework can read the rates: use them as peaks of a
warm-up and a decay to zero.
"""

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from command_line import UserError, start
from display import GROUP_COLOURS, Table, progress
from finetune_bert import GROUPS
from matplotlib.figure import Figure
from problems import Problem, add_problem, check_problem, reader_of
from training import make_parser, parse

from optax_armijo.training.learning_rates import NUM_STEPS, losses_along, search

# Of the rates that were found; the loss at 0 is where the search ended.
MULTIPLES = 0.0, 1 / 16, 1 / 4, 1.0, 4.0, 16.0, 64.0


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
    """Mini-batches of epoch after epoch, each with its own key."""
    batches = map(problem.train_batches, itertools.count())
    for number, batch in enumerate(itertools.chain.from_iterable(batches)):
        yield batch, jax.random.fold_in(jax.random.key(seed), number)


def plotted(losses: dict[Any, list[float]], rates: dict[Any, float], title: str) -> Any:
    """The loss over the step size, a curve for each group, with its rate."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (label, (_, *curve)) in enumerate(losses.items()):
        colour = GROUP_COLOURS[number % len(GROUP_COLOURS)]
        dashes = ("-", "--", ":", "-.")[number // len(GROUP_COLOURS) % 4]
        sizes = rates[label] * np.array(MULTIPLES[1:])
        axes.plot(sizes, curve, color=colour, ls=dashes, label=str(label))
        axes.plot(rates[label], curve[MULTIPLES.index(1.0) - 1], "o", color=colour)
    at_zero, lowest = losses[next(iter(losses))][0], np.nanmin([*losses.values()])
    axes.axhline(at_zero, color="0.75", zorder=0)
    if lowest < at_zero:  # far too long steps may end anywhere
        fall = at_zero - lowest
        axes.set_ylim(lowest - 0.1 * fall, at_zero + 2 * fall)
    axes.set(xscale="log", xlabel="step size", ylabel="loss of another mini-batch")
    axes.set_title(f"{title}: one group moves, the others stay; dots: rates")
    axes.legend(frameon=False, fontsize="small")
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
    shown = progress(itertools.islice(batches, NUM_STEPS), "search", NUM_STEPS)
    try:
        found = search(problem.loss_fn, problem.params, shown, labels)
    except ValueError as error:
        raise UserError(str(error)) from error
    rates = found.rates
    table = Table("learning rate", "group")
    for label, rate in rates.items():
        table.row(rate, str(label))
    (folder / "learning_rates.json").write_text(json.dumps(rates, indent=2) + "\n")
    curves = losses_along(
        problem.loss_fn, found, next(batches), labels, multiples=MULTIPLES
    )
    losses = dict(zip(rates, progress(curves, "figure", len(rates)), strict=True))
    plotted(losses, rates, problem.name).savefig(folder / "learning_rates.png", dpi=140)
    print(f"written to {folder}: learning_rates.json, learning_rates.png")


if __name__ == "__main__":
    start(main)
