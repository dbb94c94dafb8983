"""Detections without pixels: what the detector would report of known objects, with its misses and its noise.

Noise is made in the image (pixels of the ground point, attitude of the camera) and carried to the ground by the real
calibrations, so that it grows with range as optics have it. Misses and errors persist over time, as a network's do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from visuomotor.messages.camera import CameraModel
from visuomotor.messages.schema import Detections

SCORE_MIN = 0.15


class NoiseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Rates and standard deviations; pixel noise is split into a part that persists and a part that does not.

    The defaults are those of the road's classes: car, truck, cyclist, pedestrian, cone.
    """

    confused_with: tuple[int, ...] = (1, 0, 3, 2, 3)  # by class
    typical_size_m: tuple[tuple[float, float, float], ...] = (
        (4.5, 1.8, 1.5),
        (8.0, 2.4, 3.0),
        (1.8, 0.6, 1.7),
        (0.5, 0.5, 1.75),
        (0.4, 0.4, 0.7),
    )
    round_classes: tuple[int, ...] = ()  # no heading is told of these
    range_max_m: float = 75.0
    floor_m: float = 0.1  # of the position error that is told
    false_range_m: tuple[float, float] = (6.0, 45.0)  # of false alarms from a level camera ...
    false_area_m: tuple[float, float, float, float] | None = None  # ... or x0, y0, x1, y1 where the camera looks down
    false_jitter_m: float = 0.3

    pixel_px: float = 0.5
    persistent_px: float = 0.5
    attitude_rad: float = 0.0015
    memory: float = 0.85  # correlation of the persistent parts from tick to tick
    recall: float = 0.97
    height_half_px: float = 8.0  # image height at which half of that recall is left
    visible_half: float = 0.3
    heading_rad: float = 0.15
    flip_share: float = 0.03
    confusion_share: float = 0.03
    size_share: float = 0.06
    false_alarms: float = 0.04  # new ones per tick, all cameras
    false_alarm_persistence: float = 0.6


