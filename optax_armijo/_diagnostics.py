"""`armijo_info` tells what the line search did, from a state at any depth."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from optax_armijo._state import (
    ArmijoState,
    PublishedState,
    decode_labels,
    find_states,
)

KINDS = (PublishedState, ArmijoState)
SUSPICIOUS_VALUE_ERROR = 0.02  # relative: more than rounding in bfloat16
LEAST_VALUE_ERROR = 1e-3  # relative: more than rounding in float32
SUSPICIOUS_SLOPE_ERROR = 0.5  # relative: more than curvature in the smallest trial
MANY_STILL, SOME_STILL = 50, 5  # steps; the latter with a non-finite gradient


class ArmijoInfo(NamedTuple):
    """What the line search did in the last step.

    It prints as a table with one row per group, or a single row if all are alike. The
    table omits columns that would say nothing: ``applied`` if it equals the step size,
    the test and its trials if there was none.

    All fields are arrays, inside ``jit`` too, with one entry per group (G of them)
    unless stated otherwise; only `signal_fraction` may be None.

    Attributes:
      label_codes: the labels as bytes; `labels` reads them.  # u8[G, W]
      step_size: what the group moves by next, before test and schedule change it.
        # f[G]
      applied_step_size: the step size that was applied, 0 if unmoved, negative if the
        step before was rolled back.  # f[G]
      searched: whether the group or the whole step was tested.  # bool[G]
      accepted: whether that test passed.  # bool[G]
      num_trials: loss evaluations of that test.  # i32[G]
      total_trials: the same, over all steps.  # i32[G]
      predicted_decrease: predicted decrease of the loss, the applied step size times
        the slope; 0 if unmoved, and with a published method if not searched.  # f[G]
      actual_decrease: decrease of the loss in the accepted trial of the whole step,
        divided among groups in proportion to the predicted ones; 0 without one.
        # f[G]
      step_factor: the factor by which the test shortened the whole step; 1 without a
        test.  # f[]
      signal_fraction: phi, between 0 and 1: the fraction of what steps promise on their
        own mini-batch that holds on the next one; 1 until something is known. None for
        a published method, which does not measure it.  # f[]
      is_finite: whether the loss and the group's gradient were finite.  # bool[G]
      bad_leaf_code: the path of the first leaf whose gradient was not finite, as
        bytes; `bad_leaf` reads it.  # u8[P]
      value_error: relative difference between ``value_fn(params)`` and ``value``, from
        0 to 2, measured before the first step, and again where no trial passed. More
        than rounding means that ``value_fn`` is not the function of ``value``: it uses
        another mini-batch or dropout key, sums instead of averaging, or is scaled. 0
        for a published method, which does not check it.  # f[]
      slope_error: relative difference between the decrease of the loss in a trial and
        what `grad` promises for it, from 0 to 2 (ascent), measured with `value_error`.
        More than a half means that ``grad`` is not the gradient of ``value_fn``: it is
        clipped, scaled or of the opposite sign. 0 where rounding hides it, and for a
        published method.  # f[]
      labels_error: whether ``update`` has other labels than those that the state was
        made with; False for a published method, which does not check it.  # bool[]
      num_still: steps since params moved; 0 for a published method.  # i32[]
      num_evaluations: evaluations of the loss, without that of the gradient.  # i32[]
      total_evaluations: the same, over all steps.  # i32[]
    """

    label_codes: jax.Array
    step_size: jax.Array
    applied_step_size: jax.Array
    searched: jax.Array
    accepted: jax.Array
    num_trials: jax.Array
    total_trials: jax.Array
    predicted_decrease: jax.Array
    actual_decrease: jax.Array
    step_factor: jax.Array
    is_finite: jax.Array
    bad_leaf_code: jax.Array
    value_error: jax.Array
    slope_error: jax.Array
    labels_error: jax.Array
    num_still: jax.Array
    signal_fraction: jax.Array | None
    num_evaluations: jax.Array
    total_evaluations: jax.Array

    @property
    def labels(self) -> tuple[str, ...]:
        """The groups' labels, in the order of the arrays; outside ``jit`` only."""
        if isinstance(self.label_codes, Tracer):
            raise TypeError(
                "labels can be read outside jit only: return the info from the "
                "jitted function and read them there."
            )
        return decode_labels(np.asarray(self.label_codes))

    @property
    def bad_leaf(self) -> str:
        """The path of the first leaf whose gradient was not finite, else "".

        For example ``"layer_1/kernel"``; of one step, outside ``jit`` only.
        """
        if isinstance(self.bad_leaf_code, Tracer):
            raise TypeError("bad_leaf can be read outside jit only")
        if jnp.ndim(self.bad_leaf_code) != 1:
            raise ValueError("bad_leaf is that of one step; got an info of several")
        (path,) = decode_labels(np.asarray(self.bad_leaf_code)[None])
        return path

    def to_dict(self) -> dict[str, float]:
        """Returns all fields as a flat dict of numbers, for loggers.

        A field of the whole step keeps its name; a group's field is followed by its
        label, as in ``"applied_step_size/layer_1"``. This waits for the device, and
        warns of what looks like a mistake, as the table does.

        Raises:
          TypeError: inside ``jit``.
          ValueError: an info of several steps, as from a scan.

        Example:
          >>> import jax.numpy as jnp, optax_armijo
          >>> tx = optax_armijo.armijo_adam({"a": "first", "b": "last"})
          >>> state = tx.init({"a": jnp.ones(2), "b": jnp.ones(3)})
          >>> numbers = optax_armijo.armijo_info(state).to_dict()
          >>> [name for name in numbers if name.endswith("/last")][:2]
          ['step_size/last', 'applied_step_size/last']
          >>> numbers["step_factor"], numbers["num_evaluations"]
          (1.0, 0.0)
        """
        labels = self.labels
        if self.step_size.ndim != 1:
            raise ValueError(
                "to_dict takes the info of one step, whose step_size has the shape "
                f"({len(labels)},); got one of shape {self.step_size.shape}. Take one "
                "step out: jax.tree.map(lambda x: x[i], info)"
            )
        for mistake in mistakes(self).values():
            warnings.warn(mistake, stacklevel=2)
        numbers: dict[str, float] = {}
        for name, values in jax.device_get(self)._asdict().items():
            if values is None:  # not measured
                continue
            if np.ndim(values) == 0:
                numbers[name] = float(values)
            elif not name.endswith(("_codes", "_code")):
                pairs = zip(labels, values, strict=True)
                numbers |= {f"{name}/{label}": float(x) for label, x in pairs}
        return numbers

    def __str__(self) -> str:
        if isinstance(self.label_codes, Tracer) or self.step_size.ndim != 1:
            return repr(self)
        return _table(self)


