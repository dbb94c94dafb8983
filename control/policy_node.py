"""The policy as a node: vehicle state, route, tracks and forecast in, policy_command out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from visuomotor.control.action import ACTION_SIZE, decode, limit_command
from visuomotor.control.inputs import inputs_from_messages
from visuomotor.control.network import read_config
from visuomotor.control.policy import Policy, load_policy
from visuomotor.messages.node import Input, Inputs, Tick
from visuomotor.messages.schema import (
    Episode,
    Forecast,
    Header,
    Message,
    PolicyCommand,
    Route,
    Tracks,
    VehicleState,
)


class PolicyNode:
    """Runs a ``Policy`` once per forecast; its commands are already inside the envelope and the rate limits."""

    name = "policy"
    inputs = (Input("vehicle_state"), Input("route"), Input("tracks"), Input("forecast", trigger=True))
    outputs = ("policy_command",)
    period_s: float | None = None

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.provider = policy.provider
        self._forget()

    def _forget(self) -> None:
        self._action = np.zeros(ACTION_SIZE, np.float32)
        self._sent = (0.0, 0.0)

    def warm_up(self) -> None:
        """Decide once on an empty road, so that the first step is as fast as the rest."""
        straight = np.stack([np.arange(-40.0, 122.0, 2.0), np.zeros(81)], axis=1).astype(np.float32)
        inputs = inputs_from_messages(VehicleState(), Route(odom_reference_m=straight), None, None)
        decode(self.policy.act(inputs), inputs)
        self.reset(Episode(phase="reset"))

    def reset(self, episode: Episode) -> None:
        """Forget the last episode."""
        self.policy.reset(episode)
        self._forget()

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """One command, valid when the action is finite and all inputs are right; none before state and route."""
        vehicle = inputs.get_message("vehicle_state", VehicleState)
        route = inputs.get_message("route", Route)
        if vehicle is None or route is None:
            return {}
        tracks = inputs.get_message("tracks", Tracks)
        driving = inputs_from_messages(vehicle, route, tracks, inputs.get_message("forecast", Forecast), self._action)
        action = self.policy.act(driving)
        finite = bool(np.isfinite(action).all())
        action = np.clip(np.nan_to_num(action), -1.0, 1.0)
        acceleration, angle = decode(action, driving)
        limited = limit_command(acceleration[0], angle[0], *self._sent, vehicle.speed_mps)
        self._sent = (float(limited.acceleration_mps2), float(limited.steering_angle_rad))
        self._action = action[0].astype(np.float32)
        return {
            "policy_command": PolicyCommand(
                header=Header(valid=finite and inputs.all_ok()),
                acceleration_mps2=self._sent[0],
                steering_angle_rad=self._sent[1],
                action_norm=tuple(float(value) for value in action[0]),
            )
        }

    def close(self) -> None:
        """Nothing to release."""


def create(config: dict[str, Any]) -> PolicyNode:
    """Node from ``policy`` (bundle, "idm", "random"), ``device``, ``threads``, ``runtime``. ValueError: wrong key."""
    return PolicyNode(load_policy(*read_config(config)))
