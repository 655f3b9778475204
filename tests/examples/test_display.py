"""What programs show: bars and pictures."""

import sys
from typing import Any

import display
import fit_gaussians
import jax.numpy as jnp
import numpy as np
import pytest
from example_runs import assert_no_ticks_overlap
from matplotlib.colors import to_hex

SAFE = {x.lower() for x in (display.BLUE, display.ORANGE, display.YELLOW)}
SAFE |= {x.lower() for x in (display.PURPLE, display.SKY, display.BLACK)}
OKABE_ITO = "#000000 #e69f00 #56b4e9 #009e73 #f0e442 #0072b2 #d55e00 #cc79a7".split()
GREY = to_hex("0.75")


def run_of(num_groups: int, spread: float, **scores: float) -> list[dict[str, Any]]:
    """Records of a run with random step sizes."""
    rng, records = np.random.default_rng(0), []
    for step in range(1, 41):
        found = 1e-3 * 2 ** (spread * rng.normal(size=num_groups))
        sizes = {f"layer_{i}": float(x) for i, x in enumerate(found)}
        record = {"kind": "step", "step": step, "loss": 1.0 + rng.random()}
        records.append({**record, "step_size": sizes})
        if step % 10 == 0:
            epoch = {"kind": "epoch", "step": step, "train_loss": 1.5}
            records.append({**epoch, **scores})
    return records


@pytest.mark.parametrize(("num_groups", "spread"), [(2, 0.1), (8, 1.0), (40, 4.0)])
@pytest.mark.parametrize(
    "scores", [{"accuracy": 0.5, "log_loss": 1.2}, {"loss": 1.2}, {}]
)
def test_no_ticks_of_a_runs_picture_overlap(num_groups, spread, scores):
    figure = display.plot_run(run_of(num_groups, spread, **scores), "a run")
    figure.draw_without_rendering()
    assert_no_ticks_overlap(figure)


def test_axes_of_a_runs_picture_begin_at_0_or_at_the_data():
    loss, sizes, accuracy, heat, _ = display.plot_run(
        run_of(4, 1.0, accuracy=0.5, log_loss=1.2), "a run"
    ).axes
    assert loss.get_ylim()[0] == 0.0
    for axes in (loss, sizes, accuracy, heat):
        assert axes.get_xlim() == (0.5, 40.5), "the cells of steps 1 to 40"


def test_curves_have_colours_that_the_colour_blind_tell_apart():
    assert {*OKABE_ITO} >= SAFE and "#009e73" not in SAFE, "no green beside the red"
    run = display.plot_run(run_of(4, 1.0, accuracy=0.5, log_loss=1.2), "a run")
    loss, _, accuracy, *_ = run.axes
    drawn = [to_hex(x.get_color()) for x in (*loss.lines, *accuracy.lines)]
    assert {*drawn} <= SAFE | {GREY}

    sizes = [dict.fromkeys(fit_gaussians.RATES, 0.1)] * 3
    pictured = jnp.zeros((fit_gaussians.HEIGHT * fit_gaussians.WIDTH, 3))
    runs = {
        name: {"psnr": [1.0, 2.0, 3.0], "step_sizes": sizes, "picture": pictured}
        for name in (fit_gaussians.OURS, fit_gaussians.HAND_TUNED)
    }
    *_, psnr, parts = fit_gaussians.draw(runs, pictured).axes
    assert {to_hex(x.get_color()) for x in psnr.lines} <= SAFE
    assert len({to_hex(x.get_color()) for x in parts.lines}) == len(fit_gaussians.RATES)
    assert {to_hex(x.get_color()) for x in parts.lines} <= SAFE
    assert psnr.get_xlim()[0] == parts.get_xlim()[0] == 0.0


def test_a_bar_is_shown_on_a_terminal_alone(monkeypatch):
    hidden = []

    def record(steps, *_, disable, **__):
        hidden.append(disable)
        return steps

    monkeypatch.setattr(display, "track", record)
    for is_terminal in (True, False):
        monkeypatch.setattr(sys.stdout, "isatty", lambda shown=is_terminal: shown)
        assert list(display.progress(range(3), "steps")) == [0, 1, 2]
    assert hidden == [False, True]