class NoisyDetector:
    """Detections of one world. Agents are named by ids, so that persistent errors stay with them."""

    def __init__(self, cameras: Sequence[CameraModel], rng: np.random.Generator, settings: NoiseSettings | None = None):
        self.cameras = list(cameras)
        self.settings = settings or NoiseSettings()
        self._rng = rng
        self._persistent: dict[tuple[int, int], np.ndarray] = {}  # (agent, camera) -> du, dv, latent of the score
        self._attitude = np.zeros(2)
        self._false: list[tuple[int, np.ndarray, int, float]] = []  # camera, position, class, score

    def detect(
        self,
        agent_id: np.ndarray,
        class_id: np.ndarray,
        ego_position_m: np.ndarray,
        ego_yaw_rad: np.ndarray,
        size_m: np.ndarray,
        visible_share: np.ndarray,
    ) -> Detections:
        """One tick: ids [N], classes [N], positions [N, 2] and yaws [N] in ``ego_``, sizes [N, 3], shares [N, C]."""
        s, rng = self.settings, self._rng
        self._attitude = s.memory * self._attitude + np.sqrt(1 - s.memory**2) * s.attitude_rad * rng.normal(size=2)
        rows: list[tuple] = []
        seen: dict[tuple[int, int], np.ndarray] = {}
        near = np.hypot(ego_position_m[:, 0], ego_position_m[:, 1]) < s.range_max_m
        for c, camera in enumerate(self.cameras):
            chosen = np.flatnonzero((visible_share[:, c] > 0.1) & near)
            count = len(chosen)
            if not count:
                continue
            feet = np.concatenate([ego_position_m[chosen], np.zeros((count, 1))], 1)
            pixel, depth = camera.project(feet)
            share, size = visible_share[chosen, c], size_m[chosen]
            keys = [(int(agent), c) for agent in agent_id[chosen]]
            state = self._persist(keys)
            seen.update(zip(keys, state, strict=True))
            height_px = camera.fy * size[:, 2] / np.maximum(depth, 0.5)
            chance = s.recall * _half(height_px, s.height_half_px) * _half(share, s.visible_half)
            quality = chance + 0.12 * state[:, 2] + 0.06 * rng.normal(size=count)
            blur = 1.0 + 1.5 * (1.0 - share)
            pixel = pixel + blur[:, None] * (s.persistent_px * state[:, :2] + s.pixel_px * rng.normal(size=(count, 2)))
            ground, covariance = self._on_ground(camera, pixel, blur)
            confused = rng.random(count) < s.confusion_share
            label = np.where(confused, np.array(s.confused_with)[class_id[chosen]], class_id[chosen])
            flip = np.pi * (rng.random(count) < s.flip_share)
            heading = ego_yaw_rad[chosen] + s.heading_rad * rng.normal(size=count) + flip
            heading[np.isin(label, s.round_classes)] = np.nan
            guess = size[:, :2] * (1 + s.size_share * rng.normal(size=(count, 2)))
            boxes = _boxes(camera, feet, ego_yaw_rad[chosen], size)
            boxes = boxes + 0.03 * np.tile(boxes[:, 2:] - boxes[:, :2], 2) * rng.normal(size=(count, 4))
            score = np.clip(quality, SCORE_MIN, 0.99)
            found = (rng.random(count) < chance) & (quality > SCORE_MIN) & (depth > 0.5) & np.isfinite(ground).all(1)
            found &= np.hypot(ground[:, 0], ground[:, 1]) < 1.2 * s.range_max_m
            rows.extend(
                (c, label[i], score[i], boxes[i], pixel[i], ground[i], covariance[i], heading[i], guess[i])
                for i in np.flatnonzero(found)
            )
        self._persistent = seen
        rows.extend(self._false_alarms())
        return _as_message(rows, tuple(camera.name for camera in self.cameras))

    def _persist(self, keys: list[tuple[int, int]]) -> np.ndarray:
        """The slowly changing errors [N, 3] of these agents in one camera, one tick on."""
        fresh = self._rng.normal(size=(len(keys), 3))
        old = np.array([self._persistent.get(key, (np.nan,) * 3) for key in keys])
        memory = self.settings.memory
        return np.where(np.isnan(old), fresh, memory * old + np.sqrt(1 - memory**2) * fresh)

    def _on_ground(self, camera: CameraModel, pixel: np.ndarray, blur: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions [N, 2] and covariances of pixels under the wrong attitude of this tick; NaN above the horizon."""
        s = self.settings
        around = pixel[:, None] + np.array([[0.0, 0.0], [0.7, 0.0], [0.0, 0.7]])
        ground = camera.ground(around.reshape(-1, 2), self._attitude[0], self._attitude[1]).reshape(-1, 3, 2)
        slope = (ground[:, 1:] - ground[:, :1]).transpose(0, 2, 1) / 0.7  # metres per pixel, columns u and v
        variance = blur**2 * (s.pixel_px**2 + s.persistent_px**2)
        tilt = (s.attitude_rad * camera.fy) ** 2  # attitude moves v
        pixels = np.zeros((len(pixel), 2, 2))
        pixels[:, 0, 0], pixels[:, 1, 1] = variance, variance + tilt
        bad = ~np.isfinite(slope).all((1, 2))
        ground[bad], slope[bad] = np.nan, 1.0
        return ground[:, 0], slope @ pixels @ slope.transpose(0, 2, 1) + s.floor_m**2 * np.eye(2)

    def _false_alarms(self) -> list[tuple]:
        s, rng = self.settings, self._rng
        self._false = [f for f in self._false if rng.random() < s.false_alarm_persistence]
        for _ in range(rng.poisson(s.false_alarms)):
            c = int(rng.integers(len(self.cameras)))
            camera = self.cameras[c]
            if s.false_area_m is None:
                angle = camera.ego_yaw_rad + rng.uniform(-0.45, 0.45) * camera.horizontal_fov_rad
                place = rng.uniform(*s.false_range_m) * np.array([np.cos(angle), np.sin(angle)])
            else:
                place = rng.uniform(s.false_area_m[:2], s.false_area_m[2:])
            score = float(SCORE_MIN + rng.beta(1.2, 3.0) * 0.7)
            self._false.append((c, place, int(rng.integers(len(s.typical_size_m))), score))
        rows = []
        for c, place, label, score in self._false:
            position = place + s.false_jitter_m * rng.normal(size=2)
            size = np.array(s.typical_size_m[label])
            pixel, _ = self.cameras[c].project(np.array([[*position, 0.0]]))
            box = _boxes(self.cameras[c], np.array([[*position, 0.0]]), np.zeros(1), size[None])[0]
            spread = np.eye(2) * (0.02 * np.hypot(*position) + 2 * s.floor_m) ** 2
            rows.append((c, label, score, box, pixel[0], position, spread, rng.uniform(-np.pi, np.pi), size[:2]))
        return rows


NOISE: dict[str, NoiseSettings] = {
    "drive": NoiseSettings(),
    "pick": NoiseSettings(  # classes: red cube, blue cylinder, green block, yellow ball, duck, brick
        confused_with=(5, 1, 2, 4, 3, 0),
        typical_size_m=((0.045, 0.045, 0.045),) * 6,
        round_classes=(1, 3),
        range_max_m=1.5,
        floor_m=0.001,
        false_area_m=(0.3, -0.3, 0.7, 0.8),
        false_jitter_m=0.003,
        pixel_px=0.3,
        persistent_px=0.4,
        attitude_rad=0.0,
        height_half_px=4.0,
        heading_rad=0.1,
        flip_share=0.0,
        confusion_share=0.01,
        false_alarms=0.01,
    ),
}


def get_noise(task: str) -> NoiseSettings:
    """The settings of a task; ValueError with the known names when there are none."""
    if task not in NOISE:
        raise ValueError(f"task: expected one of {', '.join(NOISE)}, got {task!r}")
    return NOISE[task]


def _half(value: np.ndarray, middle: float) -> np.ndarray:
    """Smooth step from 0 to 1 that is one half at ``middle``."""
    return 1.0 / (1.0 + (middle / np.maximum(value, 1e-6)) ** 4)


def _boxes(camera: CameraModel, feet_m: np.ndarray, yaw_rad: np.ndarray, size_m: np.ndarray) -> np.ndarray:
    """Image boxes [N, 4] of upright cuboids, clipped to the image."""
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (0.0, 1.0)])
    local = corners[None] * size_m[:, None]
    c, s = np.cos(yaw_rad)[:, None], np.sin(yaw_rad)[:, None]
    turned = np.stack([c * local[..., 0] - s * local[..., 1], s * local[..., 0] + c * local[..., 1], local[..., 2]], 2)
    pixel, depth = camera.project((feet_m[:, None] + turned).reshape(-1, 3))
    pixel, depth = pixel.reshape(len(feet_m), 8, 2), depth.reshape(len(feet_m), 8)
    ahead = depth > 0.3
    low = np.where(ahead[..., None], pixel, np.inf).min(1)
    high = np.where(ahead[..., None], pixel, -np.inf).max(1)
    limit = np.array([camera.width, camera.height], float)
    return np.concatenate([np.clip(low, 0, limit), np.clip(high, 0, limit)], 1)


def _as_message(rows: list[tuple], cameras: tuple[str, ...]) -> Detections:
    f32, i32 = np.float32, np.int32
    columns = list(zip(*rows, strict=True)) if rows else [()] * 9
    shapes = ((), (), (), (4,), (2,), (2,), (2, 2), (), (2,))
    types = (i32, i32, f32, f32, f32, f32, f32, f32, f32)
    arrays = [
        np.array(column, kind).reshape(-1, *shape) for column, kind, shape in zip(columns, types, shapes, strict=True)
    ]
    arrays[7] = (np.mod(arrays[7] + np.pi, 2 * np.pi) - np.pi).astype(f32)
    names = (
        "camera_index", "class_id", "score", "box_px", "ground_px", "ego_position_m", "ego_covariance_m2",
        "heading_rad", "size_m",
    )  # fmt: skip
    columns_by_name: dict[str, Any] = dict(zip(names, arrays, strict=True))
    return Detections(cameras=cameras, **columns_by_name)
