"""When groups are searched, and what a step without a search costs: nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import LABELS, init, network_loss, network_params, run

from optax_armijo import armijo_adam, armijo_info, one_group, policies


def evaluations(tx, num_steps=12):
    """Counts the loss's real evaluations, the gradient's included, step by step."""
    calls = []

    def counted_loss(params, step):
        jax.debug.callback(lambda: calls.append(1))
        return network_loss(params, step)

    @jax.jit
    def step_fn(params, state, step):
        def f(params):
            return counted_loss(params, step)

        value, grads = jax.value_and_grad(f)(params)
        updates, state = tx.update(grads, state, params, value=value, value_fn=f)
        return optax.apply_updates(params, updates), state

    params = network_params()
    state = init(tx, params)
    counts, infos = [], []
    for step in range(num_steps):
        params, state = step_fn(params, state, jnp.asarray(step))
        jax.block_until_ready(params)
        jax.effects_barrier()
        counts.append(len(calls))
        infos.append(armijo_info(state))
    return np.diff([0, *counts]), infos


@pytest.mark.parametrize(
    "options",
    [
        {"search": "joint"},
        {"search": "cycle", "num_joint_steps": 1},
        {"search": "each", "num_joint_steps": 1},
        {"search": "joint", "momentum": "unsearched"},
    ],
    ids=["joint", "cycle", "each", "unsearched momentum"],
)
def test_a_step_without_a_search_evaluates_the_loss_once_for_its_gradient(options):
    counts, infos = evaluations(
        armijo_adam(LABELS, frequency=policies.every(4), **options)
    )
    for step, (count, info) in enumerate(zip(counts, infos, strict=True)):
        assert count == 1 + int(info.num_evaluations)
        if step % 4 and bool(
            jnp.all(infos[step - 1].accepted == infos[step - 1].searched)
        ):
            assert count == 1
            assert not bool(jnp.any(info.searched))
            assert bool(jnp.all(info.applied_step_size > 0))


def test_steps_without_a_search_keep_the_step_size():
    tx = armijo_adam(one_group, momentum="none", frequency=policies.every(5))
    sizes = [
        float(armijo_info(entry.state).step_size[0])
        for entry in run(tx, network_params(), num_steps=15)
    ]
    assert len(set(sizes[:5])) == len(set(sizes[5:10])) == len(set(sizes[10:])) == 1


def test_groups_may_be_due_in_different_steps():
    tx = armijo_adam(
        LABELS,
        search="each",
        num_joint_steps=1,
        frequency=policies.every(3, per_group=True),
    )
    history = run(tx, network_params(), num_steps=10)
    for step, entry in enumerate(history[1:], start=1):
        info = armijo_info(entry.state)
        expected = [(step - group) % 3 == 0 for group in range(3)]
        due = np.asarray(info.searched) | ~np.asarray(info.accepted)
        assert all(due[group] for group in range(3) if expected[group])


def test_cycling_takes_its_turns_among_the_steps_with_a_search():
    tx = armijo_adam(
        LABELS, momentum="none", num_joint_steps=1, frequency=policies.every(2)
    )
    history = run(tx, network_params(), num_steps=9)
    searched = [np.flatnonzero(armijo_info(e.state).searched) for e in history[1:]]
    groups = [int(group[0]) for group in searched if len(group)]
    assert groups == [0, 1, 2, 0]


def test_a_failed_search_is_due_again_at_once():
    tx = armijo_adam(one_group, frequency=policies.every(4))

    @jax.jit
    def step_fn(w, state, all_trials_fail):
        def f(w):
            return jnp.sum(w**2)

        def value_fn(w):
            return jnp.where(all_trials_fail, jnp.nan, f(w))

        value, grads = jax.value_and_grad(f)(w)
        updates, state = tx.update(grads, state, w, value=value, value_fn=value_fn)
        return w + updates, state

    w = jnp.ones(2)
    state = init(tx, w)
    seen = []
    for all_trials_fail in (True, True, False, False, False):
        w, state = step_fn(w, state, jnp.asarray(all_trials_fail))
        info = armijo_info(state)
        seen.append((bool(info.searched[0]), bool(info.accepted[0])))
    # Step 4 is due by the rule, steps 1 and 2 by the failures before them.
    assert seen == [(True, False), (True, False), (True, True)] + [
        (False, False),
        (True, True),
    ]


def adaptive_twin(step_sizes, max_interval=10, warmup=9):
    """The released rule, over the step sizes that searches find in turn."""
    fast = slow = 1e-8
    waited, due, found = 0, [], iter(step_sizes)
    for step in range(150):
        ratio = max(fast / slow, slow / fast)
        wait = min(max_interval, 1 / (ratio - 1)) if ratio > 1 else max_interval
        waited += 1
        due.append(step < warmup or waited >= wait)
        if due[-1]:
            size = next(found)
            fast, slow = 0.9 * fast + 0.1 * size, 0.99 * slow + 0.01 * size
            waited = 0
    return due


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_adaptive_searches_when_the_released_rule_does(seed, x64):
    rng = np.random.default_rng(seed)
    step_sizes = np.exp(-0.05 * np.arange(150) + 0.1 * rng.normal(size=150))
    frequency = policies.adaptive()
    state = frequency.init(1, jnp.float64)
    due, num_found = [], 0
    for step in range(150):
        is_due = frequency.due(state, jnp.asarray(step))
        due.append(bool(is_due[0]))
        outcome = policies.Outcome(
            *(jnp.zeros(1) for _ in range(8)), c=jnp.float64(0.5)
        )._replace(searched=is_due, step_size=jnp.asarray([step_sizes[num_found]]))
        state = frequency.update(state, outcome)
        num_found += due[-1]
    assert due == adaptive_twin(step_sizes)
    assert 30 < sum(due) < 140


def test_adaptive_goes_by_the_group_or_by_the_one_that_changes_most():
    def due(per_group):
        frequency = policies.adaptive(warmup_steps=0, per_group=per_group)
        state = frequency.init(2, jnp.float32)._replace(
            fast=jnp.array([0.2, 0.1]),
            slow=jnp.array([0.1, 0.1]),
            waited=jnp.array([1, 1]),
        )
        return frequency.due(state, jnp.asarray(99)).tolist()

    assert due(per_group=True) == [True, False]
    assert due(per_group=False) == [True, True]


def test_adaptive_searches_less_once_step_sizes_settle():
    tx = armijo_adam(one_group, frequency="adaptive", momentum="unsearched")
    history = run(tx, network_params(), num_steps=60)
    searched = [bool(armijo_info(entry.state).searched[0]) for entry in history]
    assert all(searched[:9])
    assert 5 <= sum(searched[30:]) < 25
