"""What perception takes from a robot's proprioception: where it stands, how it tilts, what of it is in the way."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np

from visuomotor.messages.schema import ArmState, Message, VehicleState

# The arm's joints as Denavit and Hartenberg's parameters in Craig's form, from the manufacturer's documentation (Franka
# Control Interface, "Denavit-Hartenberg parameters"), and the point between the finger tips beyond the last joint.
ARM_A_M = (0.0, 0.0, 0.0, 0.0825, -0.0825, 0.0, 0.088)
ARM_D_M = (0.333, 0.0, 0.316, 0.0, 0.384, 0.0, 0.0)
ARM_ALPHA_RAD = tuple(quarter * math.pi / 2 for quarter in (0, -1, 1, 1, -1, 1, 1))
ARM_TOOL_M = 0.212
SPACING_M = 0.05  # of the points along the links


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
        return RobotPose(sweep_mps=sweep, limbs_m=arm_points(np.asarray(state.joint_position_rad, np.float64)))
    raise TypeError(f"expected the state of a vehicle or of an arm, got {type(state).__name__}")


def arm_points(joint_position_rad: np.ndarray) -> np.ndarray:
    """Points [K, 3] in ``base_`` along the links from the shoulder to between the finger tips, for joints [7]."""
    pose = np.eye(4)
    places = [pose[:3, 3].copy()]
    for a, d, alpha, q in zip(ARM_A_M, ARM_D_M, ARM_ALPHA_RAD, joint_position_rad, strict=True):
        ca, sa, c, s = math.cos(alpha), math.sin(alpha), math.cos(q), math.sin(q)
        pose = pose @ np.array(
            [[c, -s, 0.0, a], [s * ca, c * ca, -sa, -d * sa], [s * sa, c * sa, ca, d * ca], [0.0, 0.0, 0.0, 1.0]]
        )
        places.append(pose[:3, 3].copy())
    places.append(pose[:3, 3] + ARM_TOOL_M * pose[:3, 2])
    points = []
    for start, end in itertools.pairwise(places):
        steps = max(1, math.ceil(float(np.linalg.norm(end - start)) / SPACING_M))
        points.append(start + (end - start) * (np.arange(1, steps + 1) / steps)[:, None])
    return np.concatenate(points)
