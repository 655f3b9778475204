"""The library against its NumPy twin, step by step, in float64.

Both run 100 steps from the same params on the same mini-batches; the library inside
`jit` with JAX's gradients, the twin with gradients by hand. Counts and flags must be
equal, numbers agree to 1e-9. Each run also says which events it is there to exercise,
so that none of them can go untested unnoticed.
"""

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import problems
import pytest
import reference
from reference import Options, Record

import optax_armijo

pytestmark = pytest.mark.usefixtures("x64")

NUM_STEPS = 100
RTOL = 1e-9

# The order of first appearance, of the alphabet and of the numbers are all different.
BY_LAYER = ("layer_9", "layer_9", "layer_10", "layer_10", "layer_2", "layer_2")
BY_LEAF = problems.NAMES
WEIGHTS = (True, False, True, False, True, False)
BIASES = (False, True, False, True, False, True)


class History(NamedTuple):
    """A run, by step."""

    value: np.ndarray  # f[T]
    params: list[np.ndarray]  # f[T, ...], after each step
    loss_average: np.ndarray  # f[T]
    step_size: np.ndarray  # f[T, G]
    applied_step_size: np.ndarray  # f[T, G]
    searched: np.ndarray  # bool[T, G]
    accepted: np.ndarray  # bool[T, G]
    num_trials: np.ndarray  # i[T, G]
    net_factor: np.ndarray  # f[T]
    num_evaluations: np.ndarray  # i[T]


class Run(NamedTuple):
    """What to run, and how."""

    options: dict[str, Any]
    labels: tuple[str, ...] = BY_LAYER
    batches: problems.Batch = problems.make_batches(NUM_STEPS)
    radius: float = np.inf
    outside: float = np.inf  # the loss where params are longer than that
    friction: float | None = None  # of heavy-ball SGD, None for Adam
    mask: tuple[bool, ...] | None = None


class Static(NamedTuple):
    """The part of a run that decides what is compiled."""

    labels: tuple[str, ...]
    mask: tuple[bool, ...] | None
    sgd: bool
    words: tuple[tuple[str, Any], ...]  # the options that are not numbers
    numbers: tuple[str, ...]  # the names of those that are
    plain: bool  # passes no numbers, so that the library's defaults serve


def transformation(static: Static, numbers: dict[str, Any], friction: Any) -> Any:
    """The library's side of a run."""
    labels, options = list(static.labels), dict(static.words) | numbers
    if static.sgd:
        search = optax_armijo.scale_by_armijo(labels, **options)
        return optax.chain(optax.sgd(1.0, momentum=friction), search)
    if static.mask is not None:
        return optax_armijo.armijo_adamw(labels, mask=list(static.mask), **options)
    return optax_armijo.armijo_adam(labels, **options)


def follow(
    static: Static,
    numbers: dict[str, Any],
    friction: Any,
    ball: tuple[Any, Any],
    params: list[jax.Array],
    batches: problems.Batch,
) -> tuple[History, optax_armijo.ArmijoInfo]:
    """Scans the library over the batches."""
    tx = transformation(static, {} if static.plain else numbers, friction)

    def step(carry: Any, batch: problems.Batch) -> tuple[Any, History]:
        params, state = carry

        def loss(params: list[jax.Array]) -> jax.Array:
            return problems.loss_jax(params, batch, *ball)

        value, grads = jax.value_and_grad(loss)(params)
        value = value + batch.loss_offset
        grads = [grads[0] * batch.grad_scale, *grads[1:]]
        grad = {"grad": grads} if static.sgd else {}
        updates, state = tx.update(
            grads, state, params, value=value, value_fn=loss, **grad
        )
        params: Any = optax.apply_updates(params, updates)
        info = optax_armijo.armijo_info(state)
        facts = {name: getattr(info, name) for name in History._fields[3:]}
        facts["loss_average"] = state[1].loss_average
        return (params, state), History(value=value, params=params, **facts)

    (_, state), history = jax.lax.scan(step, (params, tx.init(params)), batches)
    return history, optax_armijo.armijo_info(state)


