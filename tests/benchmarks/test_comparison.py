"""The comparison of optimizers: its tasks, a run, the protocol and the report."""

import doctest
import importlib.util
import json
from pathlib import Path

import classification
import compare
import jax
import jax.numpy as jnp
import methods
import numpy as np
import protocol
import pytest
import run
import tasks
from methods import METHODS, RATES, method_of
from protocol import Job, contenders, grid, read, wanted
from tasks import FAMILIES, LISTS, TASKS, Family, Setup, Task, make_task
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
    monkeypatch.setattr(protocol, "RECORDS", tmp_path)
    monkeypatch.setattr(protocol, "make_task", toy_task)
    monkeypatch.setitem(
        FAMILIES, "toys", Family("", "toys", (1e-3, 2e-3, 5e-3), GROUPS)
    )
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


@pytest.mark.parametrize(
    "name", ["digits-500", "gaussians-flower", "oscillator", "decay"]
)
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


@pytest.mark.parametrize("module", [methods, tasks, classification, report])
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
    text = report.task_section("toy")
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
    assert not rows(
        report.task_section("toy"), "AdamW, warm-up and cosine, best of 3 rates by loss"
    )
    add("adamw@1e-02", (0.5, 0.5), loss=0.01)
    (row, _) = rows(
        report.task_section("toy"), "AdamW, warm-up and cosine, best of 4 rates by loss"
    )
    assert row[0].endswith("1e-02, **at the edge**")


def test_a_sweep_whose_best_rate_is_at_the_edge_is_flagged(results):
    text = report.list_section("development")
    flagged = "toy, AdamW, constant rate, best of 3 rates, 5e-03, last iterate"
    assert f"at the edge: {flagged}; " in text
    assert "cosine, best of 3 rates, 2e-03," not in text
    assert rows(text, "AdamW, constant rate, best of 3 rates, 5e-03, **at the edge**")


def test_a_run_that_came_apart_is_the_worst_and_is_said(results):
    text = report.task_section("toy-b")
    for cells in rows(text, "SaLSA"):
        assert cells[3:6] == ["diverged: 1 of 2"] * 3
    ours = rows(text, "`armijo_adam()`")
    assert all(x[9:] == ["diverged", "diverged"] for x in ours)
    assert text.index("| `armijo_adam()`") < text.index("| SaLSA")


def test_ranks_are_over_the_largest_table_without_a_gap(results):
    text = report.ranks(["toy", "toy-b"])
    assert text.startswith("Mean ranks of 9 entrants over toy.")
    assert rows(text, "AdamW, warm-up and cosine |")[0][2:] == ["1.0", "1.0"]
    sweep("adamw", {1e-3: 0.4}, "toy-b")
    for name in ("adamw_constant@1e-03", "schedule_free_adamw"):
        add(name, (0.3, 0.3), "toy-b")
    assert report.ranks(["toy", "toy-b"]).startswith(
        "Mean ranks of 9 entrants over toy,"
    )
    add("prodigy", (0.3, 0.3))
    assert "of 2: Prodigy (1)." in report.ranks(["toy", "toy-b"])
    # On toy-b ours and AdamW are ahead of what diverged, by both scores.
    alone = report.ranks(["toy-b"])
    assert {tuple(x[2:]) for x in rows(alone, "SaLSA")} == {("8.0", "8.0")}


def test_methods_are_ranked_on_the_seeds_that_both_have(results):
    add("prodigy", (0.82,))
    found = {x.key: x for x in report.entrants("toy")}
    prodigy, ours = found["prodigy", "last"], found["armijo_adam", "last"]
    assert report.is_better(prodigy, ours, "score")
    assert not report.is_better(prodigy, found["salsa", "last"], "score")


def test_hand_tuned_rates_are_said_with_their_cost(results):
    add("hand_tuned", (0.9, 0.9))
    for i in range(4):
        job = Job("toy", f"hand_tuned@{i}", protocol.DRAW_SEED)
        protocol.append(job, record(job.method, job.seed, 0.1))
    for cells in rows(report.task_section("toy"), "Adam, hand-tuned"):
        assert cells[0] == "Adam, hand-tuned rates, best of 4 sets"
        assert cells[7] == "4 x 1.25"


