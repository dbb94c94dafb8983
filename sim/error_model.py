"""Perception without pixels: truth in, tracks out, with the errors of the real detector and tracker.

Policy training cannot afford to render. ``PerceptionErrors`` gives tracks that are missed, born late, noisy by range
and correlated in time, coasted through occlusion, swapped and invented, at rates fitted to logged runs of the real
perception (``control.train.error_fit``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from scipy.special import expit

from visuomotor.messages.camera import CameraModel
from visuomotor.messages.schema import CLASS_NAMES
from visuomotor.sim.error_parameters import ErrorParameters
from visuomotor.sim.track_errors import Motion, PerceivedTracks, Sight, TrackErrors
from visuomotor.sim.visibility import AgentView, CameraArrays, ego_positions, visible, wrap_rad

CLASS_COUNT = len(CLASS_NAMES)
CONFUSED_WITH = np.array([1, 0, 3, 2, 3])  # what each class is most easily taken for
TYPICAL_SIZE_M = np.array([[4.5, 1.8], [8.0, 2.5], [1.8, 0.6], [0.5, 0.5], [0.4, 0.4]])  # length, width


class SceneView(AgentView, Protocol):
    """What the error model reads of the truth, in addition to what visibility needs."""

    agent_id: np.ndarray  # [B, N] int; a change within a slot is another agent
    agent_class: np.ndarray  # [B, N] int
    agent_velocity_mps: np.ndarray  # [B, N, 2]


def odom_kinematics(scene: SceneView, odom_pose: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Truth in ``odom_`` by the ego pose of the same instant: ego position, position, velocity [B, N, 2], heading."""
    ego_m = ego_positions(scene)
    turn = odom_pose[:, 2] - scene.ego_pose[:, 2]
    position_m = rotate(ego_m, odom_pose[:, 2]) + odom_pose[:, None, :2]
    return ego_m, position_m, rotate(scene.agent_velocity_mps, turn), wrap_rad(scene.agent_yaw_rad + turn[:, None])


def rotate(vector: np.ndarray, angle_rad: np.ndarray) -> np.ndarray:
    """Vectors [B, N, 2] turned by one angle per scene [B]."""
    cos, sin = np.cos(angle_rad)[:, None], np.sin(angle_rad)[:, None]
    x, y = vector[..., 0], vector[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)


def true_tracks(scene: SceneView, odom_pose: np.ndarray, range_max_m: float = 80.0) -> PerceivedTracks:
    """Every agent within range as a perfect track: what the truth perception publishes."""
    ego_m, position_m, velocity_mps, heading_rad = odom_kinematics(scene, odom_pose)
    tracks = PerceivedTracks.empty(*scene.agent_present.shape)
    tracks.present = scene.agent_present & (np.hypot(ego_m[..., 0], ego_m[..., 1]) <= range_max_m)
    tracks.track_id, tracks.class_id = scene.agent_id.astype(np.int64), scene.agent_class.astype(np.int64)
    tracks.position_m, tracks.velocity_mps = position_m, velocity_mps
    tracks.heading_rad, tracks.size_m = heading_rad, scene.agent_size_m[..., :2].copy()
    return tracks


