"""The default: trials on rows that their direction has not seen."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
import reference_held_out

import optax_armijo
from optax_armijo import armijo_adam, armijo_info, policies

NUM_STEPS = 60


def follow(tx: Any, params: Any, batches: Any, loss: Any, num_steps: int) -> Any:
    """Scans over `num_steps` batches; returns the infos and params of all steps."""

    @jax.jit
    def scan(params: Any) -> Any:
        def step(carry: Any, batch: Any) -> Any:
            params, state = carry
            loss_fn = functools.partial(loss, batch=batch)
            value, grads = jax.value_and_grad(loss_fn)(params)
            updates, state = tx.update(
                grads, state, params, value=value, value_fn=loss_fn
            )
            params = optax.apply_updates(params, updates)
            return (params, state), (armijo_info(state), params, value)

        return jax.lax.scan(step, (params, tx.init(params)), batches, num_steps)[1]

    return scan(params)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("batch_size", [8, 64])
def test_it_follows_its_numpy_twin(batch_size: int):
    batches = problems.make_batches(NUM_STEPS, batch_size)
    params = problems.make_params()
    rows = [problems.Batch(*(x[i] for x in batches)) for i in range(NUM_STEPS)]
    twin = reference_held_out.run(params, rows)
    info, ours, _ = follow(armijo_adam(), params, batches, problems.loss_jax, NUM_STEPS)
    np.testing.assert_array_equal(
        info.num_evaluations, [step.num_evaluations for step in twin]
    )
    np.testing.assert_allclose(
        info.applied_step_size[:, 0], [step.step_size for step in twin], rtol=1e-6
    )
    for leaf, expected in zip(ours, twin[-1].params, strict=True):
        np.testing.assert_allclose(leaf[-1], expected, rtol=1e-6, atol=1e-8)


def noisy(params: jax.Array, batch: jax.Array) -> jax.Array:
    """A bowl whose centre is drawn anew with each batch."""
    return 1.0 + jnp.sum((params - batch) ** 2)


def centres(noise: float, num_steps: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return 3.0 + noise * rng.normal(size=(num_steps, 20)).astype(np.float32)


def test_noise_shrinks_the_step_size_and_a_search_on_own_rows_does_not():
    batches = centres(1.0, 300)
    ours, where, _ = follow(armijo_adam(), jnp.zeros(20), batches, noisy, 300)
    own, elsewhere, _ = follow(
        armijo_adam(momentum="none"), jnp.zeros(20), batches, noisy, 300
    )
    assert ours.step_size[-1, 0] < 0.25 * own.step_size[-1, 0]
    error, other = (jnp.mean((x[-100:] - 3.0) ** 2) for x in (where, elsewhere))
    assert error < 0.25 * other


def test_without_noise_it_goes_on_to_the_minimum():
    batches = centres(0.0, 300)
    _, where, _ = follow(armijo_adam(), jnp.zeros(20), batches, noisy, 300)
    assert float(jnp.max(jnp.abs(where[-1] - 3.0))) < 1e-2


def test_bfloat16_compute_is_no_worse_when_its_noise_is_allowed_for():
    def rough(params: jax.Array, batch: jax.Array) -> jax.Array:
        half = (params - batch).astype(jnp.bfloat16)
        return 1.0 + jnp.sum(half.astype(jnp.float32) ** 2)

    batches, errors = centres(1.0, 300), []
    for loss, ulps in ((noisy, 4.0), (rough, 2.0**16)):
        tx = armijo_adam(rounding_ulps=ulps)
        _, where, _ = follow(tx, jnp.zeros(20), batches, loss, 300)
        errors.append(float(jnp.mean((where[-100:] - 3.0) ** 2)))
    assert errors[1] < 1.5 * errors[0]


def test_a_batch_has_no_part_in_the_direction_of_its_own_trial():
    points = []

    def record(point: Any) -> None:
        points.append(np.asarray(point))

    def loss(params: jax.Array, batch: jax.Array) -> jax.Array:
        jax.debug.callback(record, params)
        return noisy(params, batch)

    tx = armijo_adam()
    params = jnp.zeros(2)
    state = tx.init(params)

    def update(centre: jax.Array, state: Any, params: Any) -> Any:
        grads = jax.grad(noisy)(params, centre)
        return tx.update(
            grads,
            state,
            params,
            value=noisy(params, centre),
            value_fn=functools.partial(loss, batch=centre),
        )

    updates, state = update(jnp.array([3.0, 1.0]), state, params)
    params = optax.apply_updates(params, updates)
    points.clear()
    # The second moments scale it, so the sign is what the batch cannot change.
    update(jnp.array([-5.0, -5.0]), state, params)
    jax.effects_barrier()
    assert np.all(points[0] > np.asarray(params))


def test_the_first_step_takes_a_quarter_of_what_its_own_rows_allow():
    whole = policies.expected(bracketed_part=1.0)
    batches = centres(1.0, 1)
    one, _, _ = follow(armijo_adam(), jnp.zeros(20), batches, noisy, 1)
    four, _, _ = follow(armijo_adam(start=whole), jnp.zeros(20), batches, noisy, 1)
    assert float(four.step_size[0, 0]) == pytest.approx(4 * float(one.step_size[0, 0]))


def test_evaluations_are_few():
    info, _, _ = follow(armijo_adam(), jnp.zeros(20), centres(1.0, 200), noisy, 200)
    counts = np.asarray(info.num_evaluations)
    assert counts[0] <= 10
    assert np.all(counts[1:10] >= 1)
    assert np.sum(counts[1:100]) <= 40
    assert np.sum(counts[100:]) <= 12


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_beyond_a_wall_params_stay_finite_and_a_net_keeps_them_before_it(bad: float):
    def walled(params: jax.Array, batch: jax.Array) -> jax.Array:
        value = noisy(params, batch)
        return jnp.where(jnp.max(params) > 2.0, bad, value)

    start, batches = jnp.zeros(20), centres(0.3, 200)
    info, where, _ = follow(armijo_adam(), start, batches, walled, 200)
    assert np.all(np.isfinite(where))
    assert np.all(info.step_size > 0)
    netted = armijo_adam(net="no_rise", frequency="every")
    _, _, losses = follow(netted, start, batches, walled, 200)
    assert np.all(np.isfinite(losses))


def test_a_trial_that_multiplies_the_loss_is_refused():
    def steep(params: jax.Array, batch: jax.Array) -> jax.Array:
        return noisy(params, batch) + jnp.where(params[0] > 0.5, 1e6, 0.0)

    tx = armijo_adam(start=policies.expected(highest=10.0, bracketed_part=1.0))
    info, where, _ = follow(tx, jnp.zeros(20), centres(0.1, 9), steep, 9)
    assert np.all(where[:, 0] <= 0.55)
    assert np.any(info.num_evaluations[1:] > 1)


def test_trials_that_drown_in_rounding_leave_the_step_size_alone():
    def loss(params: jax.Array, batch: jax.Array) -> jax.Array:
        return 1000.0 + 1e-6 * noisy(params, batch)

    info, _, _ = follow(armijo_adam(), jnp.ones(20), centres(0.0, 40), loss, 40)
    assert np.all(info.accepted[1:10])
    assert np.unique(info.step_size).size == 1


def outcome_with(slope: float, curvature: float) -> policies.Outcome:
    """What a step of length 1 brings where the loss is a parabola."""
    one = jnp.ones(1)
    return policies.Outcome(
        searched=one > 0,
        accepted=one > 0,
        step_size=one,
        slopes=slope * one,
        num_trials=jnp.ones(1, jnp.int32),
        predicted_decrease=slope * one,
        actual_decrease=(slope - curvature / 2) * one,
        share=one,
        c=jnp.float32(0.7),
        promised_decrease=slope * one,
    )


@pytest.mark.parametrize("spread", [0.1, 10.0])
def test_without_curvature_the_step_size_grows_where_it_surely_descends(spread: float):
    """Growth for want of knowledge ran away on batches of four rows; never to grow kept
    a run on its first plateau for three epochs."""
    start = policies.expected()
    one = jnp.ones(1)
    opening = policies.Opening(one, one[0], 2 * one[0], one[0], one)
    state, seen = start.init(1, jnp.float32), []
    for slope in 1.0 + spread * np.tile([1.0, -1.0], 4):
        state = start.update(state, outcome_with(slope=slope, curvature=-1.0))
        seen.append(start.first(state, opening).item())
        assert start.rest(state, opening)[1].tolist() == seen[-1:]
    assert seen[0] == 1.0  # one slope alone says nothing of the spread
    assert seen[-1] == (1.25 if spread < 1 else 1.0)
    # Without a trial it goes no further than twice what was tried.
    untried = outcome_with(slope=1.0, curvature=-1.0)._replace(searched=one < 0)
    for _ in range(5):
        state = start.update(state, untried)
    if spread < 1:
        assert state.target.tolist() == [2.0]


def follow_policy(start: policies.Start, outcomes: Any) -> list[float]:
    """Returns by what the step size is multiplied after each outcome."""
    one = jnp.ones(1)
    opening = policies.Opening(one, one[0], 2 * one[0], one[0], one)
    state, factors = start.init(1, jnp.float32), []
    for outcome in outcomes:
        state = start.update(state, outcome)
        factors.append(start.first(state, opening).item())
    return factors


def test_while_the_loss_falls_the_step_size_falls_no_faster_than_one_over_root_k():
    """One step ahead, a shorter one looked better until there was none left: a small
    language model hardly learned."""
    ascending = outcome_with(slope=-1.0, curvature=1.0)
    values = np.concatenate([np.linspace(9.0, 1.0, 60), np.full(400, 1.0)])
    values += np.random.default_rng(0).normal(0.0, 0.3, values.shape)
    outcomes = [ascending._replace(value=jnp.float32(x)) for x in values]
    factors = follow_policy(policies.expected(), outcomes)
    k = np.arange(1, 461)
    paced = np.maximum(k / (k + 1), 0.8)
    np.testing.assert_allclose(factors[40:60], paced[40:60] ** 0.5, rtol=1e-6)
    np.testing.assert_allclose(factors[-5:], paced[-5:], rtol=1e-6)  # it has stopped
    np.testing.assert_allclose(factors[:10], paced[:10], rtol=1e-6)  # nothing is sure
    free = follow_policy(policies.expected(pace=1e6), outcomes)
    np.testing.assert_allclose(free, 0.8, rtol=1e-6)


def test_when_the_loss_surely_rises_the_step_size_may_fall_at_once():
    """After many steps each may change it by little, and a run that comes apart would
    have gone on doing so."""
    ascending = outcome_with(slope=-1.0, curvature=1.0)
    values = np.concatenate([np.full(400, 1.0), np.linspace(1.0, 9.0, 60)])
    values += np.random.default_rng(0).normal(0.0, 0.3, values.shape)
    outcomes = [ascending._replace(value=jnp.float32(x)) for x in values]
    factors = follow_policy(policies.expected(), outcomes)
    assert min(factors[100:400]) > 0.98
    np.testing.assert_allclose(factors[430:], 0.8, rtol=1e-6)


@pytest.mark.parametrize("spread", [0.1, 4.0])
def test_growth_is_slow_unless_it_is_sure(spread: float):
    slopes = 2.0 + spread * np.tile([1.0, -1.0], 20)
    outcomes = [outcome_with(slope=x, curvature=0.4) for x in slopes]
    falling = [x._replace(value=jnp.float32(-i)) for i, x in enumerate(outcomes)]
    for seen in (falling, outcomes):
        last = follow_policy(policies.expected(), seen)[-1]
        assert last == pytest.approx(1.25 if spread < 1 else 41 / 40, rel=1e-6)


@pytest.mark.parametrize("slope", [0.1, -0.1])
def test_while_the_loss_falls_steps_grow_if_their_end_still_leads_down(slope: float):
    """Held to pass the test from there on as if the way had yet to begin, steps stayed
    at a third of what a language model could take."""
    outcome = outcome_with(slope=slope, curvature=1.0)._replace(walked=jnp.ones(1))
    falling = [outcome._replace(value=jnp.float32(-i)) for i in range(40)]
    last = follow_policy(policies.expected(), falling)[-1]
    expected = np.clip(1 + 0.6 * slope, (40 / 41) ** 0.5, 41 / 40)
    assert last == pytest.approx(expected, rel=1e-6)
    # Where it does not fall, or along a new direction, the way begins at params.
    for others in (
        [outcome] * 40,
        [x._replace(walked=0.0) for x in falling],
    ):
        assert follow_policy(policies.expected(), others)[-1] < (40.01 / 41) ** 0.5


def test_a_loss_whose_square_overflows_is_forgotten_again():
    """After one such batch the loss was never again known to fall."""
    descending = outcome_with(slope=1.0, curvature=0.1)
    values = [1e30, *np.linspace(100.0, 1.0, 800)]
    outcomes = [descending._replace(value=jnp.float32(x)) for x in values]
    last = follow_policy(policies.expected(), outcomes)[-1]
    assert last == pytest.approx(1 + 1 / len(values), rel=1e-5)


def test_noise_alone_leaves_a_hundredth_of_the_longest_step():
    """Batches of four rows with dropout went down to the smallest step size, and
    learned nothing."""
    start, rng, one = policies.expected(), np.random.default_rng(0), jnp.ones(1)
    state, sizes = start.init(1, jnp.float32), [1.0]
    for slope, curvature in rng.normal(size=(600, 2)):
        size = sizes[-1] * one
        outcome = outcome_with(slope=slope, curvature=0.0)._replace(
            step_size=size,
            promised_decrease=slope * size,
            predicted_decrease=slope * size,
            actual_decrease=slope * size - curvature * size**2 / 2,
        )
        state = start.update(state, outcome)
        opening = policies.Opening(size, one[0], 2 * one[0], one[0], one)
        sizes.append(start.first(state, opening).item())
    assert min(sizes) >= 0.0099 * max(sizes)
    assert max(sizes[300:]) <= 4 * min(sizes[300:])  # it wanders ever less


def test_noise_alone_does_not_ratchet_the_step_size_down():
    """Where shrinking was quick and growing slow, batches of four rows ended at the
    smallest step size."""
    slopes = np.random.default_rng(0).normal(1.0, 20.0, size=400)
    outcomes = [outcome_with(slope=x, curvature=0.6) for x in slopes]
    factors = follow_policy(policies.expected(), outcomes)
    assert abs(np.mean(np.log(factors))) < 0.1


def test_one_trial_lengthens_a_step_to_twice_its_own_at_most():
    """Between two trials ten steps grew by 1.25 each on the word of the first one, and
    a network was lost."""
    flat = [outcome_with(slope=x, curvature=1e-3) for x in (2.0, 2.1, 2.0)]
    no = jnp.zeros(1, bool)
    untried = flat[0]._replace(searched=no, accepted=no)
    start = policies.expected(highest=100.0)
    assert follow_policy(start, flat + [untried] * 10)[2:] == [2.0] * 11


@pytest.mark.parametrize("fall", [0.0, 1.0])
@pytest.mark.parametrize("caution", [0.0, 1.5])
def test_while_the_loss_falls_caution_takes_off_standard_errors(
    caution: float, fall: float
):
    slopes = np.random.default_rng(0).normal(2.0, 1.0, size=40)
    start = policies.expected(caution=caution)
    state = start.init(1, jnp.float32)
    for i, slope in enumerate(slopes):
        outcome = outcome_with(slope=slope, curvature=4.0)
        value = jnp.float32(50.0 - fall * i)
        state = start.update(state, outcome._replace(value=value))
    weights = 0.9 ** np.arange(40)[::-1]
    weights /= weights.sum()
    mean, share = weights @ slopes, np.sum(weights**2)
    spread = weights @ (slopes - mean) ** 2 / (1 - share)
    slope = mean - fall * caution * np.sqrt(spread * share)
    assert state.target.item() == pytest.approx(2 * (1 - 0.7) * slope / 4.0, rel=1e-4)


def test_bad_arguments_are_named():
    for make, message in (
        (lambda: policies.expected(1.0), "decay"),
        (lambda: policies.expected(lowest=0.0), "lowest"),
        (lambda: policies.expected(highest=0.5), "highest"),
        (lambda: policies.expected(bracketed_part=0.0), "bracketed_part"),
        (lambda: policies.measure(0.0), "rise"),
        (lambda: policies.measure(decay=1.0), "decay"),
        (lambda: policies.expected(pace=0.0), "pace"),
        (lambda: policies.expected(floor=1.0), "floor"),
        (lambda: policies.thinning(0), "max_interval"),
        (lambda: policies.thinning(slowness=0), "slowness"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    assert optax_armijo.policies is policies
