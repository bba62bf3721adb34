from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamavae.errors import UserError
from llamavae.training.recipe import ObjectiveSettings
from llamavae.training.schedules import (
    ConstantBeta,
    CyclicalBeta,
    LinearBeta,
    TargetRate,
    build_schedule,
)

BETA = st.floats(0, 5)
TOTAL = st.integers(1, 500)


@given(BETA, st.integers(0, 500), TOTAL)
def test_constant(beta, step, total):
    assert ConstantBeta(beta)(step, total) == beta


@given(BETA, st.floats(0, 0.9), st.floats(0.01, 1), TOTAL)
def test_linear_rises_from_zero_to_beta_and_never_falls(beta, start, ramp, total):
    ramp = min(ramp, 1 - start)
    values = [LinearBeta(beta, start, ramp)(step, total) for step in range(total + 2)]
    assert values == sorted(values)
    assert values[0] == 0
    assert all(v == 0 for step, v in enumerate(values) if step / total <= start)
    assert values[total] == pytest.approx(beta)
    assert values[total + 1] == values[total]


@given(BETA, st.integers(1, 8), st.floats(0, 0.5), st.floats(0.01, 0.5), st.integers(8, 60))
def test_cycles_are_alike_and_have_their_three_parts(beta, cycles, zero, ramp, length):
    schedule, total = CyclicalBeta(beta, cycles, zero, ramp), cycles * length
    values = [schedule(step, total) for step in range(total)]
    for cycle in range(1, cycles):
        assert values[cycle * length : (cycle + 1) * length] == values[:length]
    for step, value in enumerate(values[:length]):
        place = step / length
        if place <= zero:
            assert value == 0
        elif place >= zero + ramp + 1e-9:
            assert value == beta
        else:
            assert value == pytest.approx(beta * (place - zero) / ramp)
    assert schedule(total, total) == pytest.approx(beta)


def test_cycles_need_not_divide_the_run():
    schedule = CyclicalBeta(1.0, cycles=3, ramp=0.5)
    starts = [step for step in range(1, 100) if schedule(step, 100) < schedule(step - 1, 100)]
    assert starts == [34, 67]


def test_optimus_cycle():
    schedule = CyclicalBeta(1.0, cycles=1, zero=0.5, ramp=0.25)
    assert [schedule(step, 8) for step in range(9)] == [0, 0, 0, 0, 0, 0.5, 1, 1, 1]


def simulate(schedule, steps, autoencoder, floor, lag, noise=0.0, start=0.0):
    """A VAE's rate: it moves towards autoencoder / (1 + beta / floor) with a lag in steps."""
    generator, kl, trace = random.Random(0), start, []
    for step in range(steps):
        beta = schedule(step, steps)
        assert 0 <= beta <= schedule.beta_max
        kl += (autoencoder / (1 + beta / floor) - kl) / lag
        schedule.observe(max(kl * (1 + noise * generator.gauss(0, 1)), 0.0))
        trace.append(kl)
    return trace


@pytest.mark.parametrize("rate", [2.0, 12.0, 40.0])
@pytest.mark.parametrize("lag", [5, 100])
def test_controller_settles_at_the_target(rate, lag):
    trace = simulate(TargetRate(rate), 4000, 100.0, 0.05 * rate / 12, lag, noise=0.05)
    late = trace[-1000:]
    assert sum(late) / len(late) == pytest.approx(rate, rel=0.03)
    assert min(late) > 0.85 * rate
    assert max(late) < 1.15 * rate


def test_controller_gives_up_beta_when_the_model_cannot_reach_the_rate():
    schedule = TargetRate(50.0)
    simulate(schedule, 500, 20.0, 0.1, 20)
    assert schedule.beta == 0


def test_controller_does_not_wind_up():
    """A long stay at a limit does not delay the way back."""
    schedule = TargetRate(10.0, beta_max=0.5)
    for _ in range(5000):
        schedule.observe(1e6)
    assert schedule.beta == 0.5
    steps = 0
    while schedule.beta > 0:
        schedule.observe(0.0)
        steps += 1
    assert steps <= 0.5 / schedule.integral
    for _ in range(5000):
        schedule.observe(0.0)
    for _ in range(200):
        schedule.observe(20.0)
    assert schedule.beta == pytest.approx(200 * schedule.integral + schedule.proportional)


@given(st.lists(st.floats(0, 1e9) | st.just(math.inf) | st.just(math.nan), max_size=60))
def test_controller_stays_within_its_limits(observed):
    schedule = TargetRate(5.0, beta_max=0.3)
    for kl in observed:
        schedule.observe(kl)
        assert 0 <= schedule(0, 1) <= 0.3


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), st.integers(0, 40))
def test_controller_resumes_where_it_stopped(observed, cut):
    whole, first, second = (TargetRate(5.0) for _ in range(3))
    for kl in observed:
        whole.observe(kl)
    for kl in observed[:cut]:
        first.observe(kl)
    second.load_state(json.loads(json.dumps(first.state())))
    for kl in observed[cut:]:
        second.observe(kl)
    assert second.state() == whole.state()


def test_state_of_another_schedule_is_refused():
    with pytest.raises(UserError, match="another objective"):
        TargetRate(5.0).load_state({})
    with pytest.raises(UserError, match="another objective"):
        ConstantBeta(1.0).load_state(TargetRate(5.0).state())
    ConstantBeta(1.0).load_state(ConstantBeta(1.0).state())


@pytest.mark.parametrize(
    ("settings", "schedule"),
    [
        ({"schedule": "constant", "beta": 0.2}, ConstantBeta(0.2)),
        ({"schedule": "linear", "start": 0.1, "ramp": 0.3}, LinearBeta(1.0, 0.1, 0.3)),
        ({"cycles": 3, "zero": 0.25}, CyclicalBeta(1.0, 3, 0.25, 0.5)),
        ({"schedule": "target_rate", "target_rate": 7, "beta": 2}, TargetRate(7.0, 2.0)),
    ],
)
def test_recipe_names_the_schedule(settings, schedule):
    assert build_schedule(ObjectiveSettings(**settings)) == schedule
