"""Refuses learning rates, calls without the loss, and states of other searches."""

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from optax_armijo._numerics import search_dtype
from optax_armijo._state import decode_labels, encode_labels
from optax_armijo.labels.checks import NO_RATE
from optax_armijo.labels.grouping import Grouping
from optax_armijo.labels.paths import Path, paths_and_leaves

P = ParamSpec("P")
T = TypeVar("T")

# Names that other optimizers use.
RATES = {"learning_rate", "lr", "step_size", "alpha"}
SCHEDULES = {"schedule", "total_steps", "decay_steps", "warmup_steps"}


def names_unknown_options(make: Callable[P, T]) -> Callable[P, T]:
    """Wraps `make` so that, given an option it lacks, it names the alternative.

    Raises:
      TypeError: when called with such an option.
    """
    known = inspect.signature(make).parameters

    @functools.wraps(make)
    def call(*args: P.args, **options: P.kwargs) -> T:
        for name, value in options.items():
            if name not in known:
                raise TypeError(
                    f"{make.__name__} has no argument '{name}'; got {value!r}: "
                    f"{_instead(name, known)}"
                )
        return make(*args, **options)

    return call


def _instead(name: str, known: Collection[str]) -> str:
    has_length = "num_steps" in known
    if name in RATES:
        decay = ". For a decay over the run give its length: num_steps=..."
        return NO_RATE + decay * has_length
    if name in SCHEDULES and has_length:
        return "for a decay over the run give its length: num_steps=..."
    if name == "weight_decay":
        return "optax_armijo.armijo_adamw has weight decay"
    fixed = "the constants of its line search are fixed, and " * has_length
    return f"{fixed}its arguments are {', '.join(known)}"


def check_given(**arguments: Any) -> None:
    """Raises ValueError for arguments of ``update`` that are missing."""
    missing = [name for name, argument in arguments.items() if argument is None]
    if missing:
        raise ValueError(
            f"the line search needs {', '.join(missing)}. Write: value, grads = "
            "jax.value_and_grad(loss_fn)(params); tx.update(grads, state, params, "
            "value=value, grad=grads, value_fn=loss_fn), with loss_fn a function "
            "from params to the scalar loss of the same batch. In Flax, take "
            "optax_armijo.linen.TrainState, since the TrainState of flax.training "
            "drops them, or optax_armijo.nnx.make_train_step. Wrappers that drop them, "
            "such as optax.lookahead, optax.contrib.sam and "
            "optax.contrib.split_real_and_imaginary, cannot hold a line search."
        )


def check_groups(grouping: Grouping, state: Any) -> None:
    """Raises ValueError for a state of other groups.

    Inside ``jit`` nothing is known of the state's labels except their number and width.
    """
    num_groups = state.step_size.shape[-1]
    wanted, found = encode_labels(grouping.labels), state.label_codes
    is_other = num_groups != grouping.num_groups or found.shape[-2:] != wanted.shape
    is_known = not isinstance(found, Tracer) and not is_other
    if is_known and decode_labels(np.asarray(found)) != decode_labels(wanted):
        is_other = True
    if is_other:
        raise ValueError(
            f"param_labels gives {grouping.num_groups} groups, {grouping.labels}, but "
            f"the state was made for {num_groups} others. Call init again, or use the "
            "labels that the state was made with."
        )


def check_members(grouping: Grouping, state: Any) -> None:
    """Raises ValueError if the same groups had other leaves."""
    found = getattr(state, "checksum", grouping.checksum)  # published methods have none
    if not isinstance(found, Tracer) and np.any(np.asarray(found) != grouping.checksum):
        raise ValueError(
            f"param_labels gives the groups {grouping.labels} other leaves than those "
            "that the state was made with. Call init again, or use the same labels."
        )


