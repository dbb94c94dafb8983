"""The arm's guard as a node: policy_command in, command out, on each policy command and at least once per period."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from visuomotor.control.arm.config import CONTROL_PERIOD_S
from visuomotor.control.arm.guard import ArmGuard, ArmGuardSettings, ArmReading, ArmSituation
from visuomotor.control.supervision import StepTimer, read_guard_settings
from visuomotor.messages.node import Input, Inputs, Tick
from visuomotor.messages.schema import ArmState, Command, Episode, Header, Message, Operator, PolicyCommand


class ArmGuardNode:
    """Runs ``ArmGuard`` once per policy command; in realtime also when none came for 1.5 periods."""

    name = "guard"
    inputs = (
        Input("policy_command", trigger=True),
        Input("arm_state"),
        Input("tracks"),
        Input("operator", optional=True),
    )
    outputs = ("command",)
    period_s: float | None = 1.5 * CONTROL_PERIOD_S

    def __init__(self, settings: ArmGuardSettings | None = None) -> None:
        self._guard = ArmGuard(settings)
        self._timer = StepTimer(CONTROL_PERIOD_S)

    @property
    def guard(self) -> ArmGuard:
        """The core."""
        return self._guard

    def warm_up(self) -> None:
        """Nothing to load: the first step is as fast as the rest."""

    def reset(self, episode: Episode) -> None:
        """Forget the last episode; the guard is engaged or latched as configured."""
        self._guard.reset()
        self._timer.reset()

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """One command, always: a guard that does not know what to do stops the arm."""
        decision = self._guard.step(self._situation(inputs, self._timer.step(tick.t_ns)))
        return {
            "command": Command(
                header=Header(valid=True),
                joint_velocity_radps=decision.joint_velocity_radps,
                gripper_width_m=decision.gripper_width_m,
                causes=decision.causes,
                latched=decision.latched,
            )
        }

    def _situation(self, inputs: Inputs, dt_s: float) -> ArmSituation:
        wanted = inputs.get_message("policy_command", PolicyCommand)
        state = inputs.get_message("arm_state", ArmState) if self._is_fresh(inputs, "arm_state") else None
        return ArmSituation(
            command=None if wanted is None else (wanted.joint_velocity_radps, wanted.gripper_width_m),
            command_valid=wanted is not None and wanted.header.valid,
            command_age_s=inputs["policy_command"].age_s,
            state=None if state is None else _read(state),
            perception_ok=self._is_fresh(inputs, "tracks"),
            operator=tuple(word.kind for word in inputs.drain("operator", Operator)),
            dt_s=dt_s,
        )

    def _is_fresh(self, inputs: Inputs, service: str) -> bool:
        return inputs[service].valid and inputs[service].age_s <= self._guard.settings.heartbeat_s

    def close(self) -> None:
        """Nothing to release."""


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
