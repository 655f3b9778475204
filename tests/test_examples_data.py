"""The examples' readers and splits."""

import json
from collections import Counter

import assets
import pytest
import readers
import text_data
from errors import UserError
from glue import GLUE, read_glue
from readers import Row
from test_bert import need_wheel
from text_data import Sizes, draw, load_data, split_pool

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
    assert readers.read_file(path) == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "sentence,label\nx,1\n", "no column 'text'; it has: sentence, label"),
        ("a.csv", "text,class\nx,1\n", "no column 'label'; it has: text, class"),
        ("a.csv", "text,label\nx,1\ny,\n", "'label' is empty in row 2"),
        ("a.csv", "text,label\nx,1\ny\n", "'label' is empty in row 2"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.csv", "", "no rows"),
        ("a.jsonl", '{"text": "x", "label": 1}\n{"text"', "line 2: not JSON"),
        ("a.jsonl", "[1]\n", "line 1: not a JSON object"),
        ("a.csv", b"text,label\n\xff\xfe,1\n", "cannot be read"),
        ("a.xml", "", "must end in .csv, .tsv or .jsonl"),
    ],
)
def test_files_that_do_not_fit(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        readers.read_file(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("name", GLUE)
@pytest.mark.parametrize("nested", [True, False])
def test_glue_files(tmp_path, name, nested):
    task, columns = GLUE[name], GLUE[name].columns
    folder = tmp_path / task.folder if nested else tmp_path
    folder.mkdir(exist_ok=True)
    header = (
        ["0", "1", "2", "3"] if name == "cola" else ["index", *filter(None, columns)]
    )
    row = Row('He said "so', columns.text_pair and "And so?", "1")
    values = dict(zip(columns, row, strict=True))
    line = "\t".join(str(values.get(column, "-")) for column in header)
    lines = [line, line] if name == "cola" else ["\t".join(header), line, line]
    for file in ("train", task.validation_file):
        text = "\ufeff" * (name == "mrpc") + "\n".join(lines) + "\n"
        (folder / f"{file}.tsv").write_text(text, encoding="utf-8")
    assert read_glue(name, tmp_path) == ([row, row], [row, row])


def test_glue_line_cut_short_is_named(tmp_path):
    for name in ("train", "dev"):
        (tmp_path / f"{name}.tsv").write_text("sentence\tlabel\nfine\n")
    with pytest.raises(UserError, match="train.tsv: no column 'label'; it has: sent"):
        read_glue("sst2", tmp_path)


def test_tweets_and_news_are_all_there():
    need_wheel(assets.TWEETS)
    tweets = Counter(row.label for row in readers.read_tweets())
    assert tweets == {"negative": 16186, "neutral": 15018, "positive": 6954}
    need_wheel(assets.BBC)
    news = Counter(row.label for row in readers.read_bbc())
    assert sum(news.values()) == 2225
    assert sorted(news) == ["business", "entertainment", "politics", "sports", "tech"]


# Splits


def test_splits_are_fixed_and_share_no_text():
    train, validation = split_pool(POOL, 20)
    assert (train, validation) == split_pool(POOL, 20)
    assert (len(train), len(validation)) == (30, 20)
    assert not {row.text for row in train} & {row.text for row in validation}


def test_real_splits_are_fixed_and_share_no_text():
    need_wheel(assets.TWEETS)
    first, again, other = (
        load_data("tweets", Sizes(500, 1000), seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert (len(first.train), len(first.validation)) == (500, 1000)
    assert first.labels == ("negative", "neutral", "positive")
    assert other.validation == first.validation and other.train != first.train
    texts = {row.text for row in first.train + other.train}
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
        ("x,1\ny,1", "z,1", "all training rows have the one label '1'"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, train, validation, message):
    files = [tmp_path / "train.csv", tmp_path / "validation.csv"]
    for file, rows in zip(files, (train, validation), strict=True):
        file.write_text(f"text,label\n{rows}\n")
    with pytest.raises(UserError) as caught:
        load_data("file", Sizes(None, None), 0, None, *files)
    assert message in str(caught.value)


@pytest.mark.parametrize(("size", "message"), [(50, "there are 50"), (None, "needs a")])
def test_validation_size_that_does_not_fit(size, message):
    with pytest.raises(UserError, match=message):
        split_pool(POOL, size)


def test_split_seed_is_what_the_figures_were_made_with():
    assert text_data.SPLIT_SEED == 240318506
