"""The optimizers that are compared, by name; each knows how many steps a run has."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import optax
import optimizers
from optax import contrib

import optax_armijo
from optax_armijo import policies

LEARNING_RATES = (2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3)
DECAY = 0.01  # on matrices, not on biases and norms, wherever a method has decay


class Method(NamedTuple):
    """An optimizer of the comparison.

    Attributes:
      make: ``(num_steps) -> transformation``; only schedules need the number.
      eval_params: ``(opt_state, params) -> params`` to validate with.
    """

    make: Callable[[int], optax.GradientTransformation]
    eval_params: Callable[[Any, Any], Any] = lambda _, params: params


def adamw(learning_rate: float) -> Method:
    """The example's AdamW, with warm-up and cosine, at another learning rate."""
    return Method(
        lambda num_steps: optimizers.adamw(learning_rate, DECAY, num_steps).transform
    )


def always(make: Callable[..., Any], *args: Any, **options: Any) -> Method:
    """A method that needs not know the number of steps."""
    return Method(lambda num_steps: make(*args, **options))


def backtracking() -> optax.GradientTransformationExtraArgs:
    """Adam's direction searched by optax's own backtracking, as users chain it."""
    return optax.chain(
        optax.scale_by_adam(),
        optax.scale(-1.0),
        optax.scale_by_backtracking_linesearch(max_backtracking_steps=15),
    )


# The grid: its best in hindsight is what a user gets who sweeps.
GRID = {f"adamw-{rate:.0e}": adamw(rate) for rate in LEARNING_RATES}

# At their documented defaults.
LEARNING_RATE_FREE = {
    "prodigy": always(contrib.prodigy),
    "dadapt_adamw": always(contrib.dadapt_adamw),
    "dog": always(contrib.dog),
    "cocob": always(contrib.cocob),
    "mechanic": always(lambda: contrib.mechanize(optax.adamw(1e-3))),
    "momo_adam": always(contrib.momo_adam),
    "schedule_free_adamw": Method(
        lambda num_steps: contrib.schedule_free_adamw(),
        contrib.schedule_free_eval_params,
    ),
    "adam_backtracking": always(backtracking),
}

PRESETS = {
    "adamsls": always(optax_armijo.adamsls),
    "plasls": always(optax_armijo.plasls),
    "salsa": always(optax_armijo.salsa),
    "ponos": always(optax_armijo.ponos),
}


def linear_decay(num_steps: int) -> optax.GradientTransformation:
    """Ours with its steps scaled down to nothing, for who knows the number of steps."""
    schedule = optax.linear_schedule(1.0, 0.0, num_steps)
    return optax.chain(optax_armijo.armijo_adam(), optax.scale_by_schedule(schedule))


def averaged(part: float = 0.25, **options: Any) -> Method:
    """Ours, validated at the average over the last part of the iterates."""
    return Method(
        lambda num_steps: optax_armijo.average_iterates(
            optax_armijo.armijo_adam(**options), part
        ),
        optax_armijo.averaged_params,
    )


# The mean over batches, of trials on the rows that have entered the momentum already:
# as docs/training.md recommends where weights begin at random.
OWN_ROWS = {"momentum": "searched", "start": "expected"}

OURS = {
    "armijo_adam": always(optax_armijo.armijo_adam),
    "armijo_adam-averaged": averaged(),
    "armijo_adam-from_scratch": always(optax_armijo.armijo_adam, **OWN_ROWS),
    # Where the loss falls to the end, fewer of the iterates are worth averaging.
    "armijo_adam-from_scratch-averaged": averaged(0.1, **OWN_ROWS),
}

# Every step is tested on the rows that it came from, as in the papers.
IN_SAMPLE = {
    "by_layer": always(optax_armijo.armijo_adam, momentum="none"),
    "one_group": always(
        optax_armijo.armijo_adam, optax_armijo.one_group, momentum="none"
    ),
}

# One change each to `armijo_adam`, ...
HELD_OUT_CHANGES: dict[str, dict[str, Any]] = {
    "c.3": {"c": 0.3},
    "c.5": {"c": 0.5},
    "c.85": {"c": 0.85},
    "every1": {"frequency": "every"},
    "slow": {"start": policies.expected(0.95)},
    "incautious": {"start": policies.expected(caution=0.0)},
    "part.1": {"start": policies.expected(bracketed_part=0.1)},
    "pace.5": {"start": policies.expected(pace=0.5)},
    "pace2": {"start": policies.expected(pace=2.0)},
    "unpaced": {"start": policies.expected(pace=1e6)},
    "cycle": {"search": "cycle"},
    "each": {"search": "each"},
    "own_rows.7": {"c": 0.7, **OWN_ROWS},
    "own_rows.9": {"c": 0.9, **OWN_ROWS},
}

# ... and to the searches on a step's own rows, by layer and as one group.
IN_SAMPLE_CHANGES: dict[str, dict[str, Any]] = {
    "average": {"net": "average"},
    "nonet": {"net": "off"},
    "c.1": {"c": 0.1},
    "c.7": {"c": 0.7},
    "smoothed": {"acceptance": "smoothed"},
    "searched": {"momentum": "searched"},
    "unsearched": {"momentum": "unsearched"},
    "joint": {"search": "joint"},
    "weighted": {"search": "weighted"},
    "adaptive": {"frequency": "adaptive"},
    "quadratic": {"start": "quadratic", "shrink": "quadratic"},
}


def changed(
    name: str, changes: dict[str, dict[str, Any]], *labels: Any, **options: Any
) -> dict[str, Method]:
    """The default, or with `options` another base, with one change each."""
    return {
        f"{name}-{change}": always(
            optax_armijo.armijo_adam, *labels, **(options | changes[change])
        )
        for change in changes
    }


ABLATION = {
    "armijo_adam-linear": Method(linear_decay),
    **changed("armijo_adam", HELD_OUT_CHANGES),
    **changed("by_layer", IN_SAMPLE_CHANGES, momentum="none"),
    **changed("one_group", IN_SAMPLE_CHANGES, optax_armijo.one_group, momentum="none"),
}

METHODS: dict[str, Method] = {
    **GRID,
    **LEARNING_RATE_FREE,
    **PRESETS,
    **OURS,
    **IN_SAMPLE,
    **ABLATION,
}

FAMILIES = {
    "grid": GRID,
    "learning_rate_free": LEARNING_RATE_FREE,
    "presets": PRESETS,
    "ours": OURS,
    "in_sample": IN_SAMPLE,
    "ablation": ABLATION,
    "all": METHODS,
}


TAKEN_BACK = "armijo_adam-held"  # and its forms: in the records, but no longer made


def is_of_now(variant: str) -> bool:
    """Tells whether it is a method of its own, in the usual set-up, and no change."""
    return not ("," in variant or variant in ABLATION or variant.startswith(TAKEN_BACK))


def methods_of(names: Sequence[str]) -> list[str]:
    """Returns the methods of names and names of families, each once, in order.

    Raises:
      ValueError: a name that is neither.
    """
    unknown = [name for name in names if name not in FAMILIES and name not in METHODS]
    if unknown:
        known = ", ".join([*FAMILIES, *METHODS])
        raise ValueError(f"methods must be of {known}; got {unknown[0]!r}")
    return list(dict.fromkeys(x for name in names for x in FAMILIES.get(name, [name])))
