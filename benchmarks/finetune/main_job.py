"""The main job by each optimizer over seeds: a table, and its figures as JSON.

Run ``python benchmarks/finetune/main_job.py``. Runs that exist are not made again, and
one that was stopped goes on, so the command can be interrupted.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from provenance import RESULTS, commit, write_result  # noqa: E402

EXAMPLE = ROOT / "examples" / "finetune_bert.py"

METHODS = {
    "armijo_adam": ["--optimizer", "armijo_adam"],
    "every layer searched by itself": [
        *("--optimizer", "armijo_adam"),
        *("--groups", "layer"),
    ],
    "AdamW 2e-5, warm-up and cosine": ["--optimizer", "adamw"],
}

COLUMNS = {
    "train_loss": "train loss, last epoch",
    "accuracy": "accuracy",
    "log_loss": "log loss",
    "evaluations_per_step": "evaluations a step",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N - 1")
    parser.add_argument("--task", default="tweets", help="a task of the example")
    parser.add_argument("--runs-dir", type=Path, default=ROOT / "runs" / "main_job")
    arguments = parser.parse_args()
    runs = [
        run(name, options, seed, arguments.task, arguments.runs_dir)
        for seed in range(arguments.seeds)
        for name, options in METHODS.items()
    ]
    path = RESULTS / f"main_job_{arguments.task}.json"
    write_result(path, {"commit": commit(), "runs": runs})
    print(table(runs))


def run(
    name: str, options: list[str], seed: int, task: str, runs_dir: Path
) -> dict[str, Any]:
    """Makes one run, unless it was made before; returns what it measured."""
    slug = "-".join([task, *options[1::2], str(seed)])
    folder = runs_dir / slug
    metrics = folder / "metrics.jsonl"
    if not finished(metrics):
        print(f"== {name}, seed {seed}", flush=True)
        options = [*options, "--task", task, "--seed", str(seed)]
        command = [sys.executable, str(EXAMPLE), *options, "--output-dir", str(folder)]
        has_epoch = metrics.exists() and '"kind": "epoch"' in metrics.read_text()
        command.append("--resume" if has_epoch else "--overwrite")
        subprocess.run(command, check=True)
    records = read(metrics)
    by_kind = {kind: [x for x in records if x["kind"] == kind] for kind in KINDS}
    epochs = by_kind["epoch"]
    summary = by_kind["summary"][-1] | {"train_loss": epochs[-1]["train_loss"]}
    return {
        "method": name,
        "seed": seed,
        **{key: summary[key] for key in (*COLUMNS, "seconds", "compile_seconds")},
        "accuracy_by_epoch": [x["accuracy"] for x in epochs],
        "train_loss_by_epoch": [x["train_loss"] for x in epochs],
        "versions": by_kind["run"][0]["versions"],
        "device": by_kind["run"][0]["device"],
        "settings": by_kind["run"][0]["settings"],
    }


KINDS = ("run", "step", "epoch", "summary")


def read(metrics: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in metrics.read_text().splitlines()]


def finished(metrics: Path) -> bool:
    return metrics.exists() and '"kind": "summary"' in metrics.read_text()


def table(runs: list[dict[str, Any]]) -> str:
    """Returns a Markdown table: means over seeds, and the spread of accuracy."""
    seeds = len({x["seed"] for x in runs})
    lines = [
        f"| method, {seeds} seeds | " + " | ".join(COLUMNS.values()) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for name in METHODS:
        own = [x for x in runs if x["method"] == name]
        cells = [cell(key, [x[key] for x in own]) for key in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(key: str, values: list[float]) -> str:
    mean = statistics.fmean(values)
    if key == "accuracy" and len(values) > 1:
        return f"{mean:.3f} ± {statistics.stdev(values):.3f}"
    return f"{mean:.3f}"


if __name__ == "__main__":
    main()