@functools.cache
def compiled(static: Static) -> Any:
    """`follow`, compiled once for all runs that differ by numbers alone."""
    traced = jax.jit(follow, static_argnums=0).lower(
        static, *arguments(Run({}), static)
    )
    # The compiler takes nearly all the time of these tests, the runs next to none.
    return traced.compile(compiler_options={"xla_backend_optimization_level": "0"})


def static_part(run: Run) -> Static:
    options = Options(**run.options)._asdict()
    unknown = () if run.friction is None else ("b1", "b2", "eps", "momentum")
    unknown += () if run.mask is not None else ("weight_decay",)
    known = {name: options[name] for name in options if name not in unknown}
    words = {k: v for k, v in known.items() if v is None or isinstance(v, str)}
    return Static(
        labels=run.labels,
        mask=run.mask,
        sgd=run.friction is not None,
        words=tuple(words.items()),
        numbers=tuple(sorted(known.keys() - words.keys())),
        plain=not run.options,
    )


def arguments(run: Run, static: Static) -> tuple[Any, ...]:
    """What `follow` takes but for `static`: arrays of the same kinds for any run."""
    options = Options(**run.options)
    numbers = {}
    for name in static.numbers:
        dtype = np.int32 if name in ("max_trials", "num_joint_steps") else np.float64
        numbers[name] = np.asarray(getattr(options, name), dtype)
    friction = np.float64(run.friction or 0.0)
    ball = (np.float64(run.radius), np.float64(run.outside))
    return numbers, friction, ball, problems.make_params(), run.batches


def library(run: Run) -> History:
    """Follows the library."""
    static = static_part(run)
    history, info = compiled(static)(*arguments(run, static))
    assert list(info.labels) == reference.natural_order(run.labels)
    return jax.tree.map(np.asarray, history)


def twin(run: Run) -> tuple[History, list[Record]]:
    """Follows the twin."""
    options = Options(**run.options)
    names = reference.natural_order(run.labels)
    groups = [names.index(label) for label in run.labels]
    mask = run.mask if run.mask is not None else (False,) * len(groups)
    params = problems.make_params()
    moments = reference.init_moments(params)
    search = reference.init_search(options, len(names))
    trace = [np.zeros_like(w) for w in params]
    history, records = [], []
    for i in range(NUM_STEPS):
        batch = problems.Batch(*(leaf[i] for leaf in run.batches))

        def loss(params: list[np.ndarray], batch: problems.Batch = batch) -> float:
            return problems.loss(params, batch, run.radius, run.outside)

        value = loss(params) + float(batch.loss_offset)
        grads = problems.gradient(params, batch)
        grads[0] = grads[0] * batch.grad_scale
        if run.friction is not None:
            trace = [g + run.friction * v for g, v in zip(grads, trace, strict=True)]
            direction = [-v for v in trace]
            params, search, record = reference.scaled_step(
                options, groups, search, params, value, grads, direction, loss
            )
        else:
            params, moments, search, record = reference.armijo_adamw_step(
                options, groups, mask, moments, search, params, value, grads, loss
            )
        facts = {name: getattr(record, name) for name in History._fields[2:]}
        history.append(History(value=np.asarray(value), params=params, **facts))
        records.append(record)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *history), records


