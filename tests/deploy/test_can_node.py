"""The vehicle's node on a real CAN bus (UDP multicast on this host), with a car made of frames at its other end."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator

import can
import numpy as np
import pytest

from visuomotor.control.config import ENVELOPE
from visuomotor.control.guard import GuardSettings
from visuomotor.control.guard_node import GuardNode
from visuomotor.deploy.vehicle.can_codec import CanCodec, CanError
from visuomotor.deploy.vehicle.can_link import CanLink, Reading
from visuomotor.deploy.vehicle.can_node import CanVehicleNode, DriverSwitch, Odometry, create
from visuomotor.messages.node import Inputs, Sample, Tick
from visuomotor.messages.schema import (
    Command,
    Episode,
    Header,
    Message,
    Operator,
    PolicyCommand,
    Route,
    VehicleState,
)

HANDS_OFF = dict.fromkeys(
    (
        "BrakePedal",
        "AcceleratorPedal",
        "SteeringTouched",
        "EngageButton",
        "DisengageButton",
        "EmergencyStopButton",
        "ResetButton",
    ),
    0.0,
)
ROUTE = Route(odom_reference_m=np.zeros((2, 2), np.float32))
MOTION = {"Speed": 10.0, "Acceleration": 0.5, "YawRate": 0.1}
ATTITUDE = {"SteeringAngle": 0.02, "Roll": 0.01, "Pitch": -0.01}


def bus(port: int) -> dict[str, object]:
    return {"interface": "udp_multicast", "channel": "239.74.163.2", "port": port, "hop_limit": 0, "fd": False}


def until(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        os.sched_yield()


class Rig:
    """The node, and a car that sends its state and hears the commands."""

    def __init__(self, port: int, engaged: bool) -> None:
        self.car = CanLink(("COMMAND",), **bus(port))
        self.node = CanVehicleNode(CanLink(("MOTION", "ATTITUDE", "DRIVER"), **bus(port)), start_engaged=engaged)
        self.node.reset(Episode(phase="reset"))
        self.tick = 0
        self.read: list[dict[str, float]] = []

    def drive(self, driver: dict[str, float] | None = None, speed: float = 10.0) -> None:
        """One frame of each message, seen by the node's thread."""
        before = self.node.link.newest("DRIVER")
        self.car.send("MOTION", MOTION | {"Speed": speed})
        self.car.send("ATTITUDE", ATTITUDE)
        self.car.send("DRIVER", HANDS_OFF | (driver or {}))
        until(lambda: self.node.link.newest("DRIVER") is not before)

    def step(self, command: tuple[float, float] | None = None) -> tuple[dict[str, Message], dict[str, float]]:
        """What the node publishes and what it sends to the car."""
        message = None
        if command is not None:
            message = Command(header=Header(valid=True), acceleration_mps2=command[0], steering_angle_rad=command[1])
        inputs = Inputs(
            {"command": Sample(message=message, updated=message is not None), "route": Sample(message=ROUTE)}
        )
        self.tick += 1
        sent = dict(self.node.step(Tick(0, self.tick, time.monotonic_ns(), "realtime"), inputs))
        heard: list[Reading] = []
        until(lambda: bool(heard) or bool(heard.extend(self.car.drain("COMMAND")) or heard))
        return sent, heard[-1].values

    def close(self) -> None:
        self.node.close()
        self.car.close()


@pytest.fixture
def rig(unused_port: int) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(engaged: bool = False) -> Rig:
        made.append(Rig(unused_port, engaged))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def word(sent: dict[str, Message]) -> str:
    message = sent.get("operator")
    return message.kind if isinstance(message, Operator) else ""


def test_state_of_the_bus_becomes_a_vehicle_state(rig: Callable[..., Rig]):
    r = rig(engaged=True)
    r.drive()
    state = r.step()[0]["vehicle_state"]
    assert isinstance(state, VehicleState)
    assert state.header.valid
    assert 0 < state.header.t_capture_ns <= time.monotonic_ns()
    assert (state.speed_mps, state.acceleration_mps2, state.yaw_rate_radps) == pytest.approx((10.0, 0.5, 0.1))
    assert (state.steering_angle_rad, state.roll_rad, state.pitch_rad) == pytest.approx((0.02, 0.01, -0.01))


