"""Perception of parts without pixels: truth in, tracks out, with the errors of the real detector and tracker.

What is missed, noisy, late, turned, taken for another class or invented follows ``PartErrorParameters``; what the arm,
taller parts and the picture's edge hide follows ``sim.cell.visibility``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit

from visuomotor.control.arm.config import CELL, CLASS_NAMES
from visuomotor.messages.camera import CameraModel
from visuomotor.messages.tasks import TASKS
from visuomotor.sim.cell.cell import CellWorlds
from visuomotor.sim.cell.visibility import BeltView, Rods
from visuomotor.sim.error_parameters import TrackErrorParameters, read_errors
from visuomotor.sim.track_errors import Motion, PerceivedTracks, Sight, TrackErrors

PerClass = tuple[float, float, float, float, float, float]
SYMMETRY = np.array(TASKS["pick"].symmetry)
CONFUSED_WITH = np.array([5, 5, 0, 4, 3, 1])  # what each class is most easily taken for
TYPICAL_SIZE_M = np.array(
    [(0.042, 0.042), (0.043, 0.043), (0.09, 0.037), (0.047, 0.047), (0.056, 0.039), (0.047, 0.047)]
)


class PartErrorParameters(TrackErrorParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of the error model of picking; one value per class of the task where the type is six numbers.

    Detection: probability ``detection_max * logistic(visible_slope * (visible share - visible50))``. Noise of the
    position: ``position_floor_m + position_per_m * distance`` from the middle of the picture.
    """

    source: str = "provisional: from the optics, not fitted"
    detection_max: PerClass = (0.985,) * 6
    detection_correlation_s: float = 0.2
    visible50: float = 0.45
    visible_slope: float = 12.0
    birth_hits: int = 2
    coast_s: float = 0.5
    coast_hidden_s: float = 3.0  # under the arm
    jump_m: float = 0.06  # a part that comes out of hiding this far from its coasting track is a new one
    position_floor_m: float = 0.0025
    position_per_m: float = 0.003
    position_correlation_s: float = 0.4
    latency_s: float = 0.0
    velocity_noise_mps: float = 0.012
    velocity_correlation_s: float = 0.3
    velocity_lag_s: float = 0.25
    velocity_at_birth: float = 0.7
    heading_noise_rad: PerClass = (0.06, 0.0, 0.04, 0.0, 0.10, 0.06)
    size_noise: float = 0.06
    identity_switches_per_s: float = 0.002
    class_confusion: PerClass = (0.005, 0.005, 0.005, 0.01, 0.01, 0.005)
    distractor_confusion: float = 0.02  # of distractors that are taken for a part
    false_alarms_per_s: float = 0.01
    false_alarm_life_s: float = 0.3
    false_alarm_class: PerClass = (0.15, 0.15, 0.2, 0.15, 0.2, 0.15)

    def __post_init__(self) -> None:
        """Raise ValueError that names the field, its value and what was expected."""
        super().__post_init__()
        if abs(sum(self.false_alarm_class) - 1.0) > 1e-3:
            raise ValueError(f"false_alarm_class must sum to 1, got {self.false_alarm_class}")

    def shares(self) -> tuple[str, ...]:
        """Further fields that must be shares."""
        return "detection_max", "false_alarm_class", "distractor_confusion"

    def positive(self) -> tuple[str, ...]:
        """Further fields that must be positive."""
        return ("jump_m",)


@dataclass(kw_only=True)
class PartScene:
    """The parts of B cells and what may hide them; those that are of no class are not present."""

    agent_present: np.ndarray  # [B, N]
    agent_id: np.ndarray
    agent_class: np.ndarray
    agent_position_m: np.ndarray  # [B, N, 3]
    agent_velocity_mps: np.ndarray  # [B, N, 3]
    agent_yaw_rad: np.ndarray
    agent_size_m: np.ndarray
    there: np.ndarray  # [B, N] present or of no class
    rods: Rods


def load_part_errors(path: Path) -> PartErrorParameters:
    """Read parameters from JSON; ValueError names the file and what is wrong."""
    return read_errors(path, PartErrorParameters)


def true_parts(worlds: CellWorlds) -> PerceivedTracks:
    """Every part of a class as a perfect track: what the truth perception publishes."""
    tracks = PerceivedTracks.empty(*worlds.part_present.shape)
    tracks.present = worlds.part_present & (worlds.part_class >= 0)
    tracks.track_id = worlds.part_id.copy()
    tracks.class_id = np.maximum(worlds.part_class, 0)
    tracks.position_m = worlds.part_position_m[..., :2].copy()
    tracks.velocity_mps = worlds.part_velocity_mps[..., :2].copy()
    tracks.heading_rad, tracks.size_m = worlds.part_yaw_rad.copy(), worlds.part_size_m[..., :2].copy()
    tracks.age_s[:] = 1.0
    return tracks


