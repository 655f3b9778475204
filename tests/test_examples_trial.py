"""The trial on a user's own file: what it writes, goes on with, and refuses."""

import job
import pytest
import trial
from metrics import read
from trial_report import Score, compare, score


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """Of a trial that was stopped in its second run, and then went on."""
    folder = tmp_path_factory.mktemp("trial")
    argv = options(tiny, folder)
    run_step = job.run_step

    def stop_in_adamw(*args):
        if args[0].settings.optimizer == "adamw":
            raise KeyboardInterrupt
        return run_step(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "run_step", stop_in_adamw)
        assert trial.main(argv) == 130
    first = (folder / "armijo_adam-0" / "metrics.jsonl").read_text()
    assert trial.main(argv) == 0
    assert (folder / "armijo_adam-0" / "metrics.jsonl").read_text() == first
    return folder


def options(tiny, folder):
    own = ["--rates", "1e-3", "--epochs", "2", "--output-dir", str(folder)]
    return [*tiny, *own]


def test_every_run_has_the_same_budget(folder):
    runs = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert runs == ["adamw-0.001-0", "adamw-2e-05-0", "armijo_adam-0"]
    steps = [
        sum(record["kind"] == "step" for record in read(folder / run / "metrics.jsonl"))
        for run in runs
    ]
    assert len(set(steps)) == 1


def test_the_report_has_the_scores_of_the_runs(folder):
    text = (folder / "report.md").read_text()
    summary = read(folder / "armijo_adam-0" / "metrics.jsonl")[-1]
    accuracy = Score(summary["accuracy"], summary["accuracy_error"])
    assert f"| `average_iterates(armijo_adam())` | {accuracy} |" in text
    assert "| AdamW 2e-05 |" in text and "| AdamW 0.001 |" in text
    page = (folder / "report.html").read_text()
    assert "<table>" in page and 'src="data:image/png;base64,' in page
    assert "trial.png" not in page


def test_what_the_trial_chooses_itself_is_refused(tiny, folder, capsys):
    argv = options(tiny, folder)
    assert trial.main([*argv, "--optimizer", "adamw"]) == 2
    assert "--optimizer: the trial chooses this" in capsys.readouterr().err
    assert trial.main([*argv, "--batch-size", "4"]) == 2
    assert "another --output-dir" in capsys.readouterr().err


def test_a_file_is_the_task_without_a_word():
    _, plans = trial.parse(["--train-file", "mine.csv", "--seeds", "2"])
    assert {plan.settings.task for plan in plans} == {"file"}
    assert len(plans) == 2 * (1 + 1 + len(trial.SWEEP))
    assert len({plan.settings.output_dir for plan in plans}) == len(plans)


def test_scores_of_seeds_have_the_error_of_rows_and_of_seeds():
    summaries = [{"accuracy": x, "accuracy_error": 0.03} for x in (0.7, 0.78)]
    result = score(summaries, "accuracy")
    assert result.mean == pytest.approx(0.74)
    assert result.error == pytest.approx(0.05)  # 0.04 from the seeds
    assert score(summaries[:1], "accuracy").error == pytest.approx(0.03)


def test_a_score_that_is_not_a_number_is_behind():
    good, bad = Score(0.5, 0.1), Score(float("nan"), 0.1)
    assert (compare(bad, good), compare(good, bad)) == ("behind", "ahead of")
