"""The examples' metrics file."""

import metrics
import numpy as np


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
