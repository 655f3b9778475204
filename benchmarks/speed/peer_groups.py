"""How PLASLS divides a BERT's weights, and which group's turn it is."""

import re
from collections.abc import Iterable


def by_layer(names: Iterable[str]) -> dict[str, list[str]]:
    """Divides weights by their names: embeddings, each layer, and what is above.

    Example:
      >>> by_layer(["bert.embeddings.w", "bert.encoder.layer.0.w", "classifier.w"])["0"]
      ['bert.encoder.layer.0.w']
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_group(name), []).append(name)
    return groups


def _group(name: str) -> str:
    if layer := re.search(r"\.layer\.(\d+)\.", name):
        return layer[1]
    return "embeddings" if ".embeddings." in name else "output"


def turn(step: int, num_joint_steps: int, num_groups: int) -> int | None:
    """The group searched in a step, counted from 0; None in the first, joint steps.

    Example:
      >>> [turn(step, num_joint_steps=2, num_groups=3) for step in range(6)]
      [None, None, 0, 1, 2, 0]
    """
    return None if step < num_joint_steps else (step - num_joint_steps) % num_groups
