"""What a training step costs on a GPU or a TPU: AdamW and ours, in turn.

``python benchmarks/accelerator.py`` trains a BERT of base size from random weights, in
float32 and in bfloat16, with dropout; it downloads nothing. It prints a table to paste
into an issue and writes it, with its numbers as JSON, to ``benchmarks/results/``. On a
CPU the model is a small one.

In each round every method makes one step, in random order, and the loss alone is timed
as well, so that other load on the machine affects all alike. Shapes: B rows, L tokens.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("examples", "benchmarks", "benchmarks/comparison")
sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS]
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from bert import BertClassifier  # noqa: E402
from cli import make_parser, positive, some_of  # noqa: E402
from flax import nnx  # noqa: E402
from methods import CONSTANT, METHODS, method_of  # noqa: E402
from provenance import RESULTS, environment, write_result  # noqa: E402
from rich.progress import MofNCompleteColumn, Progress  # noqa: E402
from transformers import BertConfig  # noqa: E402

import optax_armijo  # noqa: E402

BASE, FORWARD = f"{CONSTANT}@1e-04", "forward pass"
DTYPES = ("float32", "bfloat16")  # of the forward pass; params stay float32
FIRST = 80  # steps told apart: searches become rarer
WARM_UP, SEED, NUM_CLASSES, WRONG = 3, 0, 3, 0.1
COLUMNS = """\
*Median*, *mean*: times AdamW's. *p99*: the slowest step in a hundred, in forward passes
above AdamW's median. *Trials*: evaluations of the loss per step, besides the
gradient's. *Memory*: of the compiled step, params and state included, as XLA
reports."""


class Size(NamedTuple):
    """A BERT with heads of 64, and its batch."""

    num_layers: int
    width: int
    vocabulary: int
    batch_size: int
    length: int  # tokens a row


SIZES = {
    "base": Size(12, 768, 30522, 32, 128),
    "medium": Size(6, 384, 30522, 32, 32),  # as MiniLM in the comparison
    "small": Size(2, 128, 1000, 16, 32),
    "tiny": Size(1, 64, 50, 4, 8),
}


class Program:
    """A compiled step, the state of its training, and its measurements."""

    def __init__(self, loss_fn: Any, tx: Any, params: Any, batch: Any, key: Any):
        self.num_traces = 0

        def counted_loss(*arguments: Any) -> jax.Array:
            self.num_traces += 1
            return loss_fn(*arguments)

        def start() -> Any:
            # Some states hold params themselves, and no array may be donated twice.
            copied = jax.tree.map(jnp.copy, (params, tx.init(params)))
            return jax.block_until_ready(copied)

        step = optax_armijo.make_train_step(counted_loss, tx)
        self.training, began = start(), time.perf_counter()
        self.compiled = step.lower(*self.training, batch, key).compile()
        self.compile_seconds = time.perf_counter() - began
        self.memory = memory_of(self.compiled)
        for _ in range(WARM_UP):
            self.training = timed(self.compiled, *self.training, batch, key)[1][:2]
        self.training = ()  # before there is another: one is in memory at a time
        self.training = start()
        self.seconds: list[float] = []
        self.evaluations: list[int] = []  # of the loss, beside the gradient's

    def step(self, batch: Any, key: jax.Array) -> None:
        """Makes a step; its time ends when it is computed."""
        seconds, made = timed(self.compiled, *self.training, batch, key)
        *self.training, metrics = made
        self.seconds.append(seconds)
        info = metrics.info
        self.evaluations.append(0 if info is None else int(info.num_evaluations))


def memory_of(compiled: Any) -> int | None:
    """Returns bytes of arguments, results and temporaries; None if not known."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    held = found.argument_size_in_bytes + found.output_size_in_bytes
    return held + found.temp_size_in_bytes - found.alias_size_in_bytes


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Calls a function; returns the seconds until all is computed, and the result."""
    began = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return time.perf_counter() - began, result


def bert(size: Size, dtype: str) -> tuple[Callable[..., jax.Array], Any]:
    """Returns ``(params, batch, key) -> loss`` with dropout, and random params."""
    config = BertConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.width // 64,
        intermediate_size=4 * size.width,
    )
    model = BertClassifier(config, NUM_CLASSES, nnx.Rngs(SEED))
    graphdef, params = nnx.split(model, nnx.Param)

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> jax.Array:
        ids, labels = batch
        model: Any = nnx.merge(graphdef, optax.tree.cast(params, jnp.dtype(dtype)))
        rngs = nnx.Rngs(dropout=key)
        logits = model(ids, jnp.ones_like(ids), jnp.zeros_like(ids), rngs)
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits.astype(jnp.float32), labels
        )
        return jnp.mean(losses)

    return loss_fn, params


def batch_of(step: int, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens int32 [B, L] and labels int32 [B], of which some are wrong.

    A class has a token of its own, three of them in each row. So the loss goes down as
    it does in fine-tuning, and the wrong labels keep it from 0.
    """
    rng = np.random.default_rng((SEED, step))
    labels, others = rng.integers(NUM_CLASSES, size=(2, size.batch_size))
    tokens = rng.integers(
        NUM_CLASSES, size.vocabulary, size=(size.batch_size, size.length)
    )
    tokens[:, 1:4] = labels[:, None]
    labels = np.where(rng.random(size.batch_size) < WRONG, others, labels)
    return tokens.astype(np.int32), labels.astype(np.int32)


