"""Perception without pixels: truth in, tracks out, with the errors of the real detector and tracker.

Policy training cannot afford to render. ``PerceptionErrors`` gives tracks that are missed, born late, noisy by range
and correlated in time, coasted through occlusion, swapped and invented, at rates fitted to logged runs of the real
perception (``control.train.error_fit``). Slots of the tracks are slots of the agents; invented tracks take free slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import expit, ndtri

from visuomotor.messages.camera import CameraModel
from visuomotor.messages.schema import CLASS_NAMES
from visuomotor.sim.error_parameters import ErrorParameters
from visuomotor.sim.visibility import AgentView, CameraArrays, ego_positions, visible, wrap_rad

DT_S = 0.1
CLASS_COUNT = len(CLASS_NAMES)
CONFUSED_WITH = np.array([1, 0, 3, 2, 3])  # what each class is most easily taken for
TYPICAL_SIZE_M = np.array([[4.5, 1.8], [8.0, 2.5], [1.8, 0.6], [0.5, 0.5], [0.4, 0.4]])  # length, width
_NOISE_CHANNELS = 12
_STATE = ("_agent_id", "_hits", "_scale", "_size_scale", "_latent", "_velocity_mps", "_invented", "_next_id")


@dataclass
class PerceivedTracks:
    """Tracks of B scenes in N slots, positions and headings in ``odom_``; what ``messages.schema.Tracks`` carries."""

    present: np.ndarray  # [B, N] bool
    track_id: np.ndarray  # [B, N] int64
    class_id: np.ndarray  # [B, N] int64
    position_m: np.ndarray  # [B, N, 2]
    velocity_mps: np.ndarray  # [B, N, 2]
    heading_rad: np.ndarray  # [B, N]
    size_m: np.ndarray  # [B, N, 2] length, width
    age_s: np.ndarray  # [B, N]
    unseen_s: np.ndarray  # [B, N]

    @classmethod
    def empty(cls, count: int, slots: int) -> PerceivedTracks:
        """No track in any scene."""
        shape = (count, slots)
        return cls(
            present=np.zeros(shape, bool),
            track_id=np.full(shape, -1, np.int64),
            class_id=np.zeros(shape, np.int64),
            position_m=np.zeros((*shape, 2)),
            velocity_mps=np.zeros((*shape, 2)),
            heading_rad=np.zeros(shape),
            size_m=np.ones((*shape, 2)),
            age_s=np.zeros(shape),
            unseen_s=np.zeros(shape),
        )

    def clear(self, index: int) -> None:
        """Forget every track of one scene."""
        for name, value in vars(self.empty(1, self.present.shape[1])).items():
            getattr(self, name)[index] = value[0]


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


class PerceptionErrors:
    """The error model of B scenes with N slots; one random stream per scene, so a row does not depend on others."""

    def __init__(
        self, count: int, slots: int, cameras: Sequence[CameraModel] | CameraArrays, parameters: ErrorParameters
    ) -> None:
        self.parameters = parameters
        self.cameras = cameras if isinstance(cameras, CameraArrays) else CameraArrays.from_models(cameras)
        self.tracks = PerceivedTracks.empty(count, slots)
        self.camera_alive = np.ones((count, len(self.cameras.yaw_rad)), bool)  # the caller's to change
        self._rng = [np.random.default_rng(0) for _ in range(count)]
        shape = (count, slots)
        self._agent_id = np.full(shape, -1, np.int64)
        self._hits = np.zeros(shape, np.int64)
        self._scale = np.ones(shape)
        self._size_scale = np.ones((*shape, 2))
        self._latent = np.zeros((*shape, 6))  # detection, radial, lateral, radial speed, lateral speed, heading
        self._velocity_mps = np.zeros((*shape, 2))  # lagging, before noise
        self._invented = np.zeros(shape, bool)
        self._next_id = np.zeros(count, np.int64)
        p = parameters
        self._rho = np.exp(
            -DT_S
            / np.array(
                [p.detection_correlation_s, *[p.position_correlation_s] * 2, *[p.velocity_correlation_s] * 2, 1.0]
            )
        )
        self._fresh = np.sqrt(1.0 - self._rho**2)
        self._per_class = {
            name: np.array(getattr(p, name))
            for name in ("detection_max", "detection_px50", "heading_noise_rad", "class_confusion")
        }

    def reset(self, index: int, seed: int | Sequence[int]) -> None:
        """Forget everything of one scene and start its random stream anew."""
        self._rng[index] = np.random.default_rng(seed)
        self.tracks.clear(index)
        self._agent_id[index], self._hits[index], self._invented[index] = -1, 0, False
        self._latent[index] = self._rng[index].standard_normal(self._latent.shape[1:])
        self._next_id[index] = 0

    def update(self, scene: SceneView, odom_pose: np.ndarray, fresh: np.ndarray | None = None) -> PerceivedTracks:
        """Advance every scene by one tick of 0.1 s, or only those of the mask ``fresh`` [B].

        The returned object is a new one at every call.
        """
        count, slots = self.tracks.present.shape
        frozen = np.zeros(count, bool) if fresh is None else ~fresh
        old = self.tracks
        before = {name: getattr(self, name).copy() for name in _STATE} if frozen.any() else {}
        self.tracks = PerceivedTracks(**{name: value.copy() for name, value in vars(old).items()})
        noise = np.zeros((count, slots, _NOISE_CHANNELS))
        for index in np.flatnonzero(~frozen):
            self._rng[index].standard_normal(out=noise[index])
        self._latent = self._rho * self._latent + self._fresh * noise[..., :6]
        self._forget_replaced(scene)
        ego_m, position_m, velocity_mps, heading_rad = odom_kinematics(scene, odom_pose)
        range_m = np.maximum(np.hypot(ego_m[..., 0], ego_m[..., 1]), 1.0)
        share = visible(scene, self.cameras) * self.camera_alive[:, None]
        chance, radial_m, lateral_m = self._optics(scene, range_m, share)
        detected = scene.agent_present & (self._latent[..., 0] < ndtri(chance))
        born = self._follow(scene, detected, share.max(axis=2) > self.parameters.visible50, noise)
        self._measure(scene, odom_pose, detected, born, position_m, velocity_mps, heading_rad, radial_m, lateral_m)
        self._invent(scene, odom_pose, noise)
        for name, value in before.items():
            getattr(self, name)[frozen] = value[frozen]
        if before:
            for name, value in vars(old).items():
                getattr(self.tracks, name)[frozen] = value[frozen]
        return self.tracks

    def _forget_replaced(self, scene: SceneView) -> None:
        """Slots whose agent left or changed lose their track, and so does an invented one whose slot is needed."""
        changed = ~self._invented & (self._agent_id != np.where(scene.agent_present, scene.agent_id, -1))
        changed |= self._invented & scene.agent_present
        self._agent_id = np.where(scene.agent_present, scene.agent_id, -1)
        self._hits[changed] = 0
        self.tracks.present[changed] = False
        self._invented[changed] = False

    def _optics(
        self, scene: SceneView, range_m: np.ndarray, share: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Chance of detection in the best camera, and radial and lateral noise (m) there, all [B, N]."""
        p, c = self.parameters, self.cameras
        best = share.argmax(axis=2)
        focal_px, eye_m = c.focal_px[best], c.height_m[best]
        height_px = focal_px * scene.agent_size_m[..., 2] / range_m
        px50 = self._per_class["detection_px50"][scene.agent_class]
        chance = self._per_class["detection_max"][scene.agent_class] / (1.0 + (px50 / height_px) ** p.detection_slope)
        best_share = share.max(axis=2)
        seen = np.where(best_share > 0.0, expit(p.visible_slope * (best_share - p.visible50)), 0.0)
        chance = chance * seen * (range_m <= p.range_max_m)
        radial_m = p.radial_floor_m + p.radial_px * range_m**2 / (focal_px * eye_m)
        lateral_m = p.lateral_floor_m + p.lateral_px * range_m / focal_px
        return chance, radial_m, lateral_m

    def _follow(self, scene: SceneView, detected: np.ndarray, in_view: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Birth, coasting, death and identity of tracks; the mask [B, N] of those born now."""
        p, t = self.parameters, self.tracks
        self._hits = np.where(detected, self._hits + 1, np.maximum(self._hits - 1, 0))
        real = t.present & ~self._invented
        born = scene.agent_present & ~real & detected & (self._hits >= p.birth_hits)
        t.unseen_s = np.where(detected | born, 0.0, t.unseen_s + DT_S)
        lost = real & (t.unseen_s > np.where(in_view, p.coast_s, p.coast_hidden_s) + 1e-6)
        t.present[lost] = False
        self._hits[lost] = 0
        t.present |= born
        t.age_s = np.where(born, p.birth_hits * DT_S, t.age_s + DT_S)
        switched = real & ~lost & (noise[..., 6] > -ndtri(max(p.identity_switches_per_s * DT_S, 1e-12)))
        t.age_s[switched] = 0.0
        self._name(born | switched)
        if born.any():
            self._scale[born] = np.exp(p.track_spread * noise[..., 7][born])
            self._size_scale[born] = np.exp(p.size_noise * noise[..., 8:10][born])
            true_class = scene.agent_class[born]
            wrong = noise[..., 10][born] > -ndtri(np.maximum(self._per_class["class_confusion"][true_class], 1e-12))
            t.class_id[born] = np.where(wrong, CONFUSED_WITH[true_class], true_class)
        return born

    def _name(self, mask: np.ndarray) -> None:
        """Give every track in the mask a fresh id of its scene."""
        for index in np.flatnonzero(mask.any(axis=1)):
            slots = np.flatnonzero(mask[index])
            self.tracks.track_id[index, slots] = self._next_id[index] + np.arange(len(slots))
            self._next_id[index] += len(slots)

    def _measure(
        self,
        scene: SceneView,
        odom_pose: np.ndarray,
        detected: np.ndarray,
        born: np.ndarray,
        position_m: np.ndarray,
        velocity_mps: np.ndarray,
        heading_rad: np.ndarray,
        radial_m: np.ndarray,
        lateral_m: np.ndarray,
    ) -> None:
        """Kinematic state of the followed tracks: noisy where detected, extrapolated where not."""
        p, t = self.parameters, self.tracks
        sight = position_m - odom_pose[:, None, :2]
        range_m = np.maximum(np.hypot(sight[..., 0], sight[..., 1]), 1.0)
        sight = sight / range_m[..., None]
        across = np.stack([-sight[..., 1], sight[..., 0]], axis=-1)

        def spread(channel: int, radial: np.ndarray, lateral: np.ndarray) -> np.ndarray:
            latent = self._latent[..., channel : channel + 2] * self._scale[..., None]
            return sight * (latent[..., :1] * radial[..., None]) + across * (latent[..., 1:] * lateral[..., None])

        gain = 1.0 - np.exp(-DT_S / p.velocity_lag_s)
        self._velocity_mps = np.where(
            born[..., None],
            p.velocity_at_birth * velocity_mps,
            self._velocity_mps + (gain * detected)[..., None] * (velocity_mps - self._velocity_mps),
        )
        speed_noise = p.velocity_floor_mps + p.velocity_per_m * range_m
        measured_mps = self._velocity_mps + spread(3, speed_noise, p.velocity_lateral_share * speed_noise)
        measured_m = position_m - p.latency_s * velocity_mps + spread(1, radial_m, lateral_m)
        followed = t.present & ~self._invented
        update, coast = (followed & detected)[..., None], (followed & ~detected)[..., None]
        t.velocity_mps = np.where(update, measured_mps, t.velocity_mps)
        t.position_m = np.where(update, measured_m, t.position_m + np.where(coast, DT_S * t.velocity_mps, 0.0))
        heading_noise = self._per_class["heading_noise_rad"][scene.agent_class] * self._latent[..., 5]
        t.heading_rad = np.where(update[..., 0], wrap_rad(heading_rad + heading_noise), t.heading_rad)
        t.size_m = np.where(update, scene.agent_size_m[..., :2] * self._size_scale, t.size_m)

    def _invent(self, scene: SceneView, odom_pose: np.ndarray, noise: np.ndarray) -> None:
        """False alarms: short tracks of nothing, beside a real agent or anywhere in front, standing or moving."""
        p, t = self.parameters, self.tracks
        ending = self._invented & (noise[..., 11] > -ndtri(min(DT_S / p.false_alarm_life_s, 0.999)))
        t.present[ending] = False
        self._invented &= ~ending
        t.position_m[self._invented] += DT_S * t.velocity_mps[self._invented]
        if p.false_alarms_per_s <= 0.0:
            return
        # One candidate per scene and tick; the last slot's channel is only used by agents when all slots are taken.
        start = noise[:, -1, 11] > -ndtri(min(p.false_alarms_per_s * DT_S, 0.999))
        for index in np.flatnonzero(start):
            free = np.flatnonzero(~scene.agent_present[index] & ~self._invented[index])
            if len(free):
                self._invent_one(int(index), int(free[-1]), odom_pose[index])

    def _invent_one(self, index: int, slot: int, odom_pose: np.ndarray) -> None:
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
        self._invented[index, slot] = True
        t.present[index, slot], t.class_id[index, slot] = True, class_id
        t.position_m[index, slot], t.velocity_mps[index, slot] = position_m, velocity_mps
        t.heading_rad[index, slot] = heading_rad
        t.size_m[index, slot] = TYPICAL_SIZE_M[class_id]
        t.age_s[index, slot] = t.unseen_s[index, slot] = 0.0
        t.track_id[index, slot] = self._next_id[index]
        self._next_id[index] += 1
