"""Equations with unknown constants, whose sizes differ from those of weights.

The score is ``-10 log10(mean squared error / variance of the target)`` in decibels.
Shapes: N rows, T times.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from parts import decibel_task, network, output
from tasks import Setup, Task

TRUE_HEAT = {"diffusivity": 0.1, "source": 20.0}
TRUE_BURGERS = {"speed": 2.0, "viscosity": 0.05}
TRUE_SWING = {"drag": 0.3, "stiffness": 20.0}
TRUE_RATES = {"absorption": 2.0, "elimination": 0.3, "exchange": 0.05, "volume": 30.0}
LEVELS, PLACES = np.array([1.0, 0.4, 0.0]), (-0.6, 0.1)  # of the waves at time 0
Field = Callable[[jax.Array], jax.Array]  # of a point [2], which is (t, x)


def heat(*, setup: Setup) -> Task:
    """Diffusivity and strength of a source in a rod, found together with u(t, x).

    A network is fitted to 200 noisy observations, to the values at time 0 and at both
    ends, and to the equation at random points of each batch. Diffusivity 0.1 begins at
    0.3, the source's 20 at 8.
    """
    x, t = np.linspace(0, 1, 32), np.linspace(0, 1, 16)
    edges = [(np.zeros(32), x), (t, np.zeros(16)), (t, np.ones(16))]
    return inverse_task(
        heat_exact,
        heat_residual,
        {"diffusivity": 0.3, "source": 8.0},
        np.concatenate([np.stack(edge, -1) for edge in edges]),
        low=(0.0, 0.0),
        weight=1e-3,
        setup=setup,
    )


def heat_exact(at: jax.Array) -> jax.Array:
    """The temperature at a point [2]: one sine that decays, and one that is driven."""
    t, x = at
    (first, third), source = _decay_rates(), TRUE_HEAT["source"]
    driven = source / third * (1 - jnp.exp(-third * t)) * jnp.sin(3 * jnp.pi * x)
    return jnp.exp(-first * t) * jnp.sin(jnp.pi * x) + driven


def heat_residual(params: Any, u: Field, at: jax.Array) -> jax.Array:
    """What is left of ``u_t = D u_xx + s sin(3 pi x)`` at a point [2]."""
    u_t, _, u_xx = derivatives(u, at)
    source = params["source"] * jnp.sin(3 * jnp.pi * at[1])
    return u_t - params["diffusivity"] * u_xx - source


def burgers(*, setup: Setup) -> Task:
    """Speed and viscosity of Burgers' equation, found together with u(t, x).

    A network is fitted to 200 noisy observations, and to the equation at random points
    of each batch. Speed 2 begins at 0.8, viscosity 0.05 at 0.15.
    """
    return inverse_task(
        burgers_exact,
        burgers_residual,
        {"speed": 0.8, "viscosity": 0.15},
        np.zeros((0, 2)),
        low=(0.0, -1.0),
        weight=1e-2,
        setup=setup,
    )


def burgers_exact(at: jax.Array) -> jax.Array:
    """Two steps of the wave, of which the faster overtakes the other, at a point [2].

    By the Cole-Hopf transform: a mean of the levels, weighted by exponentials.
    """
    (speed, viscosity), (t, x) = TRUE_BURGERS.values(), at
    k = speed * LEVELS / (2 * viscosity)
    # Neighbouring exponentials are equal at the place of the step between them.
    shift = np.cumsum([0.0, *(np.diff(k) * PLACES)])
    return jax.nn.softmax(viscosity * k**2 * t - k * x + shift) @ LEVELS


def burgers_residual(params: Any, u: Field, at: jax.Array) -> jax.Array:
    """What is left of ``u_t + c u u_x = nu u_xx`` at a point [2]."""
    u_t, u_x, u_xx = derivatives(u, at)
    return u_t + params["speed"] * u(at) * u_x - params["viscosity"] * u_xx


def derivatives(u: Field, at: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """u_t, u_x and u_xx of a function of a point [2]."""
    slope, bend = jax.jvp(jax.grad(u), (at,), (jnp.array([0.0, 1.0]),))
    return slope[0], slope[1], bend[1]


def inverse_task(
    exact: Field,
    residual: Callable[[Any, Field, jax.Array], jax.Array],
    constants: dict[str, float],
    edges: np.ndarray,
    *,
    low: tuple[float, float],
    weight: float,
    setup: Setup,
) -> Task:
    """Constants of a partial differential equation and a network for its solution.

    Args:
      exact: the solution at a point.
      residual: of the equation at a point, for constants and a function.
      constants: that the run begins with.
      edges: points [N, 2] where the solution is known without noise.
      low: the least time and place; the largest are 1.
      weight: of the equation against the observations.
      setup: of the run.
    """
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.linspace(x, 1, 41) for x in low)), -1)
    grid = jnp.asarray(grid.reshape(-1, 2), jnp.float32)
    target = jax.vmap(exact)(grid)
    observed = np.concatenate([rng.uniform(low, 1, (200, 2)), edges])
    observed = jnp.asarray(observed, jnp.float32)
    noise = 0.02 * rng.normal(size=200)
    values = jax.vmap(exact)(observed).at[:200].add(noise)
    middle, half = (np.array([low, 1 - np.array(low)]) + [[1.0], [0.0]]) / 2

    def u(params: Any, at: jax.Array) -> jax.Array:
        return output(params["network"], (at - middle) / half)[..., 0]

    def loss(params: Any, points: jax.Array) -> jax.Array:
        misfit = (u(params, observed) - values) ** 2
        law = jax.vmap(lambda at: residual(params, lambda x: u(params, x), at))(points)
        edge = jnp.sum(misfit[200:]) / max(len(edges), 1)
        return jnp.mean(misfit[:200]) + edge + weight * jnp.mean(law**2)

    def init(seed: int) -> dict[str, Any]:
        start = {
            name: jnp.array(value, jnp.float32) for name, value in constants.items()
        }
        return {"network": network(seed, (2, 32, 32, 1), 3.0)} | start

    return decibel_task(
        init,
        loss,
        lambda rng, size: rng.uniform(low, 1, (size, 2)).astype(np.float32),
        lambda params: jnp.mean((u(params, grid) - target) ** 2),
        float(np.var(np.asarray(target))),
        num_steps=2000,
        batch_size=setup.batch_size or 128,
    )


def neural_ode(*, setup: Setup) -> Task:
    """Drag and stiffness of a swinging body, and a network for an unknown force.

    ``x'' = -stiffness x - drag x' |x'| + g(x, x')``: in truth g is a push near the
    middle. Positions of 32 swings are observed at 20 times with noise; validation is on
    100 others. Drag 0.3 begins at 1, stiffness 20 at 10.
    """
    rng = np.random.default_rng(0)
    first = jnp.asarray(rng.uniform(-1, 1, (132, 2)) * [1, 4], jnp.float32)
    exact = jax.vmap(lambda x: swing(TRUE_SWING, push, x, 0.025))(first)
    noisy = exact + jnp.asarray(0.02 * rng.normal(size=exact.shape), jnp.float32)

    def misfit(params: Any, first: jax.Array, target: jax.Array) -> jax.Array:
        def force(state: jax.Array) -> jax.Array:
            return output(params["network"], state)[0]

        found = jax.vmap(lambda x: swing(params, force, x))(first)
        return jnp.mean((found - target) ** 2)

    def init(seed: int) -> dict[str, Any]:
        begin = {"drag": 1.0, "stiffness": 10.0}
        constants = {name: jnp.array(x, jnp.float32) for name, x in begin.items()}
        return {"network": network(seed, (2, 32, 1))} | constants

    return decibel_task(
        init,
        lambda params, at: misfit(params, first[at], noisy[at]),
        lambda rng, size: rng.choice(32, size, replace=False),
        lambda params: misfit(params, first[32:], exact[32:]),
        float(np.var(np.asarray(exact[32:]))),
        num_steps=2000,
        batch_size=setup.batch_size or 8,
    )


def swing(params: Any, force: Field, first: jax.Array, step: float = 0.1) -> jax.Array:
    """Positions [20] in the first 2 seconds, from a position and a velocity [2]."""

    def law(t: Any, state: jax.Array, args: Any) -> jax.Array:
        x, v = state
        pull = -params["stiffness"] * x - params["drag"] * v * jnp.abs(v)
        return jnp.stack([v, pull + force(state)])

    return solve(law, first, jnp.linspace(0.1, 2.0, 20), step)[:, 0]


def push(state: jax.Array) -> jax.Array:
    """The force that the network has to find, for a position and a velocity [2]."""
    return 3.0 * jnp.exp(-8.0 * state[0] ** 2)


def compartments(*, setup: Setup) -> Task:
    """Four constants of a drug: absorption, elimination, exchange / h and volume / l.

    There is no network. A batch has fresh doses, times and noise; validation is on 200
    other patients. The constants 2, 0.3, 0.05 and 30 begin at 4, 0.6, 0.1 and 20.
    """
    table = drawn_patients(np.random.default_rng(0), 200, 0.0)
    begin = {"absorption": 4.0, "elimination": 0.6, "exchange": 0.1, "volume": 20.0}

    def misfit(params: Any, table: jax.Array) -> jax.Array:
        dose, times, target = jnp.moveaxis(table, -1, 0)
        found = jax.vmap(lambda *x: concentrations(params, *x))(dose[:, 0], times)
        return jnp.mean((found - target) ** 2)

    return decibel_task(
        lambda seed: {
            name: jnp.array(value, jnp.float32) for name, value in begin.items()
        },
        misfit,
        lambda rng, size: drawn_patients(rng, size, 0.1),
        lambda params: misfit(params, jnp.asarray(table)),
        float(np.var(table[..., 2])),
        num_steps=2000,
        batch_size=setup.batch_size or 16,
    )


def drawn_patients(rng: np.random.Generator, number: int, noise: float) -> np.ndarray:
    """Dose in mg, hours since and mg / l of measurements: a table [N, 8, 3].

    Each patient has eight, most of them early. The equations are linear: the solution
    is a sum of exponentials.
    """
    absorption, elimination, exchange, volume = TRUE_RATES.values()
    inward, outward = [absorption, -elimination - exchange, exchange], -exchange
    matrix = np.array([[-absorption, 0, 0], inward, [0, exchange, outward]])
    rates, vectors = np.linalg.eig(matrix)
    weights = vectors[1] * np.linalg.solve(vectors, [1.0, 0.0, 0.0])
    dose = np.repeat(rng.uniform(100, 500, (number, 1)), 8, 1)
    times = np.sort(np.exp(rng.uniform(np.log(0.25), np.log(24), (number, 8))))
    found = dose / volume * (np.exp(times[..., None] * rates) @ weights)
    noisy = found + noise * rng.normal(size=found.shape)
    return np.stack([dose, times, noisy], -1).astype(np.float32)


def concentrations(params: Any, dose: jax.Array, times: jax.Array) -> jax.Array:
    """mg / l [T] in the blood, at times [T] after a dose was swallowed."""

    def law(t: Any, amounts: jax.Array, args: Any) -> jax.Array:
        gut, blood, tissue = amounts
        absorbed = params["absorption"] * gut
        exchanged = params["exchange"] * (blood - tissue)
        eliminated = params["elimination"] * blood
        return jnp.stack([-absorbed, absorbed - exchanged - eliminated, exchanged])

    first = jnp.zeros(3).at[0].set(dose)
    return solve(law, first, times, 0.5, 24.0)[:, 1] / params["volume"]


def solve(
    law: Callable[[Any, jax.Array, Any], jax.Array],
    first: jax.Array,
    times: jax.Array,
    step: float,
    end: float = 2.0,
) -> jax.Array:
    """States [T, ...] at times [T], by steps of a fixed size from time 0 to an end.

    All steps are kept for the gradient, as they are few. Nothing is raised for states
    that are not finite: a line search must see such a loss.
    """
    num_steps = round(end / step) + 1
    found = diffrax.diffeqsolve(
        *(diffrax.ODETerm(law), diffrax.Tsit5(), 0.0, end, step, first),
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.ConstantStepSize(),
        adjoint=diffrax.RecursiveCheckpointAdjoint(checkpoints=num_steps),
        max_steps=num_steps,
        throw=False,
    )
    assert found.ys is not None
    return found.ys


def _decay_rates() -> tuple[float, float]:
    """Of the rod's first and third sine."""
    first = TRUE_HEAT["diffusivity"] * np.pi**2
    return first, 9 * first