def measure(
    size: Size, dtype: str, methods: Sequence[str], num_steps: int, progress: Progress
) -> list[dict[str, Any]]:
    """Makes the steps of all methods in turn; returns a row a method, AdamW's first."""
    loss_fn, params = bert(size, dtype)
    key, first = jax.random.key(SEED), jax.device_put(batch_of(0, size))
    forward = jax.jit(loss_fn).lower(params, first, key).compile()
    programs = {}
    for name in progress.track([BASE, *methods], description=f"{dtype}: compiling"):
        tx = method_of(name).make(optax_armijo.by_layer, num_steps)
        programs[name] = Program(loss_fn, tx, params, first, key)
    names, forwards = [FORWARD, *programs], []
    for number in progress.track(range(num_steps), description=f"{dtype}: stepping"):
        batch = jax.device_put(batch_of(number, size))
        step_key = jax.random.fold_in(key, number)
        jax.block_until_ready((batch, step_key))
        # A place in the order is worth some percent of a step.
        for i in np.random.default_rng(number).permutation(len(names)):
            if names[i] == FORWARD:
                forwards.append(timed(forward, params, batch, step_key)[0])
            else:
                programs[names[i]].step(batch, step_key)
    base = programs[BASE].seconds
    return [
        {"dtype": dtype, "method": name, **figures(x, base, forwards)}
        for name, x in programs.items()
    ]


def figures(
    program: Program, base: Sequence[float], forwards: Sequence[float]
) -> dict[str, float | None]:
    """Returns what a method costs; ratios are to the times of `base`, AdamW's."""
    own, adamws, forward = map(np.array, (program.seconds, base, np.median(forwards)))
    found = {
        "step_seconds": np.median(own),
        "median_ratio": np.median(own) / np.median(adamws),
        "first_mean_ratio": own[:FIRST].mean() / adamws[:FIRST].mean(),
        "mean_ratio": own.mean() / adamws.mean(),
        "forward_ratio": forward / np.median(adamws),
        # The tail, in forward passes above AdamW's median.
        "p99_above": (np.percentile(own, 99) - np.median(adamws)) / forward,
        "first_evaluations": np.mean(program.evaluations[:FIRST]),
        "evaluations": np.mean(program.evaluations),
        "compile_seconds": program.compile_seconds,
    }
    rounded: dict[str, Any] = {name: float(f"{x:.4g}") for name, x in found.items()}
    return rounded | {"memory": program.memory, "num_traces": program.num_traces}


