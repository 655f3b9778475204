"""`find_learning_rates`: a short search whose step sizes serve another optimizer."""

import itertools
import json
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_armijo import (
    FROZEN,
    armijo_adam,
    armijo_info,
    find_learning_rates,
    make_train_step,
    one_group,
)
from optax_armijo.training.learning_rates import losses_along, search

LABELS = {"matrix": 0, "offset": 1}  # which JSON has as strings
START = {"matrix": jnp.full((4, 3), 0.01), "offset": jnp.full(3, 20.0)}


def loss_fn(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """Squared errors of a prediction whose offset is a thousand times as large."""
    predicted = 100 * x @ params["matrix"] + (params["offset"] - 50) / 10
    return jnp.mean((predicted - y) ** 2)


def batches(number: int = 40, seed: int = 0) -> list[tuple[Any, Any]]:
    keys = jax.random.split(jax.random.key(seed), number)
    xs = [jax.random.normal(key, (16, 4)) for key in keys]
    return [(x, x @ jnp.ones((4, 3)) + 0.5 * x[:, :3]) for x in xs]


def test_rates_are_twice_the_step_sizes_after_forty_steps() -> None:
    before = jax.tree.map(jnp.copy, START)
    found = find_learning_rates(loss_fn, START, batches(), LABELS)
    chex.assert_trees_all_equal(START, before)
    tx = armijo_adam(LABELS)
    step, params = make_train_step(loss_fn, tx, donate=False), START
    state = tx.init(params)
    for batch in batches():
        params, state, _ = step(params, state, *batch)
    sizes = armijo_info(state).step_size
    assert found == dict(zip(LABELS.values(), (2 * sizes).tolist(), strict=True))
    assert json.loads(json.dumps(found)) == {"0": found[0], "1": found[1]}


def test_adamw_with_the_rates_beats_one_rate_for_both_parts() -> None:
    def trained(tx: Any) -> float:
        step, params = make_train_step(loss_fn, tx, donate=False), START
        state = tx.init(params)
        losses = []
        for batch in batches(100, seed=1):
            params, state, metrics = step(params, state, *batch)
            losses.append(metrics.loss)
        return float(losses[-1])

    def adamw(peak: float) -> Any:
        return optax.adamw(optax.warmup_cosine_decay_schedule(0.0, peak, 10, 100))

    rates = find_learning_rates(loss_fn, START, batches(), LABELS)
    assert rates[1] > 10 * rates[0]
    parts = optax.partition({k: adamw(x) for k, x in rates.items()}, LABELS)
    best = min(trained(adamw(10.0**e)) for e in range(-3, 1))
    assert trained(parts) < best / 2


def test_only_the_first_batches_are_read() -> None:
    endless = itertools.cycle(batches())
    expected = find_learning_rates(loss_fn, START, batches(), one_group)
    assert find_learning_rates(loss_fn, START, endless, one_group) == expected
    assert next(endless)[0] is not None


def test_frozen_parts_have_no_rate_and_aux_is_dropped() -> None:
    labels = {"matrix": "matrix", "offset": FROZEN}
    found = find_learning_rates(
        lambda params, *batch: (loss_fn(params, *batch), jnp.ones(3)),
        START,
        batches(),
        labels,
        has_aux=True,
    )
    assert list(found) == ["matrix"] and found["matrix"] > 0


def test_losses_by_step_size_are_those_of_one_group_that_moves_along_adam() -> None:
    labels = {"matrix": "matrix", "offset": FROZEN}
    multiples, fresh = (0.0, 0.5, 4.0), batches(1, seed=1)[0]
    for param_labels, moving in ((labels, ["matrix"]), (LABELS, ["matrix", "offset"])):
        found = search(loss_fn, START, batches(), param_labels)
        curves = [
            *losses_along(loss_fn, found, fresh, param_labels, multiples=multiples)
        ]
        for name, rate, curve in zip(moving, found.rates.values(), curves, strict=True):
            mu = np.asarray(found.adam.mu[name]) / (1 - 0.9**40)
            nu = np.asarray(found.adam.nu[name]) / (1 - 0.999**40)
            expected = [
                loss_fn(found.params | {name: found.params[name] - t * u}, *fresh)
                for u in [rate * mu / (np.sqrt(nu) + 1e-8)]
                for t in multiples
            ]
            np.testing.assert_allclose(curve, expected, rtol=1e-4)


class Pair(NamedTuple):
    x: float
    y: float


def unused(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    return loss_fn(params | {"offset": jnp.full(3, 20.0)}, x, y)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((loss_fn, START, batches(7)), ValueError, "at least 40; got 7"),
        ((loss_fn, START, []), ValueError, "at least 40; got 0"),
        ((loss_fn, START, [jnp.ones(3)] * 40), TypeError, "tuples of the arguments"),
        ((loss_fn, START, [Pair(1.0, 2.0)] * 40), TypeError, "got Pair"),
        (("loss", START, batches()), TypeError, "loss_fn must be a function; got str"),
        ((unused, START, batches(), LABELS), ValueError, "1 has none"),
        ((loss_fn, START, batches(), {"x": 0}), ValueError, "param_labels"),
    ],
    ids=["few", "none", "no tuple", "named", "no function", "no gradient", "labels"],
)
def test_one_line_says_what_is_wrong(arguments: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        find_learning_rates(*arguments)


def test_a_first_loss_that_is_not_finite_raises() -> None:
    bad = [(x, np.nan * y) for x, y in batches()]
    with pytest.raises(ValueError, match="the first loss must be finite; got nan"):
        find_learning_rates(loss_fn, START, bad)


def test_batches_most_of_which_are_not_finite_raise() -> None:
    """They gave the first step size as the rate, after one step."""
    first, *others = batches()
    bad = [first, *((x, np.nan * y) for x, y in others)]
    with pytest.raises(ValueError, match="those of 39 of 40 batches are not"):
        find_learning_rates(loss_fn, START, bad)
