"""The driving policy as a node: vehicle state, route, tracks and forecast in, policy_command out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from visuomotor.control.action import ACTION_SIZE, decode, limit_command
from visuomotor.control.deciding import DecidingNode, Policy
from visuomotor.control.inputs import DriveInputs, inputs_from_messages
from visuomotor.control.network import read_config
from visuomotor.control.policy import load_policy
from visuomotor.messages.node import Input, Inputs
from visuomotor.messages.schema import Forecast, Route, Tracks, VehicleState


class PolicyNode(DecidingNode[DriveInputs]):
    """Its commands are inside the envelope and the rate limits; none comes before state and route."""

    inputs = (Input("vehicle_state"), Input("route"), Input("tracks"), Input("forecast", trigger=True))

    def __init__(self, policy: Policy[DriveInputs]) -> None:
        super().__init__(policy, ACTION_SIZE)

    def _forget(self) -> None:
        super()._forget()
        self._sent = (0.0, 0.0)

    def _rest(self) -> DriveInputs:
        straight = np.stack([np.arange(-40.0, 122.0, 2.0), np.zeros(81)], axis=1).astype(np.float32)
        return inputs_from_messages(VehicleState(), Route(odom_reference_m=straight), None, None)

    def _gather(self, inputs: Inputs) -> DriveInputs | None:
        vehicle = inputs.get_message("vehicle_state", VehicleState)
        route = inputs.get_message("route", Route)
        if vehicle is None or route is None:
            return None
        tracks, forecast = inputs.get_message("tracks", Tracks), inputs.get_message("forecast", Forecast)
        return inputs_from_messages(vehicle, route, tracks, forecast, self._action)

    def _obey(self, action: np.ndarray, situation: DriveInputs) -> Mapping[str, Any]:
        acceleration, angle = decode(action, situation)
        limited = limit_command(acceleration[0], angle[0], *self._sent, float(situation.speed_mps[0]))
        self._sent = (float(limited.acceleration_mps2), float(limited.steering_angle_rad))
        return {"acceleration_mps2": self._sent[0], "steering_angle_rad": self._sent[1]}


def create(config: dict[str, Any]) -> PolicyNode:
    """Node from ``policy`` (bundle, "idm", "random"), ``device``, ``threads``, ``runtime``. ValueError: wrong key."""
    return PolicyNode(load_policy(*read_config(config)))
