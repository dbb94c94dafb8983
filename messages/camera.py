"""Pinhole camera with plumb_bob distortion and its mounting; read and written as ROS ``camera_info`` YAML.

Camera optical frame: x right, y down, z forward (REP-103). Mounting: position of the camera in ``ego_`` (m) and its
yaw (left positive), pitch (nose down positive) and roll (rad) there. Distortion: Brown 1966 as in ROS/OpenCV,
coefficients k1, k2, p1, p2, k3.
"""

from __future__ import annotations

import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml

from visuomotor.messages.yaml_file import load_yaml

SIDE_MAX_PX = 1 << 14


class CameraModel(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Intrinsics, distortion and mounting of one camera."""

    name: str
    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)
    ego_position_m: tuple[float, float, float] = (0.0, 0.0, 1.4)
    ego_yaw_rad: float = 0.0
    ego_pitch_rad: float = 0.0
    ego_roll_rad: float = 0.0
    on_hand: bool = False  # the mounting is relative to an arm's hand, which moves

    @property
    def matrix(self) -> np.ndarray:
        """K, float64 [3, 3]."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def horizontal_fov_rad(self) -> float:
        """Undistorted horizontal field of view."""
        return float(np.arctan2(self.cx, self.fx) + np.arctan2(self.width - self.cx, self.fx))

    @cached_property
    def ego_from_camera(self) -> np.ndarray:
        """Rotation that takes optical-frame vectors to ``ego_``, float64 [3, 3]."""
        axes = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
        return rotation(self.ego_roll_rad, self.ego_pitch_rad, self.ego_yaw_rad) @ axes

    @cached_property
    def looks_down(self) -> bool:
        """Whether the optical axis is nearer to straight down than to level."""
        return bool(self.ego_from_camera[2, 2] < -np.sqrt(0.5))

    def undistort(self, px: np.ndarray) -> np.ndarray:
        """Pixels [N, 2] to normalised image coordinates x/z, y/z [N, 2], by fixed-point iteration."""
        px = np.asarray(px, np.float64).reshape(-1, 2)
        target = (px - (self.cx, self.cy)) / (self.fx, self.fy)
        k1, k2, p1, p2, k3 = self.distortion
        point = target.copy()
        for _ in range(8 if any(self.distortion) else 0):
            x, y = point[:, 0], point[:, 1]
            r2 = x * x + y * y
            radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
            shift = np.stack([2 * p1 * x * y + p2 * (r2 + 2 * x * x), p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], axis=1)
            point = (target - shift) / radial[:, None]
        return point

    def distort(self, point: np.ndarray) -> np.ndarray:
        """Normalised image coordinates [N, 2] to pixels [N, 2]."""
        point = np.asarray(point, np.float64).reshape(-1, 2)
        k1, k2, p1, p2, k3 = self.distortion
        x, y = point[:, 0], point[:, 1]
        r2 = x * x + y * y
        radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
        xd = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        yd = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        return np.stack([self.fx * xd + self.cx, self.fy * yd + self.cy], axis=1)

    def project(
        self, ego_m: np.ndarray, roll_rad: float = 0.0, pitch_rad: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Points [N, 3] in ``ego_`` (level, on the ground) to pixels [N, 2] and depth along the optical axis [N], m.

        ``roll_rad`` and ``pitch_rad`` are the body's attitude. Points with depth <= 0 give meaningless pixels.
        """
        ego_m = np.asarray(ego_m, np.float64).reshape(-1, 3)
        body = ego_m @ rotation(roll_rad, pitch_rad, 0.0)  # inverse rotation of row vectors
        camera = (body - self.ego_position_m) @ self.ego_from_camera
        depth = camera[:, 2]
        safe = np.where(np.abs(depth) < 1e-6, 1e-6, depth)
        return self.distort(camera[:, :2] / safe[:, None]), depth

    def ground(self, px: np.ndarray, roll_rad: float = 0.0, pitch_rad: float = 0.0) -> np.ndarray:
        """Pixels [N, 2] to the points [N, 2] in ``ego_`` where their rays meet the ground; NaN from the horizon up."""
        point = self.undistort(px)
        rays = np.concatenate([point, np.ones((len(point), 1))], axis=1) @ self.ego_from_camera.T
        attitude = rotation(roll_rad, pitch_rad, 0.0)
        rays = rays @ attitude.T
        origin = attitude @ np.asarray(self.ego_position_m)
        down = rays[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(down < -1e-6, -origin[2] / down, np.nan)
        return origin[:2] + rays[:, :2] * scale[:, None]

    def save(self, path: Path) -> None:
        """Write ROS ``camera_info`` YAML with the mounting under ``mounting``."""
        data = {
            "image_width": self.width,
            "image_height": self.height,
            "camera_name": self.name,
            "camera_matrix": {"rows": 3, "cols": 3, "data": [float(v) for v in self.matrix.ravel()]},
            "distortion_model": "plumb_bob",
            "distortion_coefficients": {"rows": 1, "cols": 5, "data": list(self.distortion)},
            "mounting": {
                "ego_position_m": list(self.ego_position_m),
                "ego_yaw_rad": self.ego_yaw_rad,
                "ego_pitch_rad": self.ego_pitch_rad,
                "ego_roll_rad": self.ego_roll_rad,
                **({"on_hand": True} if self.on_hand else {}),
            },
        }
        path.write_text(yaml.safe_dump(data, sort_keys=False))


def rotation(roll_rad: float, pitch_rad: float, yaw_rad: float) -> np.ndarray:
    """Rotation Rz(yaw) Ry(pitch) Rx(roll), float64 [3, 3]; with z up, positive pitch is nose down."""
    cr, sr, cp, sp = np.cos(roll_rad), np.sin(roll_rad), np.cos(pitch_rad), np.sin(pitch_rad)
    cy, sy = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def load_camera(path: Path) -> CameraModel:
    """Read ROS ``camera_info`` YAML (``mounting`` is ours; without it the camera sits 1.4 m up, level, facing forward).

    Raises ValueError that names the file, the key and what was expected.
    """
    try:
        data: Any = load_yaml(path)
    except OSError as error:
        raise ValueError(f"{path}: calibration cannot be read ({error.strerror})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a camera_info mapping, got {type(data).__name__}")

    def numbers(key: str, values: Any, count: int) -> list[float]:
        if not isinstance(values, list) or len(values) != count or not all(_is_finite(v) for v in values):
            raise ValueError(f"{path}: {key}: expected {count} finite numbers, got {values!r:.200}")
        return [float(v) for v in values]

    def section(key: str) -> dict[Any, Any]:
        block = data.get(key) or {}
        if not isinstance(block, dict):
            raise ValueError(f"{path}: {key}: expected a mapping, got {block!r:.200}")
        return block

    model = data.get("distortion_model", "plumb_bob")
    if model != "plumb_bob":
        raise ValueError(f"{path}: distortion_model: expected 'plumb_bob', got {model!r:.200}")
    k = numbers("camera_matrix.data", section("camera_matrix").get("data"), 9)
    mounting = section("mounting")
    for key in ("image_width", "image_height"):
        if type(data.get(key)) is not int or not 1 <= data[key] <= SIDE_MAX_PX:
            raise ValueError(f"{path}: {key}: expected an integer from 1 to {SIDE_MAX_PX}, got {data.get(key)!r:.200}")
    if k[0] <= 0 or k[4] <= 0:
        raise ValueError(f"{path}: camera_matrix.data: focal lengths must be positive, got {k[0]} and {k[4]}")
    x, y, z = numbers("mounting.ego_position_m", mounting.get("ego_position_m", [0.0, 0.0, 1.4]), 3)
    yaw, pitch, roll = (
        numbers(f"mounting.{key}", [mounting.get(key, 0.0)], 1)[0]
        for key in ("ego_yaw_rad", "ego_pitch_rad", "ego_roll_rad")
    )
    on_hand = mounting.get("on_hand", False)
    if not isinstance(on_hand, bool):
        raise ValueError(f"{path}: mounting.on_hand: expected true or false, got {on_hand!r:.200}")
    k1, k2, p1, p2, k3 = numbers("distortion_coefficients.data", section("distortion_coefficients").get("data"), 5)
    return CameraModel(
        name=str(data.get("camera_name", path.stem)),
        width=data["image_width"],
        height=data["image_height"],
        fx=k[0],
        fy=k[4],
        cx=k[2],
        cy=k[5],
        distortion=(k1, k2, p1, p2, k3),
        ego_position_m=(x, y, z),
        ego_yaw_rad=yaw,
        ego_pitch_rad=pitch,
        ego_roll_rad=roll,
        on_hand=on_hand,
    )


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max
