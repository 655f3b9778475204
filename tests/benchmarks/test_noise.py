"""Regressions whose batches are spoilt, wrong labels, and texts cut into passages."""

from types import SimpleNamespace

import classification
import jax
import noise
import numpy as np
import optax
import pytest
from classification import mislabel
from noise import Batch, regression_target, residual_target
from tasks import TASKS, Setup, make_task
from text_data import Row

TARGETS = {"regression": regression_target, "residual": residual_target}
NOISE = [name for name, (family, *_) in TASKS.items() if family in TARGETS]


def run_of(name, seed=0):
    """All batches of a run, stacked: [steps, B, D], [steps, B, 1] and [steps]."""
    task = make_task(name)
    epochs = [[*task.batches(seed, epoch)] for epoch in range(task.num_epochs)]
    assert {len(batches) for batches in epochs} == {task.steps_per_epoch}
    return Batch(*map(np.stack, zip(*sum(epochs, []), strict=True)))


def noise_of(name):
    """What the labels of a run have beside the target, [steps, B]; and the run."""
    run, target_of = run_of(name), TARGETS[TASKS[name][0]]
    target = target_of(run.inputs.reshape(-1, run.inputs.shape[-1])).reshape(
        run.labels.shape
    )
    return (run.labels - target)[..., 0], run


def each_50th(number):
    return np.arange(number) % 50 == 49


def rows_of(run):
    """The number of different rows, and for each row of a run which of them it is."""
    rows = run.inputs.reshape(-1, run.inputs.shape[-1])
    distinct, which = np.unique(rows, axis=0, return_inverse=True)
    return len(distinct), which.ravel()


# Spoilt batches.


def test_there_are_eleven_kinds():
    assert len(NOISE) == 11


@pytest.mark.parametrize("name", NOISE)
def test_batches_depend_on_the_seed_and_the_epoch_only(name):
    is_first = name.startswith("regression")
    task, shape = make_task(name), (600, 16, 8) if is_first else (1000, 32, 12)
    run, again, other = run_of(name), run_of(name), run_of(name, seed=1)
    jax.tree.map(np.testing.assert_array_equal, run, again)
    assert run.inputs.shape == shape and run.labels.shape == (*shape[:2], 1)
    assert {x.dtype for x in run} == {np.dtype(np.float32)}
    assert not np.array_equal(run.inputs, other.inputs)
    first, second = (next(iter(task.batches(0, epoch))).inputs for epoch in (0, 1))
    assert not np.array_equal(first, second)
    small = make_task(name, Setup(batch_size=4))
    assert next(iter(small.batches(0, 0))).inputs.shape == (4, shape[2])
    assert small.steps_per_epoch == task.steps_per_epoch


@pytest.mark.parametrize("name", NOISE)
def test_inputs_come_again_where_they_should(name):
    number, which = rows_of(run_of(name))
    if name.startswith("regression"):
        assert number == 256
    else:
        assert number == (512 if name == "residual-fixed-noise" else len(which))


@pytest.mark.parametrize("name", NOISE)
def test_losses_jump_only_where_the_kind_says(name):
    scale = run_of(name).scale
    if name == "regression-loss-jumps":
        np.testing.assert_array_equal(scale, np.where(each_50th(600), 100, 1))
    elif name == "residual-loss-jumps":
        assert np.mean(np.log(scale)) == pytest.approx(0, abs=0.15)
        assert np.std(np.log(scale)) == pytest.approx(1.5, rel=0.1)
    else:
        assert np.all(scale == 1)


@pytest.mark.parametrize("name", [x for x in NOISE if x.endswith(("clean", "jumps"))])
def test_labels_are_clean_where_they_should_be(name):
    np.testing.assert_allclose(noise_of(name)[0], 0, atol=1e-5)


def test_fresh_noise_is_another_each_time():
    found, run = noise_of("regression-fresh-noise")
    assert np.std(found) == pytest.approx(2, rel=0.05)
    _, which = rows_of(run)
    assert np.std(found.ravel()[which == 0]) == pytest.approx(2, rel=0.5)


@pytest.mark.parametrize(
    ("name", "size"), [("regression-fixed-noise", 1), ("residual-fixed-noise", 0.7)]
)
def test_fixed_noise_is_of_the_row(name, size):
    found, run = noise_of(name)
    number, which = rows_of(run)
    found = [found.ravel()[which == i] for i in range(number)]
    assert all(np.ptp(x) < 1e-5 for x in found)
    assert np.std([x[0] for x in found]) == pytest.approx(size, rel=0.15)


