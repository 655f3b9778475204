"""Command lines whose errors are one line each."""

import argparse
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn


class UserError(Exception):
    """An error that the user can correct; its text says how."""

    def __str__(self) -> str:
        # Messages of other libraries end up in here: keep to the one line promised.
        return " ".join(super().__str__().split())


class Parser(argparse.ArgumentParser):
    """Raises `UserError` where argparse would exit; takes ``--an_option`` as well."""

    def __init__(self, doc: str | None):
        super().__init__(description=(doc or "").splitlines()[0], allow_abbrev=False)

    def add_count(self, flag: str, default: Any, text: str, *, least: int = 1) -> None:
        """Adds an option that is an integer, `least` or more."""

        def count(value: str) -> int:
            if value.isdecimal() and int(value) >= least:
                return int(value)
            text = f"{value!r} is not an integer >= {least}"
            raise argparse.ArgumentTypeError(text)

        text = text if default is None else f"{text} (default %(default)s)"
        self.add_argument(flag, type=count, default=default, metavar="N", help=text)

    def add_path(self, flag: str, text: str, default: Path | None = None) -> None:
        """Adds an option that is a path."""
        self.add_argument(flag, type=Path, default=default, metavar="PATH", help=text)

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


def positive_number(text: str) -> float:
    """The type of an option that is a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number > 0")
    return value


STOPPED, PATIENCE = 130, 1.0  # the exit code that shells expect; seconds


def start(main: Callable[[Sequence[str] | None], Any]) -> NoReturn:
    """Runs a program as this process, which Ctrl-C ends even while XLA compiles."""

    def stop(*_: Any) -> NoReturn:
        # JAX's callbacks lose exceptions, and then nothing would have stopped.
        threading.Timer(PATIENCE, end).start()
        raise KeyboardInterrupt

    def end() -> NoReturn:
        shown = "\x1b[?25h" * sys.stdout.isatty()  # the cursor, which bars hide
        print(f"{shown}stopped", file=sys.stderr, flush=True)
        os._exit(STOPPED)

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in the background
        signal.signal(signal.SIGINT, stop)
    code = tell(main)
    if code == STOPPED:
        # Python's own end would wait for the threads that compile, and then crash.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def tell(main: Callable[[Sequence[str] | None], Any], argv: Any = None) -> int:
    """Runs a program; returns its exit code: 2, and a line, for a `UserError`."""
    try:
        main(argv)
    except UserError as error:
        program = Path(sys.modules[main.__module__].__file__ or "").name
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"stopped{stop}", file=sys.stderr)
        return STOPPED
    return 0
