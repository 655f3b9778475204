"""A CPU machine exports the whole step for accelerators, and nothing calls back."""

from typing import Any

import jax
import pytest
from exports import abstract, assert_for_accelerators, exported
from toys import LABELS, batch, mean_loss, network_params

from optax_armijo import armijo_adamw, make_train_step


@pytest.mark.parametrize("num_microbatches", [1, 2])
def test_a_step_is_exported_for_accelerators(num_microbatches):
    tx = armijo_adamw(LABELS)
    step = make_train_step(mean_loss, tx, num_microbatches=num_microbatches)
    state = jax.eval_shape(tx.init, network_params())
    result = exported(step, network_params(), state, *batch())
    # The search is a loop. Microbatches are another one, in the gradient and in the
    # evaluations of the search.
    assert_for_accelerators(result, num_loops=1 if num_microbatches == 1 else 3)
    before = jax.tree.leaves(abstract((network_params(), state)))
    after = result.out_avals[: len(before)]
    assert [x.shape for x in after] == [x.shape for x in before]


def test_a_loss_that_calls_back_is_seen_in_the_text():
    """So that finding no callback says something."""

    def loss_fn(params, x, y):
        jax.debug.callback(lambda: None)
        return mean_loss(params, x, y)

    tx = armijo_adamw(LABELS)
    state = jax.eval_shape(tx.init, network_params())
    step: Any = make_train_step(loss_fn, tx)
    text = step.lower(*abstract((network_params(), state, *batch()))).as_text()
    assert "callback" in text
