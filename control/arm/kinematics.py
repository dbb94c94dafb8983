"""The arm's kinematics, for B arms at once: where the tool is, and which joint velocities move it as asked.

The tool is the point between the finger tips. Its frame has z along the fingers and y in the direction in which they
close; ``yaw_rad`` is the direction of its x in the plane of the belt. A part is gripped across its width when the
tool's yaw is the part's heading, or differs from it by half a turn. Nothing here knows a simulator.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec
import numpy as np

from visuomotor.control.arm.config import JOINTS, LIMITS, REST_RAD

# Denavit-Hartenberg parameters in Craig's convention (Franka Control Interface documentation, "Robot and interface
# specifications"): a and alpha of the link before a joint, d along it. The flange is 0.107 m beyond the last joint.
DH_A_M = (0.0, 0.0, 0.0, 0.0825, -0.0825, 0.0, 0.088)
DH_D_M = (0.333, 0.0, 0.316, 0.0, 0.384, 0.0, 0.0)
DH_ALPHA_RAD = (0.0, -math.pi / 2, math.pi / 2, math.pi / 2, -math.pi / 2, math.pi / 2, math.pi / 2)
FLANGE_M = 0.107
HAND_YAW_RAD = -math.pi / 4  # of the hand against the flange
FINGER_TIPS_M = 0.105  # beyond the flange
REACH_M = ((0.37, math.inf), (0.0, 0.69))  # bounds of what ``reach`` gives: neither folded nor stretched
WITHOUT_YAW = 5  # rows of the tool's task


class ToolPose(NamedTuple):
    """Pose of B tools in ``base_``. ``tilt_rad`` is the angle between the fingers and straight down."""

    position_m: np.ndarray  # [B, 3]
    yaw_rad: np.ndarray  # [B]
    tilt_rad: np.ndarray  # [B]
    rotation: np.ndarray  # [B, 3, 3] columns are the tool's axes


class SolverGains(msgspec.Struct, frozen=True, kw_only=True):
    """Gains of the inverse kinematics.

    The elbow is the only freedom beside the tool's six: the third joint is spared, and pulled towards the posture as
    far as that freedom allows, so that the elbow stays in the vertical plane of the arm.
    """

    damping: float = 0.02  # least squares: bounds the joint velocities near a singular posture
    upright_gain_ps: float = 4.0  # 1/s, of the fingers' tilt
    joint_share: tuple[float, ...] = (1.0, 1.0, 0.1, 1.0, 1.0, 1.0, 1.0)  # of the work, where there is a choice
    posture_rad: tuple[float, ...] = REST_RAD
    posture_gain_ps: tuple[float, ...] = (0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0)


GAINS = SolverGains()


def _link_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Transform of each joint as constant + cosine x cos(q) + sine x sin(q), each [7, 4, 4]."""
    constant, cosine, sine = np.zeros((3, JOINTS, 4, 4))
    for i, (a, d, alpha) in enumerate(zip(DH_A_M, DH_D_M, DH_ALPHA_RAD, strict=True)):
        c, s = round(math.cos(alpha)), round(math.sin(alpha))  # quarter turns
        cosine[i, :3, :2] = [[1, 0], [0, c], [0, s]]
        sine[i, :3, :2] = [[0, -1], [c, 0], [s, 0]]
        constant[i, :, 2:] = np.array([[0.0, a], [-s, -s * d], [c, c * d], [0.0, 1.0]])
    return constant, cosine, sine


def _tool_in_last_link() -> np.ndarray:
    tool = np.eye(4)
    c, s = math.cos(HAND_YAW_RAD), math.sin(HAND_YAW_RAD)
    tool[:2, :2] = [[c, -s], [s, c]]
    tool[2, 3] = FLANGE_M + FINGER_TIPS_M
    return tool


_CONSTANT, _COSINE, _SINE = _link_tables()
_TOOL = _tool_in_last_link()
_VELOCITY = np.array(LIMITS.velocity_radps)


def link_frames(joint_position_rad: np.ndarray) -> np.ndarray:
    """Frames [B, 8, 4, 4] in ``base_`` of the seven joints (turning about their z) and of the tool."""
    q = np.asarray(joint_position_rad, np.float64)[:, :, None, None]
    links = _CONSTANT + np.cos(q) * _COSINE + np.sin(q) * _SINE
    frames = np.empty((len(q), JOINTS + 1, 4, 4))
    frames[:, 0] = links[:, 0]
    for i in range(1, JOINTS):
        np.matmul(frames[:, i - 1], links[:, i], out=frames[:, i])
    np.matmul(frames[:, JOINTS - 1], _TOOL, out=frames[:, JOINTS])
    return frames


def forward(joint_position_rad: np.ndarray) -> ToolPose:
    """Pose of the tool from the joints [B, 7]."""
    return tool_pose(link_frames(joint_position_rad))


