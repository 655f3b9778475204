"""Where a result comes from: what every result file says of its making."""

import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def commit() -> str:
    """Returns the commit that the runs were made from, marked when it was changed."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def environment(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns commit, settings, versions and device."""
    from metrics import run_record  # examples/ must be on the path

    return {"commit": commit(), **run_record(settings)}
