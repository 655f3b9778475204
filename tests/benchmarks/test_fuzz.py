"""The fuzz: a few runs of it, the kinds of problems, and what it refuses."""

import fuzz
import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.mark.slow
def test_a_quick_run_prints_a_table_a_precision(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    fuzz.main(["--quick", "--kinds", "regression,exponential"])
    out = capsys.readouterr().out
    for title in ("float32: 4 runs of 80 steps", "bfloat16: 4 runs of 80 steps"):
        assert title in out
    rows = [line for line in out.splitlines() if "armijo_adam" in line]
    assert len(rows) == 2
    for row in rows:
        cells = [cell.strip() for cell in row.split("│")[2:-2]]
        assert int(cells[0]) >= 3 and int(cells[1]) >= 3
        assert cells[2:] == ["0", "0", "0", "0", "0"]


def test_ends_are_counted_as_they_are():
    ends = fuzz.Ends(
        first=np.full((1, 4), 4.0),
        last=np.array([[1.0, 3.9, 5.0, np.nan]]),
        still=np.array([[30, 30, 0, 0]]),
        lost=np.array([[0, 0, 0, 12]]),
        has_nan=np.array([[False, False, False, True]]),
    )
    adam = np.full((1, 4), 2.0)
    assert fuzz.row("x", ends, adam, 2 * adam, ["a"]) == [
        *("x", "1", "1", "2", "1", "1", "1", "1", "a 3")
    ]


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_problems_are_what_their_kind_says(kind):
    number = list(fuzz.KINDS).index(kind)
    rows = jnp.arange(fuzz.ROWS)
    for seed in range(4):
        problem = fuzz.make_problem(jnp.int32(number), jnp.int32(seed))
        loss, grads = jax.value_and_grad(problem.loss_of)(
            problem.params, rows, jnp.float32
        )
        expected = fuzz.KINDS[kind].loss(problem.params, problem.x, problem.y)
        assert float(loss) == pytest.approx(float(expected), rel=1e-6)
        assert np.isfinite(loss)
        assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--forms", "armijo"], "must be of armijo_adam, "),
        (["--precisions", "float8"], "must be of float32, "),
        (["--kinds", ""], "must be of regression, "),
        (["--seeds", "0"], "must be an integer >= 1"),
        (["--frobnicate"], "unrecognized arguments"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(argv, message, capsys):
    with pytest.raises(SystemExit) as exit:
        fuzz.main(argv)
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
