"""Perception of parts without pixels: truth in, tracks out, with the errors of the real detector and tracker.

What is missed, noisy, late, turned, taken for another class or invented follows ``PartErrorParameters``; what the arm,
taller parts and the picture's edge hide follows ``sim.cell.visibility``. A lifted part is seen where the picture shows
it, behind where it is; and where a part was taken from, or thrown to, its old track goes on for a while as a ghost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy.special import expit, ndtr

from visuomotor.control.arm.config import CELL, CLASS_NAMES
from visuomotor.messages.camera import CameraModel
from visuomotor.messages.tasks import TASKS
from visuomotor.sim.cell.visibility import BeltView, Rods
from visuomotor.sim.error_parameters import TrackErrorParameters, read_errors
from visuomotor.sim.track_errors import DT_S, Motion, PerceivedTracks, Sight, TrackErrors

PerClass = tuple[float, float, float, float, float, float]
SYMMETRY = np.array(TASKS["pick"].symmetry)
CONFUSED_WITH = np.array([5, 5, 0, 4, 3, 1])  # what each class is most easily taken for
LIMB_RADIUS_M = 0.07  # a track behind the arm as thick as that is not missed: the tracker's ``limb_radius_m``
EDGE_M = 0.015  # nor one this near the picture's border: its ``edge_margin_px``
ON_BELT_M = 0.01  # the underside of what lies on the belt is at most so high
TYPICAL_SIZE_M = np.array(
    [(0.042, 0.042), (0.043, 0.043), (0.09, 0.037), (0.047, 0.047), (0.056, 0.039), (0.047, 0.047)]
)


class PartErrorParameters(TrackErrorParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of the error model of picking; one value per class of the task where the type is six numbers.

    Detection: probability ``detection_max * logistic(visible_slope * (visible share - visible50))``. Noise of the
    position: ``position_floor_m + position_per_m * distance`` from the middle of the picture. That of position and
    velocity grows by ``1 + hidden_noise * hidden share``. Of ``heading_wrong`` of the tracks the heading is anything.
    """

    source: str = "provisional: from the optics, not fitted"
    detection_max: PerClass = (0.985,) * 6
    detection_correlation_s: float = 0.2
    visible50: float = 0.45
    visible_slope: float = 12.0
    birth_hits: int = 2
    coast_s: float = 0.5
    coast_hidden_s: float = 3.0  # under the arm
    coast_outside_s: float = 1.0  # out of the picture
    jump_m: float = 0.06  # a part that is seen this far from its coasting track is a new one; the old one is a ghost
    position_floor_m: float = 0.0025
    position_per_m: float = 0.003
    hidden_noise: float = 5.0
    position_correlation_s: float = 0.4
    latency_s: float = 0.0
    velocity_noise_mps: float = 0.012
    velocity_correlation_s: float = 0.3
    velocity_lag_s: float = 0.25
    velocity_at_birth: float = 0.7
    heading_noise_rad: PerClass = (0.06, 0.0, 0.04, 0.0, 0.10, 0.06)
    heading_wrong: PerClass = (0.0,) * 6
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
        return "detection_max", "false_alarm_class", "distractor_confusion", "heading_wrong"

    def positive(self) -> tuple[str, ...]:
        """Further fields that must be positive."""
        return ("jump_m",)


class Cells(Protocol):
    """What the error model reads of the truth of B cells with P parts, see ``CellWorlds``."""

    part_present: np.ndarray
    part_id: np.ndarray
    part_class: np.ndarray
    part_position_m: np.ndarray  # [B, P, 3]
    part_velocity_mps: np.ndarray  # [B, P, 3]
    part_yaw_rad: np.ndarray
    part_size_m: np.ndarray  # [B, P, 3]


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