def tool_pose(frames: np.ndarray) -> ToolPose:
    """Pose of the tool from ``link_frames``."""
    rotation = frames[:, JOINTS, :3, :3]
    return ToolPose(
        position_m=frames[:, JOINTS, :3, 3],
        yaw_rad=np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0]),
        tilt_rad=np.arctan2(np.hypot(rotation[:, 0, 2], rotation[:, 1, 2]), -rotation[:, 2, 2]),
        rotation=rotation,
    )


def jacobian(joint_position_rad: np.ndarray) -> np.ndarray:
    """Velocity of the tool and its rotation vector [B, 6, 7] in ``base_`` per rad/s of each joint."""
    return tool_jacobian(link_frames(joint_position_rad))


def tool_jacobian(frames: np.ndarray) -> np.ndarray:
    """As ``jacobian``, from ``link_frames``."""
    axis = frames[:, :JOINTS, :3, 2]
    arm = frames[:, JOINTS:, :3, 3] - frames[:, :JOINTS, :3, 3]
    result = np.empty((len(frames), 6, JOINTS))
    for row, (j, k) in enumerate(((1, 2), (2, 0), (0, 1))):  # the cross product: np.cross takes longer than all this
        result[:, row] = axis[:, :, j] * arm[:, :, k] - axis[:, :, k] * arm[:, :, j]
    result[:, 3:] = axis.transpose(0, 2, 1)
    return result


def reach(position_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far out a tool [B, 3] that points down is, [B, 2], and the gradients [B, 2, 3] of that.

    The first is its distance from the foot's axis, the second the wrist's from the shoulder.
    """
    x, y, z = position_m.T
    out = np.maximum(np.hypot(x, y), 1e-6)
    along, up = out - DH_A_M[6], z + FINGER_TIPS_M + FLANGE_M - DH_D_M[0]
    distance = np.maximum(np.hypot(along, up), 1e-6)
    outwards = np.stack([x / out, y / out, np.zeros_like(z)], axis=1)
    stretching = (along[:, None] * outwards + up[:, None] * [0.0, 0.0, 1.0]) / distance[:, None]
    return np.stack([out, distance], axis=1), np.stack([outwards, stretching], axis=1)


def limit_speed(joint_velocity_radps: np.ndarray, limit_radps: np.ndarray = _VELOCITY) -> np.ndarray:
    """Joint velocities [B, 7], all slowed down in the same proportion until none exceeds its limit."""
    excess = (np.abs(joint_velocity_radps) / limit_radps).max(axis=1, keepdims=True)
    return joint_velocity_radps / np.maximum(excess, 1.0)


def solve_velocity(
    joint_position_rad: np.ndarray,
    twist: np.ndarray,
    gains: SolverGains = GAINS,
    *,
    bounds_radps: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Joint velocities [B, 7] that move the tool with the twist [B, 4]: vx, vy, vz in m/s, yaw rate in rad/s.

    Damped least squares (Nakamura and Hanafusa 1986; Wampler 1986) that turn the fingers upright as well and move the
    elbow to the posture without moving the tool. A joint that would leave its bounds (lowest, highest, [B, 7] each)
    stays at them and the others make up for it, as far as that goes without the yaw. Where a joint would be too fast,
    all are slowed down together: the tool keeps its direction.
    """
    q = np.asarray(joint_position_rad, np.float64)
    frames = link_frames(q)
    matrix = tool_jacobian(frames)
    fingers = frames[:, JOINTS, :3, 2]
    wanted = np.empty((len(q), 6))
    wanted[:, :3] = twist[:, :3]
    wanted[:, 3] = -gains.upright_gain_ps * fingers[:, 1]  # fingers x straight down: the turn that takes one
    wanted[:, 4] = gains.upright_gain_ps * fingers[:, 0]  # to the other
    wanted[:, 5] = twist[:, 3]
    pull = np.array(gains.posture_gain_ps) * (np.array(gains.posture_rad) - q)
    result = limit_speed(_least_squares(matrix, wanted, pull, gains))
    if bounds_radps is None:
        return result
    bounded = np.clip(result, *bounds_radps)
    held = bounded != result
    rows = held.any(axis=1)
    if rows.any():
        free = np.where(held, 0.0, 1.0)[rows]
        rest = wanted[rows] - (matrix[rows] @ (bounded * held)[rows, :, None])[:, :, 0]
        moved = _least_squares(
            (matrix[rows] * free[:, None])[:, :WITHOUT_YAW], rest[:, :WITHOUT_YAW], pull[rows] * free, gains
        )
        result[rows] = limit_speed(np.where(held[rows], bounded[rows], moved))
    return result


def _least_squares(matrix: np.ndarray, wanted: np.ndarray, pull: np.ndarray, gains: SolverGains) -> np.ndarray:
    """Joint velocities [B, 7] for the rates [B, M] of a task and its matrix [B, M, 7]; ``pull`` as far as free."""
    across = matrix.transpose(0, 2, 1) * np.array(gains.joint_share)[:, None]
    square = matrix @ across + gains.damping * gains.damping * np.eye(matrix.shape[1])
    rest = wanted[:, :, None] - matrix @ pull[:, :, None]
    return pull + (across @ np.linalg.solve(square, rest))[:, :, 0]