def report(record: dict[str, Any]) -> str:
    """Returns a record in Markdown: where it was made, and a table."""
    settings, peak = record["settings"], record["peak_memory"]
    first, last = f"first {min(FIRST, settings['steps'])}", f"{settings['steps']:,}"
    rows = [
        {
            "compute": x["dtype"],
            "method": x["method"],
            "median step": f"{1e3 * x['step_seconds']:.1f} ms",
            "median": f"{x['median_ratio']:.3f}",
            f"mean, {first}": f"{x['first_mean_ratio']:.3f}",
            f"mean, {last}": f"{x['mean_ratio']:.3f}",
            "p99": f"{x['p99_above']:+.1f}",
            f"trials, {first}": f"{x['first_evaluations']:.2f}",
            f"trials, {last}": f"{x['evaluations']:.2f}",
            "memory": "" if x["memory"] is None else f"{x['memory'] / 1e6:,.0f} MB",
            "compile": f"{x['compile_seconds']:.1f} s",
            "loss traced": str(x["num_traces"]),
        }
        for x in record["rows"]
    ]
    lines = [[*rows[0]], ["---"] * len(rows[0]), *([*x.values()] for x in rows)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    held = f" The device held {peak / 1e6:,.0f} MB at most." if peak else ""
    load = settings["load_average"]
    busy = f", load average {load:.0f}" if load else ""
    return (
        f"BERT, {settings['size']}: {settings['num_params'] / 1e6:.1f} million weights,"
        f" batches of {settings['batch_size']} x {settings['length']} tokens, dropout;"
        f" on {record['device']}, {settings['cores']} cores{busy}, with JAX"
        f" {record['versions']['jax']}, at commit {record['commit']}.{held}\n\n"
        f"{table}\n"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    add, methods = parser.add_argument, some_of([*METHODS])
    add("--size", choices=SIZES, help="default: base, on a CPU small")
    add("--steps", type=positive, default=1000, help="default: 1000")
    add("--batch-size", type=positive, help="default: 32, of the small size 16")
    text = "beside AdamW, default: armijo_adam"
    add("--methods", type=methods, default=["armijo_adam"], metavar="A,B", help=text)
    text = "of the forward pass, default: both"
    dtypes = some_of(DTYPES)
    add("--dtypes", type=dtypes, default=[*DTYPES], metavar="A,B", help=text)
    options = parser.parse_args(argv)
    device = jax.devices()[0]
    name = options.size or ("small" if device.platform == "cpu" else "base")
    size = SIZES[name]
    size = size._replace(batch_size=options.batch_size or size.batch_size)
    if device.platform == "cpu":
        print(
            f"JAX sees neither GPU nor TPU: a BERT of {name} size on the CPU. "
            "https://docs.jax.dev/en/latest/installation.html has JAX for others."
        )
    leaves = jax.tree.leaves(jax.eval_shape(lambda: bert(size, DTYPES[0])[1]))
    settings = {
        "size": name,
        **size._asdict(),
        "num_params": sum(leaf.size for leaf in leaves),
        "steps": options.steps,
        "seed": SEED,
        "cores": os.cpu_count(),
        # What else the machine does; Windows does not tell.
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    made = environment(settings)
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
        rows = [
            row
            for dtype in options.dtypes
            for row in measure(size, dtype, options.methods, options.steps, progress)
        ]
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    record = {**made, "peak_memory": peak, "rows": rows}
    kind = re.sub(r"\W+", "-", device.device_kind).strip("-").lower()
    path = RESULTS / f"accelerator-{kind}-{name}.json"
    write_result(path, record)
    path.with_suffix(".md").write_text(report(record), encoding="utf-8")
    print(f"\n{report(record)}\n{COLUMNS}\n\nwritten to {path}")


if __name__ == "__main__":
    main()
