"""What the figures look like: large letters, so that a phone shows them too."""

from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

IMAGES = Path(__file__).resolve().parents[1] / "img"
GREY, BLUE, ORANGE = "0.35", "#0072B2", "#D55E00"  # which the colour-blind tell apart


def new_figure(width: float, height: float) -> Figure:
    matplotlib.rcParams.update({"font.size": 12, "legend.fontsize": 11})
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # draws to files; no display is asked for
    return figure


def save(figure: Figure, name: str, folder: Path, **metadata: str) -> None:
    folder.mkdir(exist_ok=True)
    figure.savefig(folder / name, dpi=140, metadata={"Software": None, **metadata})
    print(folder / name)
