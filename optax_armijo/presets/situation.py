"""What is known of a step before anything is searched."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_armijo.labels.grouping import Grouping
from optax_armijo.presets.directions import Directions
from optax_armijo.presets.options import Options, Settings, settings_at
from optax_armijo.presets.state import ArmijoState


class Batch(NamedTuple):
    """What a step is made of.

    Attributes:
      params: the whole params.
      value: the loss at params, in the dtype that the user's loss has.  # []
      loss_fn: from params to the loss of the same batch.
      directions: where to search and where to go.
    """

    params: Any
    value: jax.Array
    loss_fn: Callable[[Any], jax.Array]
    directions: Directions


class Situation(NamedTuple):
    """What a step sets out from.

    Attributes:
      grouping: which leaf belongs to which group.
      options: of the search.
      settings: their numbers at this step.
      batch: what the step is made of.
      state: the search's, before the step.
      value: the loss at params, in the search's dtype.  # f[]
      slopes: decrease of the loss a unit of step size, by group.  # f[G]
      is_finite: whether loss, gradient and direction all are.  # bool[]
      searchable: groups along whose direction a search makes sense.  # bool[G]
    """

    grouping: Grouping
    options: Options
    settings: Settings
    batch: Batch
    state: ArmijoState
    value: jax.Array
    slopes: jax.Array
    is_finite: jax.Array
    searchable: jax.Array

    @property
    def leaves(self) -> list[jax.Array]:
        """The trainable leaves of params."""
        return self.grouping.trainable(self.batch.params)


def look(
    grouping: Grouping, options: Options, batch: Batch, state: ArmijoState
) -> Situation:
    """Works out what loss, gradient and direction say."""
    dtype = state.step_size.dtype
    fall, is_finite = batch.directions.descent
    fall = fall.astype(dtype)
    descends = fall > 0
    if not options.policies.acceptance.needs_descent:
        # What is looked for from nothing must lead down all the same.
        descends |= state.bracketed
    return Situation(
        grouping=grouping,
        options=options,
        settings=settings_at(options, state.num_steps, dtype),
        batch=batch,
        state=state,
        # The loss of a bad batch is not to be learned from, though it be finite.
        value=jnp.where(is_finite, batch.value.astype(dtype), jnp.nan),
        slopes=fall,
        is_finite=is_finite,
        searchable=is_finite & descends,
    )
