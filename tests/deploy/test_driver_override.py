"""Who drives: every pedal and button against every state, through the vehicle's node, a real CAN bus and the guard.

For each press: what the car gets in the very next frame, what the graph hears, and what the guard says to it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("can")

import can

from visuomotor.control.config import ENVELOPE
from visuomotor.control.guard_node import GuardNode
from visuomotor.deploy.vehicle.can_link import CanLink
from visuomotor.deploy.vehicle.can_node import CanVehicleNode, limit_before_goal
from visuomotor.deploy.vehicle.route import StraightRoad
from visuomotor.messages.node import Inputs, Sample, Tick
from visuomotor.messages.schema import Command, Episode, Header, Message, Operator, PolicyCommand, Route, VehicleState

BUTTONS = (
    "BrakePedal",
    "AcceleratorPedal",
    "SteeringTouched",
    "EngageButton",
    "DisengageButton",
    "EmergencyStopButton",
    "ResetButton",
)
TOUCHES = ("BrakePedal", "AcceleratorPedal", "SteeringTouched", "DisengageButton")
WANTED_MPS2 = 0.5  # of the policy
SERVICE = ENVELOPE.min_acceleration_mps2
EMERGENCY = ENVELOPE.emergency_acceleration_mps2


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        os.sched_yield()


def fresh(message: Message | None) -> Sample:
    if message is None:
        return Sample()
    return Sample(message=message, messages=(message,), updated=True, alive=True, rate_ok=True, age_s=0.0)


@dataclass
class Told:
    """What one press came to."""

    frame: dict[str, float]  # the COMMAND that the car got next
    words: list[str]  # what the graph heard
    guard: Command  # what the guard said to it

    @property
    def who(self) -> tuple[float, float]:
        return self.frame["Engaged"], self.frame["EmergencyStop"]


class Loop:
    """The car's end of the bus by hand; the vehicle's node and the guard are the real ones and hear each other."""

    def __init__(self, start_engaged: bool) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("", 0))
            port = int(probe.getsockname()[1])
        self.bus = {
            "interface": "udp_multicast",
            "channel": "239.74.163.2",
            "port": port,
            "hop_limit": 0,
            "fd": False,
        }
        self.car = CanLink(("COMMAND",), **self.bus)
        self.node = CanVehicleNode(
            CanLink(("MOTION", "ATTITUDE", "DRIVER"), **self.bus), start_engaged=start_engaged, stop_at_goal=True
        )
        self.guard = GuardNode()
        for node in (self.node, self.guard):
            node.reset(Episode(phase="reset"))
        road = StraightRoad(2, 3.5, 13.9).ahead((0.0, 0.0, 0.0))
        self.route = Route(
            header=Header(valid=True), odom_reference_m=road.line_m, lane_count=2, goal_distance_m=road.goal_distance_m
        )
        self.command: Command | None = None
        self.tick = 0

    def press(self, *pressed: str, speed: float = 10.0) -> Told:
        """One frame with these pedals and buttons down, a step of the node, and the guard's answer."""
        before = self.node.link.newest("DRIVER")
        self.car.send("MOTION", {"Speed": speed, "Acceleration": 0.0, "YawRate": 0.0})
        self.car.send("ATTITUDE", {"SteeringAngle": 0.0, "Roll": 0.0, "Pitch": 0.0})
        self.car.send("DRIVER", {name: float(name in pressed) for name in BUTTONS})
        until(lambda: self.node.link.newest("DRIVER") is not before)
        return self.step()

    def step(self) -> Told:
        self.tick += 1
        tick = Tick(0, self.tick, time.monotonic_ns(), "realtime")
        inputs = Inputs({"command": fresh(self.command), "route": fresh(self.route)})
        heard = self.car.newest("COMMAND")
        sent = dict(self.node.step(tick, inputs))
        until(lambda: self.car.newest("COMMAND") is not heard)
        words = [sent["operator"]] if "operator" in sent else []
        while self.node._words:  # one word a step: what is left comes with the next ones
            sent_later = self.node.step(tick, Inputs({"command": Sample(), "route": fresh(self.route)}))
            words.append(sent_later["operator"])
        frame = self.car.newest("COMMAND") if heard is None else self._next_after(heard)
        assert frame is not None
        state = sent.get("vehicle_state")
        self.command = self._ask_guard(tick, state if isinstance(state, VehicleState) else None, words)
        return Told(frame.values, [word.kind for word in words if isinstance(word, Operator)], self.command)

    def _next_after(self, heard: object):
        readings = [r for r in self.car.drain("COMMAND") if r is not heard]
        return readings[0] if readings else self.car.newest("COMMAND")

    def _ask_guard(self, tick: Tick, state: VehicleState | None, words: list[Message]) -> Command:
        wanted = PolicyCommand(header=Header(valid=True), acceleration_mps2=WANTED_MPS2)
        inputs = Inputs(
            {
                "policy_command": fresh(wanted),
                "vehicle_state": fresh(state),
                "route": fresh(self.route),
                "tracks": Sample(),
                "operator": Sample(message=words[-1] if words else None, messages=tuple(words), updated=bool(words)),
            }
        )
        command = self.guard.step(tick, inputs)["command"]
        assert isinstance(command, Command)
        return command

    def close(self) -> None:
        self.node.close()
        self.car.close()


