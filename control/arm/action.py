"""The arm's action space: the meaning of an action's five numbers, a command inside the limits, and the watchdog.

A command is computed from the state of one tick and acts in the period after the next tick. The drives take the joint
velocities from the last command to the new one at a constant acceleration over that period.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from visuomotor.control.arm.config import CELL, CONTROL_PERIOD_S, LIMITS, CellGeometry
from visuomotor.control.arm.inputs import ArmInputs
from visuomotor.control.arm.kinematics import REACH_M, link_frames, reach, solve_velocity, tool_jacobian, tool_pose
from visuomotor.control.supervision import HoldTimer

POSITION_MIN_RAD = np.array(LIMITS.position_min_rad)
POSITION_MAX_RAD = np.array(LIMITS.position_max_rad)
VELOCITY_RADPS = np.array(LIMITS.velocity_radps)
ACCELERATION_RADPS2 = np.array(LIMITS.acceleration_radps2)
STEP_RADPS = ACCELERATION_RADPS2 * CONTROL_PERIOD_S
FOLLOWING = 1.2  # steps by which a command may be ahead of the joints
TWIST_ROWS = [0, 1, 2, 5]  # of the tool's Jacobian
_TWIST = np.array([LIMITS.tool_speed_mps] * 3 + [LIMITS.yaw_rate_radps])


class Approach(msgspec.Struct, frozen=True, kw_only=True):
    """How a command slows down towards a limit: with reserve, so that the guard, which may brake harder, need not."""

    border_braking_mps2: float = 1.5  # of the tool, along each axis of the workspace
    border_margin_m: float = 0.005
    return_mps: float = 0.1  # from outside the workspace
    joint_braking_share: float = 0.4  # of the joints' greatest acceleration
    joint_margin_rad: float = 0.05


APPROACH = Approach()


@dataclass(frozen=True)
class ArmCommand:
    """What B arms are to do."""

    joint_velocity_radps: np.ndarray  # [B, 7]
    gripper_width_m: np.ndarray  # [B]


def decode(action_norm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Action [B, 5] to the tool's twist [B, 4] (vx, vy, vz in m/s in ``base_``, yaw rate in rad/s) and a width [B] (m).

    Components outside [-1, 1] are clipped, NaN counts as 0. The speed is at most the tool's, whatever the direction.
    The gripper opens above 0, otherwise it closes.
    """
    action = np.clip(np.nan_to_num(np.asarray(action_norm, np.float64), nan=0.0), -1.0, 1.0)
    twist = action[:, :4] * _TWIST
    excess = np.linalg.norm(twist[:, :3], axis=1, keepdims=True) / LIMITS.tool_speed_mps
    twist[:, :3] /= np.maximum(excess, 1.0)
    return twist, np.where(action[:, 4] > 0.0, LIMITS.gripper_width_m, 0.0)


def encode(twist: np.ndarray, gripper_open: np.ndarray) -> np.ndarray:
    """Inverse of ``decode`` for a twist [B, 4] and whether the gripper opens [B], clipped to [-1, 1]."""
    return np.clip(np.column_stack([twist / _TWIST, np.where(gripper_open, 1.0, -1.0)]), -1.0, 1.0)


def command(
    action_norm: np.ndarray,
    inputs: ArmInputs,
    sent: np.ndarray,
    cell: CellGeometry = CELL,
    approach: Approach = APPROACH,
) -> ArmCommand:
    """The command for an action [B, 5], given the joint velocities sent last [B, 7].

    The tool keeps within its speed, its acceleration and the workspace, the joints within their speeds, accelerations
    and positions: towards a border or a limit they slow down so that they stop before it.
    """
    twist, width = decode(action_norm)
    moving, ahead = inputs.joint_velocity_radps, FOLLOWING * STEP_RADPS
    sent = np.clip(sent, moving - ahead, moving + ahead)  # an arm that was held back did not get it
    start = starting_position(inputs.joint_position_rad, inputs.joint_velocity_radps, sent)
    end = start + CONTROL_PERIOD_S * sent
    course, twist = limit_tool(twist, end, sent, cell, approach)
    lowest, highest = joint_bounds(start, sent, approach)
    both = solve_velocity(
        np.concatenate([end, end]),
        np.concatenate([course, twist]),
        bounds_radps=(np.concatenate([lowest, lowest]), np.concatenate([highest, highest])),
    )
    kept, wanted = (np.clip(part, lowest, highest) for part in np.split(both, 2))
    return ArmCommand(limit_change(wanted, kept, sent), width)


