"""What the pages that fit a model share."""

import fitting
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fitting import Problem

from optax_armijo import armijo_adam

TARGET = jnp.array([1.0, 100.0])
PROBLEM = Problem(
    init=lambda seed: {"a": jnp.array(seed + 0.5), "b": jnp.array(60.0)},
    loss=lambda params, noise: error(params) + 0.0 * jnp.mean(noise),
    draw_batch=lambda rng: rng.normal(size=3).astype(np.float32),
    score=lambda params: fitting.decibels(error(params)),
    truth={"b": 100.0},
)


def error(params):
    return (params["a"] - TARGET[0]) ** 2 + (params["b"] - TARGET[1]) ** 2


def test_a_run_has_a_score_of_some_steps_and_step_sizes_of_all(capsys):
    options = fitting.options_of("A page.", 12, ["--seed", "3"])
    optimizers = {"ours": armijo_adam(), "Adam": optax.adam(0.1)}
    runs = fitting.fit_all(optimizers, PROBLEM, options)
    assert runs["ours"]["step"] == runs["Adam"]["step"] == [5, 10, 12]
    assert [*map(len, (runs["ours"]["step_sizes"], runs["Adam"]["step_sizes"]))] == [
        *(12, 0)
    ]
    assert {*runs["ours"]["step_sizes"][0]} == {"a", "b"}
    first, _, last = runs["Adam"]["score"]
    assert first < last == pytest.approx(-10 * np.log10(error(runs["Adam"]["params"])))
    lines = capsys.readouterr().out.splitlines()
    found = float(runs["Adam"]["params"]["b"])
    assert lines[-2:] == [f"Adam: {last:.2f} dB", f"  b: {found:.3g} (true: 100)"]


def test_decibels_are_relative_to_a_power():
    assert float(fitting.decibels(jnp.array(0.02), 2.0)) == pytest.approx(20.0)
