"""`metrics.jsonl`: what a run measured, one JSON object a line.

The first line has ``kind`` ``"run"`` (settings, versions, device), then come lines of
kind ``"step"`` and ``"epoch"``, and ``"summary"`` when the run has ended.
"""

import json
import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from errors import UserError

PACKAGES = (
    "optax-armijo",
    "jax",
    "jaxlib",
    "optax",
    "flax",
    "numpy",
    "orbax-checkpoint",
    "transformers",
)

Record = dict[str, Any]


def run_record(settings: Record, **facts: Any) -> Record:
    """The first line: what one needs to know to make the run again, and more facts."""
    device = jax.devices()[0]
    return {
        "kind": "run",
        "settings": settings,
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
        "device": f"{device.platform}: {device.device_kind}",
        **facts,
    }


def append(path: Path, record: Record) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(_finite(record)) + "\n")


def read(path: Path) -> list[Record]:
    """Reads all records; a last line that a killed run left half written is none."""
    try:
        *lines, last = path.read_text(encoding="utf-8").splitlines() or [""]
        records = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    try:
        return [*records, json.loads(last)]
    except ValueError:
        return records


def forget_after(path: Path, epoch: int) -> None:
    """Drops the lines of steps and epochs after `epoch`, made without a checkpoint."""
    kept = [
        record
        for record in read(path)
        if record["kind"] == "run" or record.get("epoch", math.inf) <= epoch
    ]
    lines = [json.dumps(record) + "\n" for record in kept]
    path.write_text("".join(lines), encoding="utf-8")


def _finite(value: Any) -> Any:
    """Writes nan and inf as null: JSON has no word for them."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
