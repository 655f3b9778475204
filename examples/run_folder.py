"""The folder of a run: its newest checkpoint, and metrics.jsonl.

The first line of `metrics.jsonl` has ``kind`` ``"run"`` (settings, versions, device,
data). The others have ``"step"`` or ``"epoch"``.
"""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from command_line import UserError

PACKAGES = ("optax-armijo", "jax", "jaxlib", "optax", "flax", "numpy")
PACKAGES += ("orbax-checkpoint", "transformers")

Record = dict[str, Any]


def run_record(settings: Record, **facts: Any) -> Record:
    """The first line: what is needed to repeat the run, and more facts."""
    device = jax.devices()[0]
    versions = {package: version(package) for package in PACKAGES}
    return {
        "kind": "run",
        "settings": settings,
        "versions": {"python": platform.python_version(), **versions},
        "device": f"{device.platform}: {device.device_kind}",
        **facts,
    }


def read(folder: Path) -> list[Record]:
    """Reads metrics.jsonl; empty if there is none."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def open_checkpoints(folder: Path) -> ocp.CheckpointManager:
    """A context manager around the run's newest checkpoint, made after an epoch."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output-dir {folder}: {error}") from error
    kept = {"max_to_keep": 1, "enable_async_checkpointing": False}
    options = ocp.CheckpointManagerOptions(create=True, **kept)
    # Orbax takes absolute paths only.
    return ocp.CheckpointManager((folder / "checkpoints").resolve(), options=options)


def save(folder: Path, checkpoints: Any, state: Any, records: list[Record]) -> None:
    """Saves the state after an epoch, and the records up to it."""
    # The records first: a run that is killed has those of its checkpoint at least.
    new = folder / "metrics.new"
    lines = (json.dumps(record) + "\n" for record in records)
    new.write_text("".join(lines), encoding="utf-8")
    new.replace(folder / "metrics.jsonl")
    checkpoints.save(records[-1]["epoch"], args=ocp.args.StandardSave(state))


def restore(checkpoints: ocp.CheckpointManager, like: Any) -> Any:
    """Returns the newest checkpoint's state, in the structure of another."""
    args = ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
    return checkpoints.restore(checkpoints.latest_step(), args=args)
