"""The trial on a user's own file: what it writes, goes on with, and says."""

from typing import Any

import finetune_bert
import pytest
import trial
from command_line import tell
from example_runs import assert_refused
from run_folder import read
from trial_report import Method, Score, compare, describe, judge, plot, score


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """Of a trial that was stopped in its second run, and then went on."""
    folder = tmp_path_factory.mktemp("trial")
    argv = options(tiny, folder)
    make_optimizer = finetune_bert.make_optimizer

    def stop_in_adamw(options, num_steps):
        if options.optimizer == "adamw":
            raise KeyboardInterrupt
        return make_optimizer(options, num_steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_bert, "make_optimizer", stop_in_adamw)
        assert tell(trial.main, argv) == 130
    first = (folder / "armijo_adam-0" / "metrics.jsonl").read_text()
    assert tell(trial.main, argv) == 0
    assert (folder / "armijo_adam-0" / "metrics.jsonl").read_text() == first
    return folder


def options(tiny, folder):
    own = ["--rates", "1e-3", "--epochs", "2", "--output-dir", str(folder)]
    return [*tiny, *own]


def test_every_run_has_the_same_budget(folder):
    runs = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert runs == ["adamw-0.001-0", "adamw-2e-05-0", "armijo_adam-0"]
    steps = [
        sum(record["kind"] == "step" for record in read(folder / run)) for run in runs
    ]
    assert len(set(steps)) == 1


def test_the_page_has_the_scores_of_the_runs(folder):
    page = (folder / "report.html").read_text()
    last = read(folder / "armijo_adam-0")[-1]
    accuracy = Score(last["accuracy"], last["accuracy_error"])
    assert f"<td>average_iterates(armijo_adam())<td>{accuracy}<td>" in page
    assert "<td>AdamW 2e-05<td>" in page and "<td>AdamW 0.001<td>" in page
    assert 'src="data:image/png;base64,' in page


def test_it_says_what_it_trained_and_counts_compilation(folder, tiny, capsys):
    assert tell(trial.main, options(tiny, folder)) == 0
    out = capsys.readouterr().out
    assert "reviews.csv: 20 rows to train, 16 to validate, 2 epochs at batch 8." in out
    assert f"written to {folder / 'report.html'}" in out
    records = read(folder / "adamw-0.001-0")
    first, second = [x["seconds"] for x in records if x["kind"] == "epoch"]
    assert first > second, "it compiles in the first"
    assert Method(1e-3, [records]).seconds == first + second


def test_what_is_chosen_without_a_word_is_said():
    settings = {"model": "minilm", "task": "file", "train_file": "mine.csv"}
    settings |= {"validation_size": None, "validation_file": None, "epochs": 5}
    data = {"train_rows": 96, "validation_rows": 24, "batch_size": 32}
    said = "96 rows to train, 24 to validate (1000, at most a fifth: --validation-size)"
    assert said in describe({"settings": settings, "data": data})


def test_other_options_begin_another_trial(tiny, folder, capsys):
    argv = [*options(tiny, folder), "--batch-size", "4"]
    assert_refused(trial, argv, "another --output-dir", capsys)


def of_accuracy(rate, accuracy):
    scores = {"accuracy": accuracy, "accuracy_error": 0.05}
    scores |= {"log_loss": accuracy, "log_loss_error": 0.05}
    step = {"kind": "step", "evaluations": 1}
    epochs = [
        {"kind": "epoch", "seconds": 3.0, "train_loss": 0.7 - 0.001 * i, **scores}
        for i in range(3)
    ]
    return Method(rate, [[step, *epochs]])


def test_no_verdict_where_no_run_beats_the_most_frequent_class():
    rows = [of_accuracy(rate, 0.5) for rate in (None, 2e-5, 1e-3)]
    data = {"most_frequent": "y", "most_frequent_share": 0.5}
    assert judge(rows, 2e-5, data).startswith(
        "No verdict: no run is better than always"
    )
    rows[2] = of_accuracy(1e-3, 0.6)
    assert judge(rows, 2e-5, data).startswith("Untuned, armijo_adam is level with")
    rows[2] = of_accuracy(1e-3, 0.9)
    said = judge(rows, 2e-5, data)
    assert "is behind the best of 2 AdamWs" in said
    assert "ahead of it in log loss" in said and "took 9 s, the sweep 18 s" in said


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


def test_scores_of_seeds_have_the_error_of_rows_and_of_seeds():
    summaries = [{"accuracy": x, "accuracy_error": 0.03} for x in (0.7, 0.78)]
    result = score(summaries, "accuracy")
    assert result.mean == pytest.approx(0.74)
    assert result.error == pytest.approx(0.05)  # 0.04 from the seeds
    assert score(summaries[:1], "accuracy").error == pytest.approx(0.03)


def test_a_score_that_is_not_a_number_is_behind():
    good, bad = Score(0.5, 0.1), Score(float("nan"), 0.1)
    assert (compare(bad, good), compare(good, bad)) == ("behind", "ahead of")
