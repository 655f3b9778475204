"""What a search refuses: calls that lack the loss, states of others, MultiSteps."""

import sys
from typing import Any

from optax_armijo._grouping import Grouping
from optax_armijo._state import ArmijoState


def check_given(**arguments: Any) -> None:
    """Raises ValueError for arguments of ``update`` that are missing."""
    missing = [name for name, argument in arguments.items() if argument is None]
    if missing:
        raise ValueError(
            f"the line search needs {', '.join(missing)}. Write: value, grads = "
            "jax.value_and_grad(loss_fn)(params); tx.update(grads, state, params, "
            "value=value, grad=grads, value_fn=loss_fn), with loss_fn a function "
            "from params to the scalar loss of the same batch. Wrappers that do not "
            "pass these on, such as optax.lookahead, optax.contrib.sam and "
            "optax.contrib.split_real_and_imaginary, cannot hold a line search."
        )


def check_groups(grouping: Grouping, state: ArmijoState) -> None:
    """Raises ValueError for a state of other groups."""
    num_groups = state.step_size.shape[-1]
    if num_groups != grouping.num_groups:
        raise ValueError(
            f"param_labels gives {grouping.num_groups} groups, {grouping.labels}, but "
            f"the state was made for {num_groups}. Call init again, or use the "
            "labels that the state was made with."
        )


def check_not_in_multi_steps() -> None:
    """Raises ValueError when called from within ``optax.MultiSteps``.

    It hands over an accumulated gradient with the loss of the last micro-batch, and
    nothing in its call tells so: the call stack does, at trace time.
    """
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_qualname in _MULTI_STEPS and "optax" in code.co_filename:
            raise ValueError(
                "inside optax.MultiSteps a line search would test the loss of the "
                "last micro-batch against the gradient of all. Take "
                "optax_armijo.make_train_step(loss_fn, tx, num_microbatches=k), which "
                "tests the loss of the whole batch at the memory of one part."
            )
        frame = frame.f_back


_MULTI_STEPS = ("MultiSteps.init", "MultiSteps.update")
