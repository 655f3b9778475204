"""The trial on a user's own file: what it writes, goes on with, and refuses."""

from typing import Any

import job
import pytest
import trial
from metrics import read
from trial_report import Outcome, Row, Score, compare, describe, judge, plot, row, score


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


def test_it_says_what_it_trained_and_counts_compilation(folder, tiny, capsys):
    assert trial.main(options(tiny, folder)) == 0
    out = capsys.readouterr().out
    assert "reviews.csv: 20 rows to train, 16 to validate, 2 epochs at batch 8." in out
    records = read(folder / "adamw-0.001-0" / "metrics.jsonl")
    last = records[-1]
    assert last["compile_seconds"] > 0
    made = row([Outcome("adamw", 1e-3, records)])
    assert made.seconds == last["seconds"] + last["compile_seconds"]


def test_a_fifth_of_the_file_is_said():
    settings = trial.parse(["--train-file", "mine.csv"])[1][0].settings.of_the_run()
    data = {"train_rows": 96, "validation_rows": 24}
    said = "96 rows to train, 24 to validate (a fifth, at most 1000: --validation-size)"
    assert said in describe(settings, data)


def of_accuracy(rate, accuracy):
    epochs = [
        {"kind": "epoch", "train_loss": 0.7 - 0.001 * i, "accuracy": accuracy}
        for i in range(3)
    ]
    score = Score(accuracy, 0.05)
    return Row(rate, 1, 9.0, 1.0, score, score, [Outcome("any", rate, epochs)])


def test_no_verdict_where_no_run_beats_the_most_frequent_class():
    rows = [of_accuracy(rate, 0.5) for rate in (None, 2e-5, 1e-3)]
    data = {"most_frequent": "y", "most_frequent_share": 0.5}
    assert judge(rows, 2e-5, data).startswith(
        "No verdict: no run is better than always"
    )
    rows[2] = of_accuracy(1e-3, 0.6)
    assert judge(rows, 2e-5, data).startswith("Untuned, armijo_adam is level with")


def test_nothing_in_the_picture_lies_on_anything_else():
    figure = plot([of_accuracy(r, 0.5) for r in (None, 2e-5, 1e-4, 5e-4, 1e-3)])
    figure.draw_without_rendering()
    boxes: list[Any] = [
        part.get_tightbbox() for part in (*figure.axes, *figure.legends)
    ]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
    lines = figure.axes[0].get_lines()
    assert len({str(line.get_color()) for line in lines}) == len(lines)
    labels = [x for x in figure.axes[0].get_yticklabels() if x.get_text()]
    heights = [x.get_window_extent() for x in labels]
    assert not any(a.overlaps(b) for a, b in zip(heights, heights[1:], strict=False))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--seeds", "0"], "argument --seeds: '0' is not an integer >= 1"),
        (["--seeds", "few"], "argument --seeds: 'few' is not an integer >= 1"),
        (["--rates", "0"], "argument --rates: 0 is not a number > 0"),
        (["--rates", "fast"], "argument --rates: 'fast' is not a number >= 0"),
        (["--train-file", "none.csv"], "none.csv: no such file"),
        (["--train-file", "none.txt"], "none.txt: must end in .csv, .tsv or .jsonl"),
        (["--batch-size", "0"], "argument --batch-size: '0' is not an integer >= 1"),
        (["--optimizer=adamw"], "--optimizer: the trial chooses this itself"),
        (["--model", "./nowhere"], "--model ./nowhere: no such folder"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_what_the_user_can_mend_is_one_line(argv, message, tiny, tmp_path, capsys):
    known = [*tiny, "--output-dir", str(tmp_path / "out"), *argv]
    assert trial.main(known) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("trial.py: ") and message in line


def test_help_lists_the_defaults(capsys):
    with pytest.raises(SystemExit) as stop:
        trial.main(["--help"])
    assert stop.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    for default in ("0.0001 0.0005 0.001", "default 1)", "runs/trial", "batch 32"):
        assert default in printed


def test_what_the_trial_chooses_itself_is_refused(tiny, folder, capsys):
    argv = options(tiny, folder)
    assert trial.main([*argv, "--optimizer", "adamw"]) == 2
    assert "--optimizer: the trial chooses this" in capsys.readouterr().err
    assert trial.main([*argv, "--batch-size", "4"]) == 2
    assert "another --output-dir" in capsys.readouterr().err


def test_a_file_is_the_task_without_a_word():
    for flag in ("--train_file", "--train-file"):
        _, plans = trial.parse([flag, "mine.csv", "--seeds", "2"])
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
