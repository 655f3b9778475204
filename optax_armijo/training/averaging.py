"""Averages the last iterates, to validate and to keep, and lets params follow them."""

import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_armijo._checks import as_transformation, check_range
from optax_armijo._numerics import increment, search_dtype
from optax_armijo._state import LONG, SHORT, ArmijoState, find_states, frozen_paths
from optax_armijo.labels.paths import (
    Path,
    is_hole,
    paths_and_holes,
    paths_and_leaves,
)
from optax_armijo.search.placement import build_beside
from optax_armijo.search.step_sizes import CLEAR, HELD_AFTER

# Losses fall at least like 1 / n if an average with weights w / n, which makes
# w / (w - 1) of them, is this many times larger for `LONG` than for `SHORT`.
FALLING = (1 - 1 / SHORT) / (1 - 1 / LONG)


class AveragedState(NamedTuple):
    """State of `average_iterates`.

    Attributes:
      num_iterates: number of params in the average so far, one per step.  # i32[]
      average: average of the params after each step, in float32 or wider and structured
        like them; an ``optax.MaskedNode`` replaces each leaf that is `FROZEN`, or that
        holds integers or random keys.
      long_loss: average of the losses over about half of the run so far.  # f32[]
      short_loss: the same over an eighth.  # f32[]
      inner: the state of the transformation inside.
    """

    num_iterates: jax.Array
    average: Any
    long_loss: jax.Array
    short_loss: jax.Array
    inner: Any


