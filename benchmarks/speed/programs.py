"""Training steps as compiled programs: what compiling took, memory, and timed steps."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from timed_problems import Problem
from turns import shuffled

from optax_armijo import armijo_info


class Program:
    """A compiled training step and where it has got to.

    The params and the state are donated, as in any training loop.
    """

    def __init__(self, problem: Problem, transform: optax.GradientTransformation):
        self.batch = problem.batch
        self.params = jax.tree.map(jnp.copy, problem.params)
        # Some states begin with params themselves, which cannot be donated twice.
        self.opt_state = jax.tree.map(jnp.copy, transform.init(self.params))
        self.compiled, self.compile_seconds = compile_step(
            problem.loss_fn, transform, self.params, self.opt_state, self.batch
        )
        self.seconds: list[float] = []
        self.evaluations: list[int] = []  # of the loss, beside the gradient's

    def step(self) -> None:
        """Makes a step; its time ends when it is computed."""
        start = time.perf_counter()
        self.params, self.opt_state, loss = self.compiled(
            self.params, self.opt_state, self.batch
        )
        jax.block_until_ready((self.params, self.opt_state, loss))
        self.seconds.append(time.perf_counter() - start)
        self.evaluations.append(num_evaluations(self.opt_state))

    @property
    def temporaries(self) -> int:
        """Bytes that the program needs beside its arguments and results."""
        return self.compiled.memory_analysis().temp_size_in_bytes

    @property
    def state_size(self) -> int:
        """Bytes of the optimizer's state."""
        return sum(x.nbytes for x in jax.tree.leaves(self.opt_state))


class Forward:
    """The loss alone, timed like a step."""

    def __init__(self, problem: Problem):
        self.arguments = problem.params, problem.batch
        self.compiled = jax.jit(problem.loss_fn).lower(*self.arguments).compile()
        self.seconds: list[float] = []

    def step(self) -> None:
        start = time.perf_counter()
        jax.block_until_ready(self.compiled(*self.arguments))
        self.seconds.append(time.perf_counter() - start)


def compile_step(
    loss_fn: Callable[[Any, Any], jax.Array],
    transform: optax.GradientTransformation,
    params: Any,
    opt_state: Any,
    batch: Any,
) -> tuple[Any, float]:
    """Compiles a step, also for shapes alone; returns the seconds that it took."""
    transform = optax.with_extra_args_support(transform)

    def step(params: Any, opt_state: Any, batch: Any) -> tuple[Any, Any, jax.Array]:
        def value_fn(params: Any) -> jax.Array:
            return loss_fn(params, batch)

        loss, grads = jax.value_and_grad(value_fn)(params)
        updates, opt_state = transform.update(
            grads, opt_state, params, value=loss, grad=grads, value_fn=value_fn
        )
        return optax.apply_updates(params, updates), opt_state, loss

    start = time.perf_counter()
    jitted = jax.jit(step, donate_argnums=(0, 1))
    compiled = jitted.lower(params, opt_state, batch).compile()
    return compiled, time.perf_counter() - start


def in_turn(programs: Sequence[Program | Forward], step: int) -> None:
    """Makes step number `step` of each: what else the machine does hits all alike."""
    for program in shuffled(programs, step):
        program.step()


def num_evaluations(opt_state: Any) -> int:
    """Loss evaluations of the last step beside the gradient's."""
    try:
        return int(armijo_info(opt_state).num_evaluations)
    except ValueError:
        found = optax.tree_utils.tree_get_all_with_path(
            opt_state, "num_linesearch_steps"
        )
        return int(found[0][1]) if found else 0