@pytest.fixture
def loop() -> Iterator[Callable[..., Loop]]:
    made: list[Loop] = []

    def make(start_engaged: bool = True) -> Loop:
        made.append(Loop(start_engaged))
        made[-1].press()
        made[-1].press()
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_while_nobody_touches_anything_the_policy_drives(loop):
    told = loop().press()
    assert told.who == (1.0, 0.0)
    assert told.frame["Acceleration"] == pytest.approx(WANTED_MPS2)
    assert (told.words, told.guard.causes, told.guard.latched) == ([], (), False)


@pytest.mark.parametrize("touch", TOUCHES)
def test_a_touch_takes_over(loop, touch: str):
    car = loop()
    told = car.press(touch)
    assert told.who == (0.0, 0.0), "in the very next frame"
    assert (told.words, told.guard.causes) == (["disengage"], ("disengaged",))
    told = car.press()
    assert told.who == (0.0, 0.0), "letting go is no wish"
    assert (told.words, told.guard.causes) == ([], ("disengaged",))
    told = car.press("EngageButton")
    assert told.who == (1.0, 0.0)
    assert told.words == ["engage"]
    assert "disengaged" not in told.guard.causes


@pytest.mark.parametrize("touch", TOUCHES)
def test_engage_is_refused_while_the_driver_touches_anything(loop, touch: str):
    car = loop(start_engaged=False)
    told = car.press(touch, "EngageButton")
    assert told.who == (0.0, 0.0)
    assert (told.words, told.guard.causes) == ([], ("disengaged",))
    assert car.press("EngageButton").who == (0.0, 0.0), "the button was down before: that is no press"
    car.press()
    assert car.press("EngageButton").who == (1.0, 0.0)


def test_before_the_first_engage_the_car_is_the_drivers(loop):
    car = loop(start_engaged=False)
    told = car.press()
    assert told.who == (0.0, 0.0)
    assert told.guard.causes == ("disengaged",)
    told = car.press("ResetButton")
    assert told.who == (0.0, 0.0), "a reset engages nobody"


@pytest.mark.parametrize("engaged", [True, False])
def test_emergency_stop_whoever_drives(loop, engaged: bool):
    car = loop(start_engaged=engaged)
    told = car.press("EmergencyStopButton")
    assert told.who == (0.0, 1.0)
    assert told.frame["Acceleration"] == EMERGENCY
    assert told.words == ["emergency_stop", "disengage"][: 1 + engaged]
    assert (told.guard.causes, told.guard.latched, told.guard.acceleration_mps2) == (
        ("emergency_stop",),
        True,
        EMERGENCY,
    )
    told = car.press()
    assert told.who == (0.0, 1.0), "letting go of the button is no reset"


@pytest.mark.parametrize("touch", TOUCHES)
def test_emergency_stop_with_a_foot_on_a_pedal_is_both(loop, touch: str):
    car = loop()
    told = car.press("EmergencyStopButton", touch)
    assert told.who == (0.0, 1.0)
    assert told.words == ["emergency_stop", "disengage"]
    assert told.guard.latched
    car.press(speed=0.0)
    told = car.press("ResetButton", speed=0.0)
    assert told.who == (0.0, 0.0), "the reset opens the latch; the car stays the driver's"
    assert (told.words, told.guard.causes, told.guard.latched) == (["reset"], ("disengaged",), False)


