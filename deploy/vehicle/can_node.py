"""The car behind its CAN bus: its state and its driver's word into the graph, the guard's command out to the actuators.

The driver always wins: a pedal, a hand on the wheel or the disengage button clears ``Engaged`` in the very next frame,
without asking anybody in the graph; what the graph hears of it is an ``operator`` message.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from visuomotor.control.action import CommandWatchdog
from visuomotor.control.config import ENVELOPE, VEHICLE
from visuomotor.deploy.vehicle.can_link import CanLink, Reading, open_link
from visuomotor.messages.node import Input, Inputs, Tick
from visuomotor.messages.schema import Command, Episode, Header, Message, Operator, OperatorKind, VehicleState

PERIOD_S = 0.05
FRESH_S = 0.3  # older state or driver's frames count as lost
STANDSTILL_MPS = 0.3
TAKES_OVER = ("BrakePedal", "AcceleratorPedal", "SteeringTouched", "DisengageButton")
REQUIRED = ("MOTION", "ATTITUDE", "DRIVER")
NAVIGATION = ("POSITION", "HEADING")  # where the car has an inertial navigation system, its pose is taken


class DriverSwitch:
    """Who drives: engaged by the button alone, disengaged by any touch; the emergency button holds until a reset."""

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
        if touched and self.engaged:
            self.engaged = False
            words.append("disengage")
        elif "EngageButton" in pressed and not touched and not self.engaged:
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


class CanVehicleNode:
    """Publishes ``vehicle_state`` and ``operator``; sends every ``command`` on. Realtime only: a bus has its own clock.

    A state or a driver's frame that does not come for ``FRESH_S`` is lost: no state is published, the guard stops the
    car, and so does the watchdog here. A car that hears no COMMAND stops by itself. With ``navigation`` the pose is
    that of POSITION and HEADING, which are required then, too; without, it is dead-reckoned here.
    """

    name = "vehicle"
    # the route tells which tick it is: that of the cameras, not of the bus
    inputs = (Input("command", trigger=True, optional=True), Input("route"))
    outputs: tuple[str, ...] = ("vehicle_state", "operator")
    period_s: float | None = PERIOD_S

    def __init__(self, link: CanLink, *, start_engaged: bool = False, navigation: bool = False) -> None:
        self.link = link
        self.navigation = navigation
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
        if not self.driver.engaged:
            self._words.append("disengage")
        self.watchdog.reset(time.monotonic_ns() * 1e-9)

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """Read the bus, obey the driver, send the command."""
        newest = {name: self.link.newest(name, FRESH_S) for name in self._required}
        fresh = {name: reading for name, reading in newest.items() if reading is not None}
        alive = len(fresh) == len(newest)
        attitude, motion = newest["ATTITUDE"], newest["MOTION"]
        steering = attitude.values["SteeringAngle"] if attitude is not None else 0.0
        for reading in self.link.drain("MOTION"):
            self.odometry.move(reading.t_ns, reading.values["Speed"], reading.values["YawRate"], steering)
        speed = motion.values["Speed"] if motion is not None else math.inf
        for reading in self.link.drain("DRIVER"):
            self._words.extend(self.driver.take(reading.values, speed))
        self._actuate(tick, inputs, alive)
        if inputs["route"].message is None:  # nothing has begun
            return {}
        sent: dict[str, Message] = {"vehicle_state": self._state(fresh)} if alive else {}
        if self._words:
            sent["operator"] = Operator(header=Header(t_capture_ns=tick.t_ns, valid=True), kind=self._words.popleft())
        return sent

    def _actuate(self, tick: Tick, inputs: Inputs, alive: bool) -> None:
        sample = inputs["command"]
        command = sample.message if alive and sample.updated and isinstance(sample.message, Command) else None
        wanted = (command.acceleration_mps2, command.steering_angle_rad) if command is not None else None
        acceleration, steering = self.watchdog.step(tick.t_ns * 1e-9, wanted)
        if self.driver.emergency:
            acceleration = ENVELOPE.emergency_acceleration_mps2
        bound = VEHICLE.max_steering_angle_rad
        self.link.send(
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
        """Leave the bus. The car hears no more COMMAND and stops by itself."""
        self.link.close()


def create(config: Mapping[str, Any]) -> CanVehicleNode:
    """Node from {interface, channel} and optionally {dbc, options for python-can, start_engaged, navigation}."""
    navigation = bool(config.get("navigation", False))
    received = (*REQUIRED, *(NAVIGATION if navigation else ()))
    return CanVehicleNode(
        open_link(received, config), start_engaged=bool(config.get("start_engaged", False)), navigation=navigation
    )
