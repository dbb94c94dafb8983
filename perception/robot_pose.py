"""What perception takes from a robot's proprioception: where it stands, how it tilts, what of it is in the way."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np

from visuomotor.messages.camera import CameraModel
from visuomotor.messages.schema import ArmState, Message, VehicleState

_TURNS = np.arange(12) * (math.pi / 6)
_CIRCLE = np.concatenate(  # 19 points that share it out evenly
    [np.zeros((1, 2)), *(r * np.stack([np.cos(t), np.sin(t)], 1) for r, t in ((0.5, _TURNS[::2]), (1.0, _TURNS)))]
)
SPACING_M = 0.05  # of the points along the links
NEAR_M = 0.05  # in front of a camera; what is nearer, or behind it, is not in the picture


@dataclass(frozen=True, kw_only=True)
class RobotPose:
    """Pose of ``ego_`` in ``odom_``, the body's attitude, and points [K, 3] in ``ego_`` of limbs that hide things."""

    x_m: float = 0.0
    y_m: float = 0.0
    yaw_rad: float = 0.0
    speed_mps: float = 0.0  # along ego x
    sweep_mps: float = 0.0  # how fast it moves, or its limbs do, in the pictures of its cameras
    roll_rad: float = 0.0
    pitch_rad: float = 0.0
    limbs_m: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))


def read_pose(state: Message) -> RobotPose:
    """The pose that a robot's state gives: a vehicle's dead-reckoned one, an arm's foot.

    Raises TypeError for a message that is no proprioception.
    """
    if isinstance(state, VehicleState):
        return RobotPose(
            x_m=state.odom_x_m,
            y_m=state.odom_y_m,
            yaw_rad=state.odom_yaw_rad,
            speed_mps=state.speed_mps,
            sweep_mps=abs(state.speed_mps),
            roll_rad=state.roll_rad,
            pitch_rad=state.pitch_rad,
        )
    if isinstance(state, ArmState):
        # The reach beyond the first joints is about 1 m: rad/s are m/s there.
        sweep = float(np.abs(state.joint_velocity_radps[:4]).max())
        return RobotPose(sweep_mps=sweep, limbs_m=fill_line(np.asarray(state.base_link_points_m, np.float64)))
    raise TypeError(f"expected the state of a vehicle or of an arm, got {type(state).__name__}")


def fill_line(corner_m: np.ndarray) -> np.ndarray:
    """Points [K, 3] at most ``SPACING_M`` apart on the line through corners [M, 3]; none for fewer than two."""
    points = []
    for start, end in itertools.pairwise(corner_m):
        steps = max(1, math.ceil(float(np.linalg.norm(end - start)) / SPACING_M))
        points.append(start + (end - start) * (np.arange(1, steps + 1) / steps)[:, None])
    return np.concatenate(points) if points else np.zeros((0, 3))


def find_hidden(camera: CameraModel, ego_m: np.ndarray, limbs_m: np.ndarray, radius_m: float) -> np.ndarray:
    """Which points on the ground [N, 2] in ``ego_`` limbs through points [K, 3] hide from a camera, bool [N]."""
    if not len(limbs_m) or not len(ego_m):
        return np.zeros(len(ego_m), bool)
    limb_px, depth = camera.project(limbs_m)
    ahead = depth > NEAR_M
    radius_px = camera.fx * radius_m / depth[ahead]
    px, _ = camera.project(np.pad(ego_m, ((0, 0), (0, 1))))
    apart = np.linalg.norm(px[:, None] - limb_px[ahead][None], axis=2)
    return (apart < radius_px[None]).any(1)


def hidden_share(
    camera: CameraModel, ego_m: np.ndarray, size_m: np.ndarray, limbs_m: np.ndarray, radius_m: float
) -> np.ndarray:
    """How much of footprints at [N, 2] of [N, 2] (length, width; taken as circles) limbs hide from a camera, 0 to 1."""
    points = ego_m[:, None] + 0.5 * size_m.mean(axis=1)[:, None, None] * _CIRCLE
    hidden = find_hidden(camera, points.reshape(-1, 2), limbs_m, radius_m)
    return hidden.reshape(len(ego_m), len(_CIRCLE)).mean(axis=1)
