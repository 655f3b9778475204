"""The ablations: what they switch off, and their table."""

import importlib
import json

import ablation
import numpy as np
import pytest


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


def test_the_table_has_the_mean_change_of_pairs():
    fuzz = {"armijo_adam": [154, 160, 1], "num_steps": [155, 160, 0]}
    found = {
        ablation.FULL: {"decay": [[-1.0, 0.0], [-2.0, 0.0]], "fuzz": fuzz},
        # The second run diverged: its change counts as the largest that may count.
        "leaps": {"decay": [[-0.5, 0.0], [np.inf, 0.0]], "fuzz": fuzz},
    }
    *_, full, leaps = ablation.table(found).splitlines()
    assert full.split(" | ")[2:] == ["+0.00 ± 0.00", "0", "154, 1 higher", "155 |"]
    mean, error = (0.5 + 3) / 2, (3 - 0.5) / 2
    assert leaps.split(" | ")[2:4] == [f"+{mean:.2f} ± {error:.2f}", "1"]


@pytest.mark.parametrize(
    "option", [["--without", "nothing"], ["--tasks", "news-3"], ["--jobs", "0"]]
)
def test_bad_input_is_one_line_and_status_2(option, capsys):
    with pytest.raises(SystemExit, match="2"):
        ablation.main(option)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_table_in_the_repository_is_that_of_its_record():
    record = json.loads((ablation.RESULTS / "ablation.json").read_text())
    text = (ablation.RESULTS / "ablation.md").read_text()
    assert ablation.table(record["log_losses"]) == text