def test_a_fifth_of_the_labels_are_outliers():
    found, _ = noise_of("regression-outliers")
    is_wrong = np.abs(found) > 1e-4
    assert np.mean(is_wrong) == pytest.approx(0.2, abs=0.02)
    assert np.std(found[is_wrong]) == pytest.approx(5, rel=0.1)


def test_labels_are_thirtyfold_in_each_50th_batch():
    found, run = noise_of("regression-bad-batches")
    is_bad = each_50th(len(found))
    np.testing.assert_allclose(found[~is_bad], 0, atol=1e-5)
    target = run.labels[..., 0] - found
    np.testing.assert_allclose(found[is_bad], 29 * target[is_bad], rtol=1e-4, atol=1e-4)


def test_heavy_tails_are_of_few_labels():
    found, _ = noise_of("residual-heavy-tails")
    expected = 0.5 * np.random.default_rng(0).standard_t(1.5, 100_000)
    quantiles = (0.1, 0.25, 0.5, 0.75, 0.9)
    np.testing.assert_allclose(
        np.quantile(found, quantiles), np.quantile(expected, quantiles), atol=0.03
    )
    assert np.abs(found).max() > 50


def test_swapped_labels_are_those_of_other_rows_of_the_batch():
    found, run = noise_of("residual-swapped-labels")
    is_swapped = np.abs(found) > 1e-6
    # Ten of 32; now and then two rows have nearly the same label.
    assert np.all(is_swapped.sum(1) <= 10) and np.mean(is_swapped.sum(1)) > 9.9
    labels = run.labels[..., 0]
    np.testing.assert_allclose(
        np.sort(labels, axis=1), np.sort(labels - found, axis=1), atol=1e-5
    )


@pytest.mark.parametrize("name", ["regression-clean", "residual-clean"])
def test_adam_learns_what_is_clean(name):
    task, tx = make_task(name), optax.adam(3e-3)
    run = run_of(name)
    run = Batch(*(x[:300] for x in run))

    def step(carry, batch):
        params, state = carry
        grads = jax.grad(task.loss_fn)(params, batch, jax.random.key(0))
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = task.init(0)
    (trained, _), _ = jax.jit(lambda x: jax.lax.scan(step, x, run))(
        (params, tx.init(params))
    )
    before, after = task.evaluate(params), task.evaluate(trained)
    assert after["loss"] < 0.2 * before["loss"]
    assert after["score"] > 3 > 0 > before["score"]


@pytest.mark.parametrize("make", [noise.regression, noise.residual])
def test_an_unknown_kind_is_an_error(make):
    with pytest.raises(ValueError, match="no such kind of .*: 'none'"):
        next(iter(make("none", setup=Setup()).batches(0, 0)))


# Wrong labels.


@pytest.mark.parametrize("num_classes", [2, 5])
def test_wrong_labels_are_of_other_classes_and_all_of_these(num_classes):
    right = np.arange(10_000) % num_classes
    given = mislabel(right, num_classes, 0.2, seed=0)
    is_wrong = given != right
    assert np.mean(is_wrong) == pytest.approx(0.2, abs=0.02)
    shift = (given - right)[is_wrong] % num_classes
    counts = np.bincount(shift, minlength=num_classes)
    assert counts[0] == 0
    np.testing.assert_allclose(
        counts[1:] / counts.sum(), 1 / (num_classes - 1), atol=0.05
    )
    assert given.dtype == right.dtype and {*given} == {*right}


def test_wrong_labels_depend_on_the_seed_and_a_share_of_0_changes_none():
    right = np.arange(1000) % 5
    given = mislabel(right, 5, 0.2, seed=0)
    np.testing.assert_array_equal(given, mislabel(right, 5, 0.2, seed=0))
    assert not np.array_equal(given, mislabel(right, 5, 0.2, seed=1))
    np.testing.assert_array_equal(right, mislabel(right, 5, 0.0, seed=0))
    assert np.all(right != mislabel(right, 5, 1.0, seed=0))


def labels_of(task, seed, epoch):
    """The label that each image of an epoch has been given."""
    pairs = []
    for batch in task.batches(seed, epoch):
        pairs += zip(map(np.ndarray.tobytes, batch.inputs), batch.labels, strict=True)
    return dict(pairs)


