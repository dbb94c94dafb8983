from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from visuomotor.control.action import decode_acceleration, decode_lateral
from visuomotor.control.baselines import IdmMobilDriver, RandomDriver
from visuomotor.control.inputs import DriveInputs
from visuomotor.messages.schema import CONE, CYCLIST, PEDESTRIAN, TRUCK

Make = Callable[..., DriveInputs]


def act(inputs: DriveInputs) -> tuple[float, float]:
    """Acceleration wanted and lanes to the left."""
    action = IdmMobilDriver(inputs.count).act(inputs)
    assert action.shape == (inputs.count, 2)
    assert (np.abs(action) <= 1.0).all()
    a = decode_acceleration(action[:, 0], np.zeros(inputs.count), np.full(inputs.count, 99.0))
    return float(a[0]), float(decode_lateral(action[:, 1])[0])


def test_empty_road_accelerates_in_the_lane(make_inputs: Make):
    acceleration, lanes = act(make_inputs(speed=5.0))
    assert acceleration > 1.0
    assert lanes == 0.0


def test_slows_for_a_bend(make_inputs: Make):
    assert act(make_inputs(speed=13.0, curvature=0.03))[0] < -1.0


@pytest.mark.parametrize("kind", [TRUCK, CYCLIST, CONE])
def test_passes_what_stands_or_crawls_by_a_free_lane(make_inputs: Make, kind: int):
    agents = [{"s": 45.0, "d": 3.5, "speed": 0.0, "kind": kind}, {"s": 40.0, "d": 0.0, "speed": 5.0}]
    _, lanes = act(make_inputs(agents, speed=11.0))
    assert lanes == 1.0


def test_stops_behind_an_obstacle_when_the_other_lane_is_taken(make_inputs: Make):
    agents = [{"s": 30.0, "d": 0.0}, {"s": 0.0, "d": 3.5, "speed": 10.0}]
    acceleration, lanes = act(make_inputs(agents, lanes=2, lane=0.0, speed=10.0))
    assert lanes == 0.0
    assert acceleration < -1.5


def test_does_not_cut_off_a_fast_car_from_behind(make_inputs: Make):
    agents = [{"s": 40.0, "d": 0.0, "speed": 3.0}, {"s": -12.0, "d": 3.5, "speed": 14.0}]
    assert act(make_inputs(agents, lanes=2, lane=0.0, speed=9.0))[1] == 0.0
    assert act(make_inputs(agents[:1], lanes=2, lane=0.0, speed=9.0))[1] == 1.0


def test_does_not_change_into_cones_at_the_border(make_inputs: Make):
    slow = {"s": 35.0, "d": 3.5, "speed": 2.0}
    cones = [{"s": 12.0 + 6.0 * i, "d": 1.45, "kind": CONE} for i in range(3)]
    assert act(make_inputs([slow], lanes=2, lane=1.0, speed=9.0))[1] == -1.0
    assert act(make_inputs([slow, *cones], lanes=2, lane=1.0, speed=9.0))[1] == 0.0


def test_yields_to_a_person_who_walks_into_the_lane(make_inputs: Make):
    person = {"s": 28.0, "d": -3.0, "across": 1.4, "kind": PEDESTRIAN}
    assert act(make_inputs([person], lanes=2, lane=0.0, speed=10.0))[0] < -1.5
    leaving = {**person, "across": -1.4}
    assert act(make_inputs([leaving], lanes=2, lane=0.0, speed=10.0))[0] > 0.3
    waiting = {**person, "across": 0.0}
    assert act(make_inputs([waiting], lanes=2, lane=0.0, speed=10.0))[0] > 0.3
    hesitating = {**person, "across": 0.0, "d": -1.3}
    neighbour = {"s": 1.0, "d": 3.5, "speed": 10.0}  # otherwise it would go round
    assert act(make_inputs([hesitating, neighbour], lanes=2, lane=0.0, speed=10.0))[0] < -1.5


def test_slows_down_where_somebody_stands_at_the_kerb(make_inputs: Make):
    waiting = {"s": 24.0, "d": -3.0, "kind": PEDESTRIAN}
    fast, slow = (
        act(make_inputs([waiting, {"s": 1.0, "d": 3.5, "speed": speed}], lanes=2, lane=0.0, speed=speed))[0]
        for speed in (12.0, 8.0)
    )
    assert fast < -1.5
    assert slow > 0.0
    far_off = {**waiting, "d": -6.0}
    assert act(make_inputs([far_off], lanes=2, lane=0.0, speed=12.0))[0] > 0.0


def test_reacts_to_a_car_that_cuts_in(make_inputs: Make):
    beside = {"s": 12.0, "d": 3.5, "speed": 7.0}
    steady = act(make_inputs([beside], lanes=2, lane=0.0, speed=10.0))
    cutting = act(make_inputs([{**beside, "across": -1.3}], lanes=2, lane=0.0, speed=10.0))
    assert cutting[0] < steady[0] - 1.0


def test_follows_without_braking_hard_at_the_equilibrium(make_inputs: Make):
    leader = {"s": 25.0, "d": 0.0, "speed": 10.0}
    neighbour = {"s": 1.0, "d": 3.5, "speed": 10.0}
    acceleration, lanes = act(make_inputs([leader, neighbour], lanes=2, lane=0.0, speed=10.0))
    assert -0.5 < acceleration < 1.5
    assert lanes == 0.0


def test_worlds_of_a_batch_are_independent_and_reset_by_mask(make_inputs: Make):
    blocked = make_inputs([{"s": 45.0, "d": 0.0}], lanes=2, lane=0.0, speed=10.0, count=3)
    free = make_inputs(lanes=2, lane=0.0, speed=10.0, count=3)
    driver = IdmMobilDriver(3)
    first = driver.act(blocked)
    np.testing.assert_array_equal(first, np.repeat(first[:1], 3, axis=0))
    assert (first[:, 1] == 1.0).all()
    driver.reset(np.array([True, False, True]))
    np.testing.assert_array_equal(driver.act(free)[:, 1], [0.0, 1.0, 0.0])  # world 1 is still changing lane
    driver.reset()
    assert (driver.act(free)[:, 1] == 0.0).all()


def test_random_driver_repeats_with_its_seed(make_inputs: Make):
    inputs = make_inputs(count=2)
    driver = RandomDriver(2, seed=5)
    first = driver.act(inputs)
    assert (np.abs(first) <= 1.0).all()
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first, driver.act(inputs))
    driver.reset(seed=5)
    np.testing.assert_array_equal(driver.act(inputs), first)
    driver.reset(np.array([False, True]), seed=9)
    mixed = driver.act(inputs)
    assert not np.array_equal(mixed[1], first[1])
