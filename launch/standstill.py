"""Whether a robot stands, by what its end of the graph says of itself: a car by its speed, an arm by its joints'."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import numpy as np

from visuomotor.messages.schema import ArmState, Message, Truth, VehicleState


class Gauge(msgspec.Struct, frozen=True, kw_only=True):
    """One way to read a robot's motion. ``name`` is what records call it, with its unit."""

    name: str
    standstill: float  # below it the robot stands
    services: tuple[str, ...]  # that tell it, the most trusted first

    def read(self, message: Message | None) -> float | None:
        """The motion that a message tells, None where it tells none."""
        if isinstance(message, ArmState):
            return float(np.abs(message.joint_velocity_radps).max(initial=0.0))
        return message.speed_mps if isinstance(message, Truth | VehicleState) else None

    def read_first(self, messages: Mapping[str, Any]) -> float | None:
        """The motion by the most trusted of several messages."""
        return next((v for s in self.services if (v := self.read(messages.get(s))) is not None), None)

    def stands(self, motion: float | None) -> bool:
        """Whether so little motion is none; what is not known, or no number, is not standing."""
        return motion is not None and abs(motion) < self.standstill


CAR = Gauge(name="speed_mps", standstill=0.1, services=("truth", "vehicle_state"))
ARM = Gauge(name="joint_speed_radps", standstill=0.02, services=("arm_state",))


def choose_gauge(services: Collection[str]) -> Gauge:
    """The gauge of a robot of which these services are to be had."""
    return ARM if "arm_state" in services else CAR
