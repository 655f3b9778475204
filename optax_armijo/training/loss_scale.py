"""A loss scale that adapts itself, for gradients in float16 without underflow."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_armijo._checks import as_transformation, check_range
from optax_armijo._numerics import (
    all_finite,
    has_no_gradient,
    is_key,
    on_its_own,
    search_dtype,
)
from optax_armijo._state import (
    ArmijoState,
    PublishedState,
    find_states,
    frozen_paths,
)
from optax_armijo.labels.paths import paths_and_leaves
from optax_armijo.search.placement import build_beside


class LossScaleState(NamedTuple):
    """State of `dynamic_loss_scale`.

    Attributes:
      scale: the factor on the loss when its gradient is taken.  # f32[]
      num_good: finite gradients since the last one that was not, or since the scale
        last grew.  # i32[]
      inner: the state of the transformation inside.
    """

    scale: jax.Array
    num_good: jax.Array
    inner: Any


def dynamic_loss_scale(
    inner: optax.GradientTransformation,
    *,
    init_scale: float = 2.0**15,
    factor: float = 2.0,
    growth_interval: int = 2000,
    min_scale: float = 2.0**-24,
    max_scale: float = 2.0**24,
) -> optax.GradientTransformationExtraArgs:
    r"""Takes gradients of :math:`\sigma f`, and adapts :math:`\sigma` during the run.

    .. math::
      \sigma \leftarrow \sigma / r \ \text{ after a gradient that is not finite,}
      \qquad \sigma \leftarrow r \sigma \ \text{ after n finite ones in a row}

    The gradient is divided by :math:`\sigma`, in float32 or wider, before `inner` gets
    it. The dtypes of the state and updates of `inner` do not change. The loss itself,
    `value` and `value_fn`, is never scaled, since trials take no gradient. After a
    gradient that is not finite, updates are zero and `inner` keeps its state (P.
    Micikevicius et al., *Mixed Precision Training*, 2017, section 3.2), so that
    `armijo_info` still tells about the step before. If a smaller scale would not help,
    because the loss itself is not finite or the scale is `min_scale`, a line search in
    `inner` gets the bad batch, and can roll back the last step; the scale stays.
    Gradients of leaves that a search in `inner` does not move, labelled `FROZEN`, do
    not count.

    `make_train_step` scales the loss. In a custom training loop, take the gradient of
    ``loss * loss_scale(opt_state)``.

    Args:
      inner: the transformation that gets the unscaled gradients.
      init_scale: the initial :math:`\sigma`, in [`min_scale`, `max_scale`].
      factor: r, above 1.
      growth_interval: n, at least 1.
      min_scale: above 0.
      max_scale: at least `min_scale`. All are finite in float32, as the scale is.

    Returns:
      A transformation with the same ``update`` as `inner`, except for the scaled
      gradient; its state is a `LossScaleState`.

    Raises:
      TypeError: `inner` is not a transformation.
      ValueError: an argument outside its range.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = dynamic_loss_scale(optax.sgd(1.0), init_scale=8.0)
      >>> w = jnp.array(1.0)
      >>> state = tx.init(w)
      >>> updates, state = tx.update(loss_scale(state) * 0.5, state, w)
      >>> float(updates)
      -0.5
      >>> updates, state = tx.update(jnp.array(jnp.inf), state, w)
      >>> float(updates), float(loss_scale(state))
      (0.0, 4.0)
    """
    check_range("min_scale", min_scale, above=0)
    check_range("max_scale", max_scale, at_least=min_scale)
    check_range("init_scale", init_scale, at_least=min_scale, at_most=max_scale)
    check_range("factor", factor, above=1)
    check_range("growth_interval", growth_interval, at_least=1, is_integer=True)
    transform = as_transformation("inner", inner)

    def init_fn(params: Any) -> LossScaleState:
        def own() -> tuple[jax.Array, jax.Array]:
            return jnp.full((), init_scale, jnp.float32), jnp.zeros((), jnp.int32)

        scale, num_good = build_beside(params, own)
        return LossScaleState(scale, num_good, transform.init(params))

    def update_fn(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        grad: Any = None,
        **extra_args: Any,
    ) -> tuple[Any, LossScaleState]:
        def unscaled(tree: Any) -> Any:
            # In float32, since an unscaled gradient may be too small for float16 again.
            def divide(g: Any) -> Any:
                if has_no_gradient(g):
                    return g
                g = jnp.asarray(g)
                is_real = jnp.issubdtype(g.dtype, jnp.floating)
                dtype = search_dtype([g]) if is_real else g.dtype
                return g.astype(dtype) * (1 / state.scale).astype(dtype)

            return jax.tree.map(divide, tree)

        # No smaller scale helps a leaf that is frozen, whose gradient is not wanted.
        frozen = frozen_paths(state.inner)
        given = [
            jnp.asarray(x)  # also from NumPy, as optax allows
            for path, x in paths_and_leaves(updates)
            if path not in frozen and not has_no_gradient(x)
        ]
        is_good = on_its_own(all_finite(given))
        if grad is not None:
            extra_args["grad"] = unscaled(grad)
        new_updates, inner_state = transform.update(
            unscaled(updates), state.inner, params, **extra_args
        )
        is_handled = jnp.zeros((), jnp.bool_)
        if find_states(state.inner, (ArmijoState, PublishedState)):
            value = jnp.asarray(extra_args.get("value", 0.0))
            scale_is_no_cause = ~jnp.isfinite(value) | (state.scale <= min_scale)
            found = (new_updates, inner_state)
            # Transformations beside the search may have taken in the bad gradient.
            is_handled = jax.lax.cond(
                ~is_good & scale_is_no_cause,
                lambda: _has_no_nan_or_infinity(found),
                lambda: is_handled,
            )
        num_good = jnp.where(is_good, state.num_good + 1, 0)
        grows = num_good >= growth_interval
        scale = jnp.where(grows, state.scale * factor, state.scale)
        lower = jnp.where(is_handled, state.scale, state.scale / factor)
        scale = jnp.where(is_good, scale, lower)
        moved = updates if params is None else params
        nothing = jax.tree.map(jnp.zeros_like, moved)
        return (
            _where(is_good | is_handled, new_updates, nothing),
            LossScaleState(
                scale=jnp.clip(scale, min_scale, max_scale).astype(jnp.float32),
                num_good=jnp.where(grows, 0, num_good),
                inner=_where(is_good | is_handled, inner_state, state.inner),
            ),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def loss_scale(opt_state: Any) -> jax.Array:
    """Returns the current scale of `dynamic_loss_scale`, or 1 if there is none.

    Args:
      opt_state: a state that may hold a `LossScaleState` at any depth.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> float(loss_scale(optax.adam(1e-3).init(jnp.ones(3))))
      1.0
    """
    state = find_loss_scale(opt_state)
    return jnp.ones((), jnp.float32) if state is None else state.scale


def find_loss_scale(opt_state: Any) -> LossScaleState | None:
    """Returns the first `LossScaleState` in a state, or None."""
    return next(iter(find_states(opt_state, LossScaleState)), None)


def _has_no_nan_or_infinity(tree: Any) -> jax.Array:
    """Tells whether all entries are finite; `all_finite` checks their squares."""
    numbers = [x for x in jax.tree.leaves(tree) if not is_key(x)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in numbers]))


def _where(condition: jax.Array, if_true: Any, if_false: Any) -> Any:
    """Chooses between two trees, in the dtypes of the second."""

    def choose(x: Any, y: Any) -> jax.Array:
        return jnp.where(condition, x if x.dtype == y.dtype else x.astype(y.dtype), y)

    return jax.tree.map(choose, if_true, if_false)
