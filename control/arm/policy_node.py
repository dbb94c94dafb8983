"""The picking policy as a node: arm state, order, tracks and forecast in, policy_command out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from visuomotor.control.arm.action import command
from visuomotor.control.arm.config import ACTION_SIZE, CELL, CLASS_NAMES, JOINTS, LIMITS, REST_RAD
from visuomotor.control.arm.hand import settle
from visuomotor.control.arm.messages import inputs_from_messages
from visuomotor.control.arm.policy import Policy, load_policy
from visuomotor.control.network import read_config
from visuomotor.messages.node import Input, Inputs, Tick
from visuomotor.messages.schema import ArmState, Episode, Forecast, Header, Message, Order, PolicyCommand, Tracks


class PolicyNode:
    """Runs a ``Policy`` once per forecast; its commands are already inside the limits of joints and tool."""

    name = "policy"
    inputs = (Input("arm_state"), Input("order"), Input("tracks"), Input("forecast", trigger=True))
    outputs = ("policy_command",)
    period_s: float | None = None

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.provider = policy.provider
        self._forget()

    def _forget(self) -> None:
        self._action = np.zeros(ACTION_SIZE, np.float32)
        self._sent = np.zeros((1, JOINTS))

    def warm_up(self) -> None:
        """Decide once at rest over an empty belt, so that the first step is as fast as the rest."""
        state = ArmState(
            joint_position_rad=np.array(REST_RAD, np.float32),
            joint_velocity_radps=np.zeros(JOINTS, np.float32),
            gripper_width_m=LIMITS.gripper_width_m,
        )
        order = Order(
            wanted=np.zeros(len(CLASS_NAMES), np.int32),
            bin_index=np.full(len(CLASS_NAMES), -1, np.int32),
            base_bin_m=np.array([[*centre, CELL.bin_size_m[2]] for centre in CELL.bin_centre_m], np.float32),
        )
        inputs = inputs_from_messages(state, order, None, None)
        command(self.policy.act(inputs), inputs, self._sent)
        self.reset(Episode(phase="reset"))

    def reset(self, episode: Episode) -> None:
        """Forget the last episode."""
        self.policy.reset(episode)
        self._forget()

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """One command, valid when the action is finite and all inputs are right; none before state and order."""
        state = inputs.get_message("arm_state", ArmState)
        order = inputs.get_message("order", Order)
        if state is None or order is None:
            return {}
        tracks = inputs.get_message("tracks", Tracks)
        picking = inputs_from_messages(state, order, tracks, inputs.get_message("forecast", Forecast), self._action)
        action = self.policy.act(picking)
        finite = bool(np.isfinite(action).all())
        action = settle(np.clip(np.nan_to_num(action), -1.0, 1.0), picking)
        wanted = command(action, picking, self._sent)
        self._sent = wanted.joint_velocity_radps
        self._action = action[0]
        return {
            "policy_command": PolicyCommand(
                header=Header(valid=finite and inputs.all_ok()),
                joint_velocity_radps=tuple(float(value) for value in self._sent[0]),
                gripper_width_m=float(wanted.gripper_width_m[0]),
                action_norm=tuple(float(value) for value in action[0]),
            )
        }

    def close(self) -> None:
        """Nothing to release."""


def create(config: dict[str, Any]) -> PolicyNode:
    """Node from ``policy`` (bundle, "scripted", "random"), ``device``, ``threads``, ``runtime``; else ValueError."""
    return PolicyNode(load_policy(*read_config(config)))
