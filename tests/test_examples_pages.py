"""The examples of one page: each trains at tiny size, and prints what it says."""

import assets
import finetune_lora
import jax.numpy as jnp
import numpy as np
import pytest
import train_digits
import train_language_model
from arguments import tell
from batches import Encoded, eval_batches
from bert import BertClassifier
from flax import nnx
from test_bert import TINY, need_wheel


def rows(capsys, first: str) -> list[list[str]]:
    """The printed table's lines, split at blanks, from the header on."""
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    return lines[[line[:1] for line in lines].index([first]) :]


def test_digits_are_learnt(capsys):
    assert train_digits.main(["--epochs", "2", "--batch-size", "128"]) > 0.8
    header, *epochs = rows(capsys, "epoch")
    assert header[-4:] == ["layer_0", "layer_1", "layer_2", "output"]
    assert [row[0] for row in epochs] == ["1", "2"]
    assert float(epochs[1][1]) < float(epochs[0][1]), "the mean loss falls"
    assert all(float(size) > 0.0 for row in epochs for size in row[-4:])


def test_language_model_beats_the_even_guess(capsys):
    need_wheel(assets.BBC)
    argv = ["--steps", "20", "--batch-size", "8", "--width", "16", "--layers", "2"]
    assert train_language_model.main(argv) < 6.5, "256 bytes are 8 bits"
    header, *lines = rows(capsys, "step")
    assert header[-4:] == ["embeddings", "layer_0", "layer_1", "output"]
    assert [line[0] for line in lines[:10]] == [str(2 * i) for i in range(1, 11)]
    assert all(float(size) > 0.0 for line in lines[:10] for size in line[-4:])
    assert lines[11][0].startswith("The"), "a sample ends it"


def test_lora_trains_adapters_and_head_alone(capsys, monkeypatch):
    need_wheel(assets.MINILM)
    need_wheel(assets.TWEETS)
    monkeypatch.setattr(finetune_lora, "MAX_LENGTH", 16)  # one program, not three
    sizes = ["--train-size", "32", "--validation-size", "32", "--batch-size", "16"]
    argv = [*sizes, "--num-layers", "2", "--epochs", "2"]
    assert 0.0 <= finetune_lora.main(argv) <= 1.0
    (header, *epochs) = rows(capsys, "epoch")
    assert header[-3:] == ["layer_0", "layer_1", "output"], "the embeddings rest"
    assert float(epochs[1][1]) < float(epochs[0][1]), "the mean loss falls"


def test_adapters_change_nothing_before_they_are_trained_and_the_base_rests():
    model = BertClassifier(TINY, 2, nnx.Rngs(0))
    batch = eval_batches([Encoded(np.arange(5), np.zeros(5, int), 1)], 2, 32)
    ids, mask, types = map(jnp.asarray, next(batch)[:3])
    before = model(ids, mask, types)
    finetune_lora.add_adapters(model, 4, nnx.Rngs(1))
    np.testing.assert_array_equal(model(ids, mask, types), before)
    _, trained, rest = nnx.split(model, finetune_lora.TRAINED, ...)
    names = {str(path[-1]) for path, _ in nnx.to_flat_state(trained)}
    assert names == {"lora_a", "lora_b", "kernel", "bias"}
    paths = ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(rest)]
    assert not any("lora" in path or "classifier" in path for path in paths)


@pytest.mark.parametrize(
    ("page", "argv", "message"),
    [
        (train_digits, "--batch-size -1", "--batch-size: '-1' is not an integer >= 1"),
        (
            train_digits,
            "--batch-size 1438",
            "1438: there are 1437 rows to train on",
        ),
        (train_digits, "--epochs 0", "--epochs: '0' is not an integer >= 1"),
        (train_digits, "--seed x", "--seed: 'x' is not an integer >= 0"),
        (train_digits, "--rows 5", "unrecognized arguments: --rows 5"),
        (train_language_model, "--width 97", "--width 97: not a multiple of 4 heads"),
        (train_language_model, "--steps 0", "--steps: '0' is not an integer >= 1"),
        (train_language_model, "--batch-size -1", "'-1' is not an integer >= 1"),
        (finetune_lora, "--rank 0", "--rank: '0' is not an integer >= 1"),
        (finetune_lora, "--num_layers 0", "--num-layers: '0' is not an integer >= 1"),
        (finetune_lora, "--train-size -3", "--train-size: '-3' is not an integer >= 1"),
    ],
)
def test_what_the_user_can_mend_is_one_line(page, argv, message, capsys):
    assert tell(page.main, argv.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{page.__name__}.py: ") and message in line


def test_sizes_larger_than_the_data_are_one_line(capsys):
    need_wheel(assets.TWEETS)
    argv = ["--validation-size", "1000000"]
    assert tell(finetune_lora.main, argv) == 2
    assert "--validation-size 1000000: there are" in capsys.readouterr().err
