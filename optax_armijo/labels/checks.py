"""Checks that labels fit params. Messages give the name, the path and the label."""

import numbers
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import all_leaves

from optax_armijo._types import Label
from optax_armijo.labels.functions import FROZEN, Stacked
from optax_armijo.labels.paths import Path, is_hole, paths_and_leaves

LABEL_FUNCTIONS = {"one_group", "by_layer", "by_depth", "by_attention"}
LABEL_FUNCTIONS |= {"by_pattern", "by_stacked_layer"}
LIKE_FROZEN = {"frozen", "freeze"}  # as users of `optax.partition` may name it
LABELS_ARE = "param_labels must be a pytree of labels or a function from params to one"
NO_RATE = "there is no learning rate, since step sizes are found"


def check_are_labels(param_labels: Any) -> None:
    """Raises TypeError for what was passed instead of labels by mistake.

    That is a learning rate, a schedule, an option, or the name of a label function.
    """
    if isinstance(param_labels, str) and param_labels in LABEL_FUNCTIONS:
        raise TypeError(
            f"{LABELS_ARE}; got the string {param_labels!r}, which would be the label "
            f"of all leaves. Take the function: optax_armijo.{param_labels}"
        )
    module = getattr(param_labels, "__module__", None) or ""
    is_schedule = callable(param_labels) and module.startswith("optax.")
    if is_schedule or isinstance(param_labels, numbers.Number | jax.Array | np.ndarray):
        raise TypeError(f"{LABELS_ARE}; got {param_labels!r}: {NO_RATE}")
    is_label = param_labels is None or isinstance(param_labels, str | Stacked)
    is_label |= callable(param_labels) or not all_leaves([param_labels])
    if not is_label:
        raise TypeError(
            f"{LABELS_ARE}; got {param_labels!r}. Other options are keyword arguments"
        )


def is_function(argument: Any) -> TypeGuard[Callable[[Any], Any]]:
    """Tells functions from trees that may be called, such as Equinox modules."""
    return callable(argument) and all_leaves([argument])


def call_label_function(label_function: Callable[[Any], Any], params: Any) -> Any:
    """Returns the labels from a function, which may be a schedule by mistake."""
    try:
        labels = label_function(params)
    except TypeError as error:
        raise TypeError(
            f"{LABELS_ARE}; called with params it raised {error}. Is it a schedule: "
            f"{NO_RATE}"
        ) from error
    check_are_labels(labels)
    return labels


def broadcast_prefix(name: str, prefix: Any, params: Any) -> list[Any]:
    """Returns the entry of `prefix` for each leaf of `params`, in tree order.

    Raises:
      ValueError: `prefix`, called `name` in the message, is not a prefix of params'
        tree.
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
            f"from params to one; {_misfit(prefix, params)}"
        ) from error
    return [box.entry for box in jax.tree.leaves(full)]


def _misfit(prefix: Any, params: Any) -> str:
    """Says which key a prefix lacks, or has in excess, and where."""
    given, wanted = _paths(prefix), _paths(params)
    parts_given = {path[:n] for path in given for n in range(len(path) + 1)}
    parts_wanted = {path[:n] for path in wanted for n in range(len(path) + 1)}
    for path in wanted:
        heads = [path[:n] for n in range(len(path) + 1)]
        missing = next((head for head in heads if head not in parts_given), None)
        if missing and not any(head in given for head in heads):
            where = f"the key {missing[-1]!r} of leaf '{'/'.join(path)}'"
            return f"it lacks {where}, or has None there"
    for path in given:
        heads = [path[:n] for n in range(len(path) + 1)]
        unknown = next((head for head in heads if head not in parts_wanted), None)
        if unknown:
            where = "/".join(unknown)
            return f"it has the key {unknown[-1]!r}, at '{where}', which params lacks"
    if type(prefix) is not type(params):
        ours, theirs = type(prefix).__name__, type(params).__name__
        return f"its keys fit, but it is a {ours}: make it a {theirs}"
    return f"got {jax.tree.structure(prefix)} for {jax.tree.structure(params)}"


def _paths(tree: Any) -> dict[Path, None]:
    """Returns the paths of all leaves, in tree order."""
    return dict.fromkeys(path for path, _ in paths_and_leaves(tree))


class _Boxed:
    """Makes an entry a leaf, whatever its type."""

    def __init__(self, entry: Any):
        self.entry = entry


def check_whole(params: Any) -> None:
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
    if isinstance(label, str) and label != FROZEN and label.lower() in LIKE_FROZEN:
        raise ValueError(
            f"param_labels gives leaf '{path}' the label {label!r}, which would not "
            "freeze it. Take optax_armijo.FROZEN, or another name if it is to move"
        )
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    if label != FROZEN and not jnp.issubdtype(dtype, jnp.floating):
        is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
        instead = "keep its real and imaginary part as two leaves, or label"
        raise TypeError(
            f"leaf '{path}' has dtype {dtype}; only real floating point leaves can be "
            f"searched: {instead if is_complex else 'label'} it optax_armijo.FROZEN"
        )


def check_names(labels: Sequence[Label]) -> None:
    """Raises ValueError for labels that print alike, as 1 and "1" do."""
    first: dict[str, Label] = {}
    for label in labels:
        other = first.setdefault(str(label), label)
        if other is not label:
            raise ValueError(
                f"param_labels gives two groups the name {str(label)!r}, by the labels "
                f"{other!r} and {label!r}. Use one of them, or another name"
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