def average_iterates(
    tx: optax.GradientTransformation,
    *,
    fraction: float = 0.25,
    interpolation: float = 0.5,
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps an average over the last part of the steps, however many there will be.

    .. math::
      \bar w_n &= \bar w_{n-1}
        + \frac{1}{1 + p\,(1 - \beta)(n - 1)} (w_{n-1} + u_n - \bar w_{n-1}) \\
      w_n &= w_{n-1} + u_n + \beta\,(\bar w_n - \bar w_{n-1})

    with u the updates of `tx`, p the `fraction` and :math:`\beta` the `interpolation`.
    About the last p n of n steps count, later ones more (polynomial-decay averaging,
    with :math:`\eta = 1 / p - 1`). `averaged_params` returns the average, to validate
    with and to save. The average removes the noise of the last mini-batches. That
    otherwise takes a decaying step size, and so the number of steps in advance.

    With :math:`\beta > 0`, params are an interpolation between the average and a point
    z that moves by :math:`u_n / (1 - \beta)`, as in schedule-free training:

    .. math:: w_n = (1 - \beta)\, z_n + \beta\, \bar w_n, \qquad
      \bar w_n = \bar w_{n-1} + \frac{1 - \beta}{1 + p\,(1 - \beta)(n - 1)}
        (z_n - \bar w_{n-1})

    Steps along a valley add up, and those across it do not. The search in `tx` measures
    :math:`u_n` alone and does not see where the average carries params. So
    :math:`\beta` is 0 except in a step n > 100 of a search, as in `armijo_adam` and
    `scale_by_armijo`, where both are true:

    - More than half of what steps 21 to 50 promised held on other examples, so that
      there is little noise.
    - Losses fall at least like 1 / n: an average over about half of the run is at least
      1.75 times one over about an eighth of it.

    Where it is 0, and around any other transformation, training is that of `tx`. If
    both are true, two losses in a row are not finite, and the search has not moved, the
    params may have followed the average over the edge of the loss's domain. From then
    on each step moves them half of the way to the average while losses are not finite.

    The price is one more copy of the params that move: leaves that the search in `tx`
    labels `FROZEN` have no average.

    Args:
      tx: any transformation, such as `armijo_adam`. It must be the whole optimizer,
        since its updates are assumed to be those applied to params.
      fraction: p, in (0, 1].
      interpolation: :math:`\beta` where it pays, in [0, 1); with 0, training never
        changes.

    Returns:
      A transformation whose updates move params as above. The state is an
      `AveragedState`.

    Raises:
      TypeError: `tx` is not a transformation.
      ValueError: `fraction` or `interpolation` outside its range; when traced, no
        params given.

    Example:
      >>> import jax.numpy as jnp, optax, optax_armijo
      >>> tx = optax_armijo.average_iterates(optax.sgd(1.0))
      >>> params = jnp.array(0.0)
      >>> state = tx.init(params)
      >>> for grads in (-1.0, 2.0, -2.0):  # params are 1, -1 and 1
      ...   updates, state = tx.update(jnp.array(grads), state, params)
      ...   params = optax.apply_updates(params, updates)
      >>> optax_armijo.averaged_params(state, params).tolist()
      0.46...

    References:
      O. Shamir and T. Zhang, *Stochastic Gradient Descent for Non-smooth
      Optimization*, 2013, section 4, `arXiv 1212.1824
      <https://arxiv.org/abs/1212.1824>`_. A. Defazio et al., *The Road Less
      Scheduled*, 2024, equations 3 to 5, `arXiv 2405.15682
      <https://arxiv.org/abs/2405.15682>`_.
    """
    check_range("fraction", fraction, above=0, at_most=1)
    check_range("interpolation", interpolation, at_least=0, below=1)
    inner = as_transformation("tx", tx)

    def init_fn(params: Any) -> AveragedState:
        num_iterates = build_beside(params, lambda: jnp.zeros([], jnp.int32))
        long_loss, short_loss = (
            build_beside(params, lambda: jnp.zeros([], jnp.float32)) for _ in range(2)
        )
        inner_state = inner.init(params)
        frozen = frozen_paths(inner_state)
        average = jax.tree.structure(params).unflatten(
            _wide(leaf)
            if _is_averaged(leaf) and path not in frozen
            else optax.MaskedNode()
            for path, leaf in paths_and_leaves(params)
        )
        return AveragedState(num_iterates, average, long_loss, short_loss, inner_state)

    def update_fn(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, AveragedState]:
        if params is None:
            raise ValueError("average_iterates needs params in update; got None")
        updates, inner_state = inner.update(updates, state.inner, params, **extra_args)
        number = state.num_iterates.astype(jnp.float32)
        value = extra_args.get("value")
        value = jnp.asarray(jnp.nan if value is None else value, jnp.float32)
        losses = _with_loss(state, value)
        pays = _pays(state, inner_state) & _fall(*losses) & (interpolation > 0)
        is_finite, num_still = jnp.isfinite(value), _num_still(inner_state)
        follows = pays & is_finite & (num_still == 0)
        # One such loss may be its mini-batch's fault, or the search may roll back.
        is_lost = pays & ~is_finite & (num_still >= 2)
        beta = jnp.where(follows, interpolation, 0.0)
        back = jnp.where(is_lost, 0.5, 0.0)
        rate = 1 / (1 + fraction * (1 - beta) * number)

        def moved(old: Any, leaf: Any, update: Any) -> Any:
            if is_hole(old):
                return old
            return _moved_toward(old, _wide(optax.apply_updates(leaf, update)), rate)

        def interpolated(new: Any, old: Any, leaf: Any, update: Any) -> Any:
            if is_hole(old):
                return update
            forward = _share(beta, new, old) - _share(back, _wide(leaf), old)
            return update + forward.astype(update.dtype)

        average = jax.tree.map(moved, state.average, params, updates, is_leaf=is_hole)
        updates = jax.tree.map(
            interpolated, average, state.average, params, updates, is_leaf=is_hole
        )
        number = increment(state.num_iterates)
        return updates, AveragedState(number, average, *losses, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def averaged_params(opt_state: Any, params: Any) -> Any:
    """Returns the average that `average_iterates` keeps, in the dtypes of `params`.

    Args:
      opt_state: a state that holds one `AveragedState` at any depth; an
        ``nnx.Optimizer`` or a Linen ``TrainState`` that holds it will do.
      params: the current params: a pytree, an ``nnx.State``, or an ``nnx.Module``, for
        which it returns a copy with the averaged params.

    Raises:
      ValueError: if the state holds none, or several, or was made for other params.

    Example:
      >>> import jax.numpy as jnp, optax, optax_armijo
      >>> tx = optax_armijo.average_iterates(optax.sgd(1.0))
      >>> params = {"w": jnp.array(1.0, jnp.bfloat16)}
      >>> average = optax_armijo.averaged_params(tx.init(params), params)
      >>> average["w"].dtype.name
      'bfloat16'
    """
    states = find_states(opt_state, AveragedState)
    if len(states) != 1:
        raise ValueError(
            "opt_state must hold one AveragedState, of average_iterates; this one "
            f"holds {len(states)}"
        )
    average = paths_and_holes(states[0].average)
    nnx = sys.modules.get("flax.nnx")  # who has a module has imported it
    if nnx is not None and isinstance(params, nnx.Module):
        graphdef, state = nnx.split(params)
        return nnx.merge(graphdef, _fill_in(average, state, is_whole=False))
    return _fill_in(average, params, is_whole=True)


def _fill_in(average: dict[Path, Any], params: Any, *, is_whole: bool) -> Any:
    """Replaces params by their averages; a module has other leaves besides.

    Averages are found by their paths, since NNX keeps params and averages in different
    variables. All are copies, since the next step may overwrite the state's arrays.
    """
    leaves = dict(paths_and_leaves(params))
    strangers = average.keys() - leaves.keys()
    if is_whole:
        strangers |= leaves.keys() - average.keys()
    if strangers:
        raise ValueError(
            "params must be those that the state averages; these and the state do not "
            f"share {', '.join(sorted(map('/'.join, strangers)))}"
        )
    for path, mean in average.items():
        if mean is not None and jnp.shape(mean) != jnp.shape(leaves[path]):
            raise ValueError(
                "params must be those that the state averages; leaf "
                f"'{'/'.join(path)}' has shape {jnp.shape(leaves[path])}, and its "
                f"average {jnp.shape(mean)}"
            )
    return jax.tree.structure(params).unflatten(
        jnp.copy(leaf)
        if average.get(path) is None
        else jnp.array(average[path], jnp.result_type(leaf))
        for path, leaf in leaves.items()
    )


def _pays(state: AveragedState, inner_state: Any) -> jax.Array:
    """Whether the run is long and has little noise, bool[]."""
    searches = find_states(inner_state, ArmijoState)
    pays = (state.num_iterates >= 2 * HELD_AFTER) & bool(searches)
    for search in searches:
        pays &= search.signal.early_fraction > CLEAR
    return pays


def _num_still(inner_state: Any) -> jax.Array:
    """The number of steps since a search last moved params, i32[]."""
    searches = find_states(inner_state, ArmijoState)
    most = jnp.zeros([], jnp.int32)
    for search in searches:
        most = jnp.maximum(most, search.num_still)
    return most


def _with_loss(state: AveragedState, value: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The averages of the losses, long and short, with that of another step."""
    number = 1 + state.num_iterates.astype(jnp.float32)

    def towards_value(x: jax.Array, weight: float) -> jax.Array:
        new = x + jnp.minimum(1, weight / number) * (value - x)
        return jnp.where(jnp.isfinite(value), new, x)

    return towards_value(state.long_loss, LONG), towards_value(state.short_loss, SHORT)


def _fall(long_loss: jax.Array, short_loss: jax.Array) -> jax.Array:
    """Whether losses fall at least like 1 / n, bool[].

    Elsewhere steps go to and fro, and the average may be carried uphill.
    """
    return (short_loss > 0) & (long_loss >= FALLING * short_loss)


def _is_averaged(leaf: Any) -> bool:
    """Whether a leaf holds numbers to average, not counts or random keys."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return jnp.issubdtype(dtype, jnp.inexact)


def _moved_toward(old: jax.Array, new: jax.Array, rate: jax.Array) -> jax.Array:
    """Adds an iterate to an average; exact where both are equal, so infinities stay."""
    moved = old + rate.astype(old.dtype) * (new - old)
    return jnp.where(new == old, old, moved)


def _share(x: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """x (new - old), and 0 where both are equal, even if they are infinite."""
    return jnp.where(new == old, 0, x.astype(new.dtype) * (new - old))


def _wide(leaf: Any) -> jax.Array:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        leaf = jnp.zeros(leaf.shape, leaf.dtype)  # as optax's own moments are
    leaf = jnp.asarray(leaf)
    return jnp.array(leaf, search_dtype([leaf]))
