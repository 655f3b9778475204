"""Command lines whose errors are one line each, with exit status 2."""

import argparse
from collections.abc import Callable, Sequence


def make_parser(docstring: str | None) -> argparse.ArgumentParser:
    """Returns a parser that is described by a program's first line."""
    # An error would print the usage as well, in many lines.
    return argparse.ArgumentParser(
        usage=argparse.SUPPRESS, description=(docstring or "").splitlines()[0]
    )


def positive(text: str) -> int:
    """The type of an option that is an integer, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1; got {text!r}")
    return int(text)


def some_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Returns the type of an option that is a list of names, with commas between."""

    def names(text: str) -> list[str]:
        for name in text.split(","):
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"must be of {', '.join(known)}; got {name!r}"
                )
        return text.split(",")

    return names


def seeds(text: str) -> list[int]:
    """The type of an option that is a list of seeds, such as ``0,1``."""
    values = text.split(",")
    if not all(map(str.isdecimal, values)) or len({*values}) < len(values):
        raise argparse.ArgumentTypeError(
            f"must be different integers from 0, such as 0,1; got {text!r}"
        )
    return [int(x) for x in values]
