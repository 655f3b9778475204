"""Small problems that are hard for a line search, in every form and precision.

Run ``python benchmarks/fuzz.py``, or ``--quick`` for a look. By form and precision, it
prints how many runs decreased the loss by at least half as much as the best of four
Adams, and how many ended badly. All losses are measured over all rows in float32.
``--kinds``, ``--forms`` and ``--precisions`` choose what is run; ``--record NAME``
keeps the tables in ``benchmarks/results/NAME.json``.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cli import make_parser, positive, some_of
from provenance import RESULTS, environment, write_result
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import optax_armijo as oa

ROWS = 64
ADAM_RATES = (1e-4, 1e-3, 1e-2, 1e-1)
FACTOR = 2.0
LONG = 20  # steps in a row without a move that count as standing still
LOST = 10  # steps in a row on a loss that is not finite that count as lost
BAD_BATCHES = 7  # one in so many is NaN, in the kind of that name


def wide(x: jax.Array) -> jax.Array:
    """In float32 or wider, as the guides say that losses are to be reduced."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def network(params: Any, x: jax.Array) -> jax.Array:
    """Three layers, 4 -> 8 -> 8 -> 2, [rows, 2]."""
    h = jnp.tanh(x @ params["first"]["w"] + params["first"]["b"])
    h = jnp.tanh(h @ params["second"]["w"] + params["second"]["b"])
    return wide(h @ params["head"]["w"] + params["head"]["b"])


