"""Writes ``results/speed/README.md`` from the result files beside it.

Run ``python benchmarks/speed/cost_tables.py`` after ``cost.py``, ``long_run.py`` or
``peers.py``: the page has what they have found, where they were run.
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

Written by `benchmarks/speed/cost_tables.py` from the JSON files beside it.

## Beside Adam's step

By `cost.py`. Steps of all methods made in turn, in an order drawn anew for each; ratios
of medians within one run, after ten steps.
*Step*: times Adam's. *Evaluations*: of the loss, a step, beside the gradient's.
*Machinery*: (step - Adam's step) / (evaluations x forward pass); 1 would be the forward
passes and nothing else. *Spike*: the slowest step above Adam's, in forward passes.
*First*: evaluations in the first step. *Compile*: times Adam's. *Memory*: bytes held
beside arguments and results above Adam's, in copies of the params, by the compiled
program's own analysis. *Often*: `Backtracking(search_growth=1.0001)`, which tests the
whole step every time, with so many groups.
"""

LONG_RUNS = """
## Whole runs

By `long_run.py`: the default beside AdamW at 2e-4, their steps made in turn, in an
order drawn anew for each; without the first ten. *Slow*: the slowest step in a hundred
above AdamW's median, in forward passes. *Evaluations*: of the loss, a step, the
gradient's included.

| task | steps | mean step | median step | slow | AdamW's slow | evaluations |
|---|---|---|---|---|---|---|
"""

PEERS = """
## Beside PyTorch

{task}: the same pretrained weights and {steps} batches, in one run on the CPU by
`peers.py`, the steps of all methods made in turn. *Median step*: times that of the same
framework's Adam at 1e-4, after ten steps; *mean step*: of all steps. *Evaluations*: of
the loss, a step, beside the gradient's; *most*: in one step. *Memory*: what the process
held at most beside its imports, in MB; *above Adam*: how much more than Adam's process,
JAX's with what compiling took; *in steps*: how much more than Adam's it grew later.
*Train loss*: the mean of the last epoch; *at Adam's end*: of the {epoch} steps before
the time at which Adam has made all {steps}, without compilation. Accuracy and log loss:
on 1,000 other rows, at the end.

![Training loss against time](peers.png)

"""
PEER_COLUMNS = (
    *("method", "framework", "median step", "mean step", "evaluations", "most"),
    *("memory", "above Adam", "in steps"),
    *("train loss", "at Adam's end", "accuracy", "log loss"),
)


def main() -> None:
    text = INTRODUCTION
    for path in sorted(FOLDER.glob("cost-*.json")):
        text += cost_table(json.loads(path.read_text()))
    if runs := sorted(FOLDER.glob("long_run-*.json")):
        text += LONG_RUNS + "".join(
            long_run_row(json.loads(x.read_text())) for x in runs
        )
    if (peers := FOLDER / "peers.json").exists():
        text += peer_section(json.loads(peers.read_text()))
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


def long_run_row(record: dict[str, Any]) -> str:
    settings = record["settings"]
    return (
        f"| {settings['task']} | {settings['steps']} | {record['mean_ratio']:.3f} | "
        f"{record['median_ratio']:.3f} | {record['p99_above_in_forward_passes']:.1f} | "
        f"{record['base_p99_above_in_forward_passes']:.1f} | "
        f"{record['evaluations']:.2f} |\n"
    )


def peer_section(record: dict[str, Any]) -> str:
    versions = record["versions"]
    introduction = PEERS.format(
        task=record["task"], steps=record["settings"]["steps"], epoch=record["epoch"]
    )
    adams = {x["framework"]: x["step"] / x["median_ratio"] for x in record["rows"]}
    steps = " and ".join(f"{step:.2f} s in {name}" for name, step in adams.items())
    return (
        f"{introduction}{peer_table(record)}\n\nAdam's step takes {steps}. "
        f"{made(record)} PyTorch is {versions['torch']}, SaLSA-Optimizer "
        f"{versions['SaLSA-Optimizer']}.\n"
    )


def peer_table(record: dict[str, Any]) -> str:
    return "\n".join(
        [
            "| " + " | ".join(PEER_COLUMNS) + " |",
            "|---" * len(PEER_COLUMNS) + "|",
            *map(peer_row, record["rows"]),
        ]
    )


def peer_row(row: dict[str, Any]) -> str:
    held, above = (row["peak"] - row["imported"]) / 1e6, row["peak_above_adam"] / 1e6
    in_steps = row["steps_above_adam"] / 1e6
    return (
        f"| {row['method']} | {row['framework']} | {row['median_ratio']:.2f} | "
        f"{row['mean_ratio']:.2f} | {row['evaluations']:.2f} | "
        f"{row['most_evaluations']} | {held:.0f} | {above:+.0f} | {in_steps:+.0f} | "
        f"{row['train_loss']:.3f} | {row['equal_time_loss']:.3f} | "
        f"{row['accuracy']:.3f} | {row['log_loss']:.3f} |"
    )


def made(record: dict[str, Any]) -> str:
    versions = record["versions"]
    return (
        f"Made on {record['device']} with JAX {versions['jax']}, Python "
        f"{versions['python']}, at commit {record['commit']}."
    )


if __name__ == "__main__":
    main()
