"""The car behind its CAN bus: its state and its driver's word into the graph, the guard's command out to the actuators.

The driver always wins: a pedal, a hand on the wheel or the disengage button clears ``Engaged`` in the very next frame,
without asking anybody in the graph; what the graph hears of it is an ``operator`` message.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visuomotor.control.action import CommandWatchdog
from visuomotor.control.config import ENVELOPE, VEHICLE
from visuomotor.deploy.vehicle.can_link import CanLink, Reading, open_link
from visuomotor.deploy.vehicle.sink import DryRunSink
from visuomotor.deploy.vehicle.summary import write_summary
from visuomotor.messages.node import Input, Inputs, Tick
from visuomotor.messages.schema import (
    Command,
    Episode,
    Header,
    Message,
    Operator,
    OperatorKind,
    Route,
    VehicleState,
)

PERIOD_S = 0.05
FRESH_S = 0.3  # older state or driver's frames count as lost
STANDSTILL_MPS = 0.3
GOAL_MPS2 = 1.5  # braking for the goal of the route
GOAL_SHORT_M = 2.0  # the car stands so far before it
GOAL_TIME_S = 0.5  # in which a speed that is too high for it is taken off
TAKES_OVER = ("BrakePedal", "AcceleratorPedal", "SteeringTouched", "DisengageButton")
REQUIRED = ("MOTION", "ATTITUDE", "DRIVER")
NAVIGATION = ("POSITION", "HEADING")  # where the car has an inertial navigation system, its pose is taken


class DriverSwitch:
    """Who drives: engaged by the button alone, disengaged by any touch; the emergency button holds until a reset.

    After an emergency stop the car is the driver's: a reset permits engaging, it does not engage (ISO 13850, 4.1.4).
    """

    def __init__(self, engaged: bool) -> None:
        self._start = engaged
        self.reset()

    def reset(self) -> None:
        """As at the start; buttons held down now count as pressed before."""
        self.engaged = self._start
        self.emergency = False
        self._before: dict[str, float] | None = None

    def take(self, values: Mapping[str, float], speed_mps: float) -> list[OperatorKind]:
        """One frame of the driver's pedals and buttons: what it changes, in the operator's words."""
        before = values if self._before is None else self._before
        pressed = {name for name, value in values.items() if value and not before.get(name)}
        self._before = dict(values)
        words: list[OperatorKind] = []
        touched = any(values.get(name) for name in TAKES_OVER)
        if "EmergencyStopButton" in pressed:
            self.emergency = True
            words.append("emergency_stop")
        if "ResetButton" in pressed and abs(speed_mps) < STANDSTILL_MPS:
            self.emergency = False
            words.append("reset")
        if (touched or self.emergency) and self.engaged:
            self.engaged = False
            words.append("disengage")
        elif "EngageButton" in pressed and not (touched or self.engaged or self.emergency or words):
            self.engaged = True
            words.append("engage")
        return words


class Odometry:
    """Pose by dead reckoning from speed, yaw rate and steering; the origin is under the middle of the wheelbase."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin at the origin of ``odom_``, which is where the car is now."""
        self.pose = (0.0, 0.0, 0.0)
        self._t_ns: int | None = None

    def move(self, t_ns: int, speed_mps: float, yaw_rate_radps: float, steering_angle_rad: float) -> None:
        """Go on to ``t_ns`` with the motion measured then; the middle of the wheelbase slips by half the steering."""
        if self._t_ns is not None:
            dt_s = (t_ns - self._t_ns) * 1e-9
            x, y, yaw = self.pose
            course = yaw + 0.5 * yaw_rate_radps * dt_s + math.atan(0.5 * math.tan(steering_angle_rad))
            way = speed_mps * dt_s
            self.pose = (x + way * math.cos(course), y + way * math.sin(course), yaw + yaw_rate_radps * dt_s)
        self._t_ns = t_ns


def limit_before_goal(speed_mps: float, goal_distance_m: float) -> float:
    """The greatest acceleration (m/s2) with which a car still stands at its goal, inside the envelope."""
    allowed_mps = math.sqrt(2.0 * GOAL_MPS2 * max(goal_distance_m - GOAL_SHORT_M, 0.0))
    return max((allowed_mps - speed_mps) / GOAL_TIME_S, ENVELOPE.min_acceleration_mps2)


