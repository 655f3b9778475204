"""What devices send one another, read off a compiled program."""

import re
from collections import Counter
from typing import Any

COLLECTIVE = re.compile(
    r" = (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)"
    r"(?:-start)?\("
)
ARRAY = re.compile(r"\b[a-z]+\d*\[([\d,]*)\]")


def collectives(function: Any, *arguments: Any) -> Counter[tuple[str, tuple[int, ...]]]:
    """Counts them in a jitted function's program, by kind and the array's shape."""
    text = function.lower(*arguments).compile().as_text()
    found: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for line in text.splitlines():
        if match := COLLECTIVE.search(line):
            # Several arrays may go in one: (f32[], f32[8,8]).
            for shape in ARRAY.findall(match[1]):
                found[match[2], tuple(int(n) for n in shape.split(",") if n)] += 1
    return found