def test_digits_have_the_same_wrong_labels_in_each_epoch():
    task, clean = make_task("digits-mislabelled"), make_task("digits-500")
    first, second = (labels_of(task, 0, epoch) for epoch in (0, 1))
    both = first.keys() & second.keys()
    assert len(both) > 450 and all(first[x] == second[x] for x in both)
    right = labels_of(clean, 0, 0)
    assert right.keys() == first.keys()
    assert np.mean([first[x] != right[x] for x in right]) == pytest.approx(
        0.2, abs=0.05
    )
    params = task.init(0)
    assert task.evaluate(params) == clean.evaluate(params)


# Texts.

OFTEN = "what every text begins with"


@pytest.fixture
def made_up(monkeypatch):
    """Sources of 400 texts; each word says of which, but for those all begin with."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(7, 27, 400)
    words = [[OFTEN, *(f"{i}-{j}" for j in range(n))] for i, n in enumerate(lengths)]
    texts = [Row(" ".join(x), None, str(i % 2)) for i, x in enumerate(words)]
    for name in ("whole", "cut"):
        monkeypatch.setitem(classification.SOURCES, name, lambda: texts)
        monkeypatch.setitem(classification.NUM_VALIDATION, name, 100)
    monkeypatch.setitem(classification.WORDS, "cut", 5)
    monkeypatch.setattr(classification, "NUM_PASSAGES", 150)
    return texts


def test_passages_of_a_text_are_on_one_side_only(made_up):
    pool, validation = classification.split("cut")
    assert len(validation) == 150 and len(pool) > 600
    # A passage that texts of both sides have is validated on.
    assert OFTEN not in {row.text for row in pool}
    assert OFTEN in {row.text for row in validation}
    texts = []
    for rows in (pool, validation):
        own = [row for row in rows if row.text != OFTEN]
        sources = [{int(x.split("-")[0]) for x in row.text.split()} for row in own]
        assert {len(row.text.split()) for row in own} == {5}
        assert [{int(row.label)} for row in own] == [
            {i % 2 for i in x} for x in sources
        ]
        assert {len(x) for x in sources} == {1}
        texts.append(set.union(*sources))
    assert not texts[0] & texts[1]
    assert classification.split("cut") == (pool, validation)


def test_texts_that_are_not_cut_are_split_as_they_are(made_up):
    pool, validation = classification.split("whole")
    assert (len(pool), len(validation)) == (300, 100)
    assert {*pool, *validation} == {*made_up}


def test_each_source_of_texts_is_known():
    sources = {a[0] for f, *a in TASKS.values() if f.startswith(("texts", "lora"))}
    assert sources <= {*classification.SOURCES}
    assert {*classification.NUM_VALIDATION, *classification.WORDS} <= sources


def test_sources_of_the_test_list_have_their_labels(monkeypatch):
    moods, topics = ("negative", "neutral", "positive"), ("sports", "politics", "tech")
    for reader, labels in (("read_tweets", moods), ("read_bbc", topics)):
        rows = [Row(f"about {label}", None, label) for label in labels]
        monkeypatch.setattr(classification, reader, lambda rows=rows: rows)
    for source, labels in (
        ("tweets-positive", ["other", "other", "positive"]),
        ("tweets-negative", ["negative", "other", "other"]),
        ("news-3", ["sports", "tech"]),
    ):
        assert [row.label for row in classification.SOURCES[source]()] == labels


def test_wrong_labels_of_texts_are_of_training_rows_alone(made_up, monkeypatch):
    def tokenizer(text, pair, **options):
        ids = [len(word) for word in text.split()]
        return {"input_ids": ids, "token_type_ids": [0] * len(ids)}

    fake = SimpleNamespace(tokenizer=tokenizer)
    monkeypatch.setattr(classification, "checkpoint", lambda: fake)
    texts_of = classification.texts_of.__wrapped__  # without its cache
    right, given = (texts_of("whole", 200, 3, share) for share in (0.0, 0.2))
    for x, y in zip(right.train, given.train, strict=True):
        np.testing.assert_array_equal(x.input_ids, y.input_ids)
    pairs = zip(right.train, given.train, strict=True)
    assert np.mean([x.label != y.label for x, y in pairs]) == pytest.approx(
        0.2, abs=0.1
    )
    assert [x.label for x in right.validation] == [x.label for x in given.validation]