def regression(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.mean((network(params, x)[:, 0] - y) ** 2)


def classes(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    labels = (y > 0).astype(jnp.int32)
    logits = network(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def density(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """Of Gaussians, each with a mean and a width; it goes below zero."""
    mean, log_width = network(params, x).T
    return jnp.mean(log_width + 0.5 * ((y - mean) / jnp.exp(log_width)) ** 2)


def kinks(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """Each about a point that no param in low precision comes to lie on."""
    del x, y
    return jnp.sum(_distances(params))


def root_kinks(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    del x, y
    return jnp.sum(jnp.sqrt(_distances(params)))


def _distances(params: Any) -> jax.Array:
    flat = [jnp.ravel(wide(w)) for w in jax.tree.leaves(params)]
    return jnp.abs(jnp.concatenate(flat) - 0.3001)


def exponential(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """Exponential regression; its one rate must stay above zero."""
    rate = wide(x[:, 0] * jnp.mean(params["head"]["w"]))
    return jnp.mean(y / rate + jnp.log(rate))


class Kind(NamedTuple):
    """A kind of problem; scales go round from seed to seed."""

    loss: Callable[[Any, jax.Array, jax.Array], jax.Array]
    inputs: tuple[float, ...] = (1.0,)
    scales: tuple[float, ...] = (1.0,)
    offset: float = 0.0
    has_nans: bool = False


KINDS = {
    "regression": Kind(regression),
    "classes": Kind(classes),
    "loss scaled": Kind(regression, scales=(1e-8, 1e-4, 1e4, 1e8)),
    "offset": Kind(regression, offset=1e4),
    "inputs scaled": Kind(regression, inputs=(1e-4, 1e-2, 1e2, 1e4)),
    "NaN batches": Kind(regression, has_nans=True),
    "|w|": Kind(kinks),
    "sqrt|w|": Kind(root_kinks),
    "density": Kind(density),
    "exponential": Kind(exponential, inputs=(0.01, 1.0, 100.0)),
}
LOSSES = list(dict.fromkeys(kind.loss for kind in KINDS.values()))


class Precision(NamedTuple):
    """dtypes of params and of what is computed; whether gradients are of a scaled loss.

    The Adams' moments are float32 as ours are, or they would compare nothing else.
    """

    params: str
    compute: str
    is_scaled: bool = False


PRECISIONS = {
    "float32": Precision("float32", "float32"),
    "float64": Precision("float64", "float64"),
    "bfloat16": Precision("bfloat16", "bfloat16"),
    "float16": Precision("float16", "float16", is_scaled=True),
    "bfloat16 compute": Precision("float32", "bfloat16"),
    "float16 compute": Precision("float32", "float16", is_scaled=True),
}


def widened(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """With moments in float32 or wider, as ours are, whatever params are."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = inner.update(jax.tree.map(wide, updates), state)
        return jax.tree.map(lambda u, p: u.astype(p.dtype), updates, params), state

    init = lambda params: inner.init(jax.tree.map(wide, params))  # noqa: E731
    return optax.GradientTransformation(init, update)


def behind_adam() -> optax.GradientTransformation:
    """The search alone, behind Adam as the guide to chains has it."""
    adam = optax.apply_if_finite(optax.scale_by_adam(), 1000)
    return optax.chain(widened(adam), optax.scale(-1.0), oa.scale_by_armijo())


# From the number of steps of a run.
FORMS: dict[str, Callable[[int], optax.GradientTransformation]] = {
    "armijo_adam": lambda _: oa.armijo_adam(),
    "num_steps": lambda num_steps: oa.armijo_adam(num_steps=num_steps),
    "averaged": lambda _: oa.average_iterates(oa.armijo_adam()),  # its last iterate
    "one_group": lambda _: oa.armijo_adam(oa.one_group),
    "armijo_adamw": lambda _: oa.armijo_adamw(),
    "scale_by_armijo": lambda _: behind_adam(),
    "adamsls": lambda _: oa.adamsls(),
    "plasls": lambda _: oa.plasls(oa.by_layer),
    "salsa": lambda _: oa.salsa(),
    "kensls": lambda _: oa.kensls(),
    "sls": lambda _: oa.sls(),
    "amsgrad_sls": lambda _: oa.amsgrad_sls(),
    "ponos": lambda _: oa.ponos(),
}


COLUMNS = (
    "form",
    f"within {FACTOR:g} of Adam",
    "of Adam in float32",
    "ended higher",
    "dead",
    "stood still",
    "lost",
    "NaN",
    "short of Adam",
)


class Problem(NamedTuple):
    """What a run is made of, in float32."""

    loss: jax.Array  # i32[], which of LOSSES
    params: Any
    x: jax.Array  # f32[rows, 4]
    y: jax.Array  # f32[rows]
    scale: jax.Array  # f32[]
    offset: jax.Array  # f32[]
    has_nans: jax.Array  # bool[]

    def loss_of(self, params: Any, rows: Any, dtype: Any) -> jax.Array:
        """The loss of these rows, computed in `dtype`, reduced in float32 or wider."""
        params = jax.tree.map(lambda w: w.astype(dtype), params)
        x, y = self.x[rows].astype(dtype), wide(self.y[rows].astype(dtype))
        return jax.lax.switch(self.loss, LOSSES, params, x, y)


def make_problem(kind: jax.Array, seed: jax.Array) -> Problem:
    """A problem of the kind of this number."""
    keys = jax.random.split(jax.random.key(seed), 5)
    sizes = {"first": (4, 8), "second": (8, 8), "head": (8, 2)}
    params = {
        name: {
            "w": jax.random.normal(key, size) / jnp.sqrt(size[0]),
            "b": jnp.zeros(size[1]),
        }
        for key, (name, size) in zip(keys, sizes.items(), strict=False)
    }
    x = jax.random.normal(keys[3], (ROWS, 4))
    y = jnp.sin(2 * x[:, 0]) * x[:, 1]

    def chosen(numbers: Sequence[tuple[float, ...]]) -> jax.Array:
        of_kinds = jnp.array([(12 * row)[:12] for row in numbers], jnp.float32)
        return of_kinds[kind, seed % 12]

    losses = [LOSSES.index(kind.loss) for kind in KINDS.values()]
    loss = jnp.array(losses, jnp.int32)[kind]
    is_positive = loss == LOSSES.index(exponential)
    x = jnp.where(is_positive, jnp.exp(x), x)
    y = jnp.where(is_positive, x[:, 0] * jax.random.exponential(keys[4], (ROWS,)), y)
    head = params["head"]
    head["w"] = jnp.where(is_positive, 3.0, head["w"])
    inputs = chosen([kind.inputs for kind in KINDS.values()])
    return Problem(
        loss=loss,
        params=params,
        x=x * inputs,
        y=jnp.where(is_positive, y * inputs, y),
        scale=chosen([kind.scales for kind in KINDS.values()]),
        offset=chosen([(kind.offset,) for kind in KINDS.values()]),
        has_nans=jnp.array([kind.has_nans for kind in KINDS.values()])[kind],
    )


class Ends(NamedTuple):
    """How runs went, [kinds, seeds] each; losses are over all rows, without scale.

    Attributes:
      first: the loss before the first step.
      last: the loss after the last one.
      still: most steps in a row in which no param changed.
      lost: most steps in a row on a loss that was not finite.
      has_nan: whether a param is NaN at the end.
    """

    first: Any
    last: Any
    still: Any
    lost: Any
    has_nan: Any


def train(
    tx: Any, problem: Problem, precision: Precision, num_steps: int, batch_size: int
) -> Ends:
    """One run."""
    tx = optax.with_extra_args_support(tx)

    def measure(params: Any) -> jax.Array:
        return problem.loss_of(params, jnp.arange(ROWS), jnp.float32)

    def step_fn(carry: Any, step: jax.Array) -> tuple[Any, None]:
        params, state, counts, most = carry
        rows = (batch_size * step + jnp.arange(batch_size)) % ROWS
        is_bad = problem.has_nans & (step % BAD_BATCHES == BAD_BATCHES - 1)

        def value_fn(params: Any) -> jax.Array:
            loss = problem.loss_of(params, rows, precision.compute)
            loss = loss * problem.scale + problem.offset
            return jnp.where(is_bad, jnp.nan, loss)

        def scaled(params: Any) -> tuple[jax.Array, jax.Array]:
            value = value_fn(params)
            return value * oa.loss_scale(state), value

        (_, value), grads = jax.value_and_grad(scaled, has_aux=True)(params)
        updates, state = tx.update(
            grads, state, params, value=value, grad=grads, value_fn=value_fn
        )
        moved = optax.apply_updates(params, updates)
        same = jax.tree.map(lambda old, new: jnp.all(old == new), params, moved)
        is_still = jnp.all(jnp.stack(jax.tree.leaves(same)))
        flags = jnp.stack([is_still, ~jnp.isfinite(value)])
        counts = jnp.where(flags, counts + 1, 0)
        return (moved, state, counts, jnp.maximum(most, counts)), None

    start = jax.tree.map(lambda w: w.astype(precision.params), problem.params)
    none = jnp.zeros(2, jnp.int32)
    carry = (start, tx.init(start), none, none)
    (end, _, _, (still, lost)), _ = jax.lax.scan(step_fn, carry, jnp.arange(num_steps))
    nans = jnp.stack([jnp.any(jnp.isnan(w)) for w in jax.tree.leaves(end)])
    return Ends(measure(start), measure(end), still, lost, jnp.any(nans))


def program(
    make: Callable[[Any], optax.GradientTransformation],
    precision: Precision,
    options: argparse.Namespace,
) -> Callable[[Any], Ends]:
    """From a rate to all runs of ``make(rate)``, [kinds, seeds] each."""

    def one(rate: jax.Array, kind: jax.Array, seed: jax.Array) -> Ends:
        tx = oa.dynamic_loss_scale(make(rate)) if precision.is_scaled else make(rate)
        problem = make_problem(kind, seed)
        return train(tx, problem, precision, options.steps, options.batch_size)

    @jax.jit
    def run(rate: jax.Array) -> Ends:
        seeds = jnp.arange(options.seeds)
        kinds = jnp.array([list(KINDS).index(kind) for kind in options.kinds])
        # One kind after the other, or every step would compute the losses of all.
        of_kind = lambda kind: jax.vmap(lambda seed: one(rate, kind, seed))(seeds)  # noqa: E731
        return jax.lax.map(of_kind, kinds)

    return lambda rate: jax.device_get(run(jnp.float32(rate)))


def decreases(ends: Ends) -> np.ndarray:
    """Of the loss; minus infinity for runs that end on no number."""
    return np.where(np.isfinite(ends.last), ends.first - ends.last, -np.inf)


def row(
    name: str, ends: Ends, in_dtype: np.ndarray, in_float32: np.ndarray, kinds: Any
) -> list[str]:
    """The table's row of a form, or of the best Adam, in a precision."""
    found = decreases(ends)
    is_short = found < in_dtype / FACTOR
    flags = (
        ~is_short,
        found >= in_float32 / FACTOR,
        found < 0,
        ~np.isfinite(ends.last),
        is_short & (ends.still >= LONG),
        ends.lost >= LOST,
        ends.has_nan,
    )
    where = zip(kinds, np.sum(is_short, axis=1), strict=True)
    counts = [str(np.sum(flag)) for flag in flags]
    return [name, *counts, ", ".join(f"{kind} {n}" for kind, n in where if n)]


def best_of(runs: Sequence[Ends]) -> Ends:
    """Of each problem the run with the largest decrease."""
    best = np.argmax([decreases(ends) for ends in runs], axis=0)[None]
    parts = [np.stack(part) for part in zip(*runs, strict=True)]
    return Ends(*(np.take_along_axis(part, best, axis=0)[0] for part in parts))


def print_tables(
    options: argparse.Namespace, console: Console
) -> dict[str, list[list[str]]]:
    """Prints a table a precision; returns their rows."""
    rows: dict[str, list[list[str]]] = {}
    with Progress(console=console, transient=True) as progress:
        num_programs = len(options.precisions) * (len(options.forms) + 1)
        task = progress.add_task("training", total=num_programs + 1)

        def best_adam(precision: Precision) -> Ends:
            run = program(lambda rate: widened(optax.adam(rate)), precision, options)
            best = best_of([run(rate) for rate in ADAM_RATES])
            progress.advance(task)
            return best

        in_float32 = decreases(best_adam(PRECISIONS["float32"])).clip(0)
        for name in options.precisions:
            precision = PRECISIONS[name]
            jax.config.update("jax_enable_x64", precision.params == "float64")
            best = best_adam(precision)
            in_dtype = decreases(best).clip(0)
            title = f"{name}: {in_dtype.size} runs of {options.steps} steps"
            rows[name] = []
            table = Table(*COLUMNS, title=title, title_justify="left")

            def add(form: str, ends: Ends) -> None:
                cells = row(form, ends, in_dtype, in_float32, options.kinds)  # noqa: B023
                rows[name].append(cells)  # noqa: B023
                table.add_row(*cells)  # noqa: B023

            add("best of four Adams", best)
            for form in options.forms:
                tx = FORMS[form](options.steps)
                add(form, program(lambda _: tx, precision, options)(0))  # noqa: B023
                progress.advance(task)
            console.print(table)
    jax.config.update("jax_enable_x64", False)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    for option, names in (
        ("--kinds", KINDS),
        ("--forms", FORMS),
        ("--precisions", PRECISIONS),
    ):
        parser.add_argument(
            option,
            type=some_of([*names]),
            default=list(names),
            metavar="A,B",
            help=f"of {', '.join(names)}; all",
        )
    parser.add_argument("--seeds", type=positive, default=16, help="runs of each kind")
    parser.add_argument("--steps", type=positive, default=500, help="of each run")
    text = f"rows in a step, of {ROWS}; default 16"
    parser.add_argument("--batch-size", type=positive, default=16, help=text)
    parser.add_argument("--quick", action="store_true", help="a few runs, in seconds")
    text = "keep the tables in results/NAME.json; default fuzz"
    parser.add_argument("--record", nargs="?", const="fuzz", metavar="NAME", help=text)
    options = parser.parse_args(argv)
    if options.batch_size > ROWS:
        parser.error(f"--batch-size must be {ROWS} at most; got {options.batch_size}")
    if options.quick:
        options.seeds, options.steps = 2, 80  # the warm-up is a quarter of it
        options.forms, options.precisions = ["armijo_adam"], ["float32", "bfloat16"]
    # Rich takes a file or a pipe to be 80 columns wide.
    start = time.perf_counter()
    rows = print_tables(options, Console(width=None if sys.stdout.isatty() else 160))
    minutes = round((time.perf_counter() - start) / 60, 1)
    print(f"{minutes} minutes")
    if options.record:
        made = environment(vars(options)) | {"minutes": minutes}
        write_result(
            RESULTS / f"{options.record}.json",
            made | {"columns": COLUMNS, "rows": rows},
        )


if __name__ == "__main__":
    main()
