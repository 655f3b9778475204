"""What a run of `finetune_bert` depends on, from its command line."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from errors import UserError
from options import DEFAULT_LEARNING_RATE, DEFAULT_WEIGHT_DECAY, make_parser
from text_data import FILE_TASK, TASKS

# Of the tweets, 1 in 200 is longer; a longer limit would compile further programs.
MAX_LENGTHS = {"tweets": 64}
DEFAULT_MAX_LENGTH = 128
DEFAULT_VALIDATION_SIZE = 1000

# What may differ between a run and its continuation.
NOT_OF_THE_RUN = ("output_dir", "resume", "overwrite", "quiet")


@dataclass(frozen=True)
class Settings:
    """All that a run depends on; `--help` says what each is.

    A `validation_size` of None is the default for rows taken from the training file.
    """

    task: str
    data_dir: Path | None
    train_file: Path | None
    validation_file: Path | None
    train_size: int
    validation_size: int | None
    data_seed: int
    model: str
    num_layers: int | None
    max_length: int
    no_dropout: bool
    optimizer: str
    groups: str
    learning_rate: float | None
    weight_decay: float | None
    average: bool
    epochs: int
    batch_size: int
    seed: int
    output_dir: Path
    resume: bool
    overwrite: bool
    quiet: bool

    def of_the_run(self) -> dict[str, Any]:
        """The settings that a continued run must share, as JSON can hold them."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
            if name not in NOT_OF_THE_RUN
        }


def parse_settings(argv: Sequence[str] | None) -> Settings:
    """Reads the command line.

    Raises:
      UserError: an unknown option, or a value outside its range.
    """
    fields = vars(make_parser().parse_args(argv))
    optimizer, task = fields["optimizer"], _task(fields)
    fields["task"] = task
    takes_rows = task == FILE_TASK and fields["validation_file"] is None
    if fields["validation_size"] is None and not takes_rows:
        fields["validation_size"] = DEFAULT_VALIDATION_SIZE
    fields["learning_rate"] = _default(
        fields, "learning_rate", optimizer == "adamw", DEFAULT_LEARNING_RATE
    )
    fields["weight_decay"] = _default(
        fields, "weight_decay", optimizer != "armijo_adam", DEFAULT_WEIGHT_DECAY
    )
    if fields["max_length"] is None:
        fields["max_length"] = MAX_LENGTHS.get(task, DEFAULT_MAX_LENGTH)
    if fields["output_dir"] is None:
        fields["output_dir"] = Path("runs") / f"{task}-{optimizer}"
    if fields["resume"] and fields["overwrite"]:
        raise UserError("--resume and --overwrite exclude each other")
    return Settings(**fields)


def _task(fields: dict[str, Any]) -> str:
    """Returns the task; files of one's own are one, and no other task reads them."""
    files = [
        "--" + name.replace("_", "-")
        for name in ("train_file", "validation_file")
        if fields[name] is not None
    ]
    task = fields["task"] or (FILE_TASK if files else TASKS[0])
    if files and task != FILE_TASK:
        raise UserError(f"{files[0]}: --task {task} does not read it")
    return task


def _default(
    fields: dict[str, Any], name: str, is_used: bool, default: float
) -> float | None:
    value = fields[name]
    if not is_used and value is not None:
        option = "--" + name.replace("_", "-")
        raise UserError(f"{option}: {fields['optimizer']} has none")
    return default if is_used and value is None else value
