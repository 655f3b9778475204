"""The benchmarks of cost on a toy problem: what they measure and what they write."""

import json

import cost
import cost_tables
import growth
import jax.numpy as jnp
import long_run
import numpy as np
import pytest
from task import Setup
from tasks import make_task
from timed_problems import Problem
from toys import network_loss, network_params

METHODS = ["adam", "armijo_adam", "every step, 8 groups", "optax backtracking"]


@pytest.fixture(scope="module")
def rows():
    problem = Problem(network_loss, network_params(), jnp.int32(0))
    return {row["method"]: row for row in cost.measure(problem, METHODS, 2)}


def test_evaluations_are_those_beside_the_gradients(rows):
    assert rows["adam"]["evaluations"] == rows["adam"]["first_evaluations"] == 0
    assert rows["every step, 8 groups"]["evaluations"] == 1
    assert 1 <= rows["armijo_adam"]["first_evaluations"] <= 10
    assert rows["optax backtracking"]["evaluations"] >= 1


def test_the_machinery_is_what_a_step_takes_beyond_adams_and_the_forward_passes(rows):
    row, adam = rows["every step, 8 groups"], rows["adam"]
    expected = (row["step"] - adam["step"]) / adam["forward"]
    assert row["machinery"] == pytest.approx(expected)
    assert row["step_ratio"] == pytest.approx(row["step"] / adam["step"])
    assert "machinery" not in adam


def test_groups_are_even_and_no_more_than_leaves():
    params = network_params()
    assert cost.groups_of(1, params)["head"] == {"b": 0, "w": 0}
    labels = [
        x for layer in cost.groups_of(64, params).values() for x in layer.values()
    ]
    assert sorted(labels) == list(range(6))


def test_growth_is_in_units_of_the_params():
    small, large = (growth.measure("params", growth.Net(2, n), 1) for n in (64, 256))
    assert large["num_params"] == 16 * small["num_params"]
    assert large["moved"] == pytest.approx(small["moved"], rel=0.2)
    assert large["held"] < 1.5


def test_the_page_has_a_row_a_method_and_says_where_it_comes_from(
    rows, tmp_path, monkeypatch
):
    monkeypatch.setattr(cost_tables, "FOLDER", tmp_path)
    made = {
        "device": "cpu",
        "commit": "abc",
        "versions": {"jax": "1", "python": "3"},
    }
    toy = {"problem": "toy", **made, "rows": list(rows.values())}
    (tmp_path / "cost-toy.json").write_text(json.dumps(toy))
    grown = {**made, "rows": [growth.measure("groups", growth.Net(3, 8), 1)]}
    (tmp_path / "growth.json").write_text(json.dumps(grown))
    cost_tables.main()
    page = (tmp_path / "README.md").read_text()
    assert all(f"\n| {method} | " in page for method in METHODS[1:])
    assert page.count("at commit abc") == 2


def test_a_long_run_is_timed_step_by_step_beside_its_base():
    task = make_task("digits-64", Setup())
    timed = long_run.time_steps(task, long_run.FIRST + 3)
    assert {len(x) for x in timed.seconds.values()} == {13}
    assert timed.evaluations[0] > 1
    seconds = {name: np.ones(110) for name in timed.seconds}
    seconds["forward"] *= 0.5
    seconds[long_run.OURS][-5:] = 2.0
    figures = long_run.summary(long_run.Timed(seconds, np.ones(110)))
    assert figures["mean_ratio"] == pytest.approx(1.05)
    assert figures["p99_above_in_forward_passes"] == pytest.approx(2.0)
    assert figures["base_p99_above_in_forward_passes"] == 0
