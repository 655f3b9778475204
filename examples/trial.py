"""Is it worth adopting? Our default and a sweep of AdamW, on your own data or loss.

Run ``python examples/trial.py --train-file mine.csv``: each optimizer fine-tunes the
same model on the same rows for the same number of epochs, and is scored by the average
of its last iterates. ``--problem mine.py`` trains what your Python file defines:
``init(seed)``, ``loss(params, batch)``, ``batches(seed, epoch)`` and, if you like,
``evaluate(params)``, a loss. ``report.html`` has results and costs. If you stop it, the
same command resumes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import finetune_bert
from command_line import UserError, positive_number, start
from problems import add_problem, check_problem, reader_of
from run_folder import Record, read
from training import make_parser, parse
from trial_report import write_report

SWEEP, COMMON_RATE = (5e-5, 1e-4, 2e-4, 5e-4), finetune_bert.COMMON_RATE
FOLDER = Path("runs") / "trial"


def runs_of(argv: Sequence[str] | None) -> tuple[Path, list[argparse.Namespace]]:
    """Returns the folder of the trial, and the options of its runs, in order."""
    parser = make_parser(__doc__)
    add_problem(parser)
    rates = " ".join(f"{rate:g}" for rate in SWEEP)
    text = f"AdamW's, to sweep over; {COMMON_RATE:g} always is (default {rates})"
    kind = {"type": positive_number, "nargs": "+"}
    parser.add_argument("--rates", default=SWEEP, help=text, metavar="X", **kind)
    parser.add_count("--seeds", 1, "runs of each, from --seed on")
    text = "for the runs and the report (default %(default)s)"
    parser.add_path("--output-dir", text, FOLDER)
    check_problem(parser.parse_args(argv))
    options = parse(parser, argv)
    ours = {"optimizer": "armijo_adam", "learning_rate": None}
    methods = {"armijo_adam": ours} | {
        f"adamw-{rate:g}": {"optimizer": "adamw", "learning_rate": rate}
        for rate in sorted({COMMON_RATE, *options.rates})
    }
    # The last steps leave noise behind: the average of iterates is scored, in all.
    usual = {"average": True, "groups": "layer", "resume": True, "overwrite": False}
    usual = vars(options) | usual
    runs = []
    for seed in range(options.seed, options.seed + options.seeds):
        for name, method in methods.items():
            own = {"seed": seed, "output_dir": options.output_dir / f"{name}-{seed}"}
            runs.append(argparse.Namespace(**usual | method | own))
    return options.output_dir, runs


def records_of(options: argparse.Namespace, which: str) -> list[Record]:
    """Makes a run, or what is left of it, and returns the lines of its metrics."""
    records = read(options.output_dir)
    if records and records[0]["settings"] != finetune_bert.settings_of(options):
        raise UserError(
            f"{options.output_dir} was made with other options; another --output-dir "
            "begins another trial"
        )
    if records and records[-1]["epoch"] == options.epochs:
        return records
    print(f"\nrun {which}: {options.output_dir.name}", flush=True)
    return finetune_bert.run(options, reader_of(options))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    folder, runs = runs_of(argv)
    # What is wrong with the data is said before there is a run.
    print(reader_of(runs[0])(runs[0]).title, flush=True)
    try:
        results = [records_of(x, f"{i + 1} of {len(runs)}") for i, x in enumerate(runs)]
    except KeyboardInterrupt:
        raise KeyboardInterrupt("; the same command goes on") from None
    said = write_report(results, COMMON_RATE, folder)
    print(f"\n{said}\nwritten to {folder / 'report.html'}")


if __name__ == "__main__":
    start(main)
