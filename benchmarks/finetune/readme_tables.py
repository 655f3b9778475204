"""Writes the README's tables of results anew, from the result files.

Run ``python benchmarks/finetune/readme_tables.py`` after ``tables.py``. A table stands
between ``<!-- table: NAME -->`` and ``<!-- end of table -->``. Bold is what lies within
one standard error of a column's best, the best one's own.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]

from formatting import standard_error, table, with_error  # noqa: E402
from provenance import RESULTS  # noqa: E402
from records import Record, results  # noqa: E402
from tables import (  # noqa: E402
    BEST_OF_GRID,
    RECOMMENDED,
    Standing,
    standings,
    with_grid,
)

README = ROOT / "README.md"
TABLE = re.compile(
    r"(<!-- table: ([a-z -]+) -->\n).*?(\n<!-- end of table -->)", re.DOTALL
)
TEXTS = {"tweets-500-small": "tweets", "bbc-500-small": "news"}
NEW = {"digits-500": "digits", "language_model-2000": "language model"}
ALL = (*TEXTS, *NEW, "digits-1437")

OWN_ROWS = '`armijo_adam(momentum="searched", start="expected")`'
OURS = {
    "`armijo_adam()`": ["armijo_adam"],
    "`average_iterates(armijo_adam())`": ["armijo_adam-averaged"],
    OWN_ROWS: ["armijo_adam-from_scratch"],
}
FINE_TUNING = {
    **OURS,
    "AdamW, warm-up and cosine, the best of seven rates (5e-4)": ["adamw-5e-04"],
    "the same at 2e-4": ["adamw-2e-04"],
    "the same at 1e-3": ["adamw-1e-03"],
    "the same at 2e-5, the papers'": ["adamw-2e-05"],
    "PLASLS (`plasls`)": ["plasls"],
    "AdamSLS (`adamsls`)": ["adamsls"],
    "SaLSA (`salsa`)": ["salsa"],
    'every layer by itself, `armijo_adam(momentum="none")`': ["by_layer"],
    "`optax.contrib.prodigy`": ["prodigy"],
    "`optax.contrib.schedule_free_adamw`": ["schedule_free_adamw"],
    "D-Adaptation, MoMo, Mechanic, DoG, COCOB": [
        "dadapt_adamw",
        "momo_adam",
        "mechanic",
        "dog",
        "cocob",
    ],
}
SHORT_AVERAGE = "the same, `average_iterates(..., part=0.1)`"
FROM_SCRATCH = {
    **OURS,
    SHORT_AVERAGE: ["armijo_adam-from_scratch-averaged"],
    "AdamW, the best of the seven rates (2e-3, the largest)": ["adamw-2e-03"],
    "`optax.contrib.dadapt_adamw`": ["dadapt_adamw"],
    "`optax.contrib.momo_adam`": ["momo_adam"],
    "`optax.contrib.prodigy`": ["prodigy"],
    "SaLSA (`salsa`)": ["salsa"],
}
RANKED = {
    RECOMMENDED: "ours as recommended for each task",
    "armijo_adam-averaged": "`average_iterates(armijo_adam())`",
    "armijo_adam": "`armijo_adam()`",
    "armijo_adam-from_scratch": OWN_ROWS,
    "armijo_adam-from_scratch-averaged": SHORT_AVERAGE,
    BEST_OF_GRID: "AdamW, the best of seven rates on each",
    "dadapt_adamw": "D-Adaptation",
    "prodigy": "Prodigy",
    "momo_adam": "MoMo-Adam",
    "cocob": "COCOB",
    "schedule_free_adamw": "schedule-free AdamW",
    "plasls": "PLASLS",
    "adamsls": "AdamSLS",
    "salsa": "SaLSA",
}
BATCHES = (", batch_size=4", ", batch_size=8", "", ", batch_size=128")
SETTINGS = {
    "": "",
    ", dropout=True": "with dropout",
    ", compute=bfloat16": "in bfloat16",
    ", dropout=True, compute=bfloat16": "with both",
}


def main() -> None:
    README.write_text(updated(README.read_text()))


def updated(text: str) -> str:
    """Returns the README with its tables made anew."""
    return TABLE.sub(lambda x: x[1] + MAKERS[x[2]]() + x[3], text)


def runs_of(task: str) -> list[Record]:
    return results(RESULTS / "finetune" / f"{task}.json")


def scores_table(tasks: dict[str, str], methods: dict[str, list[str]]) -> str:
    """Returns accuracy and log loss at the end, a method a row and a task a pair."""
    columns = [(task, score) for task in tasks for score in ("accuracy", "log_loss")]
    cells = {task_score: column(*task_score, methods) for task_score in columns}
    head = ["method"]
    for name in tasks.values():
        head += [f"{name}: accuracy", "log loss"]
    rows = [[label, *(cells[c][label] for c in columns)] for label in methods]
    return table(head, rows)


def column(task: str, score: str, methods: dict[str, list[str]]) -> dict[str, str]:
    """Returns a column's cells by the labels of their rows, the best in bold."""
    runs = runs_of(task)
    scores = {
        label: [[x[score][-1] for x in runs if x["variant"] == name] for name in names]
        for label, names in methods.items()
    }
    sign = -1 if score == "accuracy" else 1
    alone = {label: some[0] for label, some in scores.items() if len(some) == 1}
    best = min(alone.values(), key=lambda x: sign * np.mean(x))
    limit = sign * np.mean(best) + standard_error(best)
    is_best = {label: sign * np.mean(x) <= limit for label, x in alone.items()}
    texts = {label: cell(some) for label, some in scores.items()}
    return {k: f"**{x}**" if is_best.get(k) else x for k, x in texts.items()}


