"""What the pages that fit a model share: problem, loop and score."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from command_line import Parser
from compiling import Announced
from display import progress
from matplotlib.figure import Figure

import optax_armijo

SCORE_EVERY = 5  # steps: a score may take as long as a step


class Problem(NamedTuple):
    """What is fitted.

    Attributes:
      init: ``(seed) -> params``.
      loss: ``(params, batch) -> loss``.
      draw_batch: ``(rng) -> batch``.
      score: ``(params) -> decibels``; the higher the better.
      truth: params whose true values are known.
    """

    init: Callable[[int], Any]
    loss: Callable[[Any, Any], jax.Array]
    draw_batch: Callable[[np.random.Generator], np.ndarray]
    score: Callable[[Any], jax.Array]
    truth: Mapping[str, Any] = {}


def fit(
    name: str, tx: Any, problem: Problem, num_steps: int, seed: int
) -> dict[str, Any]:
    """Returns scores and their steps, the step sizes of all, and the last params."""
    step = optax_armijo.make_train_step(problem.loss, tx)
    step, score = Announced(step, f"a step of {name}"), jax.jit(problem.score)
    rng, steps, scores, sizes = np.random.default_rng(seed), [], [], []
    params = problem.init(seed)
    state = tx.init(params)
    for number in progress(range(1, num_steps + 1), name):
        params, state, metrics = step(params, state, problem.draw_batch(rng))
        if number % SCORE_EVERY == 0 or number == num_steps:
            steps.append(number)
            scores.append(float(score(params)))
        if metrics.info is not None:
            applied = np.asarray(metrics.info.applied_step_size).tolist()
            sizes.append(dict(zip(metrics.info.labels, applied, strict=True)))
    print(f"{name}: {scores[-1]:.2f} dB")
    for part, true in problem.truth.items():
        print(f"  {part}: {rounded(params[part])} (true: {rounded(true)})")
    return {"step": steps, "score": scores, "step_sizes": sizes, "params": params}


def fit_all(
    optimizers: dict[str, Any], problem: Problem, options: Any
) -> dict[str, dict[str, Any]]:
    """Returns the run of each optimizer, from the same params on the same batches."""
    return {
        name: fit(name, tx, problem, options.steps, options.seed)
        for name, tx in optimizers.items()
    }


def options_of(doc: str | None, num_steps: int, argv: Sequence[str] | None) -> Any:
    """Reads the two options of such a page."""
    parser = Parser(doc)
    parser.add_count("--steps", num_steps, "of each")
    parser.add_count("--seed", 0, "of params and batches", least=0)
    return parser.parse_args(argv)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure, and says where."""
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=140)
    print(f"written to {path}")


def rounded(value: Any) -> str:
    """A number or an array in three digits.

    Example:
      >>> rounded(0.12345), rounded([20.0, -0.5])
      ('0.123', '[20 -0.5]')
    """
    digits: Any = {"float_kind": "{:.3g}".format}
    return np.array2string(np.asarray(value, float), formatter=digits)


def decibels(error: jax.Array, power: Any = 1.0) -> jax.Array:
    """A mean squared error, relative to a power."""
    return -10 * jnp.log10(error / power)