class PerceptionErrors(TrackErrors[SceneView, ErrorParameters]):
    """The error model of B roads with N slots and C cameras."""

    confused_with = CONFUSED_WITH

    def __init__(
        self, count: int, slots: int, cameras: Sequence[CameraModel] | CameraArrays, parameters: ErrorParameters
    ) -> None:
        super().__init__(count, slots, parameters)
        self.cameras = cameras if isinstance(cameras, CameraArrays) else CameraArrays.from_models(cameras)
        self.camera_alive = np.ones((count, len(self.cameras.yaw_rad)), bool)  # the caller's to change
        self._detection_max = np.array(parameters.detection_max)
        self._detection_px50 = np.array(parameters.detection_px50)

    def _move(self, scene: SceneView, odom_pose: np.ndarray) -> Motion:
        _, position_m, velocity_mps, heading_rad = odom_kinematics(scene, odom_pose)
        return Motion(position_m=position_m, velocity_mps=velocity_mps, heading_rad=heading_rad)

    def _look(self, scene: SceneView, odom_pose: np.ndarray, motion: Motion) -> Sight:
        """Radial and lateral noise in the camera that sees an agent best."""
        p = self.parameters
        ego_m = ego_positions(scene)
        share = visible(scene, self.cameras) * self.camera_alive[:, None]
        chance, radial_m, lateral_m = self._optics(
            scene, np.maximum(np.hypot(ego_m[..., 0], ego_m[..., 1]), 1.0), share
        )
        sight = motion.position_m - odom_pose[:, None, :2]
        range_m = np.maximum(np.hypot(sight[..., 0], sight[..., 1]), 1.0)
        speed_noise = p.velocity_floor_mps + p.velocity_per_m * range_m
        return Sight(
            chance=chance,
            coast_s=np.where(share.max(axis=2) > p.visible50, p.coast_s, p.coast_hidden_s),
            along=sight / range_m[..., None],
            along_m=radial_m,
            across_m=lateral_m,
            along_mps=speed_noise,
            across_mps=p.velocity_lateral_share * speed_noise,
        )

    def _optics(
        self, scene: SceneView, range_m: np.ndarray, share: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Chance of detection in the best camera, and radial and lateral noise (m) there, all [B, N]."""
        p, c = self.parameters, self.cameras
        best = share.argmax(axis=2)
        focal_px, eye_m = c.focal_px[best], c.height_m[best]
        height_px = focal_px * scene.agent_size_m[..., 2] / range_m
        px50 = self._detection_px50[scene.agent_class]
        chance = self._detection_max[scene.agent_class] / (1.0 + (px50 / height_px) ** p.detection_slope)
        best_share = share.max(axis=2)
        seen = np.where(best_share > 0.0, expit(p.visible_slope * (best_share - p.visible50)), 0.0)
        chance = chance * seen * (range_m <= p.range_max_m)
        radial_m = p.radial_floor_m + p.radial_px * range_m**2 / (focal_px * eye_m)
        lateral_m = p.lateral_floor_m + p.lateral_px * range_m / focal_px
        return chance, radial_m, lateral_m

    def _invent_one(self, scene: SceneView, index: int, slot: int, odom_pose: np.ndarray) -> None:
        """Beside a real agent or anywhere in front, standing or moving."""
        p, t, rng = self.parameters, self.tracks, self._rng[index]
        real = np.flatnonzero(t.present[index] & ~self._invented[index])
        if len(real) and rng.random() < p.false_alarm_near_share:
            twin = int(rng.choice(real))
            position_m = t.position_m[index, twin] + rng.normal(0.0, 1.5, 2)
            velocity_mps, heading_rad = t.velocity_mps[index, twin], t.heading_rad[index, twin]
            class_id = int(t.class_id[index, twin])
        else:
            bearing = rng.uniform(-1.0, 1.0) * self.cameras.half_fov_rad[0] + odom_pose[2]
            distance = rng.uniform(4.0, p.false_alarm_range_m)
            position_m = odom_pose[:2] + distance * np.array([np.cos(bearing), np.sin(bearing)])
            velocity_mps, heading_rad = rng.normal(0.0, 0.5, 2), rng.uniform(-np.pi, np.pi)
            if len(real) and rng.random() >= p.false_alarm_standing:  # what is left of somebody who went out of sight
                like = int(rng.choice(real))
                velocity_mps, heading_rad = t.velocity_mps[index, like], t.heading_rad[index, like]
            class_id = int(rng.choice(CLASS_COUNT, p=np.array(p.false_alarm_class) / sum(p.false_alarm_class)))
        t.class_id[index, slot] = class_id
        t.position_m[index, slot], t.velocity_mps[index, slot] = position_m, velocity_mps
        t.heading_rad[index, slot] = heading_rad
        t.size_m[index, slot] = TYPICAL_SIZE_M[class_id]
