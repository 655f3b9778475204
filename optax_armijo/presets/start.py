"""At which step size does a search begin, and what moves without one?"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from optax_armijo._checks import check_order, check_range
from optax_armijo._numerics import safe_divide
from optax_armijo._types import Scalar
from optax_armijo.presets.method import Opening, Outcome, Start, no_state, unchanged


def grow(*, unsearched: Literal["keep", "grow", "grow_once"] = "keep") -> Start:
    r"""Begins above the last step size, :math:`\eta_0 = \gamma \eta`.

    :math:`\gamma` is the method's ``increase_factor``.

    Args:
      unsearched: what a group moves by in a step in which it is not searched.
        ``"keep"``: :math:`\eta`. ``"grow"``: :math:`\gamma \eta`, kept, so that it
        grows in every step (arXiv 2403.18506). ``"grow_once"``: :math:`\gamma \eta`,
        not kept (released code of arXiv 2407.20650).

    Example:
      >>> import jax.numpy as jnp
      >>> opening = Opening(jnp.array([0.5]), 1.0, 2.0, 1.0, jnp.array([1.0]))
      >>> grow().first((), opening).tolist()
      [1.0]
      >>> [x.tolist() for x in grow(unsearched="grow_once").rest(opening)]
      [[1.0], [0.5]]
    """

    def first(_: Any, opening: Opening) -> jax.Array:
        return opening.increase_factor * opening.step_size

    def rest(opening: Opening) -> tuple[jax.Array, jax.Array]:
        grown = opening.increase_factor * opening.step_size
        return (
            opening.step_size if unsearched == "keep" else grown,
            grown if unsearched == "grow" else opening.step_size,
        )

    return Start(no_state, first, rest, unchanged)


def keep() -> Start:
    r"""Begins at the last step size, :math:`\eta_0 = \eta`: it can then only fall.

    Example:
      >>> import jax.numpy as jnp
      >>> opening = Opening(jnp.array([0.5]), 1.0, 2.0, 1.0, jnp.array([1.0]))
      >>> keep().first((), opening).tolist()
      [0.5]
    """

    def first(_: Any, opening: Opening) -> jax.Array:
        return opening.step_size

    return Start(no_state, first, _as_it_is, unchanged)


def reset() -> Start:
    r"""Begins at ``init_step_size``, in every search (Algorithm 1 of arXiv 1905.09997).

    Safe and dear: where the step size that passes is far below, every search walks all
    the way down.

    Example:
      >>> import jax.numpy as jnp
      >>> opening = Opening(jnp.array([0.5, 0.1]), 1.0, 2.0, 1.0, jnp.ones(2))
      >>> reset().first((), opening).tolist()
      [1.0, 1.0]
    """

    def first(_: Any, opening: Opening) -> jax.Array:
        return jnp.full_like(opening.step_size, opening.init_step_size)

    return Start(no_state, first, _as_it_is, unchanged)


def polyak(
    lowest_loss: Scalar,
    *,
    c_p: Scalar,
    decrease_factor: Scalar | None,
    min_start: float,
    max_start: float,
) -> Start:
    r"""Begins at Polyak's step size.

    .. math:: \eta_0 = \mathrm{clip}\left(\frac{f(w) - f^*}{c_p s}\,
      \delta^{n_k}, \eta_{low}, \eta_{high}\right), \qquad
      n_k = \max(n_{k-1} + b_{k-1} - 1, 0)

    with s the slope of all that moves together and :math:`b_{k-1}` the backtracks of
    the last search; they are remembered only when `decrease_factor` is given (arXiv
    2306.12747, equations 6 and 7; the released code adds 1e-8 to the divisor).

    Args:
      lowest_loss: :math:`f^*`, the lowest loss that can be reached on a batch.
      c_p: above 0.
      decrease_factor: :math:`\delta`: by what the memory of backtracks shrinks the
        start.
      min_start: :math:`\eta_{low}`, above 0.
      max_start: :math:`\eta_{high}`, at least `min_start`.

    Raises:
      ValueError: an argument outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> start = polyak(
      ...     0.0, c_p=0.5, decrease_factor=0.5, min_start=1e-6, max_start=10.0)
      >>> opening = Opening(jnp.array([1.0]), 1.0, 2.0, 3.0, jnp.array([4.0]))
      >>> start.first(start.init(1, jnp.float32), opening).tolist()  # 3 / (0.5 * 4)
      [1.5]
    """
    check_range("lowest_loss", lowest_loss)
    check_range("c_p", c_p, above=0)
    check_range("min_start", min_start, above=0)
    check_order("min_start", min_start, "max_start", max_start)

    def init(num_groups: int, _: jnp.dtype) -> jax.Array:
        return jnp.zeros(num_groups, jnp.int32)

    def first(num_backtracks: jax.Array, opening: Opening) -> jax.Array:
        room = jnp.maximum(opening.value - lowest_loss, 0)
        step_size = safe_divide(room, jnp.asarray(c_p * opening.ray_slopes))
        if decrease_factor is not None:
            memory = num_backtracks.astype(step_size.dtype)
            step_size = step_size * decrease_factor**memory
        return jnp.clip(step_size, min_start, max_start)

    def update(num_backtracks: jax.Array, outcome: Outcome) -> jax.Array:
        # One trial without a backtrack makes up for one backtrack remembered.
        new = jnp.maximum(num_backtracks + outcome.num_trials - 2, 0)
        return jnp.where(outcome.searched, new, num_backtracks)

    return Start(init, first, _as_it_is, update)


def _as_it_is(opening: Opening) -> tuple[jax.Array, jax.Array]:
    return opening.step_size, opening.step_size
