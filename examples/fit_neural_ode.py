"""A neural ODE: two named constants of a swinging body, and a network for a force.

Run ``python examples/fit_neural_ode.py``: each constant and each layer of the network
is a group. For comparison it runs AdaBelief at 3e-3, as diffrax's example of a neural
ODE does, and AdamW with a cosine at the best of twelve rates. A figure shows all.
Shapes: N swings, T times.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from command_line import start
from display import RUN_COLOURS, plot_fits
from fitting import Problem, decibels, fit_all, options_of, save
from matplotlib.figure import Figure
from perceptron import network, output, with_constants
from rivals import adamw, warm_up_and_cosine

from optax_armijo import armijo_adam, by_layer

TRUE_SWING = {"drag": 0.3, "stiffness": 20.0}
BEGIN = {"drag": 1.0, "stiffness": 10.0}
NUM_TRAINED, NUM_VALIDATED, BATCH_SIZE = 32, 100, 8
# The latter is the best of 12 from 5e-4 to 2, says the comparison in `benchmarks/`.
USUAL_RATE, SWEPT_RATE = 3e-3, 1.0
OURS, USUAL, SWEPT = "armijo_adam", "AdaBelief, 3e-3", "AdamW, swept rate"
PICTURE = Path("runs") / "neural_ode.png"
Law = Callable[[Any, jax.Array, Any], jax.Array]  # of time, state, and nothing
Force = Callable[[jax.Array], jax.Array]  # of a position and a velocity [2]


def params_of(seed: int) -> dict[str, Any]:
    """The network's params, and the constants far from their true values."""
    return with_constants(network(seed, (2, 32, 1)), BEGIN)


def push(state: jax.Array) -> jax.Array:
    """The force that the network has to find, for a position and a velocity [2]."""
    return 3.0 * jnp.exp(-8.0 * state[0] ** 2)


def force_of(params: Any) -> Force:
    """The force that the network has found."""
    return lambda state: output(params["network"], state)[0]


def swing(params: Any, force: Force, first: jax.Array, step: float = 0.1) -> jax.Array:
    """Positions [T] from a first position and velocity [2].

    ``x'' = -stiffness x - drag x' |x'| + force(x, x')``
    """

    def law(t: Any, state: jax.Array, args: Any) -> jax.Array:
        x, v = state
        pull = -params["stiffness"] * x - params["drag"] * v * jnp.abs(v)
        return jnp.stack([v, pull + force(state)])

    return solve(law, first, jnp.linspace(0.1, 2.0, 20), step)[:, 0]


def solve(
    law: Law, first: jax.Array, times: jax.Array, step: float, end: float = 2.0
) -> jax.Array:
    """States [T, ...] at times [T], by steps of a fixed size from time 0 to an end.

    All are kept for the gradient, as they are few. Nothing is raised for states that
    are not finite: a line search must see such a loss.
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


def load_swings() -> tuple[jax.Array, jax.Array, jax.Array]:
    """First states [N, 2], true positions [N, T], and positions with noise."""
    rng = np.random.default_rng(0)
    size = (NUM_TRAINED + NUM_VALIDATED, 2)
    first = jnp.asarray(rng.uniform(-1, 1, size) * [1, 4], jnp.float32)
    exact = jax.vmap(lambda x: swing(TRUE_SWING, push, x, 0.025))(first)
    noise = jnp.asarray(0.02 * rng.normal(size=exact.shape), jnp.float32)
    return first, exact, exact + noise


def misfit(params: Any, first: jax.Array, target: jax.Array) -> jax.Array:
    """Mean squared error of the positions [N, T] from first states [N, 2]."""
    found = jax.vmap(lambda x: swing(params, force_of(params), x))(first)
    return jnp.mean((found - target) ** 2)


def draw(runs: dict[str, Any], rates: dict[str, Any], swings: Any) -> Figure:
    """Plots a swing, the force at rest, score and step sizes."""
    figure, (left, right) = plot_fits(runs, rates, "Validation, dB", 2)
    first, exact, _ = (x[-1] for x in swings)
    times, places = np.linspace(0.1, 2.0, 20), jnp.linspace(-1, 1, 101)
    at_rest = jnp.stack([places, jnp.zeros(101)], -1)
    left.plot(times, exact, "o", color="0.75")
    right.plot(places, jax.vmap(push)(at_rest), color="0.75", linewidth=5)
    for run, color in zip(runs.values(), RUN_COLOURS, strict=True):
        params = run["params"]
        left.plot(times, swing(params, force_of(params), first), color=color)
        right.plot(places, jax.vmap(force_of(params))(at_rest), color=color)
    left.set(xlabel="time", title="Position in a new swing (grey: truth)")
    right.set(xlabel="position", title="Force that the network has found (grey: truth)")
    return figure


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Runs the command line; returns the score of each at the end."""
    options, swings = options_of(__doc__, 2000, argv), load_swings()
    first, exact, noisy = swings
    validated = first[NUM_TRAINED:], exact[NUM_TRAINED:]
    rates = {USUAL: USUAL_RATE, SWEPT: warm_up_and_cosine(SWEPT_RATE, options.steps)}
    problem = Problem(
        params_of,
        lambda params, at: misfit(params, first[at], noisy[at]),
        lambda rng: rng.choice(NUM_TRAINED, BATCH_SIZE, replace=False),
        lambda params: decibels(misfit(params, *validated), jnp.var(validated[1])),
        TRUE_SWING,
    )
    optimizers = {
        OURS: armijo_adam(by_layer, options.steps),
        USUAL: optax.adabelief(rates[USUAL]),
        SWEPT: adamw(rates[SWEPT]),
    }
    runs = fit_all(optimizers, problem, options)
    save(draw(runs, rates, swings), PICTURE)
    return {name: run["score"][-1] for name, run in runs.items()}


if __name__ == "__main__":
    start(main)