def events(run: Run, values: np.ndarray, records: Sequence[Record]) -> Counter[str]:
    """Counts what happened in a run, under the names that the tests ask for."""
    options = Options(**run.options)
    count = Counter[str]()
    known = np.zeros(len(set(run.labels)), bool)  # whether ever searched

    def add(name: str, happened: bool | np.bool_) -> None:
        count[name] += int(happened)

    for value, record in zip(values, records, strict=True):
        tests = [*record.net, *(test for ray in record.rays for test in ray.trials)]
        accepted = any(ray.accepted for ray in record.rays)
        add("loss not finite", any(not np.isfinite(test.loss) for test in tests))
        add("bad batch", not record.good)
        add("no descent", record.good and not record.searchable.all())
        add("nothing searched", record.good and not record.rays)
        add("nothing to move", record.good and not (record.net or accepted))
        add("momentum replaced", record.replaced.any())
        for ray in record.rays:
            kind = "bracketing" if ray.bracketing else "backtracking"
            add(kind, True)
            add(kind + " rejects", not all(trial.passed for trial in ray.trials))
            add(kind + " fails", not ray.accepted)
            add("bracketing again", ray.bracketing and known[ray.moved].all())
            add("bracketing unsettled", ray.accepted and not ray.settled)
            below = options.lower_bound is not None and value <= options.lower_bound
            add("bracketing below the bound", ray.bracketing and below)
            start = np.inf if ray.bracketing else ray.trials[0].factor
            add("not increased", start == 1)
            add("increased in part", 1 < start < options.increase_factor)
            known |= ray.moved
        add("net", bool(record.net))
        add("net shrinks", 0 < record.net_factor < 1)
        add("net stops all", record.net_factor == 0)
        rises = [test.passed and test.loss > value * (1 + 1e-6) for test in record.net]
        add("net lets rise", any(rises))
        decay = options.weight_decay * record.applied_step_size
        add("decay to zero", np.any(decay > 1))
        floor = options.relative_floor * np.median(record.found)
        add("relative floor", np.any(record.step_size == floor))
        add("low bound", np.any(record.found < options.min_step_size))
        add("high bound", np.any(record.step_size == options.max_step_size))
    return count


def narrowest(values: np.ndarray, records: Sequence[Record]) -> float:
    """How near a test came to its bound at the nearest, relative to the loss."""
    margins = [
        abs(test.loss - test.bound) / abs(value)
        for value, record in zip(values, records, strict=True)
        for trials in (record.net, *(ray.trials for ray in record.rays))
        for test in trials
        if np.isfinite(test.loss)
    ]
    return min(margins)


def check(run: Run, *expected: str) -> Counter[str]:
    """Compares a run of both and returns its events, of which some must have come."""
    ours, (theirs, records) = library(run), twin(run)
    count = events(run, theirs.value, records)
    missing = [name for name in expected if not count[name]]
    assert not missing, f"the run never met {missing}, only {dict(+count)}"
    # Nearer than that rounding decides, and equal counts are luck.
    assert narrowest(theirs.value, records) > 10 * RTOL
    for name in ("searched", "accepted", "num_trials", "num_evaluations"):
        np.testing.assert_array_equal(
            getattr(ours, name), getattr(theirs, name), err_msg=name
        )
    for name in (
        "value",
        "loss_average",
        "step_size",
        "applied_step_size",
        "net_factor",
    ):
        np.testing.assert_allclose(
            getattr(ours, name), getattr(theirs, name), rtol=RTOL, err_msg=name
        )
    for name, a, b in zip(problems.NAMES, ours.params, theirs.params, strict=True):
        atol = RTOL * float(np.max(np.abs(b)))  # entries may cross zero
        np.testing.assert_allclose(a, b, rtol=RTOL, atol=atol, err_msg=name)
    return count


def meddled(
    at: Sequence[int], loss_offset: float = 0.0, grad_scale: float = 1.0
) -> problems.Batch:
    """The batches, with another loss or gradient at some steps."""
    batches = problems.make_batches(NUM_STEPS)
    hit = np.isin(np.arange(NUM_STEPS), at)
    return batches._replace(
        loss_offset=np.where(hit, loss_offset, 0.0),
        grad_scale=np.where(hit, grad_scale, 1.0),
    )


