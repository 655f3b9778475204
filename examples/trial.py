"""Is it worth adopting? Our default, AdamW at 2e-5 and a sweep, on your own data.

Run ``python examples/trial.py --train-file mine.csv``: each optimizer fine-tunes the
same model on the same rows for the same number of epochs, ours with an average of its
last iterates. ``report.html`` has results and costs. If you stop it, the same command
resumes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import finetune_bert
from command_line import UserError, positive_number, tell
from run_folder import Record, read
from training import make_parser, parse
from trial_report import write_report

SWEEP, COMMON_RATE = (1e-4, 5e-4, 1e-3), finetune_bert.COMMON_RATE
FOLDER = Path("runs") / "trial"


def runs_of(argv: Sequence[str] | None) -> tuple[Path, list[argparse.Namespace]]:
    """Returns the folder of the trial, and the options of its runs, in order."""
    parser = make_parser(__doc__)
    text = f"AdamW's, to sweep over beside {COMMON_RATE:g} (default "
    text += " ".join(f"{rate:g}" for rate in SWEEP) + ")"
    kind = {"type": positive_number, "nargs": "+"}
    parser.add_argument("--rates", default=SWEEP, help=text, metavar="X", **kind)
    parser.add_count("--seeds", 1, "runs of each, from --seed on")
    text = "for the runs and the report (default %(default)s)"
    parser.add_path("--output-dir", text, FOLDER)
    options = parse(parser, argv)
    # The last steps leave noise behind: ours is averaged.
    ours = {"optimizer": "armijo_adam", "learning_rate": None, "average": True}
    methods = {"armijo_adam": ours} | {
        f"adamw-{rate:g}": {"optimizer": "adamw", "learning_rate": rate}
        for rate in sorted({COMMON_RATE, *options.rates})
    }
    usual = {"average": False, "groups": "layer", "resume": True, "overwrite": False}
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
    return finetune_bert.run(options)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    folder, runs = runs_of(argv)
    try:
        results = [records_of(x, f"{i + 1} of {len(runs)}") for i, x in enumerate(runs)]
    except KeyboardInterrupt:
        raise KeyboardInterrupt("; the same command goes on") from None
    said = write_report(results, COMMON_RATE, folder)
    print(f"\n{said}\nwritten to {folder / 'report.html'}")


if __name__ == "__main__":
    sys.exit(tell(main))
