"""Paints a photograph by 150 Gaussians: five kinds of params, and no learning rates.

Run ``python examples/fit_gaussians.py``: each kind gets a step size of its own, which
the line search finds. For comparison it runs Adam with a rate for each kind, the best
of 53 sets that were tried. A figure shows both. Shapes: P pixels, G Gaussians.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from command_line import Parser, start
from compiling import Announced
from display import BLACK, BLUE, ORANGE, PURPLE, SKY, YELLOW, progress
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

import optax_armijo

HEIGHT, WIDTH, NUM_GAUSSIANS, BATCH_SIZE = 60, 64, 150, 1024
RATES = {"position": 0.00451, "log_scale": 0.0943, "rotation": 0.00434}
RATES |= {"colour": 0.0378, "opacity": 0.0549}
PICTURE = Path("runs") / "gaussians.png"
OURS, HAND_TUNED = "armijo_adam", "Adam, hand-tuned rates"


def initial_params(seed: int) -> dict[str, jax.Array]:
    """Small grey Gaussians at random places."""
    keys, size = jax.random.split(jax.random.key(seed), 3), (NUM_GAUSSIANS,)
    return {
        "position": jax.random.uniform(keys[0], (*size, 2)),
        "log_scale": jnp.full((*size, 2), np.log(0.05), jnp.float32),
        "rotation": jax.random.uniform(keys[1], size, maxval=np.pi),
        "colour": 0.1 * jax.random.normal(keys[2], (*size, 3)),
        "opacity": jnp.full(size, -1.0),
    }


def paint(params: dict[str, jax.Array], points: jax.Array) -> jax.Array:
    """Colours [P, 3] at points [P, 2]; the first Gaussian is in front."""
    offset = points[:, None] - params["position"][None]  # [P, G, 2]
    cos, sin = jnp.cos(params["rotation"]), jnp.sin(params["rotation"])
    scale = jnp.exp(params["log_scale"])
    along = (offset[..., 0] * cos + offset[..., 1] * sin) / scale[:, 0]
    across = (offset[..., 1] * cos - offset[..., 0] * sin) / scale[:, 1]
    alpha = jax.nn.sigmoid(params["opacity"]) * jnp.exp(-(along**2 + across**2) / 2)
    through = jnp.cumprod(1.0 - alpha + 1e-6, axis=1)
    behind = jnp.concatenate([jnp.ones_like(through[:, :1]), through[:, :-1]], axis=1)
    return (alpha * behind) @ jax.nn.sigmoid(params["colour"])


def load_pixels(photograph: str = "flower.jpg") -> tuple[jax.Array, jax.Array]:
    """Points [P, 2] and their colours [P, 3] of a small photograph of scikit-learn."""
    image = load_sample_image(photograph)[::7, ::10][:HEIGHT, :WIDTH] / 255.0
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    points = np.stack([x, y], -1).reshape(-1, 2) / HEIGHT
    return jnp.asarray(points, jnp.float32), jnp.asarray(image.reshape(-1, 3), "f4")


def fit(name: str, tx: Any, pixels: Any, num_steps: int, seed: int) -> dict[str, Any]:
    """Returns PSNR in dB and step sizes of every step, and the picture [P, 3]."""
    points, colours = pixels
    whole = jax.jit(lambda params: paint(params, points))
    rng, psnr, sizes = np.random.default_rng(seed), [], []

    def loss_fn(params: Any, at: jax.Array) -> jax.Array:
        return jnp.mean((paint(params, points[at]) - colours[at]) ** 2)

    step = optax_armijo.make_train_step(loss_fn, tx)
    step = Announced(step, f"a step of {name}")
    params = initial_params(seed)
    state, picture = tx.init(params), whole(params)
    for _ in progress(range(num_steps), name):
        at = jnp.asarray(rng.integers(0, len(points), BATCH_SIZE))
        params, state, metrics = step(params, state, at)
        picture = whole(params)
        psnr.append(float(-10 * jnp.log10(jnp.mean((picture - colours) ** 2))))
        if metrics.info is not None:
            applied = metrics.info.applied_step_size
            sizes.append(dict(zip(metrics.info.labels, applied, strict=True)))
    print(f"{name}: {psnr[-1]:.2f} dB")
    return {"psnr": psnr, "step_sizes": sizes, "picture": picture}


def draw(runs: dict[str, Any], colours: jax.Array) -> Figure:
    """Plots both paintings, PSNR and step sizes."""
    figure = Figure(figsize=(11.0, 7.0), layout="constrained")  # needs no display
    halves: Any = figure.subfigures(2, 1)
    shown, (left, right) = halves[0].subplots(1, 3), halves[1].subplots(1, 2)
    pictures = {"photograph": colours} | {k: run["picture"] for k, run in runs.items()}
    for axes, (name, picture) in zip(shown, pictures.items(), strict=True):
        axes.imshow(np.clip(np.reshape(picture, (HEIGHT, WIDTH, 3)), 0, 1))
        axes.set(title=name, xticks=[], yticks=[])
    for (name, run), color in zip(runs.items(), (ORANGE, BLUE), strict=True):
        left.plot(run["psnr"], label=name, color=color)
    left.set(xlabel="step", title="PSNR, dB")
    left.legend(frameon=False)
    for part, color in zip(RATES, (BLUE, YELLOW, SKY, BLACK, PURPLE), strict=True):
        found = np.array([sizes[part] for sizes in runs[OURS]["step_sizes"]], float)
        found[found <= 0] = np.nan  # a group that did not move, or moved back
        right.plot(found, color=color, label=part)
        right.axhline(RATES[part], color=color, linestyle=":")
    for axes in (left, right):
        axes.margins(x=0.0)
    right.set(xlabel="step", yscale="log", title="Step sizes (dotted: hand-tuned)")
    halves[1].legend(*right.get_legend_handles_labels(), loc="outside right center")
    return figure


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Runs the command line; returns the PSNR of both at the end."""
    parser = Parser(__doc__)
    parser.add_count("--steps", 500, "of each")
    parser.add_count("--seed", 0, "of params and batches", least=0)
    options = parser.parse_args(argv)

    hand_tuned = optax.partition(
        {k: optax.adam(v) for k, v in RATES.items()}, {k: k for k in RATES}
    )
    optimizers = {OURS: optax_armijo.armijo_adam(), HAND_TUNED: hand_tuned}
    pixels, runs = load_pixels(), {}
    for name, tx in optimizers.items():
        runs[name] = fit(name, tx, pixels, options.steps, options.seed)
    PICTURE.parent.mkdir(exist_ok=True)
    draw(runs, pixels[1]).savefig(PICTURE, dpi=140)
    print(f"written to {PICTURE}")
    return {name: run["psnr"][-1] for name, run in runs.items()}


if __name__ == "__main__":
    start(main)