def test_commands_reach_the_car_inside_what_it_can_do(rig: Callable[..., Rig]):
    r = rig(engaged=True)
    for command, expected in [
        ((-1.25, 0.03), (-1.25, 0.03)),
        ((-99.0, 9.0), (-8.0, 0.55)),
        ((99.0, -9.0), (2.0, -0.55)),
    ]:
        r.drive()
        _, heard = r.step(command)
        assert (heard["Acceleration"], heard["SteeringAngle"]) == pytest.approx(expected)
        assert (heard["Engaged"], heard["EmergencyStop"]) == (1.0, 0.0)


def test_nothing_moves_before_the_driver_engages(rig: Callable[..., Rig]):
    r = rig()
    r.drive()
    sent, heard = r.step((1.0, 0.0))
    assert word(sent) == "disengage"
    assert heard["Engaged"] == 0.0
    r.drive({"EngageButton": 1.0})
    sent, heard = r.step((1.0, 0.0))
    assert word(sent) == "engage"
    assert heard["Engaged"] == 1.0


@pytest.mark.parametrize("touch", ["BrakePedal", "AcceleratorPedal", "SteeringTouched", "DisengageButton"])
def test_the_driver_takes_over_by_any_touch_and_keeps_the_car_until_the_button(rig: Callable[..., Rig], touch: str):
    r = rig(engaged=True)
    r.drive()
    assert r.step((1.0, 0.0))[1]["Engaged"] == 1.0
    r.drive({touch: 1.0})
    sent, heard = r.step((1.0, 0.0))
    assert word(sent) == "disengage"
    assert heard["Engaged"] == 0.0
    r.drive({touch: 1.0, "EngageButton": 1.0})
    assert r.step((1.0, 0.0))[1]["Engaged"] == 0.0, "not while the driver touches anything"
    r.drive()
    assert r.step((1.0, 0.0))[1]["Engaged"] == 0.0, "letting go is no wish"


def test_emergency_stop_brakes_until_a_reset_at_standstill(rig: Callable[..., Rig]):
    r = rig(engaged=True)
    r.drive()
    r.step((1.0, 0.0))
    r.drive({"EmergencyStopButton": 1.0})
    sent, heard = r.step((1.0, 0.0))
    assert word(sent) == "emergency_stop"
    assert (heard["Acceleration"], heard["EmergencyStop"]) == (ENVELOPE.emergency_acceleration_mps2, 1.0)
    r.drive({"ResetButton": 1.0}, speed=5.0)
    sent, heard = r.step((1.0, 0.0))
    assert (word(sent), heard["EmergencyStop"]) == ("disengage", 1.0), "a word a step"
    r.drive()
    r.step()
    r.drive({"ResetButton": 1.0}, speed=0.0)
    sent, heard = r.step((1.0, 0.0))
    assert (word(sent), heard["EmergencyStop"], heard["Engaged"]) == ("reset", 0.0, 0.0)
    r.drive({"EngageButton": 1.0}, speed=0.0)
    sent, heard = r.step((1.0, 0.0))
    assert (word(sent), heard["Engaged"], heard["Acceleration"]) == ("engage", 1.0, 1.0)


def test_the_drivers_buttons_close_and_open_the_latch_of_a_guard_that_was_started_anew(rig: Callable[..., Rig]):
    r = rig(engaged=True)
    guard = GuardNode(GuardSettings(start_latched=True))
    tick = 0

    def turn(driver: dict[str, float] | None = None, speed: float = 0.0) -> Command:
        """The driver's frame through the node to the guard."""
        nonlocal tick
        tick += 1
        r.drive(driver, speed)
        sent, _ = r.step((1.0, 0.0))
        words = tuple(m for m in (sent.get("operator"),) if isinstance(m, Operator))
        policy = PolicyCommand(header=Header(valid=True), acceleration_mps2=1.0)
        inputs = Inputs({source.service: Sample() for source in guard.inputs})
        inputs["vehicle_state"] = Sample(message=sent["vehicle_state"], age_s=0.0)
        inputs["policy_command"] = Sample(message=policy, age_s=0.0)
        inputs["operator"] = Sample(message=words[-1] if words else None, messages=words)
        command = guard.step(Tick(0, tick, tick * 10**8, "realtime"), inputs)["command"]
        assert isinstance(command, Command)
        return command

    assert turn().latched
    assert turn({"EngageButton": 1.0}).latched
    turn()
    assert turn({"ResetButton": 1.0}, speed=5.0).latched
    turn()
    assert not turn({"ResetButton": 1.0}).latched
    assert not turn(speed=5.0).latched
    stopped = turn({"EmergencyStopButton": 1.0}, speed=5.0)
    assert (stopped.latched, stopped.acceleration_mps2) == (True, ENVELOPE.emergency_acceleration_mps2)
    assert turn({"EngageButton": 1.0}).latched
    turn()
    assert not turn({"ResetButton": 1.0}).latched


