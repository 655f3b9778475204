"""The origin of a result: what every result file records."""

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("jax", "optax", "flax", "numpy")


def commit() -> str:
    """Returns the commit that the runs were made from, marked when it was changed.

    Results that were written since do not count as changes.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    name, rest = git("describe", "--always"), f":(exclude){RESULTS.relative_to(ROOT)}"
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", rest)
    return f"{name}-dirty" if changes else name


def environment(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns commit, settings, versions and device."""
    import jax  # here, so that a program may choose its devices first

    device = jax.devices()[0]
    versions = {package: version(package) for package in PACKAGES}
    return {
        "commit": commit(),
        "settings": settings,
        "versions": {"python": platform.python_version(), **versions},
        "device": f"{device.platform}: {device.device_kind}",
    }


def write_result(path: Path, record: dict[str, Any]) -> None:
    """Writes a result file."""
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
