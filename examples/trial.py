"""Is it worth adopting? Our default, the papers' AdamW and a sweep, on your own data.

Run ``python examples/trial.py --train-file mine.csv``: each optimizer fine-tunes the
same model on the same rows for as many epochs, ours with an average of its last
iterates, and ``report.md`` and ``report.html`` say what came of it and what it cost.
Stopped, it goes on where it was. All options of `finetune_bert` on data, model and
training are understood, but those that the trial chooses itself.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import finetune_bert
import metrics
from arguments import Parser, count, positive_number
from errors import UserError
from options import DEFAULT_LEARNING_RATE
from settings import Settings, parse_settings
from trial_report import Outcome, write_report

PAPER = DEFAULT_LEARNING_RATE
SWEEP = (1e-4, 5e-4, 1e-3)
FOLDER = Path("runs") / "trial"
CHOSEN_HERE = (
    *("--optimizer", "--average", "--learning-rate", "--seed"),
    *("--resume", "--overwrite"),
)


class Plan(NamedTuple):
    """One run of the trial.

    Attributes:
      method: ``armijo_adam`` or ``adamw``.
      rate: AdamW's; None for the other.
      settings: of `finetune_bert`.
    """

    method: str
    rate: float | None
    settings: Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code, 2 for what the user can mend."""
    try:
        folder, plans = parse(argv)
        outcomes = [
            outcome(plan, f"run {i} of {len(plans)}")
            for i, plan in enumerate(plans, start=1)
        ]
        print(f"\n{write_report(outcomes, PAPER, folder)}\nwritten to {folder}")
    except UserError as error:
        print(f"trial.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


def parse(argv: Sequence[str] | None) -> tuple[Path, list[Plan]]:
    """Returns the folder of the trial, and its runs in order.

    Raises:
      UserError: an option that the trial chooses itself, or that is wrong.
    """
    parser = Parser(
        prog="trial.py",
        description=(__doc__ or "").splitlines()[0],
        epilog="All options of finetune_bert.py on data, model and training are "
        "understood, with the defaults that its --help lists: 500 tweets, minilm, 5 "
        "epochs at batch 32; --train-file mine.csv takes your rows instead.",
    )
    add = parser.add_argument
    text = f"AdamW's, to sweep over beside {PAPER:g}, the papers' (default "
    text += " ".join(f"{rate:g}" for rate in SWEEP) + ")"
    add("--rates", type=positive_number, nargs="+", default=SWEEP, help=text)
    text = "runs of each, seeds 0 to N - 1 (default %(default)s)"
    add("--seeds", type=count(), default=1, metavar="N", help=text)
    text = "for the runs and the report (default %(default)s)"
    add("--output-dir", type=Path, default=FOLDER, metavar="PATH", help=text)
    own, others = parser.parse_known_args(argv)
    given = {word.split("=")[0] for word in others}
    for flag in CHOSEN_HERE:
        if flag in given:
            raise UserError(f"{flag}: the trial chooses this itself")
    rates = sorted({PAPER, *own.rates})
    methods: list[tuple[str, float | None]] = [("armijo_adam", None)]
    methods += [("adamw", rate) for rate in rates]
    plans = []
    for seed in range(own.seeds):
        for method, rate in methods:
            name = method if rate is None else f"{method}-{rate:g}"
            options = ["--optimizer", method, "--seed", str(seed)]
            # The last steps leave noise behind: ours is averaged.
            options += ["--average"] if rate is None else ["--learning-rate", str(rate)]
            options += ["--output-dir", str(own.output_dir / f"{name}-{seed}")]
            plans.append(Plan(method, rate, parse_settings([*others, *options])))
    return own.output_dir, plans


def outcome(plan: Plan, which: str) -> Outcome:
    """Makes a run, or what is left of it, and returns what came of it."""
    path = plan.settings.output_dir / "metrics.jsonl"
    records = metrics.read(path) if path.exists() else []
    if not any(record["kind"] == "summary" for record in records):
        title = plan.method if plan.rate is None else f"{plan.method} {plan.rate:g}"
        print(f"\n{which}: {title}, seed {plan.settings.seed}", flush=True)
        _run(plan.settings, records)
        records = metrics.read(path)
    _check_same(records[0], plan.settings)
    return Outcome(plan.method, plan.rate, records)


def _run(settings: Settings, records: list[metrics.Record]) -> None:
    has_epoch = any(record["kind"] == "epoch" for record in records)
    if not has_epoch:
        # What is there was stopped before its first checkpoint.
        shutil.rmtree(settings.output_dir, ignore_errors=True)
    fields: dict[str, Any] = {**vars(settings), "resume": has_epoch}
    finetune_bert.run(Settings(**fields))


def _check_same(made: metrics.Record, settings: Settings) -> None:
    # Runs of an older version do not say which rows they had.
    if made["settings"] != settings.of_the_run() or "data" not in made:
        raise UserError(
            f"{settings.output_dir} was made with other options; another --output-dir "
            "begins another trial"
        )


if __name__ == "__main__":
    sys.exit(main())
