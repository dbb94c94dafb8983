"""The lens of a simulated camera: a pinhole image wider than the sensor, and the table that bends it."""

from __future__ import annotations

import numpy as np
import pybullet

from visuomotor.messages.camera import CameraModel, rotation

NEAR_M = 0.1
FAR_M = 240.0


class Lens:
    """Pinhole image wider than the sensor and the table that bends it."""

    def __init__(self, camera: CameraModel) -> None:
        self.camera = camera
        v, u = np.mgrid[0 : camera.height, 0 : camera.width]
        point = camera.undistort(np.stack([u.ravel(), v.ravel()], axis=1))
        self.rays = np.concatenate([point, np.ones((len(point), 1))], axis=1)  # optical frame, row by row
        x, y = point[:, 0] * camera.fx, point[:, 1] * camera.fy
        left, top = int(np.ceil(-x.min())) + 1, int(np.ceil(-y.min())) + 1
        self.width, self.height = left + int(np.ceil(x.max())) + 2, top + int(np.ceil(y.max())) + 2
        shape = (camera.height, camera.width)
        self.map_x = (x + left).astype(np.float32).reshape(shape)
        self.map_y = (y + top).astype(np.float32).reshape(shape)
        # TinyRenderer samples a pixel at its left and lower edge (measured), so the frustum starts at the centre of the
        # first column and of the last row
        scale_x, scale_y = NEAR_M / camera.fx, NEAR_M / camera.fy
        self.projection = pybullet.computeProjectionMatrix(
            -left * scale_x,
            (self.width - left) * scale_x,
            (top + 1 - self.height) * scale_y,
            (top + 1) * scale_y,
            NEAR_M,
            FAR_M,
        )
        radius = np.hypot((u - camera.width / 2) / camera.width, (v - camera.height / 2) / camera.width) * 2
        self.radius2 = (radius**2).astype(np.float32)

    def view(self, ego_pose: np.ndarray, roll_rad: float, pitch_rad: float) -> list[float]:
        """OpenGL view matrix (column-major) of the camera on the car."""
        body = rotation(roll_rad, pitch_rad, float(ego_pose[2]))
        position = np.array([ego_pose[0], ego_pose[1], 0.0]) + body @ np.asarray(self.camera.ego_position_m)
        return view_matrix(position, body @ self.camera.ego_from_camera)


def view_matrix(position_m: np.ndarray, from_camera: np.ndarray) -> list[float]:
    """OpenGL view matrix (column-major) of a camera at a place; ``from_camera`` turns optical-frame vectors there."""
    axes = from_camera.T * np.array([[1.0], [-1.0], [-1.0]])  # optical -> OpenGL
    view = np.eye(4)
    view[:3, :3] = axes
    view[:3, 3] = -axes @ position_m
    return view.T.ravel().tolist()