def armijo_info(opt_state: Any) -> ArmijoInfo:
    """Returns what the line search did in the last step.

    Args:
      opt_state: a state that holds one state of a line search at any depth: that of
        `armijo_adam`, of an ``optax.chain`` or of ``optax.inject_hyperparams``.

    Returns:
      An `ArmijoInfo`.

    Raises:
      ValueError: if the state holds no such state, or several.

    Example:
      >>> import jax, jax.numpy as jnp, optax_armijo
      >>> f = lambda p: (p["a"] - 1.0) ** 2 + p["b"] ** 2
      >>> params = {"a": jnp.array(0.0), "b": jnp.array(1.0)}
      >>> grads = {"a": jnp.array(-2.0), "b": jnp.array(2.0)}
      >>> tx = optax_armijo.armijo_adam({"a": "first", "b": "last"})
      >>> update = jax.jit(tx.update, static_argnames="value_fn")
      >>> _, state = update(
      ...     grads, tx.init(params), params, value=f(params), grad=grads, value_fn=f)
      >>> info = armijo_info(state)
      >>> info.labels, info.searched.tolist(), info.accepted.tolist()
      (('first', 'last'), [True, True], [True, True])
      >>> bool(jnp.all(info.predicted_decrease > 0)), float(info.value_error)
      (True, 0.0)
      >>> print(str(info).splitlines()[0].split()[:4])
      ['group', 'step', 'size', 'applied']
    """
    states = find_states(opt_state, KINDS)
    if len(states) != 1:
        raise ValueError(
            "opt_state must hold one state of a line search, such as that of "
            f"armijo_adam; this one holds {len(states)}. Give armijo_info the "
            "part of the state that belongs to one of them."
        )
    (state,) = states
    is_published = isinstance(state, PublishedState)
    zero = jnp.zeros_like(state.last.step_factor)
    none, right = zero.astype(jnp.int32), zero.astype(jnp.bool_)
    return ArmijoInfo(
        label_codes=state.label_codes,
        step_size=state.step_size,
        signal_fraction=None if is_published else state.signal.fraction,
        value_error=zero if is_published else state.input_errors.value,
        slope_error=zero if is_published else state.input_errors.slope,
        labels_error=right if is_published else state.input_errors.labels,
        num_still=none if is_published else state.num_still,
        total_trials=state.total_trials,
        total_evaluations=state.total_evaluations,
        **state.last._asdict(),
    )


def has_info(opt_state: Any) -> bool:
    """Whether the state holds that of a line search."""
    return bool(find_states(opt_state, KINDS))


