"""The library's side of the runs that compare it with its NumPy twin."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import problems
from reference_base import Options, natural_order
from twin_runs import History, Run

import optax_armijo


class Static(NamedTuple):
    """The part of a run that decides what is compiled."""

    labels: tuple[str, ...]
    mask: tuple[bool, ...] | None
    sgd: bool
    words: tuple[tuple[str, Any], ...]  # the options that are not numbers
    numbers: tuple[str, ...]  # the names of those that are
    plain: bool  # passes no numbers, so that the library's defaults serve


def transformation(static: Static, numbers: dict[str, Any], friction: Any) -> Any:
    """The library's side of a run."""
    labels, options = list(static.labels), dict(static.words) | numbers
    if static.sgd:
        search = optax_armijo.scale_by_armijo(labels, **options)
        return optax.chain(optax.sgd(1.0, momentum=friction), search)
    options: dict[str, Any] = {"momentum": "none"} | options
    if static.mask is not None:
        return optax_armijo.armijo_adamw(labels, mask=list(static.mask), **options)
    return optax_armijo.armijo_adam(labels, **options)


def follow(
    static: Static,
    numbers: dict[str, Any],
    friction: Any,
    ball: tuple[Any, Any],
    params: list[jax.Array],
    batches: problems.Batch,
) -> tuple[History, optax_armijo.ArmijoInfo]:
    """Scans the library over the batches."""
    tx = transformation(static, {} if static.plain else numbers, friction)

    def step(carry: Any, batch: problems.Batch) -> tuple[Any, History]:
        params, state = carry

        def loss(params: list[jax.Array]) -> jax.Array:
            return problems.loss_jax(params, batch, *ball)

        value, grads = jax.value_and_grad(loss)(params)
        value = value + batch.loss_offset
        grads = [grads[0] * batch.grad_scale, *grads[1:]]
        grad = {"grad": grads} if static.sgd else {}
        updates, state = tx.update(
            grads, state, params, value=value, value_fn=loss, **grad
        )
        params: Any = optax.apply_updates(params, updates)
        info = optax_armijo.armijo_info(state)
        facts = {name: getattr(info, name) for name in History._fields[3:]}
        facts["loss_average"] = state[1].loss_average
        return (params, state), History(value=value, params=params, **facts)

    (_, state), history = jax.lax.scan(step, (params, tx.init(params)), batches)
    return history, optax_armijo.armijo_info(state)


@functools.cache
def compiled(static: Static) -> Any:
    """`follow`, compiled once for all runs that differ by numbers alone."""
    traced = jax.jit(follow, static_argnums=0).lower(
        static, *arguments(Run({}), static)
    )
    # The compiler takes nearly all the time of these tests, the runs next to none.
    return traced.compile(compiler_options={"xla_backend_optimization_level": "0"})


def static_part(run: Run) -> Static:
    options = Options(**run.options)._asdict()
    unknown = () if run.friction is None else ("b1", "b2", "eps", "momentum")
    unknown += () if run.mask is not None else ("weight_decay",)
    known = {name: options[name] for name in options if name not in unknown}
    words = {k: v for k, v in known.items() if v is None or isinstance(v, str)}
    return Static(
        labels=run.labels,
        mask=run.mask,
        sgd=run.friction is not None,
        words=tuple(words.items()),
        numbers=tuple(sorted(known.keys() - words.keys())),
        plain=not run.options,
    )


def arguments(run: Run, static: Static) -> tuple[Any, ...]:
    """What `follow` takes but for `static`: arrays of the same kinds for any run."""
    options = Options(**run.options)
    numbers = {}
    for name in static.numbers:
        dtype = np.int32 if name in ("max_trials", "num_joint_steps") else np.float64
        numbers[name] = np.asarray(getattr(options, name), dtype)
    friction = np.float64(run.friction or 0.0)
    ball = (np.float64(run.radius), np.float64(run.outside))
    return numbers, friction, ball, problems.make_params(), run.batches


def library(run: Run) -> History:
    """Follows the library."""
    static = static_part(run)
    history, info = compiled(static)(*arguments(run, static))
    assert list(info.labels) == natural_order(run.labels)
    return jax.tree.map(np.asarray, history)
