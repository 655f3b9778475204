"""The examples' readers and splits."""

import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
import text_data
from command_line import UserError
from text_data import BBC, GLUE, TWEETS, Row, draw, load_data, read_file, split_pool
from wheels import need_wheel

POOL = [Row(f"text {i % 50}", None, "ab"[i % 2]) for i in range(60)]


# Readers


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_files_of_the_user(tmp_path, suffix):
    rows = [Row('a, "quoted" text', "second", "x"), Row("b\nc é", "", "y")]
    path = tmp_path / f"data{suffix}"
    if suffix == ".jsonl":
        lines = [json.dumps({**row._asdict(), "other": 1}) for row in rows]
    else:
        mark = "\t" if suffix == ".tsv" else ","
        lines = [mark.join(("label", "text_pair", "text"))]
        for row in rows:
            quoted = ['"' + str(v).replace('"', '""') + '"' for v in reversed(row)]
            lines.append(mark.join(quoted))
    path.write_text("\n".join(lines), encoding="utf-8")
    assert read_file(path) == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "sentence,label\nx,1\n", "no column 'text'; it has: sentence, label"),
        ("a.csv", "text,class\nx,1\n", "no column 'label'; it has: text, class"),
        ("a.csv", "text,label\nx,1\ny,\n", "'label' is empty in row 2"),
        ("a.csv", "text,label\nx,1\ny\n", "'label' is empty in row 2"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.csv", "", "no rows"),
        (
            "a.jsonl",
            '{"text": "x", "label": 1}\n\n{"text"',
            'line 3 is not JSON: {"text"',
        ),
        ("a.jsonl", "[1]\n", "row 1 is not an object: [1]"),
        (
            "a.csv",
            b"text,label\n\xff\xfe,1\n",
            "cannot be read: line 2 is not UTF-8; save as UTF-8",
        ),
        (
            "a.csv",
            "text,label\nCafé,1\n".encode("latin-1"),
            "cannot be read: line 2 is not UTF-8; save as UTF-8",
        ),
        ("a.xml", "", "must end in .csv, .tsv or .jsonl"),
    ],
)
def test_files_that_do_not_fit(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        read_file(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_a_line_of_jsonl_ends_where_json_says(tmp_path):
    path = tmp_path / "a.jsonl"
    row = Row("one\u2028two\x85three", None, "1")
    fields = {"text": row.text, "label": 1}
    path.write_text(json.dumps(fields, ensure_ascii=False), encoding="utf-8")
    assert read_file(path) == [row]


def test_columns_of_other_names(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("label,premise,stars\n7,fine,good\n")
    columns = {"text": "premise", "label": "stars"}
    assert read_file(path, **columns) == [Row("fine", None, "good")]


GLUE_HEADERS = {
    "cola": ("sentence", None, "label"),
    "mrpc": ("#1 String", "#2 String", "Quality"),
    "qqp": ("question1", "question2", "is_duplicate"),
    "mnli": ("sentence1", "sentence2", "gold_label"),
}


@pytest.mark.parametrize("name", GLUE)
def test_glue_files_and_hub(tmp_path, name, monkeypatch):
    columns = GLUE_HEADERS.get(name, (*GLUE[name], "label"))
    row = Row('He said "so', columns[1] and "And so?", "1")
    values = dict(zip(columns, row, strict=True))
    header = ["index", *filter(None, columns)]
    header = text_data.COLA_HEADER if name == "cola" else header
    line = "\t".join(str(values.get(column, "-")) for column in header)
    lines = [line, line] if name == "cola" else ["\t".join(header), line, line]
    path = tmp_path / "train.tsv"
    text = "\ufeff" * (name == "mrpc") + "\n".join(lines) + "\n"
    path.write_text(text, encoding="utf-8")
    assert read_file(path, name) == [row, row]

    split = "validation_matched" if name == "mnli" else "validation"
    hub = {"train": [values], split: [values, values]}
    module = SimpleNamespace(load_dataset=lambda *_: hub)
    monkeypatch.setitem(sys.modules, "datasets", module)
    assert text_data.read_hub(name) == ([row], [row, row])


def test_glue_line_cut_short_is_named(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("sentence\tlabel\nfine\n")
    with pytest.raises(UserError, match="train.tsv: 'label' is empty in row 1"):
        read_file(path, "sst2")


def test_tweets_and_news_are_all_there():
    need_wheel(TWEETS)
    tweets = Counter(row.label for row in text_data.read_tweets())
    assert tweets == {"negative": 16186, "neutral": 15018, "positive": 6954}
    need_wheel(BBC)
    news = Counter(row.label for row in text_data.read_bbc())
    assert sum(news.values()) == 2225
    assert sorted(news) == ["business", "entertainment", "politics", "sports", "tech"]


# Splits


def test_splits_are_fixed_and_share_no_text():
    train, validation = split_pool(POOL, 20)
    assert (train, validation) == split_pool(POOL, 20)
    assert (len(train), len(validation)) == (30, 20)
    assert not {row.text for row in train} & {row.text for row in validation}


def test_real_splits_are_fixed_and_share_no_text():
    need_wheel(TWEETS)
    first, larger = (load_data("tweets", size) for size in (500, 600))
    assert (len(first.train), len(first.validation)) == (500, 1000)
    assert first.labels == ("negative", "neutral", "positive")
    assert larger.validation == first.validation
    assert larger.train[:500] == first.train
    texts = {row.text for row in larger.train}
    assert not texts & {row.text for row in first.validation}


def test_smaller_draw_is_the_beginning_of_a_larger_one():
    assert draw(POOL, 5, seed=3) == draw(POOL, 9, seed=3)[:5]
    assert draw(POOL, 5, seed=3) != draw(POOL, 5, seed=4)
    assert draw(POOL, None, seed=3) == draw(POOL, 99, seed=3) == POOL


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        (
            "x,1\ny,2",
            "z,3",
            "validation label '3' is none of the training labels: 1, 2",
        ),
        ("x,1\ny,1", "z,1", "all training examples have the one label '1'"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, train, validation, message):
    files = [tmp_path / "train.csv", tmp_path / "validation.csv"]
    for file, rows in zip(files, (train, validation), strict=True):
        file.write_text(f"text,label\n{rows}\n")
    with pytest.raises(UserError) as caught:
        load_data("file", 0, 0, *files)
    assert message in str(caught.value)


def write_labels(path: Path, labels: Iterable[object]) -> Path:
    lines = [f"text {i},{label}" for i, label in enumerate(labels)]
    path.write_text("\n".join(["text,label", *lines]))
    return path


@pytest.mark.parametrize(
    "labels",
    [[i / 64 for i in range(64)], range(64), [f"{i % 25}.5" for i in range(64)]],
    ids=["each its own", "integers", "decimals, repeated"],
)
def test_numbers_as_labels_are_asked_about(labels, tmp_path):
    path = write_labels(tmp_path / "mine.csv", labels)
    found = len(set(labels))
    with pytest.raises(UserError, match=f"{found} labels in 64 rows: is this regress"):
        load_data("file", train_file=path)


@pytest.mark.parametrize("labels", [range(2), [i % 5 for i in range(64)], "abcd" * 4])
def test_classes_are_no_regression(labels):
    text_data.refuse_regression(Path("mine.csv"), [str(x) for x in labels])


@pytest.mark.parametrize("last", ["rare", "rare\ntext 99,rare", ""])
@pytest.mark.parametrize("size", [1, 8, 20, 30])
def test_no_label_of_a_file_is_in_validation_rows_alone(size, last, tmp_path):
    labels = ["rare", *(["a"] * 30), *(["b"] * 9), *([last] if last else [])]
    path = write_labels(tmp_path / "mine.csv", labels)
    for train_size in (0, 3, 8):
        data = load_data("file", train_size, size, path)
        assert {row.label for row in data.train} == {"rare", "a", "b"} == {*data.labels}
        assert len(data.validation) == size
        assert not {row.text for row in data.train} & {x.text for x in data.validation}
    shares = Counter(row.label for row in data.validation)
    assert abs(shares["a"] - size * 30 / len(labels)) < 2, "in proportion"


def test_a_validation_size_that_takes_a_whole_class_is_refused(tmp_path):
    path = write_labels(tmp_path / "mine.csv", "aabbcc")
    with pytest.raises(UserError, match="4: there are 6 different rows, of 3 labels"):
        load_data("file", 0, 4, path)


def test_the_beginning_of_a_files_rows_is_that_of_more_rows(tmp_path):
    path = write_labels(tmp_path / "mine.csv", "abc" * 20)
    few, more = (load_data("file", size, 10, path) for size in (6, 20))
    assert few.train == more.train[:6] and few.validation == more.validation
    assert Counter(row.label for row in few.train) == {"a": 2, "b": 2, "c": 2}


@pytest.mark.parametrize(("rows", "expected"), [(120, 24), (9000, 1000), (3, 1)])
def test_a_pool_gives_a_fifth_of_its_rows_or_1000(rows, expected, tmp_path):
    lines = [f"text {i},{'ab'[i % 2]}" for i in range(rows)]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["text,label", *lines]))
    data = load_data("file", train_file=path)
    assert len(data.validation) == expected
    assert len(data.train) == min(500, rows - expected)


@pytest.mark.parametrize(("size", "message"), [(50, "there are 50"), (0, "needs a")])
def test_validation_size_that_does_not_fit(size, message):
    with pytest.raises(UserError, match=message):
        split_pool(POOL, size)


def test_split_seed_is_what_the_figures_were_made_with():
    assert text_data.SPLIT_SEED == 240318506
