"""What the search adds to the compiled program of a sharded step: scalars.

The program of `armijo_adam` is compared with that of ``optax.adam`` on the same arrays
and with the forward pass of the search's loop.
"""

import jax
import optax
import pytest
from collectives import collectives
from many_devices import NETWORK, STACKED, batches_of, mesh_of, split, whole

from optax_armijo import armijo_adam, armijo_info, make_train_step

pytestmark = pytest.mark.slow

PROBLEMS = {"network": NETWORK, "stacked": STACKED}
PLACES = {"data parallel": whole, "fully sharded": split}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_search_adds_scalars_to_adam_and_its_own_forward_passes(name, place):
    mesh, problem = mesh_of(), PROBLEMS[name]
    params = place(mesh, problem.params())
    batch = split(mesh, batches_of(1)[0])

    def of_step(tx):
        state = jax.tree.map(
            lambda leaf: whole(mesh, leaf) if leaf.ndim == 0 else leaf, tx.init(params)
        )
        step = make_train_step(problem.loss_fn, tx)
        return collectives(step, params, state, *batch)

    tx = armijo_adam(problem.labels)
    forward = collectives(jax.jit(problem.loss_fn), params, *batch)
    adam, armijo = of_step(optax.adam(1e-3)), of_step(tx)
    assert adam["all-reduce", (8, 8)] > 0  # the gradient's, so that they are seen
    num_groups = len(armijo_info(tx.init(params)).labels)
    added = armijo - adam - forward
    assert set(added) <= {("all-reduce", ()), ("all-reduce", (num_groups,))}, added
    # Sums over each leaf, where leaves are split: two slopes, which also tell whether
    # all is finite, the squares of the params and those of the direction.
    num_split = len(jax.tree.leaves(params)) if place is split else 0
    assert added.total() <= 4 * num_split + 1
    # The account is complete: the search does without nothing that it is given here.
    assert set(adam + forward - armijo) <= {("all-reduce", ())}
