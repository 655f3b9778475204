"""Whether labels fit params: what is wrong is said by name, path and label."""

from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_armijo._special_labels import FROZEN, Stacked
from optax_armijo._types import Label


def broadcast_prefix(name: str, prefix: Any, params: Any) -> list[Any]:
    """Returns the entry of `prefix` for each leaf of `params`, in tree order.

    Raises:
      ValueError: `prefix`, called `name` in the message, is no prefix of params' tree.
    """
    try:
        full = jax.tree.map(
            lambda entry, part: jax.tree.map(lambda _: _Boxed(entry), part),
            prefix,
            params,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{name} must be a pytree that is a prefix of params' tree, or a function "
            f"from params to one; this one does not fit. {name}: "
            f"{jax.tree.structure(prefix)}; params: {jax.tree.structure(params)}."
        ) from error
    return [box.entry for box in jax.tree.leaves(full)]


class _Boxed:
    """Keeps an entry a leaf, whatever its type."""

    def __init__(self, entry: Any):
        self.entry = entry


def check_whole(params: Any) -> None:
    def is_hole(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    if any(map(is_hole, jax.tree.leaves(params, is_leaf=is_hole))):
        raise ValueError(
            "a line search evaluates the loss, which needs the whole params, but got "
            "params with optax.MaskedNode in them. Do not wrap it in optax.masked or "
            "optax.partition: label what must not move optax_armijo.FROZEN in "
            "param_labels, and what must move apart with labels of its own."
        )


def check_leaf(path: str, leaf: Any, label: Label) -> None:
    if not isinstance(label, Hashable):
        raise TypeError(
            f"param_labels gives leaf '{path}' the label {label!r}, which cannot be "
            "hashed. Use strings."
        )
    if label != FROZEN and not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        raise TypeError(
            f"leaf '{path}' has dtype {jnp.result_type(leaf)}; only real floating "
            "point leaves can be searched. Label it optax_armijo.FROZEN, or split a "
            "complex leaf into its real and imaginary part "
            "(optax.contrib.split_real_and_imaginary)."
        )


def check_stacks(
    paths: Sequence[str], leaves: Sequence[Any], labels: Sequence[Label]
) -> None:
    first: dict[str, tuple[str, int]] = {}
    for path, leaf, label in zip(paths, leaves, labels, strict=True):
        if not isinstance(label, Stacked):
            continue
        shape = jnp.shape(leaf)
        if len(shape) <= label.axis or shape[label.axis] == 0:
            raise ValueError(
                f"param_labels says that axis {label.axis} of leaf '{path}' counts "
                f"layers, but its shape is {shape}. Give it a label of its own."
            )
        other, num_layers = first.setdefault(label.label, (path, shape[label.axis]))
        if num_layers != shape[label.axis]:
            raise ValueError(
                f"param_labels gives the label {label!r} to leaf '{other}' with "
                f"{num_layers} layers and to leaf '{path}' with {shape[label.axis]}. "
                "Use another label for each stack."
            )
