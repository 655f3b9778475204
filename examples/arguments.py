"""Command lines that say in one line what is wrong, and what their numbers may be."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from errors import UserError


class Parser(argparse.ArgumentParser):
    """Raises `UserError` where argparse would exit; takes ``--an_option`` as well."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the options)")

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        args = sys.argv[1:] if args is None else args
        return super().parse_known_args(list(map(_dashed, args)), namespace)


def _dashed(word: str) -> str:
    name, equals, value = word.partition("=")
    name = name.replace("_", "-") if name.startswith("--") else name
    return name + equals + value


def tell(main: Callable[[Sequence[str] | None], Any], argv: Any = None) -> int:
    """Runs a program; returns its exit code: 2, and a line, for a `UserError`."""
    try:
        main(argv)
    except UserError as error:
        program = Path(sys.modules[main.__module__].__file__ or "").name
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    return 0


def count(least: int = 1) -> Callable[[str], int]:
    """Returns the type of an option that is an integer, `least` or more."""

    def parse(value: str) -> int:
        if not (value.isdecimal() and int(value) >= least):
            raise argparse.ArgumentTypeError(f"{value!r} is not an integer >= {least}")
        return int(value)

    return parse


def number(text: str) -> float:
    """The type of an option that is a finite number, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number >= 0")
    return value


def positive_number(text: str) -> float:
    """The type of an option that is a finite number above 0."""
    value = number(text)
    if value == 0.0:
        raise argparse.ArgumentTypeError("0 is not a number > 0")
    return value
