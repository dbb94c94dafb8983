"""The privileged teacher in closed loop on small scenes."""

from __future__ import annotations

import numpy as np
import pytest

from visuomotor.control.action import decode, limit_command
from visuomotor.messages.schema import CAR, PEDESTRIAN
from visuomotor.sim.drive import ENDS, DriveWorlds
from visuomotor.sim.error_model import true_tracks
from visuomotor.sim.inputs import inputs_from_worlds
from visuomotor.sim.road import RoadParameters
from visuomotor.sim.scenario import CROSS, PARKED, STATIC, TRAFFIC, WALKER, AgentSpec, DriveCase, Driver
from visuomotor.sim.sensors import Sensors

pytest.importorskip("gymnasium")
from visuomotor.control.train.planner import PlannerTeacher

LIMIT_MPS = 12.5
CALM = Driver(LIMIT_MPS, 1.4, 2.5, 1.5, 2.0, 0.2, 3.5)


def make_case(
    *agents: AgentSpec, lanes: int = 2, lane: int = 0, speed: float = 10.0, length: float = 160.0
) -> DriveCase:
    return DriveCase(
        suite="drive-v1",
        split="train",
        seed=0,
        road=RoadParameters(
            lane_count=lanes, length_m=length, speed_limit_mps=LIMIT_MPS, segments=((160.0 + length + 250.0, 0.0, 0.0),)
        ),
        ego_lane=lane,
        ego_speed_mps=speed,
        agents=agents,
        events=(),
        looks_seed=0,
        stream_seed=0,
        time_limit_s=40.0,
    )


def parked(s_m: float, d_m: float) -> AgentSpec:
    return AgentSpec(class_id=CAR, role=STATIC, size_m=(4.4, 1.8, 1.5), s_m=s_m, d_m=d_m)


def moving(s_m: float, d_m: float, speed: float) -> AgentSpec:
    driver = CALM._replace(desired_speed_mps=speed)
    return AgentSpec(
        class_id=CAR, role=TRAFFIC, size_m=(4.4, 1.8, 1.5), s_m=s_m, d_m=d_m, speed_mps=speed, driver=driver
    )


class Trace:
    def __init__(self) -> None:
        self.d_m: list[np.ndarray] = []
        self.speed_mps: list[np.ndarray] = []
        self.action: list[np.ndarray] = []
        self.beside_m: list[tuple[float, float]] = []  # along and across, from the first world's second agent
        self.ends: list[str] = []


def drive(*cases: DriveCase, ticks: int = 400) -> Trace:
    worlds = DriveWorlds(len(cases))
    sensors = Sensors(worlds)
    for index, case in enumerate(cases):
        worlds.reset(index, case)
        sensors.reset(index)
    teacher = PlannerTeacher(worlds)
    teacher.reset()
    trace = Trace()
    last = np.zeros((len(cases), 2), np.float32)
    command = np.zeros((2, len(cases)))
    try:
        for _ in range(ticks):
            sensors.update()
            inputs = inputs_from_worlds(sensors, true_tracks(worlds, sensors.odom_pose), last)
            last = teacher.act(inputs)
            limited = limit_command(*decode(last, inputs), command[0], command[1], sensors.speed_mps)
            worlds.step(command[0], command[1])
            command = np.stack([limited.acceleration_mps2, limited.steering_angle_rad])
            trace.d_m.append(worlds.ego_d_m.copy())
            trace.speed_mps.append(worlds.ego_speed_mps.copy())
            trace.action.append(last.copy())
            along = abs(worlds.agent_s_m[0, 1] - worlds.ego_s_m[0])
            trace.beside_m.append((along, abs(worlds.agent_d_m[0, 1] - worlds.ego_d_m[0])))
            if (worlds.end != 0).all():
                break
        trace.ends = [ENDS[end] for end in worlds.end]
    finally:
        worlds.close()
    return trace


def test_actions_have_the_form_of_the_other_drivers():
    trace = drive(make_case(), make_case(lanes=3, lane=1), ticks=30)
    actions = np.array(trace.action)
    assert actions.dtype == np.float32
    assert actions.shape == (30, 2, 2)
    assert np.abs(actions).max() <= 1.0
    assert np.all(trace.speed_mps[-1] > 11.0)  # the road is free


@pytest.mark.parametrize("lane", [0, 1])
def test_goes_around_a_standing_car(lane):
    """To the left from the right lane, and as in a mirror to the right from the left one."""
    trace = drive(make_case(parked(90.0, 3.5 * lane), lane=lane))
    assert trace.ends == ["goal"]
    d = np.array(trace.d_m)[:, 0]
    assert (d.max() if lane == 0 else 3.5 - d.min()) > 3.0


def test_stops_when_both_lanes_are_blocked():
    trace = drive(make_case(parked(90.0, 0.0), parked(91.0, 3.5)), ticks=150)
    assert trace.ends == [""]
    assert trace.speed_mps[-1][0] < 0.1


def test_lets_a_pedestrian_cross():
    person = AgentSpec(
        class_id=PEDESTRIAN,
        role=WALKER,
        size_m=(0.5, 0.5, 1.75),
        s_m=80.0,
        d_m=-3.0,
        yaw_offset_rad=np.pi / 2,
        driver=PARKED._replace(desired_speed_mps=1.3),
        value=2.0,
        variant=CROSS,
    )
    trace = drive(make_case(person))
    assert trace.ends == ["goal"]
    assert np.min(trace.speed_mps) < 4.0


@pytest.mark.parametrize("lane", [0, 1])
def test_does_not_change_into_a_neighbour(lane):
    """Behind somebody slow, with a car beside: never less than 0.3 m between the two."""
    other = 3.5 * (1 - lane)
    trace = drive(make_case(moving(30.0, 3.5 * lane, 5.0), moving(-1.0, other, 7.5), lane=lane, speed=7.5), ticks=80)
    assert trace.ends == [""]
    along, across = np.array(trace.beside_m).T
    assert across[along < 4.5 + 0.5].min() > 1.8 + 0.3


def test_rows_do_not_depend_on_each_other():
    cases = make_case(parked(90.0, 0.0)), make_case(moving(30.0, 0.0, 6.0), lanes=3)
    together, alone = drive(*cases, ticks=60), drive(cases[1], ticks=60)
    np.testing.assert_array_equal(np.array(together.action)[:, 1], np.array(alone.action)[:, 0])