def test_with_the_graph_silent_the_node_itself_brakes_the_car(rig: Callable[..., Rig]):
    r = rig(engaged=True)
    r.drive()
    assert r.step((1.0, 0.02))[1]["Acceleration"] == 1.0
    r.node.watchdog.step(time.monotonic() - 0.4, (1.0, 0.02))  # the last command was 0.4 s ago
    r.drive()
    heard = r.step()[1]
    assert (heard["Acceleration"], heard["SteeringAngle"]) == pytest.approx((ENVELOPE.min_acceleration_mps2, 0.02))


def test_without_the_drivers_frames_there_is_no_state_and_no_driving(rig: Callable[..., Rig], monkeypatch):
    r = rig(engaged=True)
    r.drive()
    sent, _ = r.step((1.0, 0.0))
    assert "vehicle_state" in sent
    newest = r.node.link.newest
    monkeypatch.setattr(r.node.link, "newest", lambda name, age: None if name == "DRIVER" else newest(name, age))
    sent, _ = r.step((1.0, 0.0))
    assert "vehicle_state" not in sent
    r.node.watchdog.step(time.monotonic() - 0.4, (1.0, 0.0))  # the last command was 0.4 s ago
    sent, heard = r.step((1.0, 0.0))
    assert heard["Acceleration"] == ENVELOPE.min_acceleration_mps2, "the watchdog brakes: the command was not taken"


def test_a_state_grows_old(rig: Callable[..., Rig]):
    r = rig()
    r.drive()
    assert r.node.link.newest("MOTION", 10.0) is not None
    until(lambda: r.node.link.newest("MOTION", 0.01) is None)


def test_buttons_held_at_the_start_are_no_presses():
    switch = DriverSwitch(engaged=False)
    assert switch.take(HANDS_OFF | {"EngageButton": 1.0}, 0.0) == []
    assert switch.take(HANDS_OFF | {"EngageButton": 1.0}, 0.0) == []
    assert switch.take(HANDS_OFF, 0.0) == []
    assert switch.take(HANDS_OFF | {"EngageButton": 1.0}, 0.0) == ["engage"]


def test_odometry_closes_a_circle():
    odometry = Odometry()
    radius, speed, steps = 20.0, 5.0, 4000
    period_s = 2.0 * math.pi * radius / speed
    for k in range(steps + 1):
        odometry.move(round(k * period_s / steps * 1e9), speed, speed / radius, 0.0)
        if k == steps // 2:
            assert odometry.pose == pytest.approx((0.0, 2.0 * radius, math.pi), abs=0.05)
    assert odometry.pose == pytest.approx((0.0, 0.0, 2.0 * math.pi), abs=0.05)


def test_foreign_and_damaged_frames_are_counted_and_passed_over(unused_port: int):
    link = CanLink(("MOTION",), **bus(unused_port))
    stranger = can.Bus(**bus(unused_port))
    try:
        frame_id, good = CanCodec().encode("MOTION", MOTION)
        for identifier, data in [
            (0x7FF, b"12345678"),
            (frame_id, b"short"),
            (frame_id, good[:7] + b"\x00"),
            (frame_id, good),
        ]:
            stranger.send(can.Message(arbitration_id=identifier, data=data, is_extended_id=False))
        until(lambda: link.newest("MOTION") is not None)
        assert link.faults == {"length": 1, "checksum": 1}
        assert len(link.drain("MOTION")) == 1
        assert link.drain("MOTION") == []
    finally:
        stranger.shutdown()
        link.close()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"interface": "carrier_pigeon", "channel": "1"}, "CAN carrier_pigeon:1: does not open"),
        ({"interface": "socketcan", "channel": "can77"}, "CAN socketcan:can77: does not open"),
        (
            {"interface": "udp_multicast", "channel": "239.74.163.2", "dbc": "/nowhere/car.dbc"},
            "/nowhere/car.dbc: cannot",
        ),
    ],
)
def test_a_bus_that_does_not_open_is_named(config: dict[str, str], message: str):
    with pytest.raises(CanError, match=message):
        create(config)