# Two of the nine runs have no net: all groups are tested together there, and what is
# tested is what is kept.
NETS = {
    ("cycle", "none"): ("net shrinks",),
    ("cycle", "kept"): ("net shrinks", "net stops all"),
    ("cycle", "searched"): ("net shrinks", "momentum replaced", "backtracking fails"),
    ("joint", "none"): (),
    ("joint", "kept"): ("net shrinks",),
    ("joint", "searched"): ("momentum replaced",),
    ("each", "none"): ("net shrinks",),
    ("each", "kept"): ("net shrinks", "net stops all"),
    ("each", "searched"): ("net", "momentum replaced", "backtracking fails"),
}


@pytest.mark.parametrize(("search", "momentum"), NETS)
def test_every_search_with_every_momentum(search: str, momentum: str):
    # A large increase, else one search in ten alone refuses its first trial.
    options = {"search": search, "momentum": momentum, "increase_factor": 1.3}
    expected = NETS[search, momentum]
    count = check(
        Run(options),
        "bracketing",
        "bracketing rejects",
        "backtracking",
        "backtracking rejects",
        *expected,
    )
    assert bool(count["net"]) == bool({"net", "net shrinks"} & set(expected))


def test_the_defaults():
    check(Run({}), "bracketing rejects", "backtracking rejects", "net shrinks")


@pytest.mark.parametrize("search", ["cycle", "each"])
@pytest.mark.parametrize("start", [1e-8, 1e3])
def test_starts_that_are_far_off(start: float, search: str):
    options = {
        "init_step_size": start,
        "max_step_size": 1e3,
        "search": search,
        "num_joint_steps": 0 if search == "each" else 6,
    }
    check(Run(options), "bracketing rejects", "backtracking rejects", "net")


@pytest.mark.parametrize(
    ("net", "expected"), [("average", ("net", "net lets rise")), ("off", ())]
)
def test_other_nets(net: str, expected: tuple[str, ...]):
    count = check(Run({"net": net, "momentum": "kept"}), *expected)
    assert bool(count["net"]) == (net == "average")


@pytest.mark.parametrize(
    ("lower_bound", "max_trials", "expected"),
    [
        (None, 10, ("bracketing rejects",)),
        (None, 3, ("bracketing again", "bracketing unsettled")),
        (0.0, 3, ("bracketing again", "bracketing unsettled")),
        (1.4, 3, ("bracketing again", "bracketing below the bound")),
    ],
)
def test_lower_bounds(
    lower_bound: float | None, max_trials: int, expected: tuple[str, ...]
):
    options = {
        "momentum": "kept",
        "lower_bound": lower_bound,
        "max_trials": max_trials,
        "increase_factor": 1.5,
    }
    check(Run(options), *expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"max_trials": 1, "init_step_size": 0.2, "max_step_size": 30.0},
            ("bracketing fails", "nothing to move", "net stops all"),
        ),
        (
            {"max_trials": 2, "init_step_size": 0.2},
            ("bracketing unsettled", "net shrinks", "net stops all"),
        ),
        (
            {"max_trials": 3, "init_step_size": 1.0, "max_step_size": 1e3},
            ("backtracking fails", "bracketing again", "nothing to move"),
        ),
    ],
)
def test_few_trials(options: dict[str, Any], expected: tuple[str, ...]):
    others = {"momentum": "kept", "increase_factor": 1.5, "lower_bound": None}
    check(Run({**others, **options}), *expected)


@pytest.mark.parametrize(
    ("momentum", "poison"),
    [
        ("none", {"loss_offset": np.nan}),
        ("kept", {"loss_offset": np.inf}),
        ("searched", {"grad_scale": np.nan}),
        ("none", {"grad_scale": 1e200}),  # finite, but its square is not
    ],
)
def test_bad_batches_change_nothing_but_the_turn(
    momentum: str, poison: dict[str, float]
):
    run = Run({"momentum": momentum}, batches=meddled([0, 3, 40, 41], **poison))
    assert check(run, "bad batch", "net", "backtracking rejects")["bad batch"] == 4


