"""The benchmarks of cost on a toy problem: what they measure and what they write."""

import json

import cost
import cost_tables
import jax.numpy as jnp
import long_run
import numpy as np
import pytest
from tasks import make_task
from timed_problems import Problem
from toys import network_loss, network_params
from turns import shuffled

METHODS = ["adam", "armijo_adam", "often, 8 groups", "optax backtracking"]


@pytest.fixture(scope="module")
def rows():
    problem = Problem(network_loss, network_params(), jnp.int32(0))
    return {row["method"]: row for row in cost.measure(problem, METHODS, 2)}


def test_evaluations_are_those_beside_the_gradients(rows):
    assert rows["adam"]["evaluations"] == rows["adam"]["first_evaluations"] == 0
    assert rows["often, 8 groups"]["evaluations"] >= 1
    assert 2 <= rows["armijo_adam"]["first_evaluations"] <= 13
    assert rows["optax backtracking"]["evaluations"] >= 1


def test_the_machinery_is_what_a_step_takes_beyond_adams_and_the_forward_passes(rows):
    row, adam = rows["optax backtracking"], rows["adam"]
    assert np.isfinite(row["machinery"])
    assert row["step_ratio"] == pytest.approx(row["step"] / adam["step"])
    assert "machinery" not in adam


def test_groups_are_even_and_no_more_than_leaves():
    params = network_params()
    assert cost.groups_of(1, params)["head"] == {"b": 0, "w": 0}
    labels = [
        x for layer in cost.groups_of(64, params).values() for x in layer.values()
    ]
    assert sorted(labels) == list(range(6))


def test_every_order_has_each_name_and_they_differ():
    orders = [tuple(shuffled("abc", step)) for step in range(60)]
    assert {tuple(sorted(order)) for order in orders} == {tuple("abc")}
    assert len(set(orders)) == 6
    assert orders == [tuple(shuffled("abc", step)) for step in range(60)]


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
    timed = long_run.Timed({x: np.ones(20) for x in long_run.NAMES}, np.ones(20))
    run = {"settings": {"task": "toy", "steps": 20}, **long_run.summary(timed)}
    (tmp_path / "long_run-toy.json").write_text(json.dumps(run))
    cost_tables.main()
    page = (tmp_path / "README.md").read_text()
    assert all(f"\n| {method} | " in page for method in METHODS[1:])
    assert "\n| toy | 20 | 1.000 | 1.000 | 0.0 | 0.0 | 1.00 |\n" in page
    assert page.count("at commit abc") == 1


def test_a_long_run_is_timed_step_by_step_beside_its_base():
    task = make_task("digits-500")
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
