"""Draws Armijo's test along one direction: ``python docs/figures/one_step.py``.

Once a search on one batch, with the trials that the library really made; once the
default's test, which is put to the mean over batches.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from canvas import BLUE, GREEN, GREY, IMAGES, RED, new_figure, save
from problem import along, init_params, load_batches, loss_fn

from optax_armijo import armijo_adam, armijo_info, make_train_step, one_group


def main(folder: Path = IMAGES) -> None:
    for draw, name in ((draw_search, "one_batch.png"), (draw_mean, "many_batches.png")):
        figure = new_figure(6.0, 4.0)
        draw(figure.subplots())
        save(figure, name, folder)


def draw_search(axes: Any) -> None:
    """The first search of a run: it climbs until a trial fails."""
    x, y = (batches[0] for batches in load_batches())
    params, c = init_params(), 0.5
    trials: list[Any] = []

    def recorded(trial: Any) -> jax.Array:
        jax.debug.callback(trials.append, trial)
        return loss_fn(trial, x, y)

    tx = armijo_adam(one_group, momentum="none", net="off", c=c)

    @jax.jit
    def first_step(params: Any) -> Any:
        value, grads = jax.value_and_grad(loss_fn)(params, x, y)
        opt_state = tx.init(params)
        more: Any = {"value": value, "value_fn": recorded}
        updates, _ = tx.update(grads, opt_state, params, **more)
        return value, grads, updates

    value, grads, updates = first_step(params)
    jax.effects_barrier()

    # Adam's first step without momentum is the gradient's sign, nearly.
    direction = jax.tree.map(lambda g: -g / (jnp.abs(g) + 1e-8), grads)
    slope = -float(dot(grads, direction))
    sizes = [step_size(params, trial, direction) for trial in trials]
    kept = step_size(params, jax.tree.map(jnp.add, params, updates), direction)

    grid = np.linspace(0.0, 1.25 * max(sizes), 200)
    start = float(value)
    curve = losses(params, direction, jnp.asarray(grid), x, y)
    axes.plot(grid, curve, color=BLUE, label="loss")
    line = start - c * grid * slope
    axes.plot(grid, line, "--", color=GREY, label="Armijo's line")
    heights = np.asarray(losses(params, direction, jnp.asarray(sizes), x, y))
    for number, (size, height) in enumerate(zip(sizes, heights, strict=True), start=1):
        passes = height <= start - c * size * slope
        axes.plot(size, height, "o", color=GREEN if passes else RED, markersize=7)
        if size > 0.1 * max(sizes):
            above: Any = {"textcoords": "offset points", "ha": "center"}
            axes.annotate(str(number), (size, height), (0, 8), **above)
    axes.plot([], [], "o", color=GREEN, label="trial that passes")
    axes.plot([], [], "o", color=RED, label="trial that fails")
    axes.axvline(kept, color=GREEN, linewidth=0.8)
    axes.set_ylim(bottom=0.0, top=1.15 * start)
    axes.set_title("one batch: the first search")
    axes.set_xlabel("step size along the direction")
    axes.set_ylabel("loss")
    axes.legend(frameon=False)


def draw_mean(axes: Any) -> None:
    """Batches differ; the test is put to the mean of their parabolas."""
    x, y = load_batches()
    params, c = init_params(), 0.7
    tx = armijo_adam()
    step = make_train_step(loss_fn, tx, donate=False)
    opt_state: Any = tx.init(params)
    for i in range(2 * len(x)):
        params, opt_state, _ = step(params, opt_state, x[i % 16], y[i % 16])
    moments: Any = opt_state[0]
    count = int(moments.count)
    momentum = jax.tree.map(lambda m: m / (1 - 0.9**count), moments.mu)
    scale = jax.tree.map(lambda v: v / (1 - 0.999**count), moments.nu)
    direction = jax.tree.map(lambda m, v: -m / (jnp.sqrt(v) + 1e-8), momentum, scale)

    eta = float(armijo_info(opt_state).step_size[0])
    now, then = curves(params, direction, jnp.array([0.0, eta]), x, y)
    slope = float(slopes(params, direction, x, y).mean())
    curvature = 2 * (then.mean() - now.mean() + eta * slope) / eta**2
    best = float(2 * (1 - c) * slope / curvature)

    grid = np.linspace(0.0, 3.2 * best, 100)
    relative = curves(params, direction, jnp.asarray(grid), x, y) - now
    axes.plot(grid, relative, color="0.75", linewidth=0.8)
    axes.plot([], [], color="0.75", label="16 batches")
    axes.plot(
        grid, relative.mean(axis=1), color=BLUE, linewidth=2.2, label="their mean"
    )
    axes.plot(grid, -c * grid * slope, "--", color=GREY, label="Armijo's line, c = 0.7")
    axes.plot(best, -c * best * slope, "o", color=GREEN, markersize=7)
    axes.axvline(best, color=GREEN, linewidth=0.8)
    low, high = np.quantile(relative, (0.02, 0.95))
    axes.set_ylim(1.1 * low, high)
    axes.set_title("many batches: what the default looks at")
    axes.set_xlabel("step size along earlier momentum")
    axes.set_ylabel("change of the loss")
    axes.legend(frameon=False)


@jax.jit
@partial(jax.vmap, in_axes=(None, None, 0, None, None))
def losses(params: Any, direction: Any, size: jax.Array, x: Any, y: Any) -> Any:
    """Returns the losses of one batch for several step sizes, f[S]."""
    return loss_fn(along(params, direction, size), x, y)


@jax.jit
@partial(jax.vmap, in_axes=(None, None, None, 0, 0), out_axes=1)
def curves(params: Any, direction: Any, grid: jax.Array, x: Any, y: Any) -> Any:
    """Returns the losses of several batches for several step sizes, f[S, B]."""
    return losses(params, direction, grid, x, y)


@jax.jit
@partial(jax.vmap, in_axes=(None, None, 0, 0))
def slopes(params: Any, direction: Any, x: Any, y: Any) -> Any:
    """Returns how steeply each batch's loss falls along the direction, f[B]."""
    return -dot(jax.grad(loss_fn)(params, x, y), direction)


def dot(a: Any, b: Any) -> jax.Array:
    products = jax.tree.map(lambda p, q: jnp.sum(p * q), a, b)
    return jax.tree.reduce(jnp.add, products)


def step_size(params: Any, trial: Any, direction: Any) -> float:
    """Returns how far along the direction a trial is."""
    moved = jax.tree.map(jnp.subtract, trial, params)
    return float(dot(moved, direction) / dot(direction, direction))


if __name__ == "__main__":
    main()