@pytest.mark.parametrize("press", ["EngageButton", "ResetButton"])
def test_nothing_but_a_reset_at_standstill_ends_an_emergency_stop(loop, press: str):
    car = loop()
    car.press("EmergencyStopButton")
    told = car.press(press, speed=5.0)
    assert told.who == (0.0, 1.0)
    assert told.frame["Acceleration"] == EMERGENCY
    assert (told.words, told.guard.causes, told.guard.latched) == ([], ("emergency_stop",), True)
    assert car.press(press, speed=0.0).who == (0.0, 1.0), "held down since it moved: no press"
    car.press(speed=0.0)
    told = car.press("ResetButton", speed=0.0)
    assert told.who == (0.0, 0.0)
    assert (told.words, told.guard.causes, told.guard.latched) == (["reset"], ("disengaged",), False)


@pytest.mark.parametrize("first", ["ResetButton", "EngageButton"])
def test_after_an_emergency_stop_a_reset_permits_engaging_and_does_not_engage(loop, first: str):
    car = loop()
    car.press("EmergencyStopButton")
    car.press(speed=0.0)
    told = car.press(first, "ResetButton", speed=0.0)
    assert (told.who, told.words) == ((0.0, 0.0), ["reset"]), "both at once are the reset alone"
    assert car.press(speed=0.0).guard.causes == ("disengaged",)
    told = car.press("EngageButton", speed=0.0)
    assert (told.who, told.words) == ((1.0, 0.0), ["engage"])
    assert "disengaged" not in told.guard.causes


def test_a_second_emergency_stop_is_one_again(loop):
    car = loop()
    car.press("EmergencyStopButton")
    car.press(speed=0.0)
    car.press("ResetButton", speed=0.0)
    told = car.press("EmergencyStopButton", speed=1.0)
    assert told.who == (0.0, 1.0)
    assert told.guard.latched


def test_a_car_that_falls_silent_is_braked_and_named(loop):
    car = loop()
    until(lambda: car.node.link.newest("DRIVER", 0.3) is None)  # the last that came
    told = car.step()
    assert told.guard.causes == ("stale_vehicle_state",)
    assert car.node.note == "no MOTION, ATTITUDE, DRIVER for 0.3 s"
    until(lambda: time.monotonic() - car.node.watchdog._timer._since_s > car.node.watchdog.hold_s)
    assert car.step().frame["Acceleration"] == pytest.approx(SERVICE)
    told = car.press()
    assert car.node.note == ""
    assert "stale_vehicle_state" not in told.guard.causes


def test_a_bus_that_is_off_or_down_is_named_and_counted(loop):
    car = loop()
    stranger = can.Bus(**car.bus)
    try:
        stranger.send(can.Message(arbitration_id=0x40, is_error_frame=True, data=bytes(8), is_extended_id=False))
        stranger.send(can.Message(arbitration_id=0x04, is_error_frame=True, data=bytes(8), is_extended_id=False))
        until(lambda: car.node.link.faults == {"bus off": 1, "error frame": 1})
        assert car.node.link.down == "bus off"
        car.press()
        assert car.node.link.down == ""
    finally:
        stranger.shutdown()
    reading, writing = os.pipe()
    os.write(writing, b"x")
    os.dup2(reading, car.node.link._bus.fileno())  # the interface goes away under the node
    os.close(reading)
    os.close(writing)
    until(lambda: any(cause.startswith("receive ") for cause in car.node.link.faults))
    until(lambda: car.node.link.newest("MOTION", 0.3) is None)
    tick = Tick(0, 99, time.monotonic_ns(), "realtime")
    sent = car.node.step(tick, Inputs({"command": fresh(car.command), "route": fresh(car.route)}))
    assert "vehicle_state" not in sent
    assert "udp_multicast:239.74.163.2: " in car.node.note
    assert any(cause.startswith("send ") for cause in car.node.link.faults)


def test_a_policy_that_would_pass_the_goal_is_braked_before_it(loop):
    car = loop()
    car.route.goal_distance_m = 20.0
    told = car.press(speed=10.0)
    assert told.frame["Acceleration"] == pytest.approx(SERVICE)
    assert told.guard.causes == ()


def test_a_car_stands_before_its_goal_from_any_speed():
    for start in (3.0, 8.0, 14.0, 25.0):
        distance, speed = 300.0, start
        for _ in range(4000):
            acceleration = min(WANTED_MPS2, limit_before_goal(speed, distance))
            assert acceleration >= SERVICE
            speed = max(0.0, speed + 0.05 * acceleration)
            distance -= 0.05 * speed
            if distance < 20.0 and speed < 0.02:
                break
        assert 0.5 < distance < 5.0, start
    assert np.isfinite(limit_before_goal(0.0, 1000.0))
