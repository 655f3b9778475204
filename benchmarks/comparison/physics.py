"""Equations with unknown constants, whose sizes differ from those of weights.

The score is ``-10 log10(mean squared error / variance of the target)`` in decibels.
Shapes: N rows, T times.
"""

from collections.abc import Callable
from typing import Any

import fit_neural_ode
import jax
import jax.numpy as jnp
import numpy as np
import solve_inverse_problem
from fit_neural_ode import NUM_TRAINED, load_swings, solve
from fit_neural_ode import misfit as swing_error
from parts import decibel_task
from perceptron import network, output, with_constants
from solve_inverse_problem import Field, derivatives, grid_of, misfit, observe
from tasks import Setup, Task

TRUE_BURGERS = {"speed": 2.0, "viscosity": 0.05}
TRUE_RATES = {"absorption": 2.0, "elimination": 0.3, "exchange": 0.05, "volume": 30.0}
LEVELS, PLACES = np.array([1.0, 0.4, 0.0]), (-0.6, 0.1)  # of the waves at time 0


def heat(*, setup: Setup) -> Task:
    """Diffusivity and strength of a source in a rod, found together with u(t, x).

    A network is fitted to 200 noisy observations, to the values at time 0 and at both
    ends, and to the equation at random points of each batch. Diffusivity 0.1 begins at
    0.3, the source's 20 at 8.
    """
    return inverse_task(
        solve_inverse_problem.exact,
        solve_inverse_problem.residual,
        solve_inverse_problem.BEGIN,
        solve_inverse_problem.edges(),
        low=(0.0, 0.0),
        weight=solve_inverse_problem.WEIGHT,
        setup=setup,
    )


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
    grid, observed = grid_of(low), observe(exact, edges, low)
    target = jax.vmap(exact)(grid)
    middle, half = (np.array([low, 1 - np.array(low)]) + [[1.0], [0.0]]) / 2

    def field(params: Any) -> Field:
        return lambda at: output(params["network"], (at - middle) / half)[..., 0]

    def loss(params: Any, points: jax.Array) -> jax.Array:
        return misfit(params, field(params), residual, observed, points, weight)

    def init(seed: int) -> dict[str, Any]:
        return with_constants(network(seed, (2, 32, 32, 1), 3.0), constants)

    return decibel_task(
        init,
        loss,
        lambda rng, size: rng.uniform(low, 1, (size, 2)).astype(np.float32),
        lambda params: jnp.mean((field(params)(grid) - target) ** 2),
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
    first, exact, noisy = load_swings()
    validated = first[NUM_TRAINED:], exact[NUM_TRAINED:]
    return decibel_task(
        fit_neural_ode.params_of,
        lambda params, at: swing_error(params, first[at], noisy[at]),
        lambda rng, size: rng.choice(NUM_TRAINED, size, replace=False),
        lambda params: swing_error(params, *validated),
        float(np.var(np.asarray(validated[1]))),
        num_steps=2000,
        batch_size=setup.batch_size or 8,
    )


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