def check_search_state(
    search_state: Callable[[Any], Any], state: Any, kind: type
) -> Any:
    """Returns the search's state; raises TypeError unless it is of this kind."""
    try:
        found = search_state(state)
    except (IndexError, KeyError, TypeError):  # such as a dict instead of a tuple
        found = state
    if not isinstance(found, kind):
        raise TypeError(
            f"state must be what init returned; got {type(found).__name__} "
            f"instead of {kind.__name__}. A state that was read without its types: "
            "optax_armijo.restore_state(tx.init(params), state)"
        )
    return found


def check_moments(grouping: Grouping, params: Any, moments: Any) -> None:
    """Raises ValueError if one of the trees of moments is not like params."""
    moving = zip(paths_and_leaves(params), grouping.members, strict=True)
    wanted = {
        path: (jnp.shape(leaf), search_dtype([leaf]))
        for (path, leaf), member in moving
        if member is not None
    }
    for tree in moments:
        found = {
            path: (jnp.shape(leaf), jnp.result_type(leaf))
            for path, leaf in paths_and_leaves(tree)
        }
        if found != wanted and not isinstance(tree, optax.EmptyState):
            path = next(p for p in [*wanted, *found] if wanted.get(p) != found.get(p))
            raise ValueError(
                f"the state was made for other params: its moments of leaf "
                f"'{'/'.join(path)}' have {_shape(found, path)}, but need "
                f"{_shape(wanted, path)}. Call init again"
            )


def check_shapes(grouping: Grouping, params: Any, **trees: Any) -> None:
    """Raises ValueError if a given tree has leaves of other shapes."""
    for name, tree in trees.items():
        others = grouping.treedef.flatten_up_to(params if tree is None else tree)
        leaves = zip(paths_and_leaves(params), others, grouping.members, strict=True)
        for (path, leaf), other, member in leaves:
            if member is not None and jnp.shape(other) != jnp.shape(leaf):
                raise ValueError(
                    f"{name} must have the shapes of params; got {jnp.shape(other)} "
                    f"instead of {jnp.shape(leaf)} for leaf '{'/'.join(path)}'"
                )


def _shape(found: dict[Path, tuple[Any, Any]], path: Path) -> str:
    if path not in found:
        return "no entry"
    shape, dtype = found[path]
    return f"shape {shape} and dtype {dtype}"


def warn_outside_jit(calls: Iterator[int], *trees: Any) -> None:
    """Warns at the first call outside ``jit``, which `calls` counts from 0."""
    is_traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))
    is_disabled: bool = jax.config.jax_disable_jit  # pyright: ignore
    if not is_traced and not is_disabled and not next(calls):
        warnings.warn(
            "update is called outside jax.jit and compiles the search at every call; "
            "jit the whole step, as optax_armijo.make_train_step does",
            stacklevel=3,
        )


def check_not_in_multi_steps() -> None:
    """Raises ValueError when called from within ``optax.MultiSteps``.

    It passes an accumulated gradient with the loss of the last micro-batch, and nothing
    in its call reveals this except the call stack at trace time.
    """
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_qualname in _MULTI_STEPS and "optax" in code.co_filename:
            raise ValueError(
                "inside optax.MultiSteps a line search would test the loss of the "
                "last micro-batch against the gradient of all. Take "
                "optax_armijo.make_train_step(loss_fn, tx, num_microbatches=k), which "
                "tests the loss of the whole batch at the memory of one microbatch."
            )
        frame = frame.f_back


_MULTI_STEPS = ("MultiSteps.init", "MultiSteps.update")


def as_arrays(tree: Any) -> Any:
    """Turns NumPy arrays and Python numbers, which optax accepts, into JAX arrays."""
    if not any(map(_is_foreign, jax.tree.leaves(tree))):
        return tree  # the user's own tree, for the label function
    return jax.tree.map(lambda x: jnp.asarray(x) if _is_foreign(x) else x, tree)


def _is_foreign(leaf: Any) -> bool:
    return isinstance(leaf, float | np.ndarray | np.generic)
