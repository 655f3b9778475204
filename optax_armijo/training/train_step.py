"""`make_train_step`: a training step for any params and any transformation."""

import functools
import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import optax
from jax.core import Tracer

from optax_armijo._checks import as_transformation, check_callable
from optax_armijo._diagnostics import (
    ArmijoInfo,
    armijo_info,
    has_info,
    mistakes,
)
from optax_armijo._numerics import is_key
from optax_armijo.labels.paths import paths_and_leaves
from optax_armijo.training.objective import (
    build_objective,
    check_microbatches,
    with_aux,
)


class TrainMetrics(NamedTuple):
    """The metrics of a train step.

    Attributes:
      loss: the loss of the whole batch, before the step.  # f[]
      aux: auxiliary output of the loss function, or None.
      info: what the line search did; None without a search.
    """

    loss: jax.Array
    aux: Any
    info: ArmijoInfo | None


def make_train_step(
    loss_fn: Callable[..., Any],
    tx: optax.GradientTransformation,
    *,
    has_aux: bool = False,
    num_microbatches: int = 1,
    microbatch_argnums: Sequence[int] | None = None,
    weight_fn: Callable[..., Any] | None = None,
    axis_name: Any = None,
    donate: bool = True,
) -> jax.stages.Wrapped:
    r"""Returns the jitted step of a training loop.

    ``step(params, opt_state, *batch) -> (params, opt_state, metrics)`` takes the
    gradient of the batch's loss, lets `tx` search on the loss of the same batch, and
    applies the updates. Auxiliary output, such as batch statistics, comes from the
    gradient's pass. Trials get the same arguments, and the step drops their auxiliary
    output.

    With several microbatches,

    .. math:: f(w) = \sum_i \omega_i f_i(w) / \sum_i \omega_i

    the gradient and every trial go through them one after the other, with the memory of
    one microbatch. The tested loss is that of the whole batch, up to rounding. Aux is
    averaged in the same way if it is floating point; otherwise it is that of the last
    microbatch.

    Args:
      loss_fn: ``(params, *batch) -> loss``, a scalar, or ``(loss, aux)``: a mean over
        the examples of the batch.
      tx: an optax transformation; those without a search work too.
      has_aux: whether `loss_fn` returns aux.
      num_microbatches: at least 1; must divide the number of examples. Microbatch i
        holds the examples i, i + n, i + 2 n, ...
      microbatch_argnums: which arguments of the batch hold examples, counted from 0;
        None for all whose leaves have an axis; those of one argument all do, or none
        does. The others go whole to each microbatch; a random key (of
        ``jax.random.key``) among them gets the microbatch's number folded in.
      weight_fn: ``(*microbatch) -> weight``, for losses that are not means over
        examples that count equally, such as means over unpadded tokens; None for equal
        weights. It weights the devices of `axis_name` in the same way.
      axis_name: the axis, or axes, over which ``jax.shard_map`` or ``jax.pmap`` splits
        the batch; loss, aux and gradient are averaged over it, so that every device
        finds the same step sizes. None under ``jax.jit`` alone, which needs nothing.
      donate: whether params and state are donated, so that the step needs no second
        copy of them; do not use them after the call.

    Returns:
      The step; `metrics` are `TrainMetrics`.

    The step warns once of each mistake that `armijo_adam` or `scale_by_armijo` finds in
    its arguments, and of params that stand still. Called inside another ``jit``,
    ``lax.scan`` or a map over devices or seeds it cannot: print ``metrics.info``
    afterwards.

    Raises:
      TypeError: `loss_fn` is not a function, or `tx` is not a transformation.
      ValueError: `num_microbatches` below 1; when traced, a number of examples that it
        does not divide, arguments with different numbers of examples, none to split,
        `microbatch_argnums` out of range, or a loss that is not a scalar; when called,
        one array in two places that are donated.

    Example:
      >>> import jax.numpy as jnp, optax_armijo
      >>> def loss_fn(w, x, y):
      ...   return jnp.mean((x @ w - y) ** 2)
      >>> x = jnp.eye(4)
      >>> y = jnp.arange(4.0)
      >>> tx = optax_armijo.armijo_adam()
      >>> step = make_train_step(loss_fn, tx, num_microbatches=2)
      >>> w = jnp.zeros(4)
      >>> opt_state = tx.init(w)
      >>> losses = []
      >>> for _ in range(30):
      ...   w, opt_state, metrics = step(w, opt_state, x, y)
      ...   losses.append(float(metrics.loss))
      >>> losses[0], losses[-1] < 0.5, int(metrics.info.total_evaluations) > 0
      (3.5, True, True)
    """
    check_microbatches(num_microbatches, microbatch_argnums)
    check_callable("loss_fn", loss_fn)
    transform = as_transformation("tx", tx)
    make_objective = functools.partial(
        build_objective,
        with_aux(loss_fn, has_aux),
        num_microbatches=num_microbatches,
        microbatch_argnums=microbatch_argnums,
        weight_fn=weight_fn,
        axis_name=axis_name,
    )

    def step(params: Any, opt_state: Any, *batch: Any) -> tuple[Any, Any, TrainMetrics]:
        whole = make_objective(opt_state)
        (loss, aux), grads = whole.value_and_grad(params, *batch)
        updates, opt_state = transform.update(
            grads,
            opt_state,
            params,
            value=loss,
            grad=grads,
            value_fn=lambda params: whole.value(params, *batch),
        )
        params = apply_updates(params, updates)
        return params, opt_state, TrainMetrics(loss, aux, info_of(opt_state))

    if not donate:
        return watched(jax.jit(step))
    return watched(jax.jit(step, donate_argnums=(0, 1)), "params", "opt_state")