@pytest.mark.parametrize("outside", [np.inf, np.nan])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"search": "cycle"}, ("backtracking rejects",)),
        ({"search": "each", "momentum": "kept"}, ("net shrinks",)),
        (
            {"max_trials": 3, "lower_bound": None, "momentum": "kept"},
            ("bracketing again", "backtracking fails"),
        ),
    ],
)
def test_trials_without_a_finite_loss(
    options: dict[str, Any], expected: tuple[str, ...], outside: float
):
    # Starts so long that the first trial often leaves the ball, params never.
    options = {"increase_factor": 30.0, "decrease_factor": 0.3, **options}
    run = Run(options, radius=20.0, outside=outside)
    assert check(run, "loss not finite", *expected)["loss not finite"] >= 5


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"min_step_size": 0.05, "init_step_size": 0.1, "search": "each"},
            ("low bound",),
        ),
        # Bracketing ends where the next trial would be 2.2 times below the bound.
        (
            {"max_step_size": 0.02, "init_step_size": 0.02 / 5120},
            ("high bound", "increased in part"),
        ),
        ({"relative_floor": 0.9, "search": "each"}, ("relative floor",)),
        # Most of the decrease that is asked for is less than this tolerance.
        (
            {"rounding_ulps": 2e14, "search": "each", "momentum": "kept"},
            ("not increased", "net lets rise"),
        ),
    ],
)
def test_bounds_and_tolerances(options: dict[str, Any], expected: tuple[str, ...]):
    check(Run({"increase_factor": 1.1, **options}), *expected)


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": "kept", "c": 0.2, "num_joint_steps": 11},
        {"momentum": "searched", "c": 0.7, "search": "each", "num_joint_steps": 0},
    ],
)
def test_other_hyperparameters(options: dict[str, Any]):
    others = {
        "b1": 0.8,
        "b2": 0.99,
        "eps": 1e-2,
        "decrease_factor": 0.5,
        "increase_factor": 2.0,
    }
    check(Run({**others, **options}), "net", "backtracking rejects")


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (("all",) * 6, {"momentum": "kept", "increase_factor": 1.3}),
        (BY_LEAF, {"momentum": "searched", "increase_factor": 1.3}),
    ],
)
def test_one_group_and_many(labels: tuple[str, ...], options: dict[str, Any]):
    check(Run(options, labels=labels), "net shrinks", "backtracking rejects")


def test_a_group_without_a_gradient():
    options = {"momentum": "searched", "num_joint_steps": 2}
    batches = meddled([1, 2, 3, *range(12, 18)], grad_scale=0.0)
    run = Run(options, labels=BY_LEAF, batches=batches)
    check(run, "no descent", "nothing searched", "momentum replaced")


@pytest.mark.parametrize(
    ("mask", "options", "expected"),
    [
        (WEIGHTS, {"weight_decay": 0.1, "momentum": "kept"}, ("net stops all",)),
        (BIASES, {"weight_decay": 30.0, "search": "each"}, ("decay to zero",)),
    ],
)
def test_weight_decay_with_a_mask(
    mask: tuple[bool, ...], options: dict[str, Any], expected: tuple[str, ...]
):
    check(Run(options, mask=mask), "net", "backtracking rejects", *expected)


@pytest.mark.parametrize("search", ["cycle", "joint", "each"])
def test_scale_by_armijo_after_sgd(search: str):
    run = Run({"search": search, "increase_factor": 1.1}, friction=0.0)
    check(run, "bracketing rejects", "backtracking rejects")


@pytest.mark.parametrize("search", ["cycle", "joint", "each"])
def test_scale_by_armijo_after_a_direction_that_may_climb(search: str):
    run = Run({"search": search}, friction=0.97)
    check(run, "no descent", "nothing searched", "backtracking rejects")
