"""What a run shows while it goes: a progress bar, a row an epoch, a last summary."""

from types import TracebackType
from typing import Any

from metrics import Record
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

HEADER = (
    f"{'epoch':>5}  {'train loss':>10}  {'accuracy':>8}  {'log loss':>8}  "
    f"{'step sizes':^21}  {'evaluations':>11}  {'seconds':>7}"
)


class Report:
    """A context manager around the run; its methods take the run's records."""

    def __init__(self, total_steps: int, done_steps: int, quiet: bool):
        self.console = Console(highlight=False)
        # In a log file a bar is noise; the rows of the epochs are not.
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}"),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
            transient=True,
        )
        self.quiet = quiet
        self.has_header = False
        self.task = self.progress.add_task(
            "compiling", total=total_steps, completed=done_steps, facts=""
        )

    def __enter__(self) -> "Report":
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del kind, error, traceback
        self.progress.stop()

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if not self.quiet:
            self.console.print(line, soft_wrap=True)

    def step(self, record: Record) -> None:
        """Moves the bar on, with loss, step sizes and trials."""
        facts = (
            f"loss {record['loss']:.3f}  "
            f"step {_span(list(record['applied_step_size'].values()))}  "
            f"trials {record['num_evaluations']}"
        )
        self.progress.update(
            self.task, advance=1, description=f"epoch {record['epoch']}", facts=facts
        )

    def epoch(self, record: Record, steps: list[Record]) -> None:
        """Prints the epoch's row of the table; its head before the first row."""
        sizes = [size for step in steps for size in step["applied_step_size"].values()]
        evaluations = sum(1 + step["num_evaluations"] for step in steps) / len(steps)
        if not self.has_header:
            self.say(HEADER)
        self.has_header = True
        self.say(
            f"{record['epoch']:>5}  {record['train_loss']:>10.4f}  "
            f"{record['accuracy']:>8.3f}  {record['log_loss']:>8.4f}  "
            f"{_span(sizes):^21}  {evaluations:>11.2f}  {record['seconds']:>7.1f}"
        )

    def summary(self, rows: dict[str, Any]) -> None:
        """Prints the last table, of names and values."""
        table = Table(show_header=False, title="result", title_justify="left")
        for name, value in rows.items():
            table.add_row(name, value)
        self.console.print(table)


def _span(sizes: list[float]) -> str:
    """The range of the step sizes of what moved.

    Example:
      >>> _span([1e-3, 0.0, 2e-4])
      '2.0e-04 to 1.0e-03'
    """
    moved = [size for size in sizes if size > 0.0]
    if not moved:
        return "none"
    low, high = f"{min(moved):.1e}", f"{max(moved):.1e}"
    return low if low == high else f"{low} to {high}"
