"""Saves and restores a run with Orbax, exactly."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from errors import UserError
from training import TrainState


@contextmanager
def open_checkpoints(folder: Path) -> Iterator[ocp.CheckpointManager]:
    """Opens the folder in which the newest checkpoint is kept, by epoch."""
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1, create=True, enable_async_checkpointing=False
    )
    # Orbax takes absolute paths only.
    with ocp.CheckpointManager(folder.resolve(), options=options) as manager:
        yield manager


def save(
    manager: ocp.CheckpointManager, epoch: int, state: TrainState, settings: Any
) -> None:
    """Saves the state after `epoch` epochs, and the settings that led to it."""
    manager.save(
        epoch,
        args=ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            opt_state=ocp.args.StandardSave(state.opt_state),
            settings=ocp.args.JsonSave(settings),
        ),
    )


def restore(
    manager: ocp.CheckpointManager, state: TrainState, settings: dict[str, Any]
) -> tuple[TrainState, int]:
    """Returns the newest checkpoint's state, in the structure of `state`, and epoch.

    Raises:
      UserError: there is no checkpoint, or it was made with other settings.
    """
    epoch = manager.latest_step()
    if epoch is None:
        raise UserError(f"--resume: no checkpoint in {manager.directory}")
    only_settings = ocp.args.Composite(settings=ocp.args.JsonRestore())
    _check_same(manager.restore(epoch, args=only_settings)["settings"], settings)
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    restored = manager.restore(
        epoch,
        args=ocp.args.Composite(
            params=ocp.args.StandardRestore(abstract.params),
            opt_state=ocp.args.StandardRestore(abstract.opt_state),
        ),
    )
    return TrainState(restored["params"], restored["opt_state"]), epoch


def _check_same(saved: dict[str, Any], settings: dict[str, Any]) -> None:
    different = [
        f"--{name.replace('_', '-')} {saved.get(name)} (now {settings.get(name)})"
        for name in sorted(saved.keys() | settings.keys())
        if saved.get(name) != settings.get(name)
    ]
    if different:
        raise UserError("--resume: the run was made with " + ", ".join(different))
