"""The trial on a user's own file: what it writes, goes on with, and says."""

from typing import Any

import finetune_bert
import pytest
import trial
from command_line import tell
from example_runs import assert_no_ticks_overlap, assert_refused
from run_folder import read
from trial_report import (
    PAGE,
    Method,
    Score,
    compare,
    describe,
    judge,
    plot,
    score,
    tabulate,
)


@pytest.mark.slow
def test_a_trial_that_was_stopped_goes_on_and_is_reported(tiny, tmp_path, capsys):
    """One test, so that its runs are made once."""
    own = ["--rates", "1e-3", "--epochs", "2", "--output-dir", str(tmp_path)]
    make_optimizer = finetune_bert.make_optimizer

    def stop_in_adamw(options, num_steps):
        if options.optimizer == "adamw":
            raise KeyboardInterrupt
        return make_optimizer(options, num_steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_bert, "make_optimizer", stop_in_adamw)
        assert tell(trial.main, [*tiny, *own]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    first = (tmp_path / "armijo_adam-0" / "metrics.jsonl").read_text()
    assert tell(trial.main, [*tiny, *own]) == 0
    assert (tmp_path / "armijo_adam-0" / "metrics.jsonl").read_text() == first

    printed = capsys.readouterr()
    out, compiled = printed.out, printed.err.count("compiling a step of adamw")
    assert compiled == 1, "once for all rates"
    facts = "20 examples to train, 16 to validate, labels n, y"
    assert out.index(facts) < out.index("run 2 of")
    facts = "reviews.csv: 20 examples to train, 16 to validate, 2 epochs at batch 8."
    assert facts in out
    assert f"written to {tmp_path / 'report.html'}" in out

    folders = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    names = [path.name for path in folders]
    assert names == ["adamw-0.0001-0", "adamw-0.001-0", "armijo_adam-0"]
    runs = [read(folder) for folder in folders]
    steps = {sum(record["kind"] == "step" for record in run) for run in runs}
    assert len(steps) == 1, "every run has the same budget"

    page = (tmp_path / "report.html").read_text()
    last = runs[-1][-1]
    accuracy = Score(last["accuracy"], last["accuracy_error"])
    plain = page.replace("<b>", "").replace("</b>", "")
    assert f"<td>armijo_adam<td>{accuracy}<td>" in plain
    assert "<td>AdamW 0.0001<td>" in page and "<td>AdamW 0.001<td>" in page
    assert 'src="data:image/png;base64,' in page

    epochs = [x for x in runs[-1] if x["kind"] == "epoch"]
    first, second = [x["seconds"] for x in epochs]
    assert first > second, "it compiles in the first"
    ours, later = Method(None, [runs[-1]]), Method(1e-3, [runs[1]])
    assert 0.0 < ours.compilation == sum(x["compile_seconds"] for x in epochs) < first
    assert ours.seconds == pytest.approx(first + second - ours.compilation)
    assert later.compilation == 0.0, "what the run before it compiled serves"

    argv = [*tiny, *own, "--train-size", "16"]
    assert_refused(trial, argv, "another --output-dir", capsys)


def test_what_is_chosen_without_a_word_is_said():
    settings = {"model": "minilm", "task": "file", "train_file": "mine.csv"}
    settings |= {"validation_size": None, "validation_file": None, "epochs": 5}
    data = {"train_rows": 96, "validation_rows": 24, "batch_size": 32}
    said = "96 examples to train, 24 to validate "
    said += "(1000, at most a fifth: --validation-size)"
    assert said in describe({"settings": settings, "data": data})


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


def test_table_has_header_cells_numbers_to_the_right_and_the_best_in_bold():
    methods = [of_accuracy(rate, x) for rate, x in ((None, 0.5), (2e-5, 0.75))]
    header, ours, adamw = tabulate(methods).splitlines()
    assert header.startswith("<tr><th>method<th>accuracy<th>log loss<th>runs<th>time")
    assert ours.startswith(
        "<tr><td>armijo_adam<td>0.500 ± 0.050<td><b>0.500 ± 0.050</b>"
    )
    assert adamw.startswith("<tr><td>AdamW 2e-05<td><b>0.750 ± 0.050</b><td>0.750 ±")
    assert "td, th {{ text-align: right }}" in PAGE


def test_a_best_rate_at_the_end_of_the_sweep_is_said():
    data = {"most_frequent": "y", "most_frequent_share": 0.4}
    rows = [of_accuracy(rate, x) for rate, x in ((None, 0.5), (1e-4, 0.6), (1e-3, 0.7))]
    assert "at the end of the sweep: --rates gives it more" in judge(rows, 1e-4, data)
    rows.append(of_accuracy(1e-2, 0.6))
    assert "at the end" not in judge(rows, 1e-4, data)


def test_rows_have_an_error_even_if_all_are_right():
    right = {"kind": "epoch", "seconds": 1.0, "train_loss": 0.1}
    right |= {"accuracy": 1.0, "accuracy_error": 0.0}
    step = {"kind": "step", "evaluations": 1}
    rows = [Method(rate, [[step, right]]) for rate in (None, 1e-4)]
    assert "--seeds 3" not in judge(rows, 1e-4, {})


def test_compilation_is_counted_once_for_all_rates():
    data = {"most_frequent": "y", "most_frequent_share": 0.4}
    rows = [of_accuracy(rate, 0.5) for rate in (None, 1e-4, 1e-3)]
    for row, seconds in zip(rows, (20.0, 12.0, 0.0), strict=True):
        row.compilation = seconds
    said = judge(rows, 1e-4, data)
    assert "took 29 s, the sweep 30 s, one AdamW run 21 s" in said


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
    assert figure.axes[0].get_ylim()[0] == 0.0
    assert_no_ticks_overlap(figure)
    shown = [x.get_text() for x in figure.axes[2].get_xticklabels(which="both")]
    assert shown == ["2e-05", "0.0001", "0.0005", "0.001"], "the rates, and no others"


def test_scores_of_seeds_have_the_error_of_rows_and_of_seeds():
    summaries = [{"accuracy": x, "accuracy_error": 0.03} for x in (0.7, 0.78)]
    result = score(summaries, "accuracy")
    assert result.mean == pytest.approx(0.74)
    assert result.error == pytest.approx(0.05)  # 0.04 from the seeds
    assert score(summaries[:1], "accuracy").error == pytest.approx(0.03)


def test_a_score_that_is_not_a_number_is_behind():
    good, bad = Score(0.5, 0.1), Score(float("nan"), 0.1)
    assert (compare(bad, good), compare(good, bad)) == ("behind", "ahead of")
