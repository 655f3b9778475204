"""Draws Armijo's test along one direction: ``python docs/figures/one_step.py``.

The first search of a run on one batch, with the trials that the library really made.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from canvas import BLUE, GREY, IMAGES, ORANGE, new_figure, save
from problem import along, init_params, load_batches, loss_fn

from optax_armijo import armijo_adam, armijo_info, one_group
from optax_armijo.search.trials import C_FIRST

PASSES, FAILS = ("o", BLUE), ("X", ORANGE)


def main(folder: Path = IMAGES) -> None:
    figure = new_figure(6.0, 4.0)
    draw_search(figure.subplots())
    save(figure, "one_batch.png", folder)


def draw_search(axes: Any) -> None:
    """The first step of a run: it climbs until a trial fails, then bisects."""
    x, y = (batches[0] for batches in load_batches())
    params, c = init_params(), C_FIRST
    trials: list[Any] = []

    def recorded(trial: Any) -> jax.Array:
        jax.debug.callback(trials.append, trial)
        return loss_fn(trial, x, y)

    tx = armijo_adam(one_group)

    @jax.jit
    def first_step(params: Any) -> Any:
        value, grads = jax.value_and_grad(loss_fn)(params, x, y)
        opt_state = tx.init(params)
        more: Any = {"value": value, "value_fn": recorded}
        _, opt_state = tx.update(grads, opt_state, params, **more)
        return value, grads, armijo_info(opt_state)

    value, grads, info = first_step(params)
    jax.effects_barrier()

    # Adam's first direction is the gradient's sign, nearly.
    direction = jax.tree.map(lambda g: -g / (jnp.abs(g) + 1e-8), grads)
    slope = -float(dot(grads, direction))
    sizes = sorted(step_size(params, trial, direction) for trial in trials)
    found = float(info.step_size[0])  # a twentieth of it is applied, by the warm-up

    grid = np.linspace(0.0, 1.1 * max(sizes), 200)
    start = float(value)
    curve = losses(params, direction, jnp.asarray(grid), x, y)
    axes.plot(grid, curve, color="0.6", label="loss")
    line = start - c * grid * slope
    axes.plot(grid, line, "--", color=GREY, label=f"Armijo's line, c = {c:g}")
    heights = np.asarray(losses(params, direction, jnp.asarray(sizes), x, y))
    for size, height in zip(sizes, heights, strict=True):
        passes = height <= start - c * size * slope
        marker, colour = PASSES if passes else FAILS
        axes.plot(size, height, marker, color=colour, markersize=7)
    axes.plot([], [], PASSES[0], color=PASSES[1], label="trial that passes")
    axes.plot([], [], FAILS[0], color=FAILS[1], label="trial that fails")
    axes.axvline(found, color=BLUE, linewidth=0.8, label="step size found")
    axes.set_title("one batch: the first step of a run")
    axes.set_xlabel("step size along the direction")
    axes.set_ylabel("loss")
    axes.legend(frameon=False)


@jax.jit
@partial(jax.vmap, in_axes=(None, None, 0, None, None))
def losses(params: Any, direction: Any, size: jax.Array, x: Any, y: Any) -> Any:
    """Returns the losses of one batch for several step sizes, f[S]."""
    return loss_fn(along(params, direction, size), x, y)


def dot(a: Any, b: Any) -> jax.Array:
    products = jax.tree.map(lambda p, q: jnp.sum(p * q), a, b)
    return jax.tree.reduce(jnp.add, products)


def step_size(params: Any, trial: Any, direction: Any) -> float:
    """Returns how far along the direction a trial is."""
    moved = jax.tree.map(jnp.subtract, trial, params)
    return float(dot(moved, direction) / dot(direction, direction))


if __name__ == "__main__":
    main()
