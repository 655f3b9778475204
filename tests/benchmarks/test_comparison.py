"""The comparison of optimizers: its tasks, a run, the protocol and the report."""

import doctest
import importlib.util
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import classification
import compare
import figures
import jax
import jax.numpy as jnp
import methods
import numpy as np
import protocol
import pytest
import run
import standings
import tasks
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import rgb_to_hsv, to_rgb
from methods import FIRST_SHARED_RATES, METHODS, RATES, SHARED, method_of
from protocol import Job, contenders, grid, read, shared_rates, wanted
from rivals import GSPLAT, LORA_PLUS_RATIO
from standings import mean_gap, profiles
from tasks import FAMILIES, LISTS, NOISE, TASKS, Family, Setup, Task, make_task
from toys import GROUPS, LABELS, network_loss, network_params


def load_report():
    """Imports ``report.py`` by its path: the examples have one of that name too."""
    path = Path(compare.__file__).with_name("report.py")
    spec = importlib.util.spec_from_file_location("comparison_report", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


report = load_report()

KILLED = f"""
import multiprocessing, os, signal, sys
sys.path.insert(0, {str(Path(compare.__file__).parent)!r})
if __name__ == "__main__":
    import compare
    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    cores.put(0)
    pool = compare.ProcessPoolExecutor(1, context, compare.start_worker, (cores,))
    print(pool.submit(os.getpid).result(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def toy_task(name="toy", setup=None):
    """Five epochs of four batches, of which the seed says where they begin."""
    del name, setup

    def evaluate(params):
        loss = float(network_loss(params, 0))
        return {"score": 1.0 / (1.0 + loss), "loss": loss}

    return Task(
        init=lambda seed: network_params(seed=seed),
        loss_fn=lambda params, batch, key: network_loss(params, batch),
        batches=lambda seed, epoch: (jnp.asarray(seed + i) for i in range(4)),
        steps_per_epoch=4,
        num_epochs=5,
        evaluate=evaluate,
        labels=lambda params: LABELS,
    )


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A list of one toy task with parts, and an empty folder of records."""
    monkeypatch.setattr(protocol, "RESULTS", tmp_path)
    monkeypatch.setattr(protocol, "RECORDS", tmp_path)
    monkeypatch.setattr(protocol, "make_task", toy_task)
    toys = Family("", "", NOISE, (1e-3, 2e-3, 5e-3), GROUPS)
    monkeypatch.setitem(FAMILIES, "toys", toys)
    for name in ("toy", "toy-b"):
        monkeypatch.setitem(TASKS, name, ("toys",))
    monkeypatch.setitem(LISTS, "development", {"toy": (), "toy-b": ()})
    return tmp_path


def record(method, seed, score, loss=None, average=None):
    """A record with these scores; None is a run that diverged."""
    loss = 1.0 - (score or 0.0) if loss is None else loss
    last = {"score": score, "loss": None if score is None else loss}
    both = {"last": last, "average": last if average is None else average}
    return {
        "method": method,
        "seed": seed,
        "setup": {"compute": "float32"},
        "rates": {"embed": 0.5},
        "cosine": True,
        "scores": dict.fromkeys(("early", "equal_cost", "end"), both),
        "train_loss": {"early": 1.0, "end": None if score is None else 0.1},
        "loss_curve": [1.0, None if score is None else 0.5],
        "cost": 1.25,
        "made": {"commit": "abc", "device": "cpu"},
    }


def add(method, scores, task="toy", **others):
    """Adds a record a seed."""
    for seed, score in enumerate(scores):
        protocol.append(Job(task, method, seed), record(method, seed, score, **others))


def sweep(method, scores, task="toy"):
    """Adds two seeds of each rate."""
    for rate, score in scores.items():
        add(f"{method}@{rate:.0e}", (score, score), task)


def names(jobs):
    return sorted({job.method for job in jobs})


# Tasks.


def test_each_task_is_in_one_list_and_each_kind_in_both():
    listed = [name for some in LISTS.values() for name in some]
    assert len(listed) == len({*listed}) == len({*TASKS.values()})
    kinds = [{tasks.family_of(name).kind for name in some} for some in LISTS.values()]
    assert kinds[0] == kinds[1] == {family.kind for family in FAMILIES.values()}
    for family in FAMILIES.values():
        assert {*family.first_rates} <= {*RATES}


SMALL_TASKS = ["digits-500", "gaussians-flower", "oscillator", "decay", "attention"]


@pytest.mark.parametrize("name", [*SMALL_TASKS, "event-counts"])
def test_a_task_can_be_trained_in_all_of_its_parts(name):
    task = make_task(name)
    params, (first, *_) = task.init(0), task.batches(0, 0)
    assert len(list(task.batches(0, 0))) == task.steps_per_epoch
    loss, grads = jax.jit(jax.value_and_grad(task.loss_fn))(
        params, first, jax.random.key(0)
    )
    assert np.isfinite(loss)
    for leaf in jax.tree.leaves(grads):
        assert np.all(np.isfinite(leaf)) and np.any(leaf)
    assert all(np.isfinite(x) for x in task.evaluate(params).values())
    again, other = (next(iter(task.batches(*x))) for x in ((0, 0), (1, 0)))
    jax.tree.map(np.testing.assert_array_equal, again, first)
    first, other = (jax.tree.leaves(x)[0] for x in (first, other))
    assert not np.array_equal(first, other)
    if parts := tasks.family_of(name).parts:
        assert {*jax.tree.leaves(task.labels(params))} == {*parts}


def test_a_language_model_predicts_the_byte_that_follows():
    inputs, targets = classification.windows(np.arange(1000).astype(np.uint8), 5)
    assert inputs.shape == targets.shape == (5, classification.CONTEXT)
    np.testing.assert_array_equal(inputs + np.uint8(1), targets)  # 0 follows 255


def test_a_task_from_scratch_has_no_dropout():
    with pytest.raises(ValueError, match="dropout must be False"):
        make_task("digits-500", Setup(dropout=True))


@pytest.mark.parametrize("module", [methods, tasks, classification, standings])
def test_doctests_of_the_comparison(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0


# A run.


def test_adamw_neither_begins_nor_ends_with_a_step_of_zero():
    tx = method_of("adamw@1e-03").make(LABELS, 20)
    params = jnp.ones((2, 2))
    state, sizes = tx.init(params), []
    for _ in range(20):
        updates, state = tx.update(params, state, params)
        sizes.append(float(np.abs(np.asarray(updates)).max()))
    assert min(sizes) > 0
    assert max(sizes) == pytest.approx(1e-3, rel=0.02)


def test_a_run_at_a_constant_rate_is_scored_by_both_iterates():
    made = run.train(toy_task(), method_of("adamw_constant@1e-02"), 1, 0.5)
    end = made["scores"]["end"]
    assert made["steps"] == 20 and made["evaluations"] == 0 and made["cost"] == 1
    assert end["last"]["loss"] != end["average"]["loss"]
    assert made["scores"]["equal_cost"] == end != made["scores"]["early"]
    assert np.mean(made["loss_curve"][-4:]) == pytest.approx(
        made["train_loss"]["end"], rel=1e-3
    )
    assert {"commit", "jax", "device"} <= made["made"].keys()
    assert json.loads(json.dumps(made)) == made


def test_evaluations_are_paid_for():
    price = 0.5
    made = run.train(toy_task(), METHODS["salsa"], 0, price)
    assert made["evaluations"] > 0
    assert made["cost"] == pytest.approx(1 + price * made["evaluations"] / 20)
    assert made["scores"]["equal_cost"] != made["scores"]["end"]
    assert len(made["step_size"]) == 1


def test_gradients_of_an_inner_search_are_paid_for_as_steps():
    one_batch = toy_task()._replace(batches=lambda *_: iter([jnp.asarray(0)] * 4))
    made = run.train(one_batch, METHODS["lbfgs"], 0, 0.5)
    adam = run.train(one_batch, method_of("adamw_constant@1e-02"), 0, 0.5)
    assert made["cost"] >= 2  # a gradient of its own in each step, and the search's
    losses = [x["scores"]["end"]["last"]["loss"] for x in (made, adam)]
    assert losses[0] < losses[1]


@pytest.mark.parametrize(
    "name", ["schedule_free_adamw@1e-02", "momo_adam@1e-02", "prodigy_cosine"]
)
def test_methods_with_a_rate_or_a_schedule_train(name):
    made = run.train(toy_task(), method_of(name), 0, 0.5)
    early, end = (np.mean(made["loss_curve"][i]) for i in (slice(4), slice(-4, None)))
    assert end < early


def test_published_rates_of_a_picture_are_those_of_its_parts():
    params: Any = {name: jnp.ones(()) for name in GSPLAT}
    tx = METHODS["published_rates"].make(lambda _: {x: x for x in params}, 100)
    updates: Any = tx.update(params, tx.init(params), params)[0]
    for name, rate in GSPLAT.items():
        assert -float(updates[name]) == pytest.approx(rate, rel=1e-3)


def test_numbers_that_are_not_finite_are_null():
    assert run.as_json({"a": [float("nan"), 1 / 3, (2, "b")]}) == {
        "a": [None, 0.33333, [2, "b"]]
    }


def test_an_evaluation_has_a_price():
    # Many, so that the median is of steps that nothing else on the machine held up.
    assert 0 < run.price_of(toy_task(), repeats=31) < 20


# The protocol.


def test_a_sweep_goes_on_at_its_edge_until_the_best_is_inside(toy):
    jobs = wanted(["toy"], ["adamw"])
    assert names(jobs) == ["adamw@1e-03", "adamw@2e-03", "adamw@5e-03"]
    assert {job.seed for job in jobs} == {0, 1}
    sweep("adamw", {1e-3: 0.1, 2e-3: 0.2, 5e-3: 0.3})
    assert names(wanted(["toy"], ["adamw"])) == ["adamw@1e-02"]
    sweep("adamw", {1e-2: 0.25})
    assert grid("toy", "adamw", read("toy")) == [1e-3, 2e-3, 5e-3, 1e-2]
    # What is left are more seeds of the best, within two errors of itself.
    left = wanted(["toy"], ["adamw"])
    assert names(left) == ["adamw@5e-03"] and {x.seed for x in left} == {2, 3, 4}


def test_a_sweep_also_follows_the_loss_and_stops_where_rates_end(toy):
    for rate, loss in ((1e-3, 0.1), (2e-3, 0.2), (5e-3, 0.3)):
        score = 0.9 if rate == 2e-3 else 0.5
        add(f"adamw@{rate:.0e}", (score, score), loss=loss)
    assert names(wanted(["toy"], ["adamw"])) == ["adamw@5e-04"]
    sweep("adamw", {rate: rate / 10 for rate in RATES}, "toy-b")
    assert grid("toy-b", "adamw", read("toy-b"))[-1] == RATES[-1]


def test_one_rate_for_all_tasks_is_swept_on_the_development_list_alone(
    toy, monkeypatch
):
    monkeypatch.setitem(TASKS, "toy-c", ("toys",))
    monkeypatch.setitem(LISTS, "test", {"toy-c": ()})
    both = ["toy", "toy-c"]
    jobs = wanted(both, ["one_momo"])
    assert {x.method for x in jobs} == {f"momo_adam@{x:.0e}" for x in (2e-2, 5e-2)}
    assert {x.task for x in jobs} == {"toy"}
    # Best is the mean of log(loss): .02 * .5 and .3 * .02 at 2e-2 and 5e-2.
    sweep("momo_adam", {2e-2: 0.98, 5e-2: 0.7})
    found = shared_rates("one_momo")
    assert (found.best, found.tasks, found.is_known) == (2e-2, ["toy"], False)
    sweep("momo_adam", {2e-2: 0.5, 5e-2: 0.98}, "toy-b")
    # The best is at the edge: the sweep goes on there.
    assert names(wanted(both, ["one_momo"])) == ["momo_adam@1e-01"]
    for task in ("toy", "toy-b"):
        sweep("momo_adam", {1e-1: 0.3}, task)
    assert shared_rates("one_momo").best == 5e-2
    jobs = wanted(both, ["one_momo"])
    assert {(x.task, x.method) for x in jobs if x.task == "toy-c"} == {
        ("toy-c", "momo_adam@5e-02")
    }


def test_one_rate_for_all_tasks_is_not_chosen_on_those_that_take_longest(
    toy, monkeypatch
):
    family = FAMILIES["toys"]._replace(kind=tasks.ROWS)
    monkeypatch.setitem(FAMILIES, "long", family)
    monkeypatch.setitem(TASKS, "toy-b", ("long",))
    sweep("momo_adam", {1e-2: 0.5, 2e-2: 0.98, 5e-2: 0.7})
    found = shared_rates("one_momo")
    assert (found.best, found.tasks, found.is_known) == (2e-2, ["toy"], True)
    assert names(wanted(["toy", "toy-b"], ["one_momo"])) == ["momo_adam@2e-02"]


def test_one_rate_for_all_tasks_is_none_at_which_a_run_diverged(toy):
    for task in ("toy", "toy-b"):
        sweep("momo_adam", {1e-2: 0.1, 2e-2: 0.3, 5e-2: 0.9}, task)
    add("momo_adam@5e-02", (0.9, 0.9, None))
    assert shared_rates("one_momo").best == 2e-2


def test_some_methods_run_on_some_kinds_of_task_alone(toy):
    def tasks_of(method):
        some = [*LISTS["test"], "oscillator", "compartments"]
        return {x.task for x in wanted(some, [method], seeds=[0])}

    deterministic = {"oscillator", "burgers", "compartments", "graph", "process"}
    assert tasks_of("lbfgs") == deterministic
    assert tasks_of("published_rates") == {"gaussians-china", "camera-china"}
    assert tasks_of("lora_plus") == {"lora-news-5-body", "lora-4-news-5-body"}
    assert {*LISTS["test"]} < tasks_of("schedule_free_plus")


def test_the_rate_of_lora_plus_is_that_of_a():
    params: Any = {"lora_a": jnp.ones((4, 2)), "lora_b": jnp.ones((2, 4))}
    tx = method_of("lora_plus@2e-04").make(None, 9)  # its warm-up takes one step
    updates: Any = tx.update(params, tx.init(params), params)[0]
    size_of_a, size_of_b = (-float(updates[x].mean()) for x in ("lora_a", "lora_b"))
    assert size_of_a == pytest.approx(2e-4, rel=0.02)
    assert size_of_b == pytest.approx(LORA_PLUS_RATIO * size_of_a, rel=1e-3)


def test_what_is_recorded_is_not_made_again(toy):
    add("salsa", (0.5,))
    jobs = wanted(["toy"], ["salsa", "prodigy"])
    assert {(x.method, x.seed) for x in jobs} == {
        ("salsa", 1),
        *(("prodigy", seed) for seed in (0, 1)),
    }
    assert [x.seed for x in wanted(["toy"], ["salsa"], seeds=[0, 5])] == [5]
    assert [x.seed for x in wanted(["toy"], ["salsa"], Setup(8), seeds=[0])] == [0]


def test_contenders_are_within_two_errors_of_the_best_or_ours(toy):
    add("salsa", (0.90, 0.80))
    add("prodigy", (0.89, 0.80))
    add("adamsls", (0.50, 0.40))
    add("momo_adam", (None, None))
    found = contenders(read("toy"), (0, 1))
    assert {"salsa", "prodigy", "armijo_adam"} <= {*found}
    assert not {"adamsls", "momo_adam"} & {*found}
    left = wanted(["toy"], ["salsa", "prodigy", "adamsls", "momo_adam"])
    assert names(left) == ["prodigy", "salsa"]
    assert {job.seed for job in left} == {2, 3, 4}


def test_hand_tuned_rates_are_drawn_around_the_best_rate_and_the_best_is_run(
    toy, monkeypatch
):
    monkeypatch.setattr(protocol, "NUM_DRAWS", 2)
    assert wanted(["toy"], ["hand_tuned"]) == wanted(["toy"], [])  # the sweep is first
    sweep("adamw_constant", {1e-3: 0.1, 2e-3: 0.3, 5e-3: 0.2})
    draws = wanted(["toy"], ["hand_tuned"])
    assert names(draws) == ["hand_tuned@0", "hand_tuned@1"]
    assert {job.seed for job in draws} == {protocol.DRAW_SEED}
    drawn = protocol.draw("toy", 1)
    assert drawn["rates"].keys() == {*GROUPS}
    assert all(2e-4 <= x <= 2e-2 for x in drawn["rates"].values())
    (toy / "prices.json").write_text(json.dumps({"toy": 0.3}))
    for job, score in zip(draws, (0.1, 0.7), strict=True):
        made = job.make() | {"scores": record("", 0, score)["scores"]}
        protocol.append(job, made)
    # Another best rate by now: what was drawn around the old one still holds.
    sweep("adamw_constant", {5e-3: 0.9, 1e-2: 0.1})
    jobs = wanted(["toy"], ["hand_tuned"])
    assert names(jobs) == ["hand_tuned"] and {x.seed for x in jobs} == {0, 1}
    made = jobs[0].make()
    assert {key: made[key] for key in drawn} == drawn
    assert made["method"] == "hand_tuned" and made["scores"]["end"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--tasks", "tweets-4", "must be of development, test"),
        ("--methods", "salsa,adam", "must be of armijo_adam"),
        ("--seeds", "0,0", "must be different integers from 0"),
        ("--seeds", "zero", "must be different integers from 0"),
        ("--jobs", "0", "must be an integer >= 1"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_run(
    option, value, message, capsys, monkeypatch
):
    monkeypatch.setattr(compare, "make_all", None)  # to be called, it must be reached
    monkeypatch.setattr(compare, "make_task", None)
    with pytest.raises(SystemExit) as stopped:
        compare.main([option, value])
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and not printed.out
    assert printed.err.count("\n") == 1
    assert message in printed.err and repr(value.split(",")[-1])[1:-1] in printed.err


# The report.


@pytest.fixture
def results(toy):
    """Two tasks; on the second, fewer methods and a run that diverged."""
    add("armijo_adam", (0.80, 0.70), average={"score": 0.85, "loss": 0.2})
    add("salsa", (0.90, 0.60))
    add("schedule_free_adamw", (0.65, 0.65))
    sweep("adamw", {1e-3: 0.60, 2e-3: 0.88, 5e-3: 0.70})
    sweep("adamw_constant", {1e-3: 0.1, 2e-3: 0.2, 5e-3: 0.3})
    add("armijo_adam", (0.5, 0.5), "toy-b")
    add("salsa", (None, 0.9), "toy-b")
    return toy


def rows(text, start):
    """The cells of a table's rows that begin so."""
    lines = [x for x in text.splitlines() if x.startswith(f"| {start}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_row_for_each_method_and_iterate_beside_the_best_rival(results):
    text = report.task_page("toy")
    best, _ = text.split("<details>")
    last, averaged = sorted(rows(best, "`armijo_adam()`"), key=lambda x: x[3])
    assert last[1:5] == ["last iterate", "2", "0.750 ± 0.050", "0.2500 ± 0.0500"]
    assert averaged[1:5] == ["averaged", "2", "0.850 ± 0.000", "0.2000 ± 0.0000"]
    assert last[5:9] == ["-1.00 ± 0.00", "0.750 ± 0.050", "1.25", "0.750 ± 0.050"]
    # The best rival is AdamW at 2e-3, with .88 on both seeds.
    assert last[9:] == ["-0.130 ± 0.050", "+0.1300 ± 0.0500"]
    (rival,) = [x for x in rows(best, "AdamW, warm-up") if x[1] == "last iterate"]
    assert rival[0] == "AdamW, warm-up and cosine, best of 3 rates, 2e-03"
    assert rival[7] == "3 x 1.25" and rival[9] == "best rival"
    assert len(rows(best, "schedule-free AdamW")) == 1
    assert len(rows(text, "AdamW, warm-up and cosine, 1e-03")) == 2


def test_the_best_rate_by_loss_has_a_row_where_it_is_another(results):
    title = "AdamW, warm-up and cosine, best of {0} rates by loss"
    assert not rows(report.task_page("toy"), title.format(3))
    add("adamw@1e-02", (0.5, 0.5), loss=0.01)
    (row, _) = rows(report.task_page("toy"), title.format(4))
    assert row[0].endswith("1e-02, **at the edge**")


def test_a_sweep_whose_best_rate_is_at_the_edge_is_flagged(results):
    text = report.task_page("toy")
    assert "at the edge of its sweep: AdamW, constant rate" in text
    assert "sweep: AdamW, warm-up" not in text
    assert rows(text, "AdamW, constant rate, best of 3 rates, 5e-03, **at the edge**")
    edge = "AdamW's best rate is at the edge of its sweep on toy."
    assert edge not in report.summary("development")
    add("adamw@1e-02", (0.95, 0.95))
    assert edge in report.summary("development")


def test_a_run_that_came_apart_is_the_worst_and_is_said(results):
    text = report.task_page("toy-b")
    for cells in rows(text, "SaLSA"):
        assert cells[3:6] == ["diverged: 1 of 2"] * 3
    ours = rows(text, "`armijo_adam()`")
    assert all(x[9:] == ["diverged", "diverged"] for x in ours)
    assert text.index("| `armijo_adam()`") < text.index("| SaLSA")
    (row,) = rows(report.summary("development"), "SaLSA")
    # .51 on toy, and on toy-b the mean of 10 and of what the second seed is ahead.
    ahead = np.log(0.1 / 0.5)
    worst = (10 + ahead) / 2
    mean = f"{(0.511 + worst) / 2:.2f}"
    assert row[1:7] == ["2", mean, "0.36", mean, f"{worst:.2f}", "1"]


def test_hand_tuned_rates_are_said_with_their_cost(results):
    add("hand_tuned", (0.9, 0.9))
    for i in range(4):
        job = Job("toy", f"hand_tuned@{i}", protocol.DRAW_SEED)
        protocol.append(job, record(job.method, job.seed, 0.1))
    for cells in rows(report.task_page("toy"), "Adam, hand-tuned"):
        assert cells[0] == "Adam, hand-tuned rates, best of 4 sets"
        assert cells[7] == "4 x 1.25"


def test_a_gap_is_the_logarithm_of_a_ratio_to_the_best_of_all_rates(results):
    """On toy AdamW at 2e-3 is best, with a loss of .12; the default has .2 and .3."""
    found = {x.method: x for x in profiles(["toy"], "loss", "last")}
    ours = np.log([0.2 / 0.12, 0.3 / 0.12]).mean()
    assert found["armijo_adam"].gaps["toy"].size == pytest.approx(ours)
    assert found["adamw"].gaps["toy"].size == 0
    assert found["adamw"].gaps["toy"].cost == pytest.approx(3 * 1.25)
    averaged = {x.method: x for x in profiles(["toy"], "loss", "average")}
    size = averaged["armijo_adam"].gaps["toy"].size
    assert size == pytest.approx(np.log(0.2 / 0.12))
    # Its last iterate is an average.
    for some in (found, averaged):
        size = some["schedule_free_adamw"].gaps["toy"].size
        assert size == pytest.approx(np.log(0.35 / 0.12))
    by_score = {x.method: x for x in profiles(["toy"], "score", "last")}
    assert by_score["armijo_adam"].gaps["toy"].size == pytest.approx(0.13)
    # What needs nothing set stands first, what is known in hindsight last.
    assert [*found][-1] == "adamw" and mean_gap(found["adamw"]) == 0


def test_gaps_are_paired_by_seed_to_the_best_of_those_on_both_seeds(results):
    add("prodigy", (0.95,))  # the best, but on one seed alone
    found = {x.method: x for x in profiles(["toy"], "loss", "last")}
    assert found["prodigy"].gaps["toy"].size == pytest.approx(np.log(0.05 / 0.12))
    assert found["adamw"].gaps["toy"].size == 0


def test_only_seeds_of_the_default_count(results):
    for method, score in (("armijo_adam", 0.8), ("salsa", 0.7)):
        protocol.append(Job("toy-c", method, 0), record(method, 0, score, average=None))
    protocol.append(Job("toy-c", "salsa", 1), record("salsa", 1, 0.99))
    found = {x.method: x for x in profiles(["toy-c"], "loss", "last")}
    assert found["armijo_adam"].gaps["toy-c"].size == 0
    assert found["salsa"].gaps["toy-c"].size == pytest.approx(np.log(0.3 / 0.2))
    assert {*standings.entrants("toy-c")[-1].runs} == {0}


def test_one_rate_for_all_tasks_is_a_row_of_the_profile(results):
    for task in ("toy", "toy-b"):
        rates = {1e-2: 0.1, 2e-2: 0.5, 5e-2: 0.3}
        sweep("momo_adam", rates, task)
    (row,) = rows(report.summary("development"), "one MoMo-Adam")
    assert row[0] == "one MoMo-Adam, 2e-02" and row[1] == "2"
    assert not rows(report.summary("development"), "one schedule-free")
    assert SHARED.keys() <= {*standings.UNTUNED}
    assert {*FIRST_SHARED_RATES} <= {*RATES}


def test_the_page_on_the_protocol_says_of_which_commits_ours_are(results):
    number = sum(
        x["method"].startswith("armijo_adam")
        for task in report.recorded("development")
        for x in protocol.read(task)
    )
    new = record("armijo_adam", 7, 0.8) | {"made": {"commit": "def", "device": "cpu"}}
    protocol.append(Job("toy", "armijo_adam", 7), new)
    line = report.pages()["how_it_was_measured.md"].splitlines()[-1]
    assert line == f"- **Commits.** Runs of ours: {number} of abc, 1 of def."


def test_some_of_the_test_tasks_have_a_table_of_their_own(results, monkeypatch):
    monkeypatch.setitem(LISTS, "test", {"toy": (), "toy-b": ()})
    monkeypatch.setattr(report, "NEWEST", ("toy",))
    text = report.subsets()
    assert text.splitlines()[0] == "| method | newest (1) | others (1) |"
    (ours,) = rows(text, "`armijo_adam()`")
    assert ours[1:] == ["0.71 [0.51]", "0.00 [0.00]"]
    (adamw,) = rows(text, "AdamW, warm-up and cosine, best")
    assert adamw[1:] == ["0.00 [0.00]", ""], "it did not run on toy-b"
    monkeypatch.setitem(LISTS, "test", {})
    assert report.subsets() == "No runs so far."


def test_the_profile_names_where_the_default_is_worst_and_what_is_missing(
    results, monkeypatch
):
    monkeypatch.setitem(TASKS, "toy-c", ("toys",))
    monkeypatch.setitem(LISTS["development"], "toy-c", ())
    text = report.summary("development")
    # On toy-b the best is SaLSA's second seed, which its first spoils: so it is ours.
    assert "is farthest behind on toy (0.71), toy-b (0.00)." in text
    assert text.endswith("Tasks without runs so far: toy-c.")
    (ours,) = rows(text, r"**`armijo_adam()`**")
    assert ours[1:6] == ["2", "0.36", "0.36", "0.36", "0.71"]
    (adamw,) = rows(text, "AdamW, warm-up and cosine, best")
    assert adamw[1:4] == ["1 of 2", "0.00", "0.71"]


def test_the_program_writes_pages_figures_and_the_table_of_the_readme(
    results, monkeypatch
):
    readme = results / "top.md"
    readme.write_text("a\n<!-- profile -->\nold\n<!-- end of profile -->\nb\n")
    guide = results / "parts.md"
    guide.write_text(
        "<!-- parts -->\nold\n<!-- end of parts -->\n"
        "<!-- rates -->\nold\n<!-- end of rates -->\n"
    )
    monkeypatch.setattr(report, "README", readme)
    monkeypatch.setattr(report, "GUIDE", guide)
    monkeypatch.setitem(LISTS, "test", {"toy-c": ()})
    old = results / "tasks" / "gone.md"
    old.parent.mkdir(exist_ok=True)
    old.write_text("of a task whose records are gone")
    report.main([])
    assert not old.exists()
    page, top = ((results / x).read_text() for x in ("README.md", "top.md"))
    assert page == report.page() and "No runs on the test tasks so far." in page
    for name in ("toy", "toy-b"):
        assert f"]({name}.png)" in (results / "tasks" / f"{name}.md").read_text()
        assert (results / "tasks" / f"{name}.png").stat().st_size > 5_000
    assert (results / "profile.png").stat().st_size > 5_000
    assert (results / "summary.png").stat().st_size > 5_000
    assert (
        "`tasks/`" in page
        and "(by_kind.md)" in page
        and (results / "by_kind.md").exists()
    )
    assert "old" not in top and top.endswith("\nb\n")
    assert report.updated(top, "profile", report.short_summary()) == top
    assert "old" not in guide.read_text()
    (ours,) = rows(top, "`armijo_adam()`")
    assert ours[1:] == ["**0.36** [**0.26**]", "**0.71** [**0.51**]"]
    assert (
        rows(top, "SaLSA") and not rows(top, "schedule-free") and not rows(top, "AdamW")
    )


def hue(colour):
    """Within 0 (red) and 1; None of a grey."""
    hue, saturation, _ = rgb_to_hsv(to_rgb(colour))
    return hue if saturation > 0.1 else None


def test_no_figure_has_red_beside_green(results):
    colours = [to_rgb(x) for x in (*figures.COLOURS.values(), *figures.LINES)]
    drawn = [figures.profile(), figures.summary(), figures.one_task("toy")]
    lines = [line for x in drawn for axes in x.axes for line in axes.lines]
    colours += [to_rgb(line.get_color()) for line in lines]
    hues = [x for x in map(hue, colours) if x is not None]
    assert hues and not any(0.2 < x < 0.48 for x in hues)
    assert hue("#009E73") == pytest.approx(0.45, abs=0.01), "which would be found"


def test_axes_of_figures_begin_at_the_data_and_no_ticks_overlap(results):
    sweep("adamw", {1e-3: 0.4, 2e-3: 0.6, 5e-3: 0.5})
    figure = figures.one_task("toy")
    assert figure.axes[1].get_xlim() == (0, 1)
    for drawn in (figure, figures.profile(), figures.summary()):
        FigureCanvasAgg(drawn).draw()
        for axes in drawn.axes:
            for axis in (axes.xaxis, axes.yaxis):
                shown = [x for x in axis.get_ticklabels() if x.get_text()]
                boxes = [x.get_window_extent() for x in shown if x.get_visible()]
                pairs = zip(boxes, boxes[1:], strict=False)
                assert not any(a.overlaps(b) for a, b in pairs)


def test_a_kind_has_a_table_of_the_methods_that_ran_on_all_of_its_tasks(results):
    text = report.kind_table(["toy", "toy-b"])
    last, averaged = sorted(rows(text, "`armijo_adam()`"), key=lambda x: x[3])
    assert last == [
        *("`armijo_adam()`", "last iterate", "2"),
        *("0.625 ± 0.025", "0.3750 ± 0.0250", "1.25"),
    ]
    assert averaged[1] == "averaged"
    assert not rows(text, "schedule-free AdamW") and not rows(text, "AdamW")
    assert {x[3] for x in rows(text, "SaLSA")} == {"diverged"}
    (best, _) = rows(report.kind_table(["toy"]), "AdamW, warm-up")
    assert best[0].endswith("best rates in hindsight") and best[5] == "3.75"


def test_differences_are_paired_by_seed_and_averaged_over_tasks(results, monkeypatch):
    """The default has .8 and .7 on toy, and .5 twice on toy-b."""
    monkeypatch.setattr(report, "TUNING", NOISE)
    monkeypatch.setattr(report, "FEWEST_TASKS", 2)
    add("prodigy", (0.84, 0.72))  # ahead by .03
    protocol.append(Job("toy-b", "prodigy", 1), record("prodigy", 1, 0.4))  # by -.1
    last, averaged = rows(report.differences(), "Prodigy")
    assert last == ["Prodigy", "last iterate", "2", "-0.035 ± 0.065", "+0.035 ± 0.065"]
    assert averaged[1:] == ["averaged", *last[2:]]
    assert not rows(report.differences(), "schedule-free")  # it ran on toy alone
    monkeypatch.setattr(report, "TUNING", "nothing")
    assert report.differences() == "None so far."


def test_texts_are_averaged_where_all_methods_of_the_table_ran(results, monkeypatch):
    monkeypatch.setattr(report, "TUNING", NOISE)
    assert report.texts() == "No runs so far."
    add("armijo_adam-num_steps", (0.9, 0.7), average={"score": 0.95, "loss": 0.1})
    add("prodigy_cosine", (0.5, 0.5))
    sweep("adamw", {1e-4: 0.6})
    text = report.texts()
    assert text.endswith("Means over 1 tasks: toy.")  # SaLSA alone ran on toy-b
    (ours,) = rows(text, "`armijo_adam(num_steps=...)`")
    assert ours[1:3] == ["0.800 ± 0.100", "0.2000 ± 0.1000"]
    assert ours[3:] == ["0.950 ± 0.000", "0.1000 ± 0.0000"]
    assert rows(text, "AdamW, warm-up and cosine, 1e-04")[0][1] == "0.600 ± 0.000"


def test_rates_that_are_handed_over_are_compared_with_the_best_of_a_sweep(toy):
    assert report.rates_table() == "No runs so far."
    for task, losses in (("toy", (0.2, 0.4)), ("toy-b", (0.1, 0.1))):
        add("armijo_adam", (0.5, 0.5), task)
        add(report.HANDED_OVER, (0.5, 0.5), task, loss=losses[1])
        add("prodigy_cosine", (0.5, 0.5), task, loss=2 * losses[0])
        for rate, loss in ((1e-3, 9.0), (2e-3, losses[0]), (5e-3, 9.0)):
            add(f"adamw@{rate:.0e}", (0.5, 0.5), task, loss=loss)
    (ours,) = rows(report.rates_table(), "AdamW, rates of")
    assert ours[1] == "0.35, 0.35, 0.69"  # log 2 on toy, 0 on toy-b
    (prodigy,) = rows(report.rates_table(), "Prodigy, cosine")
    assert prodigy[1] == "0.69, 0.69, 0.69"


def test_what_the_repository_shows_is_what_its_records_say():
    for path, name, made in report.marked():
        text = path.read_text()
        emptied, number = re.subn(report.TABLE.format(name), r"\1\2", text, flags=re.S)
        assert number == 1 and report.updated(emptied, name, made) == text
    for path, page in report.pages().items():
        assert (protocol.RESULTS / path).read_text() == page


def test_workers_end_when_the_command_is_killed(tmp_path):
    # They went on for hours before, and slowed whatever ran beside them.
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script)]
    # The worker holds the output open, so that this returns when it has ended.
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == -signal.SIGKILL and int(result.stdout) > 0