class PartErrors(TrackErrors[PartScene, PartErrorParameters]):
    """The error model of B cells with N slots under one camera that looks down."""

    confused_with = CONFUSED_WITH

    def __init__(self, count: int, slots: int, camera: CameraModel, parameters: PartErrorParameters) -> None:
        super().__init__(count, slots, parameters)
        self.view = BeltView(camera)
        self._detection_max = np.array(parameters.detection_max)
        self._seen_id = np.full((count, slots), -1, np.int64)
        self._mistaken = np.full((count, slots), -1, np.int64)  # class for which a distractor is taken

    def observe(self, worlds: CellWorlds, rods: Rods, fresh: np.ndarray | None = None) -> PerceivedTracks:
        """Tracks of the cells' present state, see ``update``; ``rods`` are those of the arms."""
        self._mistake(worlds, fresh)
        class_id = np.where(worlds.part_class >= 0, worlds.part_class, self._mistaken)
        scene = PartScene(
            agent_present=worlds.part_present & (class_id >= 0),
            agent_id=worlds.part_id,
            agent_class=np.maximum(class_id, 0),
            agent_position_m=worlds.part_position_m,
            agent_velocity_mps=worlds.part_velocity_mps,
            agent_yaw_rad=worlds.part_yaw_rad,
            agent_size_m=worlds.part_size_m,
            there=worlds.part_present,
            rods=rods,
        )
        return self.update(scene, np.zeros((len(class_id), 3)), fresh)

    def reset(self, index: int, seed: int | Sequence[int]) -> None:
        """Forget everything of one cell and start its random stream anew."""
        super().reset(index, seed)
        self._seen_id[index] = self._mistaken[index] = -1

    def _mistake(self, worlds: CellWorlds, fresh: np.ndarray | None) -> None:
        """Decide of each distractor that came which class it is taken for, mostly none."""
        ids = np.where(worlds.part_present, worlds.part_id, -1)
        new = ids != self._seen_id
        if fresh is not None:
            new &= fresh[:, None]
        for index, slot in zip(*np.nonzero(new), strict=True):
            self._mistaken[index, slot] = -1
            if ids[index, slot] >= 0 and worlds.part_class[index, slot] < 0:
                rng = self._rng[index]
                if rng.random() < self.parameters.distractor_confusion:
                    self._mistaken[index, slot] = int(rng.integers(len(CLASS_NAMES)))
        self._seen_id = np.where(new, ids, self._seen_id)

    def _move(self, scene: PartScene, odom_pose: np.ndarray) -> Motion:
        return Motion(
            position_m=scene.agent_position_m[..., :2],
            velocity_mps=scene.agent_velocity_mps[..., :2],
            heading_rad=scene.agent_yaw_rad,
        )

    def _look(self, scene: PartScene, odom_pose: np.ndarray, motion: Motion) -> Sight:
        p = self.parameters
        share = self.view.shares(scene.agent_position_m, scene.agent_size_m, scene.there, scene.rods)
        chance = self._detection_max[scene.agent_class] * expit(p.visible_slope * (share - p.visible50))
        from_middle = np.linalg.norm(motion.position_m - self.view.middle_m, axis=-1)
        noise_m = p.position_floor_m + p.position_per_m * from_middle
        along = np.zeros_like(motion.position_m)
        along[..., 0] = 1.0
        speed = np.full(share.shape, p.velocity_noise_mps)
        return Sight(
            chance=np.where(share > 0.0, chance, 0.0),
            in_view=share > p.visible50,
            along=along,
            along_m=noise_m,
            across_m=noise_m,
            along_mps=speed,
            across_mps=speed,
        )

    def _measure(self, scene: PartScene, detected: np.ndarray, born: np.ndarray, motion: Motion, sight: Sight) -> None:
        """As for every task; a part that reappears far from where its track has coasted to starts a new one."""
        t = self.tracks
        off = np.linalg.norm(motion.position_m - t.position_m, axis=-1)
        jumped = t.present & ~self._invented & ~born & detected & (off > self.parameters.jump_m)
        if jumped.any():
            self._name(jumped)
            t.age_s[jumped] = self.parameters.birth_hits * 0.1
            born = born | jumped
        super()._measure(scene, detected, born, motion, sight)

    def _fold(self, scene: PartScene, heading_rad: np.ndarray, born: np.ndarray) -> np.ndarray:
        """Headings of symmetric parts next to their track's last one, at birth next to zero; round ones have none."""
        order = SYMMETRY[scene.agent_class]
        part = 2.0 * np.pi / np.maximum(order, 1)
        near = np.where(born, 0.0, self.tracks.heading_rad)
        turn = heading_rad - near
        return np.where(order > 0, near + turn - part * np.round(turn / part), 0.0)

    def _invent_one(self, scene: PartScene, index: int, slot: int, odom_pose: np.ndarray) -> None:
        """Beside a real part, or anywhere on the belt in the picture; it moves as a real one does."""
        p, t, rng = self.parameters, self.tracks, self._rng[index]
        real = np.flatnonzero(t.present[index] & ~self._invented[index])
        velocity_mps = np.zeros(2)
        if len(real):
            twin = int(rng.choice(real))
            velocity_mps = t.velocity_mps[index, twin]
        if len(real) and rng.random() < p.false_alarm_near_share:
            t.position_m[index, slot] = t.position_m[index, twin] + rng.normal(0.0, 0.03, 2)
            class_id = int(t.class_id[index, twin])
        else:
            place = np.stack([rng.uniform(*CELL.belt_x_m, 8), rng.uniform(*CELL.belt_y_m, 8)], axis=1)
            t.position_m[index, slot] = place[self.view.inside_m(place).argmax()]
            class_id = int(rng.choice(len(CLASS_NAMES), p=np.array(p.false_alarm_class) / sum(p.false_alarm_class)))
        t.class_id[index, slot] = class_id
        t.velocity_mps[index, slot] = velocity_mps
        t.heading_rad[index, slot] = rng.uniform(-0.5, 0.5) * np.pi
        t.size_m[index, slot] = TYPICAL_SIZE_M[class_id]