def starting_position(joint_position_rad: np.ndarray, joint_velocity_radps: np.ndarray, sent: np.ndarray) -> np.ndarray:
    """Where the joints will be when the next command begins to act: after a period under the last one."""
    return joint_position_rad + 0.5 * CONTROL_PERIOD_S * (joint_velocity_radps + sent)


def fastest_stop(room: np.ndarray, braking: np.ndarray | float) -> np.ndarray:
    """Greatest velocity after a period so that it can be braked to zero within ``room``; negative where there is none.

    ``room`` is what is left beyond what the velocity at the period's start takes. Solves
    velocity * period / 2 + velocity^2 / (2 braking) = room.
    """
    half = 0.5 * braking * CONTROL_PERIOD_S
    return np.where(
        room >= 0.0, np.sqrt(half * half + 2.0 * braking * np.maximum(room, 0.0)) - half, room / CONTROL_PERIOD_S
    )


def limit_tool(
    twist: np.ndarray, joint_position_rad: np.ndarray, sent: np.ndarray, cell: CellGeometry, approach: Approach
) -> tuple[np.ndarray, np.ndarray]:
    """The tool's old course, as the borders allow it, and a twist inside them and the tool's acceleration, [B, 4] each.

    The joints' positions [B, 7] are those at the end of the period, if the joint velocities sent last [B, 7] stayed.
    """
    frames = link_frames(joint_position_rad)
    course = (tool_jacobian(frames)[:, TWIST_ROWS] @ sent[:, :, None])[:, :, 0]
    now = course[:, :3]
    middle = tool_pose(frames).position_m - 0.5 * CONTROL_PERIOD_S * now
    low, high = (np.array(border) for border in (cell.workspace_min_m, cell.workspace_max_m))
    far, outwards = reach(middle)
    place = np.concatenate([far, middle], axis=1)
    across = np.concatenate([outwards, np.tile(np.eye(3), (len(middle), 1, 1))], axis=1)  # the box has the last word
    (nearest, farthest), margin, braking = np.transpose(REACH_M), approach.border_margin_m, approach.border_braking_mps2
    fastest = fastest_stop(np.concatenate([farthest, high]) - margin - place, braking)
    slowest = -fastest_stop(place - np.concatenate([nearest, low]) - margin, braking)
    fastest, slowest = np.maximum(fastest, -approach.return_mps), np.minimum(slowest, approach.return_mps)

    def inside(velocity: np.ndarray) -> np.ndarray:
        for way in range(across.shape[1]):
            speed = (across[:, way] * velocity).sum(axis=1)
            excess = speed - np.clip(speed, slowest[:, way], fastest[:, way])
            velocity = velocity - excess[:, None] * across[:, way]
        return velocity

    needed = inside(now) - now
    wanted = inside(twist[:, :3]) - now - needed
    # the largest share of what is wanted beyond what is needed, inside a ball of the acceleration
    step = LIMITS.tool_acceleration_mps2 * CONTROL_PERIOD_S
    along, size = (needed * wanted).sum(axis=1), np.maximum((wanted * wanted).sum(axis=1), 1e-12)
    room = np.maximum(step * step - (needed * needed).sum(axis=1), 0.0)
    share = np.clip((np.sqrt(along * along + size * room) - along) / size, 0.0, 1.0)
    course = np.column_stack([now + needed, course[:, 3]])
    return course, np.column_stack([course[:, :3] + share[:, None] * wanted, twist[:, 3]])