def true_parts(worlds: Cells) -> PerceivedTracks:
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
    noise_channels = TrackErrors.noise_channels + 2
    state = (*TrackErrors.state, "_ghost", "_missed_s", "_turned_rad")

    def __init__(self, count: int, slots: int, camera: CameraModel, parameters: PartErrorParameters) -> None:
        super().__init__(count, slots, parameters)
        self.view = BeltView(camera)
        self._detection_max = np.array(parameters.detection_max)
        self._wrong = np.array(parameters.heading_wrong)
        self._ghost = np.zeros((count, slots), bool)  # invented tracks that were a part's
        self._missed_s = np.zeros((count, slots))  # for how long a track ought to have been detected and was not
        self._coast_s = np.zeros((count, slots))  # of this tick
        self._unseen_s = np.zeros((count, slots))  # before it
        self._turned_rad = np.zeros((count, slots))  # by which the heading of a track is wrong
        self._seen_id = np.full((count, slots), -1, np.int64)
        self._mistaken = np.full((count, slots), -1, np.int64)  # class for which a distractor is taken

    def observe(self, worlds: Cells, rods: Rods, fresh: np.ndarray | None = None) -> PerceivedTracks:
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
        self._ghost[index], self._missed_s[index], self._turned_rad[index] = False, 0.0, 0.0
        self._seen_id[index] = self._mistaken[index] = -1

    def _mistake(self, worlds: Cells, fresh: np.ndarray | None) -> None:
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

    def _forget_replaced(self, scene: PartScene) -> None:
        """As for every task; the track of a part that has gone is left behind."""
        ids = np.where(scene.agent_present, scene.agent_id, -1)
        gone = self.tracks.present & ~self._invented & (self._agent_id != ids)
        self._ghost &= ~(self._invented & scene.agent_present)
        super()._forget_replaced(scene)
        self.tracks.present |= gone
        self._leave_behind(gone, scene)

    def _leave_behind(self, mask: np.ndarray, scene: PartScene) -> None:
        """Turn the tracks in the mask [B, N] into ghosts: in their slot where no part is, else in a free one."""
        t = self.tracks
        for index, slot in zip(*np.nonzero(mask), strict=True):
            to = slot
            if scene.agent_present[index, slot]:
                free = np.flatnonzero(~scene.agent_present[index] & ~self._invented[index])
                t.present[index, slot] = False
                if not len(free):
                    continue
                to = free[-1]
                for value in vars(t).values():
                    value[index, to] = value[index, slot]
                self._missed_s[index, to] = self._missed_s[index, slot]
                self._coast_s[index, to] = self._coast_s[index, slot]
            t.present[index, to] = self._invented[index, to] = self._ghost[index, to] = True

    def _move(self, scene: PartScene, odom_pose: np.ndarray) -> Motion:
        """Where the picture shows the parts' feet on the belt: what is lifted lies farther from the camera."""
        foot_m = scene.agent_position_m.copy()
        foot_m[..., 2] -= 0.5 * scene.agent_size_m[..., 2]
        lifted = scene.agent_present & (foot_m[..., 2] > ON_BELT_M)
        position_m = foot_m[..., :2].copy()
        velocity_mps = scene.agent_velocity_mps[..., :2].copy()
        if lifted.any():
            position_m[lifted] = self.view.shadow_m(foot_m[lifted])
            next_m = self.view.shadow_m(foot_m[lifted] + DT_S * scene.agent_velocity_mps[lifted])
            velocity_mps[lifted] = (next_m - position_m[lifted]) / DT_S
        return Motion(position_m=position_m, velocity_mps=velocity_mps, heading_rad=scene.agent_yaw_rad)

    def _look(self, scene: PartScene, odom_pose: np.ndarray, motion: Motion) -> Sight:
        p = self.parameters
        share = self.view.shares(scene.agent_position_m, scene.agent_size_m, scene.there, scene.rods)
        chance = self._detection_max[scene.agent_class] * expit(p.visible_slope * (share - p.visible50))
        from_middle = np.linalg.norm(motion.position_m - self.view.middle_m, axis=-1)
        worse = 1.0 + p.hidden_noise * (1.0 - share)
        noise_m = (p.position_floor_m + p.position_per_m * from_middle) * worse
        along = np.zeros_like(motion.position_m)
        along[..., 0] = 1.0
        speed = p.velocity_noise_mps * worse
        return Sight(
            chance=np.where(share > 0.0, chance, 0.0),
            coast_s=self._patience_s(scene.rods),
            along=along,
            along_m=noise_m,
            across_m=noise_m,
            along_mps=speed,
            across_mps=speed,
        )

    def _patience_s(self, rods: Rods) -> np.ndarray:
        """For how long tracks [B, N] may go undetected, by where they are themselves, as the tracker has it."""
        p, t = self.parameters, self.tracks
        self._unseen_s = t.unseen_s.copy()
        outside = self.view.inside_m(t.position_m) < EDGE_M
        missed = ~outside & ~self.view.hidden(t.position_m, rods, LIMB_RADIUS_M)
        self._missed_s = np.where(t.unseen_s > 0.0, self._missed_s, 0.0) + DT_S * missed
        longest = np.where(outside, p.coast_outside_s, p.coast_hidden_s)
        return np.where(self._missed_s > p.coast_s + 1e-6, 0.0, longest)

    def _follow(self, scene: PartScene, detected: np.ndarray, coast_s: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """As for every task; a few tracks are born with a wrong heading."""
        self._coast_s = coast_s
        born = super()._follow(scene, detected, coast_s, noise)
        first, order = TrackErrors.noise_channels, SYMMETRY[scene.agent_class]
        turn = (ndtr(noise[..., first]) - 0.5) * 2.0 * np.pi / np.maximum(order, 1)
        wrong = ndtr(noise[..., first + 1]) < self._wrong[scene.agent_class]
        self._turned_rad = np.where(born, turn * wrong, self._turned_rad)
        return born

    def _measure(self, scene: PartScene, detected: np.ndarray, born: np.ndarray, motion: Motion, sight: Sight) -> None:
        """As for every task; a part that is seen far from its track leaves it, and has yet to get another."""
        t = self.tracks
        off = np.linalg.norm(motion.position_m - t.position_m, axis=-1)
        jumped = t.present & ~self._invented & ~born & detected & (off > self.parameters.jump_m)
        if jumped.any():
            self._hits[jumped] = 1
            t.unseen_s[jumped] = self._unseen_s[jumped] + DT_S  # the detection was not its own
            self._leave_behind(jumped, scene)
        super()._measure(scene, detected, born, motion, sight)

    def _ending(self, noise: np.ndarray) -> np.ndarray:
        """As for every task; ghosts end as tracks do."""
        lost = self.tracks.unseen_s > self._coast_s + 1e-6
        ending = np.where(self._ghost, lost, super()._ending(noise))
        self._ghost &= ~ending
        return ending

    def _fold(self, scene: PartScene, heading_rad: np.ndarray, born: np.ndarray) -> np.ndarray:
        """Headings of symmetric parts next to their track's last one, at birth next to zero; round ones have none."""
        order = SYMMETRY[scene.agent_class]
        part = 2.0 * np.pi / np.maximum(order, 1)
        near = np.where(born, 0.0, self.tracks.heading_rad)
        turn = heading_rad + self._turned_rad - near
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
