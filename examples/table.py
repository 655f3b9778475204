"""A table of numbers that is printed row by row, as training goes on."""

from typing import Any


class Table:
    """Prints its header when it is made, and then each row as it comes.

    Example:
      >>> table = Table("epoch", "train loss", "layer_0")
         epoch  train loss   layer_0
      >>> table.row(1, 0.98765, 3.21e-05)
             1       0.988  3.21e-05
    """

    def __init__(self, *names: str):
        self.widths = [max(8, len(name)) for name in names]
        self._print(names)

    def row(self, *cells: Any) -> None:
        """Prints integers as they are and other numbers in three digits."""
        self._print(
            str(cell) if isinstance(cell, int) else f"{float(cell):.3g}"
            for cell in cells
        )

    def _print(self, texts: Any) -> None:
        columns = zip(texts, self.widths, strict=True)
        print("  ".join(text.rjust(width) for text, width in columns), flush=True)
