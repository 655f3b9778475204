"""The jitted steps of training and validation, compiled once for each shape."""

import functools
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from batches import Batch
from flax import nnx


class TrainState(NamedTuple):
    """All that changes while training."""

    params: Any  # an nnx.State; optax speaks of its own pytree type
    opt_state: Any


class Scores(NamedTuple):
    """What validation found; the errors are those of means over so many rows."""

    accuracy: float
    log_loss: float
    accuracy_error: float
    log_loss_error: float


def make_train_step(
    graphdef: nnx.GraphDef,
    transform: optax.GradientTransformationExtraArgs,
    dropout: bool,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, jax.Array]]:
    """Returns ``step(state, batch, key) -> (state, loss before the step)``, jitted.

    The gradient and all trials of a step see the same dropout masks: the loss is
    searched along a ray, and it would not be one function with new masks a trial.
    """

    def mean_loss(params: nnx.State, batch: Batch, key: jax.Array) -> jax.Array:
        rngs = nnx.Rngs(dropout=key) if dropout else None
        losses = _log_losses(_logits(graphdef, params, batch, rngs), batch)
        return losses.sum() / batch.weights.sum()

    @functools.partial(jax.jit, donate_argnums=0)
    def step(
        state: TrainState, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        def value_fn(params: nnx.State) -> jax.Array:
            return mean_loss(params, batch, key)

        loss, grads = jax.value_and_grad(value_fn)(state.params)
        updates, opt_state = transform.update(
            grads,
            state.opt_state,
            state.params,
            value=loss,
            grad=grads,
            value_fn=value_fn,
        )
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, opt_state), loss

    return step


def make_eval_step(
    graphdef: nnx.GraphDef,
) -> Callable[[nnx.State, Batch], tuple[jax.Array, ...]]:
    """Returns ``step(params, batch)``, jitted.

    It gives the sums of hits, of log losses, of their squares, and of weights.
    """

    @jax.jit
    def step(params: nnx.State, batch: Batch) -> tuple[jax.Array, ...]:
        logits = _logits(graphdef, params, batch, None)
        hits = (logits.argmax(axis=-1) == batch.labels) * batch.weights
        losses = _log_losses(logits, batch)  # weights are 0 and 1
        return hits.sum(), losses.sum(), (losses**2).sum(), batch.weights.sum()

    return step


def evaluate(
    eval_step: Callable[[nnx.State, Batch], Any],
    params: nnx.State,
    batches: Iterable[Batch],
) -> Scores:
    """Averages accuracy and log loss over the rows of `batches`."""
    sums = [jax.device_get(eval_step(params, batch)) for batch in batches]
    hits, log_loss, squares, rows = (
        sum(map(float, column)) for column in zip(*sums, strict=True)
    )
    accuracy, log_loss = hits / rows, log_loss / rows
    variances = accuracy * (1.0 - accuracy), squares / rows - log_loss**2
    errors = ((max(0.0, variance) / rows) ** 0.5 for variance in variances)
    return Scores(accuracy, log_loss, *errors)


def _logits(
    graphdef: nnx.GraphDef, params: nnx.State, batch: Batch, rngs: nnx.Rngs | None
) -> jax.Array:
    model = nnx.merge(graphdef, params)
    return model(batch.input_ids, batch.attention_mask, batch.token_type_ids, rngs)


def _log_losses(logits: jax.Array, batch: Batch) -> jax.Array:
    """Weighted cross entropies, [B]."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    return jnp.asarray(losses) * batch.weights


class CompiledByShape:
    """Calls a jitted function through programs compiled ahead, one for each shape.

    So compile time is told from run time, and an argument whose type drifts from one
    step to the next is an error, where ``jit`` would quietly compile again.
    """

    def __init__(self, function: Any):
        self.function = function
        self.programs: dict[tuple[tuple[int, ...], ...], Any] = {}
        self.seconds = 0.0

    def __call__(self, *args: Any) -> Any:
        shapes = tuple(jnp.shape(leaf) for leaf in jax.tree.leaves(args))
        if shapes not in self.programs:
            start = time.perf_counter()
            self.programs[shapes] = self.function.lower(*args).compile()
            self.seconds += time.perf_counter() - start
        return self.programs[shapes](*args)
