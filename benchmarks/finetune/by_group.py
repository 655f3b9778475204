"""Is a step size for every group ahead of a common one? The record's table of it."""

from collections.abc import Sequence
from typing import NamedTuple

from formatting import table_of, with_error
from records import Record, by_variant, paired

HEAD = """\
## By group against one group

Each scheme that gives every layer a step size of its own less the same with one step
size for all, paired by seed; bold is what is more than two standard errors from 0. The
network of the digits has no layers that a number tells apart, and so one group.
"""


class Scheme(NamedTuple):
    """A way to search by group: its name, its method, and that with one group."""

    name: str
    by_group: str
    one_group: str


SCHEMES = (
    Scheme("the mean over batches, one in turn", "armijo_adam-cycle", "armijo_adam"),
    Scheme("the mean over batches, each", "armijo_adam-each", "armijo_adam"),
    Scheme("on a step's own rows, one in turn", "by_layer", "one_group"),
    Scheme("the same, along momentum", "by_layer-searched", "one_group-searched"),
    Scheme("as published: PLASLS, AdamSLS", "plasls", "adamsls"),
)


def section(tasks: dict[str, Sequence[Record]]) -> str:
    """Returns the heading and table, of the schemes and tasks with runs in pairs."""
    rows = [
        {"scheme": scheme.name, "task": task, **cells(pairs)}
        for scheme in SCHEMES
        for task, runs in tasks.items()
        if len(pairs := pairs_of(runs, scheme)) > 1
    ]
    return f"{HEAD}\n{table_of(rows)}\n" if rows else ""


def pairs_of(runs: Sequence[Record], scheme: Scheme) -> list[tuple[Record, Record]]:
    """Returns the runs of several groups, each beside that with one group."""
    variants = by_variant(runs)
    some = [x for x in variants.get(scheme.by_group, []) if len(x["step_size"]) > 1]
    return paired(some, variants.get(scheme.one_group, []))


def cells(pairs: Sequence[tuple[Record, Record]]) -> dict[str, str]:
    """Returns the differences, by the names of their columns."""

    def difference(score: str, epoch: int) -> str:
        values = [x[score][epoch] - y[score][epoch] for x, y in pairs]
        return with_error(values, "+.3f", bold_beyond=2)

    return {
        "seeds": str(len(pairs)),
        "accuracy after epoch 2": difference("accuracy", 1),
        "accuracy": difference("accuracy", -1),
        "log loss": difference("log_loss", -1),
    }
