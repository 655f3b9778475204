"""What a training step of the main job costs beside AdamW's, in one run.

Run ``python benchmarks/speed/step_time.py``. The steps of the optimizers are made in
turn, in an order drawn anew for each, so that whatever else the machine does falls on
all alike. Figures are ratios to AdamW's: of the means over all steps, the first ones
with their many trials too, and of the medians over all but those. The default is a
whole run of the main job.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for folder in ("benchmarks", "examples"):
    sys.path.insert(0, str(ROOT / folder))
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import jax  # noqa: E402
import job as main_job  # noqa: E402
from optimizers import step_facts  # noqa: E402
from pretrained import load_pretrained  # noqa: E402
from provenance import RESULTS, environment, write_result  # noqa: E402
from settings import parse_settings  # noqa: E402
from text_data import Sizes, load_data  # noqa: E402
from training import TrainState  # noqa: E402
from turns import shuffled  # noqa: E402

METHODS = {
    "AdamW": ["--optimizer", "adamw"],
    "armijo_adam": ["--optimizer", "armijo_adam"],
    "every layer searched by itself": [
        *("--optimizer", "armijo_adam"),
        *("--groups", "layer"),
    ],
}
WARM_UP = 8  # the first search and the steps after it cost more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=72, help="steps to time")
    steps = parser.parse_args().steps
    jobs = {name: prepare(options) for name, options in METHODS.items()}
    records: dict[str, list[dict[str, Any]]] = {name: [] for name in METHODS}
    for step in range(WARM_UP + steps):
        for name in shuffled(list(METHODS), step):
            job, state = jobs[name]
            state, record = timed_step(job, state, step)
            jobs[name] = job, state
            records[name].append(record)
    rows = [summary(name, jobs[name][0], records[name]) for name in METHODS]
    for row in rows:
        for kind in ("median", "mean"):
            seconds = f"{kind}_step_seconds"
            row[f"{kind}_ratio"] = row[seconds] / rows[0][seconds]
    result = {
        "timed_steps": steps,
        **environment({"options": METHODS}),
        "rows": rows,
    }
    write_result(RESULTS / "step_time.json", result)
    print("| method | all steps | median step | evaluations a step | compile, s |")
    print("|---|---|---|---|---|")
    for row in rows:
        names = ("mean_ratio", "median_ratio", "evaluations", "compile_seconds")
        figures = [row[name] for name in names]
        cells = " | ".join(f"{figure:.2f}" for figure in figures)
        print(f"| {row['method']} | {cells} |")


def prepare(options: list[str]) -> tuple[main_job.Job, TrainState]:
    settings = parse_settings(options)
    sizes = Sizes(settings.train_size or None, settings.validation_size or None)
    data = load_data(settings.task, sizes, settings.data_seed, None, None, None)
    pretrained = load_pretrained(settings.model, settings.num_layers)
    return main_job.prepare(settings, data, pretrained)


def timed_step(
    job: main_job.Job, state: TrainState, step: int
) -> tuple[TrainState, dict[str, Any]]:
    """Makes the main job's step number `step`; its time ends when it is computed."""
    epoch, i = divmod(step, job.steps_per_epoch)
    batch = list(job.train_batches(epoch))[i]
    key = jax.random.fold_in(jax.random.key(job.settings.seed), step)
    compiled = job.train_step.seconds
    start = time.perf_counter()
    state, loss = job.train_step(state, batch, key)
    jax.block_until_ready((state, loss))
    seconds = time.perf_counter() - start - (job.train_step.seconds - compiled)
    facts = step_facts(job.optimizer, state.opt_state, step)
    return state, {"seconds": seconds, "evaluations": 1 + facts["num_evaluations"]}


def summary(
    name: str, job: main_job.Job, records: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "method": name,
        "median_step_seconds": statistics.median(
            x["seconds"] for x in records[WARM_UP:]
        ),
        "mean_step_seconds": statistics.fmean(x["seconds"] for x in records),
        "evaluations": statistics.fmean(x["evaluations"] for x in records),
        "compile_seconds": job.train_step.seconds,
    }


if __name__ == "__main__":
    main()
