"""What a camera has in view of a robot's surroundings: its angle or picture, and what stands in between."""

from __future__ import annotations

import numpy as np

from visuomotor.messages.camera import CameraModel
from visuomotor.perception.motion import TrackerConfig
from visuomotor.perception.robot_pose import RobotPose, find_hidden


def into_ego(position_m: np.ndarray, robot: RobotPose) -> np.ndarray:
    """Positions [N, 2] of ``odom_`` in ``ego_``."""
    c, s = np.cos(robot.yaw_rad), np.sin(robot.yaw_rad)
    delta = position_m - (robot.x_m, robot.y_m)
    return np.stack([c * delta[:, 0] + s * delta[:, 1], -s * delta[:, 0] + c * delta[:, 1]], 1)


def find_bearing(camera: CameraModel, ego_m: np.ndarray) -> np.ndarray:
    """Bearing [N] of positions in ``ego_`` [N, 2] from the camera's axis, left positive, rad in [-pi, pi)."""
    ray = ego_m - camera.ego_position_m[:2]
    bearing = np.arctan2(ray[:, 1], ray[:, 0]) - camera.ego_yaw_rad
    return (bearing + np.pi) % (2 * np.pi) - np.pi


def lies_inside(camera: CameraModel, ego_m: np.ndarray, config: TrackerConfig) -> np.ndarray:
    """Positions [N, 2] in ``ego_`` that lie well within a camera's picture: of a level one, within its angle."""
    if not camera.looks_down:
        return np.abs(find_bearing(camera, ego_m)) < camera.horizontal_fov_rad / 2 - config.edge_margin_rad
    px, depth = camera.project(np.pad(ego_m, ((0, 0), (0, 1))))
    edge = config.edge_margin_px
    return (depth > 0) & ((px >= edge) & (px <= np.array([camera.width, camera.height]) - edge)).all(1)


def find_visible(
    camera: CameraModel,
    ego_m: np.ndarray,
    half_width_m: np.ndarray,
    solid: np.ndarray,
    robot: RobotPose,
    config: TrackerConfig,
) -> np.ndarray:
    """Objects [N] at ``ego_m`` [N, 2] that a camera should see.

    Inside its view, not under the robot's own limbs and, for a level camera, not behind a nearer object that is
    ``solid`` [N]: one of which it is certain that it is there.
    """
    inside = lies_inside(camera, ego_m, config) & ~find_hidden(camera, ego_m, robot.limbs_m, config.limb_radius_m)
    if camera.looks_down or not inside.any():  # objects that stand side by side do not hide each other from above
        return inside
    ray = ego_m - camera.ego_position_m[:2]
    distance = np.maximum(np.hypot(ray[:, 0], ray[:, 1]), 0.5)
    bearing = find_bearing(camera, ego_m)
    apart = np.abs(bearing[:, None] - bearing[None])
    shade = np.arctan2(half_width_m, distance)
    hidden = (apart < shade[None]) & (distance[None] < distance[:, None] - half_width_m[None] - 0.5)
    return inside & ~(hidden & solid[None]).any(1)