class CanVehicleNode:
    """Publishes ``vehicle_state`` and ``operator``; sends every ``command`` on. Realtime only: a bus has its own clock.

    A state or a driver's frame that does not come for ``FRESH_S`` is lost: no state is published, the guard stops the
    car, and so does the watchdog here. A car that hears no COMMAND stops by itself. With ``navigation`` the pose is
    that of POSITION and HEADING, which are required then, too; without, it is dead-reckoned here. With
    ``stop_at_goal`` the car is braked to a stop where the route ends. With a ``sink`` nothing is sent: a dry run, in
    which the sink gets the commands.
    """

    name = "vehicle"
    # the route tells which tick it is: that of the cameras, not of the bus
    inputs = (Input("command", trigger=True, optional=True), Input("route"))
    outputs: tuple[str, ...] = ("vehicle_state", "operator")
    period_s: float | None = PERIOD_S

    def __init__(
        self,
        link: CanLink,
        *,
        start_engaged: bool = False,
        navigation: bool = False,
        stop_at_goal: bool = False,
        sink: DryRunSink | None = None,
        summary: Path | None = None,
    ) -> None:
        self.link = link
        self.navigation = navigation
        self.note = ""
        self._stop_at_goal = stop_at_goal
        self._sink = sink
        self._summary = summary
        self._said: Counter[str] = Counter()
        self._sent = 0
        self._begun = False
        self.driver = DriverSwitch(start_engaged)
        self.odometry = Odometry()
        self.watchdog = CommandWatchdog()
        self._words: deque[OperatorKind] = deque()
        self._required = (*REQUIRED, *(NAVIGATION if navigation else ()))

    def warm_up(self) -> None:
        """Nothing to load."""

    def reset(self, episode: Episode) -> None:
        """Forget odometry, the last command and what the driver said before."""
        self.driver.reset()
        self.odometry.reset()
        self.link.drain("MOTION")
        self.link.drain("DRIVER")
        self._words.clear()
        self._begun = False
        if not self.driver.engaged:
            self._words.append("disengage")
        self.watchdog.reset(time.monotonic_ns() * 1e-9)

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """Read the bus, obey the driver, send the command."""
        newest = {name: self.link.newest(name, FRESH_S) for name in self._required}
        fresh = {name: reading for name, reading in newest.items() if reading is not None}
        missing = [name for name in newest if name not in fresh]
        alive = not missing
        lost = f"no {', '.join(missing)} for {FRESH_S} s" if missing else ""
        down = self.link.down and f"{self.link.name}: {self.link.down}"
        unlogged = self._sink.note if self._sink is not None else ""
        self.note = "; ".join(part for part in (lost, down, unlogged) if part)
        attitude, motion = newest["ATTITUDE"], newest["MOTION"]
        steering = attitude.values["SteeringAngle"] if attitude is not None else 0.0
        for reading in self.link.drain("MOTION"):
            self.odometry.move(reading.t_ns, reading.values["Speed"], reading.values["YawRate"], steering)
        speed = motion.values["Speed"] if motion is not None else math.inf
        for reading in self.link.drain("DRIVER"):
            self._words.extend(self.driver.take(reading.values, speed))
        route = inputs.get_message("route", Route)
        most = math.inf
        if self._stop_at_goal and route is not None and route.header.valid:
            most = limit_before_goal(speed, route.goal_distance_m)
        self._actuate(tick, inputs, alive, most)
        self._begun = self._begun or route is not None
        if not self._begun:
            return {}
        sent: dict[str, Message] = {"vehicle_state": self._state(fresh)} if alive else {}
        if self._words:
            kind = self._words.popleft()
            self._said[kind] += 1
            sent["operator"] = Operator(header=Header(t_capture_ns=tick.t_ns, valid=True), kind=kind)
        return sent

    def _actuate(self, tick: Tick, inputs: Inputs, alive: bool, most_mps2: float) -> None:
        sample = inputs["command"]
        command = sample.message if alive and sample.updated and isinstance(sample.message, Command) else None
        wanted = (command.acceleration_mps2, command.steering_angle_rad) if command is not None else None
        now_s = tick.t_ns * 1e-9
        acceleration, steering = self.watchdog.step(now_s, wanted)
        acceleration = min(acceleration, most_mps2)
        if self.driver.emergency:
            acceleration = ENVELOPE.emergency_acceleration_mps2
        if self._sink is not None:
            self._sink.write(tick.tick, now_s, command, (acceleration, steering), self.watchdog.tripped)
            return
        bound = VEHICLE.max_steering_angle_rad
        self._sent += self.link.send(
            "COMMAND",
            {
                "Acceleration": min(
                    max(acceleration, ENVELOPE.emergency_acceleration_mps2), ENVELOPE.max_acceleration_mps2
                ),
                "SteeringAngle": min(max(steering, -bound), bound),
                "Engaged": float(self.driver.engaged),
                "EmergencyStop": float(self.driver.emergency),
            },
        )

    def _state(self, fresh: Mapping[str, Reading]) -> VehicleState:
        values = {name: value for reading in fresh.values() for name, value in reading.values.items()}
        x, y, yaw = (values["X"], values["Y"], values["Yaw"]) if self.navigation else self.odometry.pose
        return VehicleState(
            header=Header(t_capture_ns=min(r.t_ns for r in fresh.values()), valid=True),
            speed_mps=values["Speed"],
            acceleration_mps2=values["Acceleration"],
            yaw_rate_radps=values["YawRate"],
            steering_angle_rad=values["SteeringAngle"],
            roll_rad=values["Roll"],
            pitch_rad=values["Pitch"],
            odom_x_m=x,
            odom_y_m=y,
            odom_yaw_rad=yaw,
        )

    def close(self) -> None:
        """Leave the bus and write what was counted. The car hears no more COMMAND and stops by itself."""
        self.link.close()
        if self._sink is not None:
            self._sink.close()
        counted = {
            "can_faults": self.link.faults,
            "can_commands_sent": self._sent,
            "operator_words": dict(self._said),
            "dry_run": self._sink is not None,
        }
        write_summary(self._summary, counted)


def create(config: Mapping[str, Any]) -> CanVehicleNode:
    """Node from {interface, channel} and optionally {dbc, options for python-can, start_engaged, navigation}.

    ``stop_at_goal``: the route ends where the car shall stand. ``dry_run`` writes ``commands`` (a CSV path) in place of
    sending; ``summary`` is where the counts go.
    """
    navigation = bool(config.get("navigation", False))
    received = (*REQUIRED, *(NAVIGATION if navigation else ()))
    return CanVehicleNode(
        open_link(received, config),
        start_engaged=bool(config.get("start_engaged", False)),
        navigation=navigation,
        stop_at_goal=bool(config.get("stop_at_goal", False)),
        sink=DryRunSink(_path(config, "commands")) if config.get("dry_run") else None,
        summary=_path(config, "summary"),
    )


def _path(config: Mapping[str, Any], key: str) -> Path | None:
    return Path(config[key]) if config.get(key) else None