def joint_bounds(start: np.ndarray, sent: np.ndarray, approach: Approach) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest joint velocities [B, 7] from which each joint stops before its limit.

    ``start`` [B, 7]: position when the command begins to act.
    """
    middle = start + 0.5 * CONTROL_PERIOD_S * sent
    braking = approach.joint_braking_share * ACCELERATION_RADPS2
    margin = approach.joint_margin_rad
    return (
        -fastest_stop(middle - POSITION_MIN_RAD - margin, braking),
        fastest_stop(POSITION_MAX_RAD - margin - middle, braking),
    )


def limit_change(wanted: np.ndarray, kept: np.ndarray, sent: np.ndarray) -> np.ndarray:
    """Joint velocities [B, 7] on the way from those sent last over those to keep to those wanted.

    As far as the joints' accelerations allow, and for all joints alike, so that the tool goes straight from its old
    course to its new one.
    """
    step = STEP_RADPS
    needed = kept - sent
    needed /= np.maximum(np.max(np.abs(needed) / step, axis=1, keepdims=True), 1.0)
    rest = wanted - sent - needed
    room = np.where(rest > 0.0, step - needed, step + needed)
    share = np.min(room / np.maximum(np.abs(rest), 1e-12), axis=1, keepdims=True)
    return sent + needed + np.minimum(share, 1.0) * rest


def brake(joint_velocity_radps: np.ndarray, dt_s: float = CONTROL_PERIOD_S) -> np.ndarray:
    """Joint velocities [..., 7] after the first period of a stop: all in proportion, so that the arm keeps its way."""
    return joint_velocity_radps * (1.0 - dt_s / stopping_time(joint_velocity_radps, dt_s))


def stopping_time(joint_velocity_radps: np.ndarray, dt_s: float = CONTROL_PERIOD_S) -> np.ndarray:
    """Seconds [..., 1] to rest within the joints' accelerations: a whole number of periods, at least one."""
    needed = np.max(np.abs(joint_velocity_radps) / ACCELERATION_RADPS2, axis=-1, keepdims=True)
    return dt_s * np.maximum(np.ceil(needed / dt_s - 1e-9), 1.0)


class ArmWatchdog:
    """The last resort between command and joints: hold for a declared time, then come to rest within the accelerations.

    As ``control.action.CommandWatchdog``. The gripper keeps its last width, so that it drops nothing.
    """

    def __init__(self, hold_s: float = 0.3) -> None:
        self._timer = HoldTimer(hold_s)
        self.hold_s = hold_s
        self.reset()

    @property
    def tripped(self) -> bool:
        """Whether the watchdog is stopping the arm."""
        return self._timer.tripped

    def reset(self, now_s: float = 0.0, gripper_width_m: float = LIMITS.gripper_width_m) -> None:
        """Stand still with the gripper at a width; the hold time starts now."""
        self._timer.reset(now_s)
        self._joint_velocity_radps = np.zeros(len(VELOCITY_RADPS))
        self._gripper_width_m = gripper_width_m

    def step(self, now_s: float, command: tuple[Sequence[float], float] | None) -> tuple[np.ndarray, float]:
        """What the joints [7] (rad/s) and the gripper (m) do in the next period.

        ``command`` is the new one, joint velocities and width, or None when none has come. One that is not finite or
        has another number of joints counts as none.
        """
        fresh = command is not None and _is_whole(*command)
        if command is not None and fresh:
            self._joint_velocity_radps, self._gripper_width_m = np.array(command[0], np.float64), command[1]
        if self._timer.step(now_s, fresh):
            self._joint_velocity_radps = brake(self._joint_velocity_radps)
        return self._joint_velocity_radps, self._gripper_width_m


def _is_whole(joint_velocity_radps: Sequence[float], gripper_width_m: float) -> bool:
    return len(joint_velocity_radps) == len(VELOCITY_RADPS) and all(
        math.isfinite(value) for value in (*joint_velocity_radps, gripper_width_m)
    )