def test_the_program_writes_page_figures_and_the_tables_of_the_readme(
    results, monkeypatch
):
    readme = results / "top.md"
    text = "a\n<!-- table: {0} -->\nold\n<!-- end of table -->\n"
    readme.write_text(text.format("development") + text.format("test"))
    monkeypatch.setattr(report, "README", readme)
    monkeypatch.setitem(LISTS, "test", {"toy-c": ()})
    report.main([])
    page, top = ((results / x).read_text() for x in ("README.md", "top.md"))
    assert page == report.page() and "0 runs so far; tasks without any: toy-c." in page
    for name in ("toy", "toy-b"):
        assert f"]({name}.png)" in page
        assert (results / f"{name}.png").stat().st_size > 5_000
    assert "old" not in top and "No runs on the test tasks so far." in top
    assert "`armijo_adam()` is behind SaLSA on 0 of 2 and behind AdamW" in top
    assert "behind AdamW at its best rate on 1 of 1." in top
    assert report.updated_readme(top) == top


def test_the_short_table_has_the_same_tasks_in_all_rows(results):
    text = report.summary("development")
    assert "tasks and seeds. Tasks, with the number of seeds: toys, accuracy:" in text
    assert "toy (2)." in text
    plasls = report.TITLES[6]
    assert not rows(text, plasls)  # it has not run
    add("plasls", (0.70, 0.74))
    text = report.summary("development")
    found = [rows(text, title)[0] for title in (*report.TITLES[:4], plasls)]
    assert found == [
        ["`armijo_adam()`", "0.750 ± 0.050", "1", "1.25"],
        [report.TITLES[1], "0.880 ± 0.000", "3", "3.75"],
        [report.TITLES[2], "0.880 ± 0.000", "1", "1.25"],
        [report.BEST_FREE, "0.750 ± 0.150 (SaLSA)", "1", "1.25"],
        [plasls, "0.720 ± 0.020", "1", "1.25"],
    ]
    assert "fewer for PLASLS" not in text
    # A seed that another row lacks does not count, but one that PLASLS lacks does.
    protocol.append(Job("toy", "armijo_adam", 2), record("armijo_adam", 2, 0.0))
    (ours,) = rows(report.summary("development"), "`armijo_adam()`")
    assert ours[1] == "0.750 ± 0.050"
    for name, score in (("adamw@2e-03", 0.88), ("salsa", 0.75)):
        protocol.append(Job("toy", name, 2), record(name, 2, score))
    text = report.summary("development")
    assert rows(text, "`armijo_adam()`")[0][1].startswith("0.500 ±")
    assert rows(text, plasls)[0][1] == "0.720 ± 0.020"
    assert "tasks and seeds (fewer for PLASLS). Tasks," in text
    # Two tasks of a kind: the error of their mean.
    for method in ("plasls", "salsa"):
        add(method, (0.3, 0.3), "toy-b")
    sweep("adamw", {1e-3: 0.2, 2e-3: 0.4, 5e-3: 0.3}, "toy-b")
    (ours,) = rows(report.summary("development"), "`armijo_adam()`")
    assert ours[1] == "0.500 ± 0.126"


def test_who_is_ahead_is_said_by_task_and_whether_clearly(results):
    """The default has .8 and .7 on toy, and .5 twice on toy-b."""
    add("prodigy", (0.81, 0.71))
    add("prodigy", (0.4, 0.4), "toy-b")
    add("plasls", (0.95, 0.6))
    found = {x: rows(report.who_is_ahead(), x)[0][1:3] for x in ("Prodigy", "PLASLS")}
    assert found == {"Prodigy": ["2", "1: **toy**"], "PLASLS": ["1", "1: toy"]}
    assert not rows(report.who_is_ahead(), "`armijo_adam()`")


def test_differences_are_paired_by_seed_and_averaged_over_tasks(results, monkeypatch):
    """The default has .8 and .7 on toy, and .5 twice on toy-b."""
    kind = report.family_of("toy").kind
    monkeypatch.setattr(report, "FEWEST_TASKS", 2)
    add("prodigy", (0.84, 0.72))  # ahead by .03
    protocol.append(Job("toy-b", "prodigy", 1), record("prodigy", 1, 0.4))  # by -.1
    last, averaged = rows(report.differences(kind), "Prodigy")
    assert last == ["Prodigy", "last iterate", "2", "-0.035 ± 0.065", "+0.035 ± 0.065"]
    assert averaged[1:] == ["averaged", *last[2:]]
    monkeypatch.setattr(report, "FEWEST_TASKS", 3)
    assert report.differences(kind) == "None so far."


def test_what_the_repository_shows_is_what_its_records_say():
    text = report.README.read_text()
    assert [x[1] for x in report.TABLE.findall(text)] == ["test"]
    emptied = report.TABLE.sub(r"\1\3", text)
    assert report.updated_readme(emptied) == text
    assert (protocol.RECORDS / "README.md").read_text() == report.page()