def apply_updates(params: Any, updates: Any) -> Any:
    """``optax.apply_updates`` for params with random keys in them, which stay."""
    return jax.tree.map(
        lambda p, u: p if is_key(p) else optax.apply_updates(p, u), params, updates
    )


def info_of(opt_state: Any) -> ArmijoInfo | None:
    """Returns what the line search in a state did; None if there is none."""
    return armijo_info(opt_state) if has_info(opt_state) else None


def watched(jitted: Any, *donated: str) -> Any:
    """Returns a step that says what is wrong with its arguments.

    It warns once of each kind of mistake that the line search finds. It reads few
    infos, and each of them one call late, so that the next step is on its way to the
    device while it waits for the last one.

    Args:
      jitted: the step.
      donated: the names of its first arguments, which it donates; it says which of
        their leaves are one array.
    """
    # The step takes the gradient itself: a wrong slope is mostly rounding.
    calls, unread, known = itertools.count(1), [], {"slope"}

    @functools.wraps(jitted)
    def call(*args: Any) -> Any:
        try:
            results = jitted(*args)
        except Exception as error:  # its type differs between versions of JAX
            if "donate the same buffer twice" not in str(error):
                raise
            raise ValueError(
                f"{' and '.join(donated)} are donated and must hold each array once; "
                f"got {_shared(dict(zip(donated, args, strict=False)))}. Copy one of "
                "the two, or say donate=False"
            ) from error
        while unread:
            for kind, text in mistakes(jax.device_get(unread.pop())).items():
                if kind not in known:
                    known.add(kind)
                    warnings.warn(text, stacklevel=2)
        metrics = results if isinstance(results, TrainMetrics) else results[-1]
        if _is_read(metrics.info, next(calls)):
            unread.append(metrics.info)
        return results

    for name in ("lower", "trace", "eval_shape", "clear_cache", "_cache_size"):
        if hasattr(jitted, name):
            setattr(call, name, getattr(jitted, name))
    return call


def _is_read(info: ArmijoInfo | None, call: int) -> bool:
    """Whether to read a call's info: that of the 1st, 2nd, 4th, ..., and each 64th."""
    if info is None or isinstance(info.value_error, Tracer) or info.value_error.ndim:
        return False  # no search; inside another jit; one info for each device
    return call % 64 == 0 or call & (call - 1) == 0


def _shared(donated: dict[str, Any]) -> str:
    first: dict[int, str] = {}
    for path, leaf in paths_and_leaves(donated):
        where = "/".join(path)
        if id(leaf) in first:
            return f"one array as '{first[id(leaf)]}' and '{where}'"
        first[id(leaf)] = where
    return "two leaves that share a buffer"
