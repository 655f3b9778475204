"""Writes ``results/speed/README.md`` from the result files beside it.

Run ``python benchmarks/speed/cost_tables.py`` after ``cost.py`` and ``growth.py``.
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks")]

from provenance import RESULTS  # noqa: E402

FOLDER = RESULTS / "speed"
COLUMNS = (
    *("method", "step", "evaluations", "machinery"),
    *("spike", "first", "compile", "memory"),
)

INTRODUCTION = """\
# What a step costs: what was measured

Written by `benchmarks/speed/cost_tables.py` from the JSON files beside it, which
`cost.py` and `growth.py` made.

## Beside Adam's step

Steps of all methods made in turn; ratios of medians within one run, after ten steps.
*Step*: times Adam's. *Evaluations*: of the loss, a step, beside the gradient's.
*Machinery*: (step - Adam's step) / (evaluations x forward pass); 1 would be the forward
passes and nothing else. *Spike*: the slowest step above Adam's, in forward passes.
*First*: evaluations in the first step. *Compile*: times Adam's. *Memory*: bytes held
beside arguments and results above Adam's, in copies of the params, by the compiled
program's own analysis. *Every step*: `armijo_adam(frequency="every")`; *own rows*:
`momentum="none"`, which tests on the rows of the gradient; both with so many groups.
"""

GROWTH = """
## How it grows

What the default adds to Adam's step and one forward pass, in a step with a trial, by
the compiled program's analysis: bytes moved, that is read and written, and bytes held,
in units of the params, or of one device's part of them. No time is measured.

![Growth](growth.png)

| params | groups | devices | Adam moves | ours moves | ours holds | compile, s |
|---|---|---|---|---|---|---|
"""


def main() -> None:
    text = INTRODUCTION
    for path in sorted(FOLDER.glob("cost-*.json")):
        text += cost_table(json.loads(path.read_text()))
    growth = json.loads((FOLDER / "growth.json").read_text())
    text += GROWTH + "\n".join(growth_row(row) for row in growth["rows"])
    text += f"\n\n{made(growth)}\n"
    (FOLDER / "README.md").write_text(text, encoding="utf-8")


def cost_table(record: dict[str, Any]) -> str:
    adam, *others = record["rows"]
    lines = [
        f"\n### {record['problem']}\n",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
        *map(cost_row, others),
        f"\nAdam's step takes {adam['step']:.2f} s, the forward pass "
        f"{adam['forward'] / adam['step']:.2f} of it; it compiles in "
        f"{adam['compile']:.1f} s. {made(record)}\n",
    ]
    return "\n".join(lines)


def cost_row(row: dict[str, Any]) -> str:
    machinery = f"{row['machinery']:.2f}" if "machinery" in row else ""
    first = row["first_evaluations"] or ""
    return (
        f"| {row['method']} | {row['step_ratio']:.2f} | {row['evaluations']:.2f} | "
        f"{machinery} | {row['spike']:.1f} | {first} | {row['compile_ratio']:.1f} | "
        f"{row['temporaries_above']:+.2f} |"
    )


def growth_row(row: dict[str, Any]) -> str:
    return (
        f"| {row['num_params']:.0e} | {row['num_groups']} | {row['num_devices']} | "
        f"{row['adam_moved']:.1f} | {row['moved']:.1f} | {row['held']:.2f} | "
        f"{row['compile']:.1f} |"
    )


def made(record: dict[str, Any]) -> str:
    versions = record["versions"]
    return (
        f"Made on {record['device']} with JAX {versions['jax']}, Python "
        f"{versions['python']}, at commit {record['commit']}."
    )


if __name__ == "__main__":
    main()
