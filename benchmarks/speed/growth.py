"""How what the search adds grows: with params, with groups, with devices.

Run ``python benchmarks/speed/growth.py``. Programs are compiled for shapes, up to 1e9
params, and the compiled program's own analysis tells how many bytes a step moves and
holds; up to 1e8 params its steps are made and timed as well. What is ours is that of a
step with a trial, less Adam's and less one evaluation of the loss; bytes are in units
of the params: 1 is as much as reading all of them once. Beside the times stands that of
one pass: what reading all params and writing as many new ones takes.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402
from programs import compile_step  # noqa: E402
from provenance import RESULTS, environment, write_result  # noqa: E402
from turns import median_seconds  # noqa: E402

from optax_armijo import armijo_adam, by_stacked_layer  # noqa: E402

WIDTHS = (512, 1600, 5040, 15840)  # of four layers: 1e6 to 1e9 params
LAYERS = (1, 10, 100, 1000)
DEVICES = (1, 2, 4, 8)
MOST_TIMED = 2e8  # params; beyond, memory ends on small machines
WARM_UP, STEPS = 2, 9  # the first step searches
PATH = RESULTS / "speed" / "growth.json"


class Net(NamedTuple):
    """Layers of one width in one array, [L, D, D], on a batch of rows, [B, D]."""

    num_layers: int
    width: int
    rows: int = 8

    def loss_fn(self, params: Any, batch: jax.Array) -> jax.Array:
        def layer(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, None]:
            return jnp.tanh(x @ kernel), None

        return jnp.mean(jax.lax.scan(layer, batch, params["layers"])[0] ** 2)

    def values(self) -> tuple[Any, np.ndarray]:
        """Params and a batch, of noise."""
        rng = np.random.default_rng(0)
        shape = (self.num_layers, self.width, self.width)
        layers = rng.standard_normal(shape, np.float32) / self.width**0.5
        return {"layers": layers}, rng.standard_normal(
            (self.rows, self.width), np.float32
        )

    def shapes(self, mesh: Mesh) -> tuple[Any, jax.ShapeDtypeStruct]:
        """Params, their last axis divided among the devices, and the batch."""
        shape = (self.num_layers, self.width, self.width)
        split = NamedSharding(mesh, PartitionSpec(None, None, "devices"))
        copied = NamedSharding(mesh, PartitionSpec())
        params = {"layers": jax.ShapeDtypeStruct(shape, jnp.float32, sharding=split)}
        batch = (self.rows, self.width)
        return params, jax.ShapeDtypeStruct(batch, jnp.float32, sharding=copied)


def main() -> None:
    rows = [
        *(measure("params", Net(4, width), 1) for width in WIDTHS),
        *(measure("groups", Net(number, 64), 1) for number in LAYERS),
        *(measure("devices", Net(4, 1024), number) for number in DEVICES),
    ]
    write_result(PATH, {**environment({}), "rows": rows})
    draw(rows).savefig(PATH.with_suffix(".png"), dpi=110)


def measure(what: str, net: Net, num_devices: int) -> dict[str, Any]:
    """Compiles Adam's step, ours and the loss; one group a layer. Bytes by device."""
    mesh = Mesh(jax.devices()[:num_devices], "devices")
    params, batch = net.shapes(mesh)
    loss = jax.jit(net.loss_fn).lower(params, batch).compile()
    one_pass = jax.jit(partial(jax.tree.map, jnp.negative)).lower(params).compile()
    every_step = armijo_adam(by_stacked_layer(), frequency="every")
    adam, _ = compile_for_shapes(net, optax.adam(1e-4), params, batch)
    ours, seconds = compile_for_shapes(net, every_step, params, batch)
    size = 4 * net.num_layers * net.width**2 / num_devices
    row = {
        "what": what,
        "num_params": net.num_layers * net.width**2,
        "num_groups": net.num_layers,
        "num_devices": num_devices,
        "moved": (moved(ours) - moved(adam) - moved(loss)) / size,
        "adam_moved": moved(adam) / size,
        "held": (held(ours) - held(adam)) / size,
        "compile": seconds,
    }
    if row["num_params"] <= MOST_TIMED:
        values = net.values()
        steppers = {
            "adam": stepper(adam, optax.adam(1e-4), *values),
            "ours": stepper(ours, every_step, *values),
            "loss": caller(loss, *values),
            "pass": caller(one_pass, values[0]),
        }
        times = median_seconds(steppers, WARM_UP, STEPS)
        row["adam_seconds"] = times["adam"]
        row["pass_seconds"] = times["pass"]
        row["seconds"] = times["ours"] - times["adam"] - times["loss"]
    print({k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()})
    return row


def compile_for_shapes(
    net: Net, transform: optax.GradientTransformation, params: Any, batch: Any
) -> tuple[Any, float]:
    def like(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """Moments lie as the params do."""
        like_params = params["layers"]
        sharding = like_params.sharding if leaf.shape == like_params.shape else None
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    state = jax.tree.map(like, jax.eval_shape(transform.init, params))
    return compile_step(net.loss_fn, transform, params, state, batch)


def stepper(
    compiled: Any, transform: optax.GradientTransformation, params: Any, batch: Any
) -> Callable[[], Any]:
    """Returns a function that makes the next step."""
    shardings, _ = compiled.input_shardings
    state = transform.init(jax.tree.map(jnp.asarray, params))
    carry = list(jax.device_put((params, state, batch), shardings))

    def step() -> Any:
        carry[0], carry[1], loss = compiled(*carry)
        return carry, loss

    return step


def caller(compiled: Any, *arguments: Any) -> Callable[[], Any]:
    placed = jax.device_put(arguments, compiled.input_shardings[0])
    return lambda: compiled(*placed)


def moved(compiled: Any) -> float:
    """Bytes read and written; a loop's body counts once."""
    return compiled.cost_analysis()["bytes accessed"]


def held(compiled: Any) -> float:
    """Bytes beside arguments and results."""
    return compiled.memory_analysis().temp_size_in_bytes


def draw(rows: list[dict[str, Any]]) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
    figure, panels = plt.subplots(2, 3, figsize=(10, 5.5), layout="constrained")
    axes, below = panels
    for i, what in enumerate(("params", "groups", "devices")):
        axis, timed = axes[i], below[i]
        chosen = [row for row in rows if row["what"] == what]
        x = [row[f"num_{what}"] for row in chosen]
        axis.plot(x, [row["moved"] for row in chosen], "o-", label="moved, ours")
        axis.plot(x, [row["adam_moved"] for row in chosen], "s:", label="moved, Adam")
        axis.plot(x, [row["held"] for row in chosen], "^--", label="held, ours")
        axis.set(ylim=(0, None))
        chosen = [row for row in chosen if "seconds" in row]
        x = [row[f"num_{what}"] for row in chosen]
        for key, style, name in (
            ("seconds", "o-", "ours"),
            ("adam_seconds", "s:", "Adam's step"),
            ("pass_seconds", "^--", "one pass"),
        ):
            per_param = [1e9 * row[key] / row["num_params"] for row in chosen]
            timed.plot(x, per_param, style, label=name)
        timed.set(yscale="log")
        for each in (axis, timed):
            each.set_xlabel(what)
            each.set_xscale("log", base=2 if what == "devices" else 10)
    axes[0].set_ylabel("times the params' bytes")
    below[0].set_ylabel("nanoseconds a param")
    axes[0].legend()
    below[0].legend()
    return figure


if __name__ == "__main__":
    main()
