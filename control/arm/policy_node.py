"""The picking policy as a node: arm state, order, tracks and forecast in, policy_command out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from visuomotor.control.arm.action import command
from visuomotor.control.arm.config import ACTION_SIZE, CELL, CLASS_NAMES, JOINTS, LIMITS, REST_RAD
from visuomotor.control.arm.hand import settle
from visuomotor.control.arm.inputs import ArmInputs
from visuomotor.control.arm.messages import inputs_from_messages
from visuomotor.control.arm.policy import load_policy
from visuomotor.control.deciding import DecidingNode, Policy
from visuomotor.control.network import read_config
from visuomotor.messages.node import Input, Inputs
from visuomotor.messages.schema import ArmState, Forecast, Order, Tracks


class PolicyNode(DecidingNode[ArmInputs]):
    """Its commands are inside the limits of joints and tool; none comes before state and order."""

    inputs = (Input("arm_state"), Input("order"), Input("tracks"), Input("forecast", trigger=True))

    def __init__(self, policy: Policy[ArmInputs]) -> None:
        super().__init__(policy, ACTION_SIZE)

    def _forget(self) -> None:
        super()._forget()
        self._sent = np.zeros((1, JOINTS))

    def _rest(self) -> ArmInputs:
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
        return inputs_from_messages(state, order, None, None)

    def _gather(self, inputs: Inputs) -> ArmInputs | None:
        state = inputs.get_message("arm_state", ArmState)
        order = inputs.get_message("order", Order)
        if state is None or order is None:
            return None
        tracks, forecast = inputs.get_message("tracks", Tracks), inputs.get_message("forecast", Forecast)
        return inputs_from_messages(state, order, tracks, forecast, self._action)

    def _settle(self, action: np.ndarray, situation: ArmInputs) -> np.ndarray:
        return settle(action, situation)

    def _obey(self, action: np.ndarray, situation: ArmInputs) -> Mapping[str, Any]:
        wanted = command(action, situation, self._sent)
        self._sent = wanted.joint_velocity_radps
        joints = tuple(float(value) for value in self._sent[0])
        return {"joint_velocity_radps": joints, "gripper_width_m": float(wanted.gripper_width_m[0])}


def create(config: dict[str, Any]) -> PolicyNode:
    """Node from ``policy`` (bundle, "scripted", "random"), ``device``, ``threads``, ``runtime``; else ValueError."""
    return PolicyNode(load_policy(*read_config(config)))
