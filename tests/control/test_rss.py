"""The safe distances of RSS, and that the car under the guard keeps what they promise, whatever the policy wants."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visuomotor.control.action import CONTROL_PERIOD_S
from visuomotor.control.config import ENVELOPE, VEHICLE
from visuomotor.control.guard import Guard, GuardSettings, GuardSituation
from visuomotor.control.inputs import DriveInputs
from visuomotor.control.rss import RSS, RssSettings, lateral_distance, longitudinal_distance, standing_distance
from visuomotor.messages.schema import PEDESTRIAN

Make = Callable[..., DriveInputs]
OLD = np.full(32, 5.0)
LAG_S = 0.15  # of the simulated car's brakes, sim.car.ACCELERATION_LAG_S
KEPT = math.exp(-CONTROL_PERIOD_S / LAG_S)
MEAN = LAG_S / CONTROL_PERIOD_S * (1.0 - KEPT)
SPEED = st.floats(0.0, 25.0)
ANY = st.floats(allow_nan=True, allow_infinity=True)
WANTED = st.one_of(st.just(ENVELOPE.max_acceleration_mps2), st.floats(-4.0, 3.0), ANY)
CREEP_MPS = 1.2  # the guard lets a policy creep up to a bumper
PERSON_M = 0.5
STEERING = st.sampled_from([0.0, math.nan, math.inf, -math.inf, 0.0, 0.0])


def roll(speed: float, acceleration: float) -> tuple[float, float]:
    """Speed after a tick and the way in it; nobody rolls backwards."""
    after = speed + acceleration * CONTROL_PERIOD_S
    if after >= 0.0:
        return after, 0.5 * (speed + after) * CONTROL_PERIOD_S
    return 0.0, speed * speed / (-2.0 * acceleration)


class Pair:
    """A car under the guard behind another in its lane; commands act a tick later and through the brakes' lag.

    It begins at full acceleration, the worst that the envelope allows.
    """

    def __init__(
        self, make_inputs: Make, speed: float, front: float, gap: float, settings: GuardSettings | None = None
    ) -> None:
        self.make_inputs, self.speed, self.front, self.gap = make_inputs, speed, front, gap
        self.guard = Guard(settings)
        self.actual = self.pending = ENVELOPE.max_acceleration_mps2
        self.person: dict[str, object] = {}
        self.braked = False

    def step(self, command: tuple[float, float] | None, front_mps2: float) -> None:
        ahead = {"s": self.gap + VEHICLE.length_m, "d": 3.5, "speed": self.front} | self.person
        now = GuardSituation(
            command=command,
            command_valid=command is not None,
            command_age_s=0.05,
            vehicle_ok=True,
            inputs=self.make_inputs([ahead], speed=self.speed),
            speed_mps=self.speed,
            track_age_s=OLD,
        )
        decision = self.guard.step(now)
        self.braked |= "ttc_brake" in decision.causes
        mean = self.pending + (self.actual - self.pending) * MEAN
        self.actual = self.pending + (self.actual - self.pending) * KEPT
        self.pending = decision.acceleration_mps2
        self.speed, way = roll(self.speed, mean)
        self.front, front_way = roll(self.front, front_mps2)
        self.gap += front_way - way


def drive(pair: Pair, commands: Sequence[tuple[float, float]], fronts: Sequence[float], ticks: int = 120) -> float:
    """The closing speed at contact, 0 when there is none; sequences go on with their last value."""
    for k in range(ticks):
        pair.step(commands[min(k, len(commands) - 1)], fronts[min(k, len(fronts) - 1)])
        if pair.gap < 0.0:
            return pair.speed - pair.front
        if pair.speed == 0.0 and pair.actual < 0.0 and pair.front == 0.0:
            break
    return 0.0


COMMANDS = st.lists(st.tuples(WANTED, STEERING), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(SPEED, st.floats(0.0, 20.0), COMMANDS)
def test_what_stands_is_never_hit_from_the_rss_distance_on(
    make_inputs: Make, speed: float, beyond: float, commands: list[tuple[float, float]]
):
    pair = Pair(make_inputs, speed, 0.0, float(standing_distance(speed)) + beyond)
    assert drive(pair, commands, [0.0]) < CREEP_MPS


@settings(max_examples=40, deadline=None)
@given(SPEED, SPEED, st.floats(0.0, 20.0), COMMANDS, st.lists(st.floats(0.0, 2.0), min_size=1, max_size=8))
def test_what_drives_on_is_never_hit_from_the_rss_distance_on(
    make_inputs: Make,
    speed: float,
    front: float,
    beyond: float,
    commands: list[tuple[float, float]],
    fronts: list[float],
):
    pair = Pair(make_inputs, speed, front, float(longitudinal_distance(speed, front)) + beyond)
    assert drive(pair, commands, fronts) < CREEP_MPS


@settings(max_examples=20, deadline=None)
@given(SPEED, st.floats(-1.0, 1.0), st.floats(0.0, 10.0), COMMANDS)
def test_who_stands_in_the_way_is_not_hit_from_the_rss_distance_on(
    make_inputs: Make, speed: float, offset: float, beyond: float, commands: list[tuple[float, float]]
):
    pair = Pair(make_inputs, speed, 0.0, float(standing_distance(speed)) + beyond)
    for k in range(120):
        near = pair.gap + (VEHICLE.length_m + PERSON_M) / 2
        pair.person = {"s": near, "d": 3.5 + offset, "across": 0.0, "kind": PEDESTRIAN}
        pair.step(commands[min(k, len(commands) - 1)], 0.0)
        if pair.gap < 0.0:
            assert pair.speed < CREEP_MPS
            break


def test_the_guard_stops_for_what_stands_also_while_it_stops_for_another_cause(make_inputs: Make):
    pair = Pair(make_inputs, 14.0, 0.0, float(standing_distance(14.0)))
    assert drive(pair, [(math.nan, 0.0)], [0.0]) == 0.0
    assert pair.braked


def test_numbers_are_those_of_the_guard_and_the_simulated_car():
    pytest.importorskip("pybullet")
    from visuomotor.sim.car import ACCELERATION_LAG_S

    assert LAG_S == ACCELERATION_LAG_S
    assert RSS.response_s == pytest.approx(2 * CONTROL_PERIOD_S + ACCELERATION_LAG_S)
    assert RSS.braking_mps2 == GuardSettings().brake_from_mps2
    assert RSS.front_braking_mps2 == -ENVELOPE.emergency_acceleration_mps2
    assert RSS.max_acceleration_mps2 == ENVELOPE.max_acceleration_mps2


def test_longitudinal_distance_by_hand():
    plain = RssSettings(response_s=1.0, max_acceleration_mps2=2.0, braking_mps2=4.0, front_braking_mps2=8.0)
    # 10 m/s to 12 in a second: 11 m, then 144 / 8; the front car from 8 m/s in 64 / 16
    assert float(longitudinal_distance(10.0, 8.0, plain)) == pytest.approx(11.0 + 18.0 - 4.0)
    assert float(longitudinal_distance(2.0, 30.0, plain)) == 0.0
    assert float(longitudinal_distance(-5.0, 0.0, plain)) == pytest.approx(1.0 + 0.5)  # a car that rolls back goes on
    assert float(standing_distance(10.0, plain)) == pytest.approx(29.0)
    np.testing.assert_allclose(longitudinal_distance(np.array([10.0, 2.0]), 8.0, plain), [25.0, 1.0])


def test_lateral_distance_by_hand():
    plain = RssSettings(response_s=1.0, lateral_acceleration_mps2=1.0, lateral_braking_mps2=2.0, lateral_margin_m=0.1)
    # both stand: half a metre in the second, and 1 / 4 to brake, each
    assert float(lateral_distance(0.0, 0.0, plain)) == pytest.approx(0.1 + 2 * 0.75)
    # the left car moves right with 1 m/s: 1.5 m and 4 / 4
    assert float(lateral_distance(-1.0, 0.0, plain)) == pytest.approx(0.1 + 2.5 + 0.75)
    assert float(lateral_distance(0.0, 1.0, plain)) == pytest.approx(0.1 + 2.5 + 0.75)
    assert float(lateral_distance(5.0, -5.0, plain)) == pytest.approx(0.1), "they part"
    np.testing.assert_allclose(lateral_distance(np.zeros(2), np.array([0.0, 1.0]), plain), [1.6, 3.35])
    quick = RssSettings(response_s=0.5, lateral_acceleration_mps2=1.0, lateral_braking_mps2=2.0, lateral_margin_m=0.1)
    # the right car comes with 3 m/s: half a second of 3.25, and 3.5 squared / 4; the left one leaves with 2
    found = float(lateral_distance(2.0, 3.0, quick))
    assert found == pytest.approx(0.1 + (3.25 * 0.5 + 3.5**2 / 4) - (1.75 * 0.5 + 1.5**2 / 4))


@given(st.floats(-3.0, 3.0), st.floats(-3.0, 3.0), st.lists(st.floats(-1.0, 1.0), min_size=4, max_size=4))
def test_who_keeps_the_lateral_distance_and_responds_does_not_touch(left: float, right: float, swerve: list[float]):
    gap, dt = float(lateral_distance(left, right)), 0.005
    side = [left, right]
    for k in range(1200):
        time_s = k * dt
        for which, towards in ((0, -1.0), (1, 1.0)):
            speed = side[which] * towards
            if time_s < RSS.response_s:
                speed += RSS.lateral_acceleration_mps2 * dt * swerve[2 * which + (time_s > 0.2)]
            elif speed > 0.0:
                speed = max(0.0, speed - RSS.lateral_braking_mps2 * dt)
            side[which] = speed * towards
        gap += (side[0] - side[1]) * dt
        assert gap > RSS.lateral_margin_m - 0.05  # the step of this integration
