"""Standstill with nothing left but the vehicle interface, and who opens the latch."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from visuomotor.control.action import CONTROL_PERIOD_S, CommandWatchdog
from visuomotor.control.config import ENVELOPE
from visuomotor.control.guard import Guard, GuardSettings, GuardSituation
from visuomotor.control.guard_node import GuardNode
from visuomotor.control.inputs import DriveInputs
from visuomotor.messages.coordinator import Coordinator
from visuomotor.messages.loop import run_node
from visuomotor.messages.node import Input, Inputs, Sample, Tick
from visuomotor.messages.run_directory import RunDirectory
from visuomotor.messages.schema import Command, Episode, Header, Message, PolicyCommand, VehicleState
from visuomotor.messages.wiring import RunPlace

Make = Callable[..., DriveInputs]
NOTHING = GuardSituation(
    command=None, command_valid=False, command_age_s=math.inf, vehicle_ok=False, inputs=None, speed_mps=0.0
)


def stop(step: Callable[[float], float], speed: float = 14.0) -> float:
    """Seconds until a car stands that does what ``step`` (of its speed) commands, a tick late."""
    pending, time_s = 0.0, 0.0
    while speed > 0.0:
        commanded = step(speed)
        speed += pending * CONTROL_PERIOD_S
        pending = commanded
        time_s += CONTROL_PERIOD_S
        assert time_s < 30.0, "the car does not stop"
    return time_s


@pytest.mark.parametrize(
    "left", [{}, {"vehicle_ok": True}, {"command": (2.0, 0.0)}, {"command": (2.0, 0.0), "command_valid": True}]
)
def test_the_guard_stops_the_car_with_nothing_but_its_own_clock(left: dict[str, object]):
    guard = Guard()
    guard.step(
        dataclasses.replace(NOTHING, command=(2.0, 0.04), command_valid=True, command_age_s=0.0, vehicle_ok=True)
    )

    def step(speed: float) -> float:
        now = dataclasses.replace(NOTHING, **left)
        return guard.step(dataclasses.replace(now, speed_mps=speed if now.vehicle_ok else 0.0)).acceleration_mps2

    # 14 m/s at 3.5 m/s2, after a heartbeat of holding, the ramp down and the tick
    assert stop(step) <= 14.0 / 3.5 + 0.5 + 0.3
    assert guard.step(NOTHING).acceleration_mps2 == ENVELOPE.min_acceleration_mps2, "and holds it there"


def test_a_stop_brakes_as_hard_as_what_is_ahead_requires(make_inputs: Make):
    wall = make_inputs([{"s": 17.0, "d": 3.5}], speed=10.0)
    seen = dataclasses.replace(
        NOTHING, vehicle_ok=True, inputs=wall, speed_mps=10.0, track_age_s=wall.speed_mps.repeat(32)
    )
    blind = dataclasses.replace(seen, track_age_s=None)
    assert Guard().step(seen).causes == ("stale_policy", "ttc_brake")
    assert Guard().step(seen).acceleration_mps2 == pytest.approx(-6.0, abs=0.05)
    assert Guard().step(blind).causes == ("stale_policy",)
    passed = Guard(GuardSettings(enabled=False)).step(seen)
    assert (passed.causes, passed.acceleration_mps2) == (("stale_policy",), -2.5), "switched off it only stops"


@pytest.mark.parametrize("hold_s", [0.0, 0.3])
def test_the_watchdog_stops_the_car_when_no_command_comes(hold_s: float):
    watchdog = CommandWatchdog(hold_s=hold_s)
    clock = iter(range(1, 1000))
    watchdog.step(0.0, (2.0, 0.1))
    assert (
        stop(lambda speed: watchdog.step(next(clock) * CONTROL_PERIOD_S, None)[0]) <= (14.0 + 2.0) / 3.5 + hold_s + 0.4
    )


class Car:
    """The vehicle interface alone: it takes commands and has nothing to say."""

    name = "world"
    inputs = (Input("command", trigger=True, optional=True),)
    outputs: tuple[str, ...] = ()
    period_s: float | None = CONTROL_PERIOD_S

    def __init__(self) -> None:
        self.heard: list[Command] = []
        self.enough = threading.Event()

    def warm_up(self) -> None: ...

    def reset(self, episode: Episode) -> None: ...

    def step(self, tick: Tick, inputs: Inputs) -> dict[str, Message]:
        message = inputs["command"].message
        if isinstance(message, Command) and inputs["command"].updated:
            self.heard.append(message)
        if len(self.heard) >= 6:
            self.enough.set()
        return {}

    def close(self) -> None: ...


class Mute:
    """Whoever else belongs to the graph, and never says anything."""

    inputs: tuple[Input, ...] = ()
    period_s: float | None = CONTROL_PERIOD_S

    def __init__(self, name: str, *outputs: str) -> None:
        self.name, self.outputs = name, outputs

    def warm_up(self) -> None: ...

    def reset(self, episode: Episode) -> None: ...

    def step(self, tick: Tick, inputs: Inputs) -> dict[str, Message]:
        return {}

    def close(self) -> None: ...


def test_the_guards_node_brakes_over_sockets_when_nobody_says_anything(tmp_path: Path):
    with RunDirectory(tmp_path / "run") as directory:
        place = RunPlace(str(directory.sockets), "run", "realtime")
        car, stopping = Car(), threading.Event()
        rest = Mute("rest", "policy_command", "vehicle_state", "route", "tracks")
        nodes = (car, rest, GuardNode())
        coordinator = Coordinator(place, [node.name for node in nodes], observe=())
        threads = [threading.Thread(target=run_node, args=(node, place), kwargs={"stop": stopping}) for node in nodes]
        for thread in threads:
            thread.start()
        try:
            coordinator.wait_ready(60.0, lambda: None)
            coordinator.reset(Episode(phase="reset", index=0), 60.0, lambda: None)
            coordinator.start()
            coordinator.close()  # the supervisor is gone from here on
            assert car.enough.wait(60.0)
        finally:
            stopping.set()
            for thread in threads:
                thread.join(60.0)
    assert [command.causes for command in car.heard] == [("stale_vehicle_state",)] * len(car.heard)
    assert [command.acceleration_mps2 for command in car.heard[:3]] == [-2.5, -3.5, -3.5]


GOOD = PolicyCommand(header=Header(valid=True), acceleration_mps2=1.0)


def test_a_heartbeat_is_half_a_second_of_the_node():
    assert GuardSettings().heartbeat_s == 0.5
    node = GuardNode()

    def step(tick: int, **given: Sample) -> Command:
        inputs = Inputs({source.service: Sample() for source in node.inputs}) | given
        sent = node.step(Tick(0, tick, tick * 10**8, "realtime"), Inputs(inputs))["command"]
        assert isinstance(sent, Command)
        return sent

    state = Sample(message=VehicleState(header=Header(valid=True), speed_mps=5.0), age_s=0.0)
    assert step(0, policy_command=Sample(message=GOOD, age_s=0.0), vehicle_state=state).causes == ()
    causes = [step(tick, vehicle_state=state).causes for tick in range(1, 8)]
    assert causes == [("held_command",)] * 5 + [("stale_policy",)] * 2
