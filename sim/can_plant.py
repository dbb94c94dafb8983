"""The PyBullet car behind a CAN bus: what a vehicle profile is tested on, closed loop, without a vehicle.

Camera frames and route go over the graph's bus, as from cameras and a map; the car's state, its driver and its
actuators are reached through CAN alone. The driver presses buttons and pedals at times that the profile sets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from visuomotor.deploy.vehicle.can_link import CanLink, open_link
from visuomotor.messages.camera import CameraModel
from visuomotor.messages.node import Input, Inputs, Sample, Tick
from visuomotor.messages.schema import Command, Episode, Header, Message, VehicleState
from visuomotor.sim.drive import DT_S
from visuomotor.sim.node import WorldNode
from visuomotor.sim.scenario import SUITES
from visuomotor.sim.world_node import choose_case, load_cameras

P = TypeVar("P", bound="CanPlantNode")
COMMAND = "COMMAND"
DRIVER_BRAKING_MPS2 = -3.0


class Press(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One button or pedal of DRIVER, held from ``at_s`` of the episode for ``for_s``."""

    signal: str
    at_s: float
    for_s: float = 0.5


class CanPlantNode(WorldNode):
    """A world whose car obeys COMMAND frames while they say Engaged, and the driver otherwise.

    Without a new COMMAND the car's own watchdog rolls on, then brakes, as in ``WorldNode``; an EmergencyStop is obeyed
    whoever drives. A driver who took over holds the wheel as it was and brakes while the pedal is pressed.
    """

    inputs: tuple[Input, ...] = ()

    def __init__(self, cameras: list[CameraModel], link: CanLink, driver: Sequence[Press], **more: Any) -> None:
        super().__init__(cameras, **more)
        self.outputs = ("route", "truth", *(camera.name for camera in self.cameras))
        self.link = link
        self._driver = tuple(driver)
        self._buttons = tuple(s.name for s in link.codec.message("DRIVER").signals if s.length == 1)
        for press in self._driver:
            link.codec.signal_range("DRIVER", press.signal)
        self._steering_rad = 0.0

    def reset(self, episode: Episode) -> None:
        """As the world; commands of the last episode are forgotten."""
        super().reset(episode)
        self.link.drain(COMMAND)
        self._steering_rad = 0.0

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """One step of the world under what came over CAN; its state goes out there before the cameras are drawn."""
        outputs = dict(super().step(tick, Inputs({"command": self._obey()})))
        del outputs["vehicle_state"]
        return outputs

    def _obey(self) -> Sample:
        readings = self.link.drain(COMMAND)
        if not readings:
            return Sample()
        values = readings[-1].values
        acceleration = values["Acceleration"]
        if values["Engaged"] or values["EmergencyStop"]:
            self._steering_rad = values["SteeringAngle"]
        else:
            acceleration = DRIVER_BRAKING_MPS2 if any(self._pressed("BrakePedal")) else 0.0
        command = Command(
            header=Header(valid=True), acceleration_mps2=acceleration, steering_angle_rad=self._steering_rad
        )
        return Sample(message=command, updated=True)

    def _pressed(self, signal: str) -> list[bool]:
        now_s = self._steps * DT_S
        return [p.at_s <= now_s < p.at_s + p.for_s for p in self._driver if p.signal == signal]

    def _vehicle_state(self, t_ns: int) -> VehicleState:
        state = super()._vehicle_state(t_ns)
        x, y, yaw = self._position(state)
        self._send(
            "MOTION",
            {"Speed": state.speed_mps, "Acceleration": state.acceleration_mps2, "YawRate": state.yaw_rate_radps},
        )
        self._send(
            "ATTITUDE", {"SteeringAngle": state.steering_angle_rad, "Roll": state.roll_rad, "Pitch": state.pitch_rad}
        )
        self._send("POSITION", {"X": x, "Y": y})
        self._send("HEADING", {"Yaw": math.remainder(yaw, 2.0 * math.pi)})
        self._send("DRIVER", {name: float(any(self._pressed(name))) for name in self._buttons})
        return state

    def _position(self, state: VehicleState) -> tuple[float, float, float]:
        """What POSITION and HEADING tell: the frame that the route is given in, here that of dead reckoning."""
        return state.odom_x_m, state.odom_y_m, state.odom_yaw_rad

    def _send(self, name: str, values: Mapping[str, float]) -> None:
        limits = {key: self.link.codec.signal_range(name, key) for key in values}
        self.link.send(name, {key: min(max(value, limits[key][0]), limits[key][1]) for key, value in values.items()})

    def close(self) -> None:
        """Leave the bus, too."""
        self.link.close()
        super().close()


def create(config: Mapping[str, Any]) -> CanPlantNode:
    """World from the settings of ``sim.node.create``, {can: {interface, ...}} and {driver: [{signal, at_s, for_s}]}."""
    return open_plant(CanPlantNode, config)


def open_plant(kind: type[P], config: Mapping[str, Any]) -> P:
    """A plant of some kind on its bus; the bus is left again when the rest of the settings is wrong."""
    driver = msgspec.convert(config.get("driver", []), list[Press])
    link = open_link((COMMAND,), config["can"])
    try:
        return kind(load_cameras(config), link, driver, **choose_case(config, tuple(SUITES)))
    except Exception:
        link.close()
        raise