def cell(scores: Sequence[Sequence[float]]) -> str:
    """Returns the mean and its error; of several methods, the least and largest mean.

    Example:
      >>> cell([[0.5, 0.7]]), cell([[0.5, 0.7], [0.25]])
      ('0.600 ± 0.100', '0.250 to 0.600')
    """
    if len(scores) == 1:
        return with_error(scores[0])
    means = [np.mean(x) for x in scores]
    return f"{min(means):.3f} to {max(means):.3f}"


def ranks_table() -> str:
    """Returns mean ranks over the texts and over all tasks."""
    both, every = (
        standings(with_grid({task: runs_of(task) for task in tasks}))
        for tasks in (TEXTS, ALL)
    )
    head = ["mean rank", "fine-tuning: accuracy", "log loss"]
    head += ["all five: accuracy", "log loss"]

    def cells(standing: Standing) -> list[str]:
        return [f"{standing.rank[score]:.1f}" for score in ("accuracy", "log_loss")]

    rows = [
        [label, *cells(both[variant]), *cells(every[variant])]
        for variant, label in RANKED.items()
    ]
    return table(head, rows)


def settings_table() -> str:
    """Returns the accuracy of each seed by batch size, with what else is unusual."""
    head = ["accuracy", *(f"batch {x}" for x in (4, 8, 32, 128))]
    rows = []
    for task, name in (TEXTS | NEW).items():
        runs = runs_of(task)
        for setting, label in SETTINGS.items():
            if task in NEW and "dropout" in setting:
                continue  # their models have none
            cells = []
            for batch in BATCHES:
                variant = f"armijo_adam{batch}{setting}"
                some = [x["accuracy"][-1] for x in runs if x["variant"] == variant]
                # The usual set-up has more seeds.
                cells.append(", ".join(f"{x:.3f}" for x in some[:2]))
            rows.append([f"{name} {label}".strip(), *cells])
    return table(head, rows)


MAKERS: dict[str, Callable[[], str]] = {
    "fine-tuning": lambda: scores_table(TEXTS, FINE_TUNING),
    "from scratch": lambda: scores_table(NEW, FROM_SCRATCH),
    "ranks": ranks_table,
    "other settings": settings_table,
}

if __name__ == "__main__":
    main()
