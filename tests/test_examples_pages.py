"""The examples of one page: each trains at tiny size, and prints what it says."""

import train_digits


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
