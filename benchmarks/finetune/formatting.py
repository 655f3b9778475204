"""Markdown tables, and means with their errors."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def with_error(
    values: Any, spec: str = ".3f", *, bold_beyond: float | None = None
) -> str:
    """Formats a mean, with its standard error where there are two values or more.

    Args:
      values: of which the mean is.
      spec: format of a number.
      bold_beyond: in bold if the mean is more than so many standard errors from 0.

    Example:
      >>> with_error([0.5, 0.7])
      '0.600 ± 0.100'
      >>> with_error([0.5, 0.7], bold_beyond=2)
      '**0.600 ± 0.100**'
    """
    values = np.asarray(values, float)
    if values.size == 0:
        return ""
    mean = format(values.mean(), spec)
    if values.size == 1:
        return mean
    error = standard_error(values)
    text = f"{mean} ± {format(error, spec.lstrip('+'))}"
    is_far = bold_beyond is not None and abs(values.mean()) > bold_beyond * error
    return f"**{text}**" if is_far else text


def standard_error(values: Any) -> float:
    """Returns that of the mean of two values or more."""
    return float(np.std(values, ddof=1) / np.size(values) ** 0.5)


def table_of(rows: Sequence[dict[str, str]]) -> str:
    """Returns a Markdown table of rows with the same columns."""
    return table(list(rows[0]), [list(x.values()) for x in rows])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table of cells; two columns may have the same name."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
