"""The examples of one page: each trains at tiny size, and prints what it says."""

import json
from typing import Any

import finetune_lora
import fit_bundle
import fit_camera
import fit_gaussians
import fit_neural_ode
import hand_over_rates
import jax.numpy as jnp
import numpy as np
import pytest
import solve_inverse_problem
import train_digits
import train_language_model
from batches import Encoded, eval_batches
from bert import BertClassifier
from command_line import tell
from flax import nnx
from text_data import BBC, MINILM, TWEETS
from tiny_bert import TINY
from wheels import need_wheel


def rows(capsys, first: str) -> list[list[str]]:
    """The printed table's lines, split at blanks, from the header on."""
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    return lines[[line[:1] for line in lines].index([first]) :]


@pytest.mark.slow
def test_digits_are_learnt_behind_a_bar(capsys, monkeypatch):
    bars = []

    def shown(steps, name):
        bars.append((name, len(steps)))
        return steps

    monkeypatch.setattr(train_digits, "progress", shown)
    assert train_digits.main(["--epochs", "3", "--batch-size", "128"]) > 0.8
    assert bars == [(f"epoch {i}", 11) for i in (1, 2, 3)]
    header, *epochs = rows(capsys, "epoch")
    assert header[-4:] == ["layer_0", "layer_1", "layer_2", "output"]
    assert [row[0] for row in epochs] == ["1", "2", "3"]
    assert float(epochs[2][1]) < float(epochs[0][1]), "the mean loss falls"
    assert all(float(size) > 0.0 for row in epochs for size in row[-4:])


@pytest.mark.slow
def test_language_model_beats_the_even_guess(capsys):
    need_wheel(BBC)
    argv = ["--steps", "40", "--batch-size", "8", "--width", "16", "--layers", "2"]
    assert train_language_model.main(argv) < 6.5, "256 bytes are 8 bits"
    header, *lines = rows(capsys, "step")
    assert header[-4:] == ["embeddings", "layer_0", "layer_1", "output"]
    assert [line[0] for line in lines[:10]] == [str(4 * i) for i in range(1, 11)]
    assert all(float(size) > 0.0 for line in lines[:10] for size in line[-4:])


@pytest.mark.slow
def test_lora_trains_adapters_and_head_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    need_wheel(MINILM)
    need_wheel(TWEETS)
    sizes = ["--train-size", "32", "--validation-size", "32", "--batch-size", "16"]
    argv = [*sizes, "--num-layers", "2", "--epochs", "2", "--max-length", "16"]
    assert 0.0 <= finetune_lora.main(argv) <= 1.0
    (header, *epochs) = rows(capsys, "epoch")
    assert finetune_lora.PICTURE.read_bytes().startswith(b"\x89PNG")
    assert header[-3:] == ["layer_0", "layer_1", "output"], "the embeddings rest"
    assert float(epochs[1][1]) < float(epochs[0][1]), "the mean loss falls"
    rival = ["--optimizer", "lora_plus", "--learning-rate", "2e-3"]
    assert 0.0 <= finetune_lora.main([*argv, *rival]) <= 1.0
    (header, *epochs) = rows(capsys, "epoch")
    assert header[-2:] == ["log", "loss"], "no step sizes"
    assert float(epochs[1][1]) < float(epochs[0][1]), "the mean loss falls"


@pytest.mark.slow
def test_rates_of_a_loss_of_ones_own_are_handed_over(tmp_path, capsys):
    """Its parts differ by a thousand in scale; an epoch has fewer than 40 batches."""
    (tmp_path / "mine.py").write_text(
        "import jax, jax.numpy as jnp\n"
        "def init(seed):\n"
        "    return {'small': jnp.full(4, 0.01), 'large': jnp.full(4, 10.0)}\n"
        "def loss(params, noise):\n"
        "    small, large = params['small'] / 0.01 - 3, params['large'] / 10 - 3\n"
        "    return jnp.mean((small - noise) ** 2) + jnp.mean((large - noise) ** 2)\n"
        "def batches(seed, epoch):\n"
        "    keys = jax.random.split(jax.random.key(epoch), 15)\n"
        "    return [jax.random.normal(key, (4,)) for key in keys]\n"
    )
    problem = ["--problem", str(tmp_path / "mine.py"), "--output-dir", str(tmp_path)]
    assert tell(hand_over_rates.main, problem) == 0
    rates = json.loads((tmp_path / "learning_rates.json").read_text())
    assert 300 < rates["large"] / rates["small"] < 3000
    shown = rows(capsys, "learning")[1:]
    assert [row[-1] for row in shown[:2]] == ["large", "small"]
    assert float(shown[0][0]) == pytest.approx(rates["large"], rel=0.01)
    picture = (tmp_path / "learning_rates.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


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


def run_fit(page, argv, tmp_path, capsys, monkeypatch) -> tuple[Any, list[str]]:
    """The scores that a page returns and the lines that it prints; it has drawn."""
    monkeypatch.chdir(tmp_path)
    scores = page.main(argv)
    assert page.PICTURE.read_bytes().startswith(b"\x89PNG")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"written to {page.PICTURE}"
    for name, score in scores.items():
        assert f"{name}: {score:.2f} dB" in lines
    return scores, lines


@pytest.mark.slow
def test_gaussians_are_fitted_with_a_step_size_for_each_part(
    tmp_path, capsys, monkeypatch
):
    scores, _ = run_fit(fit_gaussians, ["--steps", "8"], tmp_path, capsys, monkeypatch)
    assert scores[fit_gaussians.OURS] > 12.0, "it begins at 11.3 dB"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "steps", "better_than", "constants"),
    [
        (fit_bundle, 30, 13.0, ["focal"]),  # it begins at 10.4 dB
        (fit_camera, 8, 10.0, ["camera"]),  # at 9.3
        (fit_neural_ode, 30, 2.0, ["drag", "stiffness"]),  # at 0
        (solve_inverse_problem, 100, 5.0, ["diffusivity", "source"]),  # at -2
    ],
)
def test_constants_are_found_beside_other_params(
    page, steps, better_than, constants, tmp_path, capsys, monkeypatch
):
    argv = ["--steps", str(steps)]
    scores, lines = run_fit(page, argv, tmp_path, capsys, monkeypatch)
    assert len(scores) == 3 - (page is fit_bundle)
    assert scores[page.OURS] > better_than
    at = lines.index(f"{page.OURS}: {scores[page.OURS]:.2f} dB")
    found = lines[at + 1 : at + 1 + len(constants)]
    assert [line.split(":")[0].strip() for line in found] == constants
    assert all("(true: " in line for line in found)
