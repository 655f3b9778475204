"""What programs show: bars and pictures."""

import sys
from typing import Any

import display
import fit_bundle
import fit_camera
import fit_gaussians
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from example_runs import assert_no_ticks_overlap
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from rivals import GSPLAT

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

    figure, above = display.plot_fits(fits(), {"c": 1e-4, "Adam": 1e-3}, "dB", 2)
    assert len(above) == 2
    scores, sizes = figure.axes[2:]
    assert [to_hex(x.get_color()) for x in scores.lines] == [
        x.lower() for x in display.RUN_COLOURS
    ]
    *drawn, own, of_all = [to_hex(x.get_color()) for x in sizes.lines]
    assert len({*drawn}) == 6 and {*drawn} <= SAFE
    assert own == drawn[2] and of_all == to_hex("0.65")


def fits() -> dict[str, Any]:
    """Three runs of ten steps with six groups, which sometimes do not move."""
    rng, runs = np.random.default_rng(0), {}
    for name in ("ours", "first", "second"):
        sizes = [dict(zip("abcdef", rng.random(6), strict=True)) for _ in range(10)]
        sizes[3]["b"] = 0.0
        runs[name] = {"step": [5, 10], "score": rng.random(2), "step_sizes": sizes}
    return runs


def test_step_sizes_and_rates_share_an_axis_from_the_first_step():
    falling = optax.cosine_decay_schedule(1e-2, 10)
    figure, _ = display.plot_fits(fits(), {"Adam": 1e-5, "falling": falling}, "dB", 3)
    scores, sizes = figure.axes[3:]
    assert scores.get_xlim() == sizes.get_xlim() == (0, 10)
    low, high = sizes.get_ylim()
    assert 1e-6 < low < 1e-5, "the constant rate is seen, the end of the other is not"
    assert high > 0.9
    groups, (constant, curve) = sizes.lines[:6], sizes.lines[6:]
    shown, flat, bent = (
        np.asarray(x.get_ydata(), float) for x in (groups[1], constant, curve)
    )
    assert np.isnan(shown[3]), "a group that did not move"
    np.testing.assert_allclose(flat, np.full(10, 1e-5))
    np.testing.assert_allclose(bent, falling(np.arange(10)), rtol=1e-5)
    labels = [x.get_text() for x in figure.subfigs[1].legends[0].get_texts()]
    assert labels == [*"abcdef", "Adam", "falling"]
    figure.draw_without_rendering()
    assert_no_ticks_overlap(figure)


def test_errors_of_a_bundle_adjustment_are_shown_in_pixels():
    first, pairs = fit_bundle.first_estimate(0), np.array([[0, 0], [1, 2]])
    pixels = np.asarray(fit_bundle.project(first, jnp.asarray(pairs))) + 3.0
    run = {"step": [3], "score": [1.0], "params": first._asdict()}
    run["step_sizes"] = [dict.fromkeys(first._fields, 0.1)] * 3
    runs: dict[str, Any] = dict.fromkeys((fit_bundle.OURS, fit_bundle.SWEPT), run)
    figure = fit_bundle.draw(runs, first, pairs, pixels)
    assert [x.get_title() for x in figure.axes[:3]] == [
        f"{name}: 3.0 pixels off" for name in ("first estimate", *runs)
    ]
    for axes in figure.axes[:3]:
        (drawn,) = axes.lines
        np.testing.assert_allclose(np.array(drawn.get_xydata()), -3.0, atol=1e-4)
    figure.draw_without_rendering()
    assert_no_ticks_overlap(figure)


@pytest.mark.parametrize("page", [fit_gaussians, fit_camera])
def test_paintings_are_shown_beside_the_photograph(page):
    is_camera = page is fit_camera
    parts = [*(GSPLAT if is_camera else fit_gaussians.RATES)]
    names = [page.OURS, *([page.PUBLISHED, page.SWEPT] if is_camera else ["Adam"])]
    params = jax.tree.map(lambda x: x[:3], fit_gaussians.initial_params(0))
    params |= {"camera": jnp.zeros(4)}
    sizes = [dict.fromkeys(parts, 0.1)] * 3
    run = {"step": [3], "score": [1.0], "step_sizes": sizes, "params": params}
    size = fit_gaussians.HEIGHT * fit_gaussians.WIDTH
    views = jnp.zeros((2, size, 2)), jnp.full((2, size, 3), 0.5)
    seen = views if is_camera else (views[0][0], views[1][0])
    figure = page.draw(dict.fromkeys(names, run), seen)
    images = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(images) == len(names) + 1 + is_camera
    assert all(
        x.shape == (fit_gaussians.HEIGHT, fit_gaussians.WIDTH, 3) for x in images
    )
    assert np.all(images[0] == 0.5) and not np.any(images[-1] == 0.5)
    if is_camera:
        frames = [line.get_xydata() for line in figure.axes[0].lines]
        assert len(frames) == 4
        assert not np.allclose(frames[0], frames[1], atol=1.0), "true and found"


def test_a_field_is_shown_with_its_colours():
    axes = Figure().subplots()
    display.show_field(axes, "error", np.eye(3), 0.5)
    (image,) = axes.images
    assert image.get_clim() == (-0.5, 0.5) and axes.get_title() == "error"
    assert image.get_extent() == [0, 1, 0, 1] and image.origin == "lower"


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