def _table(info: ArmijoInfo) -> str:
    columns = {"group": info.labels, **_columns(info)}
    rows: list[tuple[str, ...]] = list(zip(*columns.values(), strict=True))
    if len(rows) > 1 and len({row[1:] for row in rows}) == 1:
        rows = [(f"all {len(rows)} groups", *rows[0][1:])]
    rows = [tuple(columns), *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    phi = info.signal_fraction
    foot = (
        f"whole step x {float(info.step_factor):g}; "
        f"{'' if phi is None else f'signal fraction {float(phi):.2f}; '}"
        f"{int(info.num_evaluations)} loss evaluations besides the gradient's, "
        f"{int(info.total_evaluations)} in total"
    )
    sizes = {"value": info.value_error, "slope": info.slope_error}
    errors = [
        f"{kind}_error {float(sizes[kind]):.2g}: {text}" if kind in sizes else text
        for kind, text in mistakes(info).items()
    ]
    return "\n".join([*lines, foot, *errors, *_remarks(info)])


def mistakes(info: ArmijoInfo) -> dict[str, str]:
    """Says what looks like a mistake in the call of ``update``, by kind."""
    found = {}
    value_error, slope_error = float(info.value_error), float(info.slope_error)
    has_slope_error = slope_error > SUSPICIOUS_SLOPE_ERROR
    # If the slope is wrong as well, a small difference is more than rounding.
    if value_error > (LEAST_VALUE_ERROR if has_slope_error else SUSPICIOUS_VALUE_ERROR):
        found["value"] = (
            "value_fn(params) differs from value: value_fn must be the function of "
            "value, of the same mini-batch and dropout key, with the same reduction "
            "and scale"
        )
    elif has_slope_error:
        found["slope"] = (
            "the decrease of the loss differs from what its gradient promises: grad "
            "must be the gradient of value_fn, before clipping, scaling and "
            "averaging. In a chain pass it: grad=grads"
        )
    if bool(info.labels_error):
        found["labels"] = (
            "update has other labels than the state: groups have the step sizes of "
            "others. Call init again, or use the labels that the state was made with"
        )
    num_still = int(info.num_still)
    if info.bad_leaf and num_still >= SOME_STILL:
        found["gradient"] = (
            f"{_bad_gradient(info)}, again and again, so that the params do not move: "
            "does the loss take a square root or a norm at 0 (add a small number under "
            "the root), or is it huge?"
        )
    if num_still >= MANY_STILL and not found:
        found["still"] = (
            f"the params have not moved for {MANY_STILL} steps or more: is the loss at "
            "a minimum, its gradient zero, not finite, or below the range of its "
            "dtype, or has the run gone beyond num_steps?"
        )
    return found


def _bad_gradient(info: ArmijoInfo) -> str:
    return f"the gradient of leaf '{info.bad_leaf}' (or its square) is not finite"


def _remarks(info: ArmijoInfo) -> list[str]:
    """Says why nothing moved, if that is not a mistake."""
    found = []
    applied, searched = map(np.asarray, (info.applied_step_size, info.searched))
    is_finite = np.asarray(info.is_finite)
    if np.any(applied < 0):
        found.append(
            "the last step was rolled back: the loss after it was not finite, or far "
            "above the losses before, or the step had raised it much"
        )
    elif info.bad_leaf:
        if int(info.num_still) < SOME_STILL:  # from then on it is a mistake
            found.append(f"nothing moved: {_bad_gradient(info)}, although the loss is")
    elif is_finite.size and not np.any(is_finite):
        found.append("nothing moved: the loss is not finite")
    elif np.all(is_finite) and np.any(searched) and not np.any(applied):
        if not mistakes(info):
            found.append("nothing moved: no trial decreased the loss enough")
    return found


def _reasons(info: ArmijoInfo) -> list[str]:
    """Says for each group why it did not move; a dash if it did."""
    is_published = info.signal_fraction is None
    is_any_bad = not np.all(info.is_finite)

    def reason(step_size: float, applied: float, ok: bool, searched: bool) -> str:
        if applied:
            return "-" if applied > 0 else "rolled back"
        if is_any_bad:
            return "another group" if ok else "not finite"
        if searched:
            return "no trial passed"
        if not step_size:
            return "no step size yet"
        return "direction ascends" if is_published else "the run is over"

    fields = info.step_size, info.applied_step_size, info.is_finite, info.searched
    return [reason(*x) for x in zip(*map(np.asarray, fields), strict=True)]


def _columns(info: ArmijoInfo) -> dict[str, list[str]]:
    """Returns the columns that say something about this step."""
    step_size, applied = map(_numbers, (info.step_size, info.applied_step_size))
    is_still = int(info.num_still) or not np.all(info.is_finite)
    has_begun = is_still or int(info.total_evaluations)
    tests = [
        "passed" if accepted else "failed" if searched else "-"
        for searched, accepted in zip(
            np.asarray(info.searched), np.asarray(info.accepted), strict=True
        )
    ]
    columns = {
        "test": tests,
        "trials": _counts(info.num_trials),
        "all trials": _counts(info.total_trials),
        "predicted": _numbers(info.predicted_decrease),
        "actual": _numbers(info.actual_decrease),
        "reason": _reasons(info) if has_begun else [],
    }
    nothing = {"-", "0", *_numbers(np.zeros(1))}
    return {
        "step size": step_size,
        **({"applied": applied} if applied != step_size else {}),
        **{name: cells for name, cells in columns.items() if {*cells} - nothing},
    }


def _numbers(values: jax.typing.ArrayLike) -> list[str]:
    return [f"{value:.2e}" for value in np.asarray(values, np.float64)]


def _counts(values: jax.Array) -> list[str]:
    return [str(value) for value in np.asarray(values)]
