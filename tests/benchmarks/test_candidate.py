"""The comparison's command for a candidate for the default."""

import json
from pathlib import Path

import candidate
import pytest
from candidate import lines, main
from standings import with_best


def test_candidate_names_what_it_does_not_know(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--tasks", "nothing"])
    assert "must be of development, test" in capsys.readouterr().err


def test_candidate_has_a_line_for_each_task_that_has_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gap is that to the best of all records, so none if it is the best itself."""
    monkeypatch.setattr(candidate, "RESULTS", tmp_path / "candidate.jsonl")
    assert len(lines(["heat", "digits-500"])) == 1
    _, best = with_best("heat", "loss")
    run = {"task": "heat", "cost": 1.5, "scores": best.runs[0]["scores"], "seed": 0}
    candidate.RESULTS.write_text(json.dumps(run) + "\n")
    found = lines(["heat", "digits-500"])
    task, number, _, cost, *sizes = found[1].split()
    assert (task, number, cost, sizes[0]) == ("heat", "1", "1.50", "0.00")
    assert [x.split()[0] for x in found[2:]] == ["mean", "median", "worst"]
