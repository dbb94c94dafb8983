"""The arm guard's decisions, free of sockets: what of a policy's command reaches the joints.

It depends on no network. Order of precedence: the operator, validity of the inputs, the limits. A command passes when
after it the arm can still be brought to rest without going beyond any limit; otherwise it is moved towards the stop
that the last command left open, which is always possible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from visuomotor.control.arm.action import ACCELERATION_RADPS2, brake, starting_position
from visuomotor.control.arm.config import CELL, CONTROL_PERIOD_S, JOINTS, LIMITS, CellGeometry
from visuomotor.control.arm.kinematics import jacobian, limit_speed
from visuomotor.control.arm.stopping import (
    COLLISION_BELT,
    COLLISION_BIN,
    COLLISION_SELF,
    LIMIT_JOINT_POSITION,
    LIMIT_TOOL_SPEED,
    LIMIT_WORKSPACE,
    StopMargins,
    StopPaths,
)
from visuomotor.control.supervision import ROUNDING_S, Heartbeat, OperatorLatch

EMERGENCY_STOP = "emergency_stop"
DISENGAGED = "disengaged"
STALE_ARM_STATE = "stale_arm_state"
STALE_POLICY = "stale_policy"
HELD_COMMAND = "held_command"
NOT_FINITE = "not_finite"
STALE_PERCEPTION = "stale_perception"
LIMIT_JOINT_SPEED = "limit_joint_speed"
LIMIT_ACCELERATION = "limit_acceleration"
LIMIT_GRIPPER = "limit_gripper"
CAUSES = (
    EMERGENCY_STOP,
    DISENGAGED,
    STALE_ARM_STATE,
    STALE_POLICY,
    HELD_COMMAND,
    NOT_FINITE,
    STALE_PERCEPTION,
    LIMIT_JOINT_SPEED,
    LIMIT_ACCELERATION,
    LIMIT_JOINT_POSITION,
    LIMIT_WORKSPACE,
    LIMIT_TOOL_SPEED,
    COLLISION_BELT,
    COLLISION_BIN,
    COLLISION_SELF,
    LIMIT_GRIPPER,
)
ArmTarget = tuple[tuple[float, ...], float]  # joint velocities, gripper width


class ArmGuardSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Thresholds of the guard.

    ``enabled`` False passes finite commands on unlimited (simulation only); the emergency stop still works.
    """

    enabled: bool = True
    start_latched: bool = False  # as after a restart beside people: nothing moves before the operator's reset
    heartbeat_s: float = 0.5
    standstill_radps: float = 0.02
    tool_tolerance: float = 0.15  # by which the tool may exceed the policy's envelope, as that does in a turn
    overload_s: float = 0.3  # for which the fingers may press harder than the gripper's continuous force
    speed_noise_radps: float = 0.01  # smaller cuts are rounding, not interventions
    width_noise_m: float = 0.0005

    def __post_init__(self) -> None:
        """Raise ValueError that quotes the value when a threshold makes no sense."""
        for name in ("heartbeat_s", "standstill_radps"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"expected {name} > 0, got {getattr(self, name)}")
        for name in ("tool_tolerance", "overload_s", "speed_noise_radps", "width_noise_m"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"expected {name} >= 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ArmReading:
    """Measured state of one arm: joints [7] (rad, rad/s), gripper."""

    joint_position_rad: np.ndarray
    joint_velocity_radps: np.ndarray
    gripper_width_m: float
    gripper_force_n: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ArmSituation:
    """What the guard knows in one step.

    ``command``: newest joint velocities (rad/s) and gripper width (m) of the policy, None before the first;
    ``command_valid``: its publisher stands by it; ``command_age_s``: since capture. ``state``: recent and finite, None
    where there is none. ``perception_ok``: there are recent tracks. ``operator``: kinds of the operator's messages
    since the last step.
    """

    command: ArmTarget | None
    command_valid: bool
    command_age_s: float
    state: ArmReading | None
    perception_ok: bool = True
    operator: Sequence[str] = ()
    dt_s: float = CONTROL_PERIOD_S


@dataclass(frozen=True)
class ArmDecision:
    """The command for joints and gripper, and why it differs from the policy's."""

    joint_velocity_radps: tuple[float, ...]
    gripper_width_m: float
    causes: tuple[str, ...]
    latched: bool


class ArmGuard:
    """Stateful over an episode: last command sent, latch, engagement, and for how long the fingers press too hard."""

    def __init__(
        self,
        settings: ArmGuardSettings | None = None,
        margins: StopMargins | None = None,
        cell: CellGeometry = CELL,
    ) -> None:
        self.settings = settings or ArmGuardSettings()
        tool_speed = (1.0 + self.settings.tool_tolerance) * LIMITS.tool_speed_mps
        self._paths = StopPaths(margins or StopMargins(), cell, tool_speed)
        self._operator = OperatorLatch(self.settings.start_latched)
        self._heartbeat: Heartbeat[ArmTarget] = Heartbeat(self.settings.heartbeat_s)
        self.reset()

    def reset(self) -> None:
        """Begin anew: latched if so configured, otherwise engaged, with an arm that stands."""
        self._operator.reset()
        self._heartbeat.reset()
        self._sent = np.zeros(JOINTS)
        self._width_m: float | None = None
        self._overload_s = 0.0

    @property
    def latched(self) -> bool:
        """Whether the emergency stop holds."""
        return self._operator.latched

    def step(self, now: ArmSituation) -> ArmDecision:
        """Decide one command. The result is finite, within the joints' limits, and leaves room to stop."""
        self._operator.obey(now.operator, self._stands(now))
        if self.latched:
            return self._stop(now, EMERGENCY_STOP)
        if not self._operator.engaged:
            return self._stop(now, DISENGAGED)
        if now.state is None:
            return self._stop(now, STALE_ARM_STATE)
        command, held = self._heartbeat.pick(now.command, now.command_valid, now.command_age_s, now.dt_s)
        if command is None:
            return self._stop(now, STALE_POLICY)
        if not _is_whole(command):
            return self._stop(now, NOT_FINITE)
        if not self.settings.enabled:
            return self._send(np.array(command[0], np.float64), command[1], [])
        if not now.perception_ok:
            return self._stop(now, STALE_PERCEPTION)
        causes: list[str] = []
        wanted, width = np.array(command[0], np.float64), command[1]
        if held:
            causes.append(HELD_COMMAND)
            wanted, width = self._sent, self._hold_width(now)
        velocity = self._limit(now.state, wanted, now.dt_s, causes)
        return self._send(velocity, self._grip(now.state, width, now.dt_s, causes), causes)

    def _stands(self, now: ArmSituation) -> bool:
        if now.state is None:
            return False
        return bool(np.abs(now.state.joint_velocity_radps).max() < self.settings.standstill_radps)

    def _limit(self, state: ArmReading, wanted: np.ndarray, dt_s: float, causes: list[str]) -> np.ndarray:
        """The joint velocities nearest to those wanted, as far as the limits go."""
        noise = self.settings.speed_noise_radps
        inside = limit_speed(wanted[None])[0]
        if np.abs(wanted - inside).max() > noise:
            causes.append(LIMIT_JOINT_SPEED)
        start = starting_position(state.joint_position_rad, state.joint_velocity_radps, self._sent)
        change = inside - self._sent
        reached = self._sent + self._share(start + dt_s * self._sent, change, dt_s) * change
        if np.abs(inside - reached).max() > noise:
            causes.append(LIMIT_ACCELERATION)
        velocity, limits = self._paths.admit(start, self._sent, reached, dt_s)
        if np.abs(velocity - reached).max() > noise:
            causes.extend(limits)
        return velocity

    def _share(self, joint_position_rad: np.ndarray, change_radps: np.ndarray, dt_s: float) -> float:
        """How much of a change of velocity [7] the accelerations of joints and tool allow in one step, up to 1."""
        tool = jacobian(joint_position_rad[None])[0, :3] @ change_radps
        limit = (1.0 + self.settings.tool_tolerance) * LIMITS.tool_acceleration_mps2
        needed = max(float(np.linalg.norm(tool)) / limit, float((np.abs(change_radps) / ACCELERATION_RADPS2).max()))
        return min(dt_s / needed, 1.0) if needed > 0.0 else 1.0

    def _grip(self, state: ArmReading, width_m: float, dt_s: float, causes: list[str]) -> float:
        """The width nearest to that wanted; no closing on while the fingers have pressed too hard for too long."""
        inside = min(max(width_m, 0.0), LIMITS.gripper_width_m)
        self._overload_s = self._overload_s + dt_s if state.gripper_force_n > LIMITS.gripper_force_n else 0.0
        if self._overload_s > self.settings.overload_s + ROUNDING_S:
            inside = max(inside, min(state.gripper_width_m, LIMITS.gripper_width_m))
        if abs(width_m - inside) > self.settings.width_noise_m:
            causes.append(LIMIT_GRIPPER)
        return inside

    def _stop(self, now: ArmSituation, cause: str) -> ArmDecision:
        """Come to rest on the way that the last command left open, and hold what the gripper holds."""
        return self._send(brake(self._sent, now.dt_s), self._hold_width(now), [cause])

    def _hold_width(self, now: ArmSituation) -> float:
        if self._width_m is not None:
            return self._width_m
        measured = LIMITS.gripper_width_m if now.state is None else now.state.gripper_width_m
        return min(max(measured, 0.0), LIMITS.gripper_width_m)

    def _send(self, velocity: np.ndarray, width_m: float, causes: list[str]) -> ArmDecision:
        self._sent, self._width_m = velocity, width_m
        return ArmDecision(tuple(velocity.tolist()), width_m, tuple(causes), self.latched)


def _is_whole(command: ArmTarget) -> bool:
    return len(command[0]) == JOINTS and all(math.isfinite(value) for value in (*command[0], command[1]))
