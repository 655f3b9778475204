"""Models whose parts differ in scale: a picture of Gaussians, and physical laws.

The score is in decibels: for the picture PSNR, ``-10 log10(mean squared error)`` with
values in [0, 1]; for the others the same of the error over the target's variance.
Shapes: P points, G Gaussians, N rows.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fit_gaussians import initial_params, load_pixels, painting_error
from perceptron import network, output
from tasks import Setup, Task


def gaussians(photograph: str, *, setup: Setup) -> Task:
    """A small photograph painted by 150 two-dimensional Gaussians, front to back.

    Five parts: positions, logarithms of scales, rotations, colours and opacities. A
    step sees 1,024 random pixels; validation is on all of them.
    """
    points, colours = load_pixels(photograph)
    return decibel_task(
        initial_params,
        lambda params, at: painting_error(params, points[at], colours[at]),
        lambda rng, size: rng.integers(0, len(points), size),
        lambda params: painting_error(params, points, colours),
        1.0,
        num_steps=500,
        batch_size=setup.batch_size or 1024,
    )


def oscillator(*, setup: Setup) -> Task:
    """Damping 1 and stiffness 100 of ``u'' + c u' + k u = 0``, found together with u.

    A network of time is fitted to 40 noisy observations in [0, 1], and to the equation
    in [0, 2]; it is validated in [0, 2], where the coefficients alone tell the second
    half. They begin at 0.2 and 60.
    """
    damping, stiffness = 1.0, 100.0
    omega = (stiffness - damping**2 / 4) ** 0.5

    def exact(t: np.ndarray) -> np.ndarray:
        wave = np.cos(omega * t) + damping / (2 * omega) * np.sin(omega * t)
        return np.exp(-damping * t / 2) * wave

    rng = np.random.default_rng(0)
    times, grid = rng.uniform(0, 1, 40), np.linspace(0, 2, 201)
    observed = jnp.asarray(exact(times) + 0.02 * rng.normal(size=40), jnp.float32)
    target, times = exact(grid).astype(np.float32), jnp.asarray(times, jnp.float32)

    def init(seed: int) -> dict[str, Any]:
        return {
            "network": network(seed, (1, 32, 32, 1), 5.0),
            "damping": jnp.array(0.2),
            "stiffness": jnp.array(60.0),
        }

    def u(params: Any, t: jax.Array) -> jax.Array:
        return output(params["network"], t[None] - 1.0)[0]

    def residual(params: Any, t: jax.Array) -> jax.Array:
        speed = jax.grad(u, 1)
        force = jax.grad(speed, 1)(params, t) + params["damping"] * speed(params, t)
        return force + params["stiffness"] * u(params, t)

    def loss(params: Any, t: jax.Array) -> jax.Array:
        fit = jax.vmap(u, (None, 0))(params, times) - observed
        law = jax.vmap(residual, (None, 0))(params, t)
        return jnp.mean(fit**2) + 1e-3 * jnp.mean(law**2)

    def error(params: Any) -> jax.Array:
        found = jax.vmap(u, (None, 0))(params, jnp.asarray(grid, jnp.float32))
        return jnp.mean((found - target) ** 2)

    return decibel_task(
        init,
        loss,
        lambda rng, size: rng.uniform(0, 2, size).astype(np.float32),
        error,
        float(np.var(target)),
        num_steps=2000,
        batch_size=setup.batch_size or 64,
    )


def decay(*, setup: Setup) -> Task:
    """Amplitude 50 and lifetime 0.05 of a decay, and a network of other variables.

    ``y = a exp(-t / tau) + f(x) + noise``; a and tau begin at 5 and 0.5.
    """

    def rows(seed: int, number: int) -> Any:
        rng = np.random.default_rng(seed)
        t, x = rng.uniform(0, 0.3, number), rng.uniform(-1, 1, (number, 2))
        y = 50 * np.exp(-t / 0.05) + np.sin(3 * x[:, 0]) * x[:, 1]
        noisy = y + 0.1 * rng.normal(size=number)
        return [jnp.asarray(z, jnp.float32) for z in (t, x, y, noisy)]

    t, x, _, noisy = rows(0, 1024)
    test_t, test_x, test_y, _ = rows(1, 1000)

    def init(seed: int) -> dict[str, Any]:
        return {
            "network": network(seed, (2, 32, 32, 1)),
            "amplitude": jnp.array(5.0),
            "life": jnp.array(0.5),
        }

    def predicted(params: Any, t: jax.Array, x: jax.Array) -> jax.Array:
        falling = params["amplitude"] * jnp.exp(-t / params["life"])
        return falling + output(params["network"], x)[..., 0]

    return decibel_task(
        init,
        lambda params, at: jnp.mean((predicted(params, t[at], x[at]) - noisy[at]) ** 2),
        lambda rng, size: rng.integers(0, 1024, size),
        lambda params: jnp.mean((predicted(params, test_t, test_x) - test_y) ** 2),
        float(np.var(np.asarray(test_y))),
        num_steps=2000,
        batch_size=setup.batch_size or 64,
    )


def decibel_task(
    init: Callable[[int], Any],
    loss: Callable[[Any, Any], jax.Array],
    drawn: Callable[[np.random.Generator, int], np.ndarray],
    error: Callable[[Any], jax.Array],
    power: float,
    *,
    num_steps: int,
    batch_size: int,
) -> Task:
    """A task of ten epochs, whose score is ``-10 log10(error / power)``."""
    error, epoch_steps = jax.jit(error), num_steps // 10

    def evaluate(params: Any) -> dict[str, float]:
        value = float(error(params))
        return {"score": -10 * float(np.log10(value / power)), "loss": value}

    def batches(seed: int, epoch: int) -> Iterator[np.ndarray]:
        rng = np.random.default_rng((seed, epoch))
        for _ in range(epoch_steps):
            yield drawn(rng, batch_size)

    return Task(
        init=init,
        loss_fn=lambda params, batch, key: loss(params, batch),
        batches=batches,
        steps_per_epoch=epoch_steps,
        num_epochs=10,
        evaluate=evaluate,
        labels=lambda params: {name: name for name in params},
    )
