"""The ablations: what they switch off, and their table."""

import importlib
import json

import ablation
import jax.numpy as jnp
import numpy as np
import pytest
import run
import tasks


@pytest.mark.parametrize("each", ablation.ABLATIONS, ids=lambda each: each.name)
def test_what_is_switched_off_exists_and_comes_back(each):
    def values():
        return [
            getattr(importlib.import_module(f"optax_armijo.search.{module}"), name)
            for module, name in (path.split(".") for path in each.changes)
        ]

    before = values()
    with ablation.without(each):
        assert all(x is y for x, y in zip(values(), each.changes.values(), strict=True))
    assert all(x is y for x, y in zip(values(), before, strict=True))


def test_a_mechanism_comes_back_after_an_error():
    leaps = ablation.KNOWN["leaps"]
    with pytest.raises(RuntimeError), ablation.without(leaps):
        raise RuntimeError
    assert ablation.step_sizes.FAR_TOO_SHORT > 0


def noisy_lines():
    """A task of two epochs of five steps: a line through noisy points."""

    def points(seed, number):
        rng = np.random.default_rng((seed, number))
        x, noise = rng.normal(size=(2, 8, 3)).astype(np.float32)
        return x, x @ np.array([1.0, -2.0, 0.5], np.float32) + 0.1 * noise[:, 0]

    def loss_fn(params, batch, key):
        x, y = batch
        return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)

    def evaluate(params):
        return {"score": 0.0, "loss": float(loss_fn(params, points(99, 0), None))}

    return tasks.Task(
        init=lambda seed: {"w": points(seed, 9)[0][0], "b": np.float32(0.0)},
        loss_fn=loss_fn,
        batches=lambda seed, epoch: (points(seed, 5 * epoch + i) for i in range(5)),
        steps_per_epoch=5,
        num_epochs=2,
        evaluate=evaluate,
    )


def test_all_seeds_at_once_end_where_each_ends_by_itself():
    task, method = noisy_lines(), ablation.METHODS["armijo_adam-num_steps"]
    found = np.array(ablation.log_losses(task, [3, 4]))
    for seed, logs in zip([3, 4], found, strict=True):
        ends = run.train(task, method, seed, price=0.0)["scores"]["end"]
        alone = [ends[iterate]["loss"] for iterate in ("last", "average")]
        np.testing.assert_allclose(logs, np.log(alone), atol=1e-3)
    assert abs(found[0, 0] - found[1, 0]) > 0.01


def test_the_table_has_the_mean_change_of_pairs():
    fuzz = {"armijo_adam": [154, 160, 1], "num_steps": [155, 160, 0]}
    found = {
        ablation.FULL: {"decay": [[-1.0, 0.0], [-2.0, 0.0]], "fuzz": fuzz},
        # The second run diverged: its change counts as the largest that may count.
        "leaps": {"decay": [[-0.5, 0.0], [np.inf, 0.0]], "fuzz": fuzz},
    }
    *_, full, leaps = ablation.table(found, {"leaps": (3, 1, 6)}).splitlines()
    assert full.split(" | ")[2:] == ["+0.00 ± 0.00", "0", "154, 1 higher", "155 |"]
    mean, error = (0.5 + 3) / 2, (3 - 0.5) / 2
    assert leaps.split(" | ")[1] == "3, 1, 6" and full.split(" | ")[1] == "–"
    assert leaps.split(" | ")[2:4] == [f"+{mean:.2f} ± {error:.2f}", "1"]


@pytest.mark.parametrize(
    "option", [["--without", "nothing"], ["--tasks", "news-3"], ["--jobs", "0"]]
)
def test_bad_input_is_one_line_and_status_2(option, capsys):
    with pytest.raises(SystemExit, match="2"):
        ablation.main(option)
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "path", sorted(ablation.RESULTS.glob("ablation*.json")), ids=lambda x: x.stem
)
def test_the_table_in_the_repository_is_that_of_its_record(path):
    record = json.loads(path.read_text())
    found = ablation.table(record["log_losses"], record["takes"])
    assert path.with_suffix(".md").read_text() == found
