"""`find_learning_rates`: the search's step sizes, for another optimizer."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optax_armijo._checks import check_callable
from optax_armijo._transformations import armijo_adam
from optax_armijo._types import Label, ParamLabels
from optax_armijo.labels.grouping import group_leaves
from optax_armijo.search.directions import AdamDirections
from optax_armijo.training.train_step import make_train_step

NUM_STEPS = 40  # of the search
PEAK = 2.0  # the peak of a warm-up and a decay, in step sizes of the search
B1, B2, EPS = 0.9, 0.999, 1e-8  # of armijo_adam


def find_learning_rates(
    loss_fn: Callable[..., Any],
    params: Any,
    batches: Iterable[tuple[Any, ...]],
    param_labels: ParamLabels = None,
    *,
    has_aux: bool = False,
) -> dict[Label, float]:
    r"""Finds a peak learning rate for each parameter group of Adam or AdamW.

    .. math:: \mathrm{rate}_l = 2 \, \eta_l

    with :math:`\eta_l` the step sizes of `armijo_adam` after forty steps on the first
    forty mini-batches. Use the rates as peaks of a schedule with a warm-up and a decay
    to zero, for a run from `params`, in any framework. Forty steps tell the scales of
    groups apart. They do not tell the best rate of a run to better than a factor of
    about four, so `armijo_adam` itself is the safer choice.

    Args:
      loss_fn: ``(params, *batch) -> loss``, a scalar, or ``(loss, aux)``: a mean over
        the examples of the batch.
      params: a tree of arrays, to begin from; they stay as they are.
      batches: at least 40 tuples of the arguments of `loss_fn` after params. Only the
        first 40 are read.
      param_labels: as for `armijo_adam`; ``by_layer`` if None.
      has_aux: whether `loss_fn` returns aux.

    Returns:
      The rate of each label, without that of `FROZEN`: a dictionary for
      ``optax.partition``, or for ``json.dumps``.

    Raises:
      TypeError: `loss_fn` is not a function, or a batch is not a plain tuple.
      ValueError: fewer than 40 batches, a first loss that is not finite, more than 20
        batches whose loss or gradient is not, a group that never had a gradient, or
        labels that do not fit the params.

    Example:
      Two parts whose scales differ by a thousand have such rates, too:

      >>> import jax.numpy as jnp, optax
      >>> def loss_fn(params, noise):
      ...   small, large = params["small"] / 0.01 - 3, params["large"] / 10 - 3
      ...   return jnp.mean((small - noise) ** 2) + jnp.mean((large - noise) ** 2)
      >>> params = {"small": jnp.full(8, 0.01), "large": jnp.full(8, 10.0)}
      >>> keys = jax.random.split(jax.random.key(0), 40)
      >>> batches = [(jax.random.normal(key, (8,)),) for key in keys]
      >>> rates = find_learning_rates(loss_fn, params, batches)
      >>> 300 < rates["large"] / rates["small"] < 3000
      True
      >>> def adamw(peak, num_steps=1000):
      ...   return optax.adamw(
      ...     optax.warmup_cosine_decay_schedule(0.0, peak, num_steps // 10, num_steps)
      ...   )
      >>> tx = optax.partition(
      ...   {label: adamw(rate) for label, rate in rates.items()},
      ...   {"small": "small", "large": "large"},
      ... )
    """
    return search(loss_fn, params, batches, param_labels, has_aux=has_aux).rates


class Found(NamedTuple):
    """What the search found.

    Attributes:
      rates: learning rates by label.
      num_evaluations: loss evaluations of all steps, without the gradients'.
      params: where the search ended.
      adam: Adam's state there, `optax.ScaleByAdamState`.
    """

    rates: dict[Label, float]
    num_evaluations: int
    params: Any
    adam: Any


def search(
    loss_fn: Callable[..., Any],
    params: Any,
    batches: Iterable[tuple[Any, ...]],
    param_labels: ParamLabels = None,
    *,
    has_aux: bool = False,
) -> Found:
    """Makes the steps of `find_learning_rates`, and says what they cost."""
    check_callable("loss_fn", loss_fn)
    labels, tx = group_leaves(param_labels, params).labels, armijo_adam(param_labels)
    step = make_train_step(loss_fn, tx, has_aux=has_aux, donate=False)
    opt_state: Any = tx.init(params)
    infos = []
    for batch in itertools.islice(batches, NUM_STEPS):
        if type(batch) is not tuple:  # a NamedTuple is one argument
            raise TypeError(
                "batches must hold tuples of the arguments of loss_fn after params, "
                f"such as (x, y) or (batch,); got {type(batch).__name__}"
            )
        params, opt_state, metrics = step(params, opt_state, *batch)
        if not infos and not math.isfinite(loss := float(metrics.loss)):
            raise ValueError(f"the first loss must be finite; got {loss:g}")
        infos.append(metrics.info)
    if len(infos) < NUM_STEPS:
        raise ValueError(
            f"batches must be at least {NUM_STEPS}; got {len(infos)}. Go through them "
            "again, as in several epochs"
        )
    infos = jax.device_get(infos)
    num_bad = sum(not np.all(info.is_finite) for info in infos)
    if 2 * num_bad > NUM_STEPS:
        raise ValueError(
            "losses and gradients must be finite; those of "
            f"{num_bad} of {NUM_STEPS} batches are not"
        )
    # A group that never promised anything has the step size that it began with.
    promised = np.any([info.predicted_decrease != 0 for info in infos], axis=0)
    for label in itertools.compress(labels, ~promised):
        raise ValueError(
            f"each group must have a gradient in the first {NUM_STEPS} batches; "
            f"{label!r} has none. Label it FROZEN if it does not train"
        )
    rates = (PEAK * np.asarray(infos[-1].step_size, float)).tolist()
    return Found(
        rates=dict(zip(labels, rates, strict=True)),
        num_evaluations=int(infos[-1].total_evaluations),
        params=params,
        adam=opt_state.adam,
    )


def losses_along(
    loss_fn: Callable[..., Any],
    found: Found,
    batch: tuple[Any, ...],
    param_labels: ParamLabels = None,
    *,
    multiples: Sequence[float],
) -> Iterator[list[float]]:
    """Yields what the loss would be if one group moved at multiples of its rate.

    Each group in turn, in the order of the rates, moves from where the search ended
    along Adam's direction there, and the others stay.

    Args:
      loss_fn: ``(params, *batch) -> loss``.
      found: what `search` found.
      batch: a mini-batch that the search has not seen.
      param_labels: those of the search.
      multiples: of the rates; at 0 nothing moves.
    """
    grouping = group_leaves(param_labels, found.params)
    rates = jnp.array([*found.rates.values()])

    @jax.jit
    def loss_at(found: Found, step_size: jax.Array, batch: tuple[Any, ...]) -> Any:
        one = jnp.ones(())  # no new gradient enters the moments
        adam = AdamDirections(grouping, found.adam, [], one, one, B1, B2, EPS)
        updates = grouping.scaled(step_size, adam.last_step(), found.params)
        return loss_fn(grouping.moved(found.params, updates), *batch)

    for moves in jnp.eye(len(rates)):
        steps = (multiple * moves * rates for multiple in multiples)
        yield [float(loss_at(found, step, batch)) for step in steps]
