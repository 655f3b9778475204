"""Draws the step sizes that a fine-tuned BERT's layers found, as a heat map.

    python examples/finetune_bert.py --groups layer --output-dir runs/layer
    python docs/figures/step_sizes.py runs/layer/metrics.jsonl

Without a file it draws the kept record of such a run again.
"""

import json
import sys
from pathlib import Path

import numpy as np
from canvas import BLUE, IMAGES, new_figure, save

RECORD = Path(__file__).with_suffix(".json")


def main(metrics: Path | None = None, folder: Path = IMAGES) -> None:
    if metrics is not None:
        RECORD.write_text(json.dumps(read(metrics)) + "\n")
    record = json.loads(RECORD.read_text())
    sizes = np.array(record["step_sizes"])
    relative = sizes / np.median(sizes, axis=0)
    figure = new_figure(7.0, 5.0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    steps = np.arange(1, sizes.shape[1] + 1)
    above.semilogy(steps, np.median(sizes, axis=0), color=BLUE)
    above.set_ylabel("median")
    above.set_title(record["title"])
    edges = (0.5, len(steps) + 0.5, len(sizes) - 0.5, -0.5)
    image = below.imshow(
        np.log2(relative),
        aspect="auto",
        cmap="PuOr",
        vmin=-3.0,
        vmax=3.0,
        extent=edges,
        interpolation="nearest",
    )
    below.set_yticks(range(len(sizes)), record["labels"])
    below.set_xlabel("step")
    bar = figure.colorbar(image, label="step size / median", extend="both")
    bar.set_ticks(range(-3, 4), labels=["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    save(figure, "step_sizes.png", folder)


def read(metrics: Path) -> dict[str, object]:
    """Returns the part of a run's metrics that is drawn."""
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    settings = next(x["settings"] for x in records if x["kind"] == "run")
    steps = [x["step_size"] for x in records if x["kind"] == "step"]
    labels = list(steps[0])
    return {
        "title": f"{settings['model']}, {settings['train_size']} {settings['task']}, "
        "every layer searched by itself",
        "labels": labels,
        "step_sizes": [[float(f"{x[label]:.3g}") for x in steps] for label in labels],
    }


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
