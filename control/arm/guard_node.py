"""The arm's guard as a node: policy_command in, command out, on each policy command and at least once per period."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from visuomotor.control.arm.guard import ArmDecision, ArmGuard, ArmGuardSettings, ArmReading, ArmSituation
from visuomotor.control.guarding import GuardingNode
from visuomotor.control.supervision import read_guard_settings
from visuomotor.messages.node import Input, Inputs
from visuomotor.messages.schema import ArmState, Operator, PolicyCommand


class ArmGuardNode(GuardingNode[ArmGuard]):
    """Runs ``ArmGuard``, which stops the arm when it does not know what to do."""

    inputs = (
        Input("policy_command", trigger=True),
        Input("arm_state"),
        Input("tracks"),
        Input("operator", optional=True),
    )

    def __init__(self, settings: ArmGuardSettings | None = None) -> None:
        super().__init__(ArmGuard(settings))

    def _move(self, decision: ArmDecision) -> Mapping[str, Any]:
        return {
            "joint_velocity_radps": decision.joint_velocity_radps,
            "gripper_width_m": decision.gripper_width_m,
        }

    def _situation(self, inputs: Inputs, dt_s: float) -> ArmSituation:
        wanted = inputs.get_message("policy_command", PolicyCommand)
        state = self._get_fresh(inputs, "arm_state", ArmState)
        return ArmSituation(
            command=None if wanted is None else (wanted.joint_velocity_radps, wanted.gripper_width_m),
            command_valid=wanted is not None and wanted.header.valid,
            command_age_s=inputs["policy_command"].age_s,
            state=None if state is None else _read(state),
            perception_ok=self._is_fresh(inputs, "tracks"),
            operator=tuple(word.kind for word in inputs.drain("operator", Operator)),
            dt_s=dt_s,
        )


def _read(state: ArmState) -> ArmReading | None:
    """The core's reading; None when a number is not finite."""
    gripper = (state.gripper_width_m, state.gripper_force_n)
    numbers = np.concatenate([state.joint_position_rad, state.joint_velocity_radps, gripper])
    if not np.isfinite(numbers).all():
        return None
    return ArmReading(
        joint_position_rad=state.joint_position_rad.astype(np.float64),
        joint_velocity_radps=state.joint_velocity_radps.astype(np.float64),
        gripper_width_m=state.gripper_width_m,
        gripper_force_n=state.gripper_force_n,
    )


def create(config: dict[str, Any]) -> ArmGuardNode:
    """Node from ``ArmGuardSettings`` fields. Raises ValueError that names a wrong key."""
    return ArmGuardNode(read_guard_settings(config, ArmGuardSettings))
