"""What perception gets wrong about the objects it follows, whatever the task: misses, births, coasting, names, noise.

A task's own model says how well an object is seen and what false alarms look like (``sim.error_model`` for driving,
``sim.cell.error_model`` for picking). Slots of the tracks are slots of the agents; invented tracks take free slots.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from scipy.special import ndtri

from visuomotor.sim.error_parameters import TrackErrorParameters
from visuomotor.sim.visibility import wrap_rad

DT_S = 0.1


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


class Agents(Protocol):
    """Arrays over B scenes and N slots that every error model reads of the truth."""

    agent_present: np.ndarray  # [B, N] bool
    agent_id: np.ndarray  # [B, N] int; a change within a slot is another agent
    agent_class: np.ndarray  # [B, N] int
    agent_size_m: np.ndarray  # [B, N, 3] length, width, height


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Truth of every slot in ``odom_``."""

    position_m: np.ndarray  # [B, N, 2]
    velocity_mps: np.ndarray  # [B, N, 2]
    heading_rad: np.ndarray  # [B, N]


@dataclass(frozen=True, kw_only=True)
class Sight:
    """How well each slot is seen, [B, N]; noise as standard deviations along a direction and across it."""

    chance: np.ndarray  # of detection
    coast_s: np.ndarray  # a track that has not been detected for longer is lost
    along: np.ndarray  # [B, N, 2] unit vectors
    along_m: np.ndarray
    across_m: np.ndarray
    along_mps: np.ndarray
    across_mps: np.ndarray


S = TypeVar("S", bound=Agents)
P = TypeVar("P", bound=TrackErrorParameters)


class TrackErrors(ABC, Generic[S, P]):
    """The error model of B scenes with N slots; one random stream per scene, so a row does not depend on others."""

    confused_with: np.ndarray  # what each class is most easily taken for
    noise_channels = 12  # drawn for each slot and tick
    state: tuple[str, ...] = (
        "_agent_id",
        "_hits",
        "_scale",
        "_size_scale",
        "_latent",
        "_velocity_mps",
        "_invented",
        "_next_id",
    )

    def __init__(self, count: int, slots: int, parameters: P) -> None:
        self.parameters = parameters
        self.tracks = PerceivedTracks.empty(count, slots)
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
        self._confusion = np.array(parameters.class_confusion)
        self._heading_noise_rad = np.array(parameters.heading_noise_rad)

    @abstractmethod
    def _move(self, scene: S, odom_pose: np.ndarray) -> Motion:
        """The truth in ``odom_``, given the robot's poses [B, 3] there."""

    @abstractmethod
    def _look(self, scene: S, odom_pose: np.ndarray, motion: Motion) -> Sight:
        """How well the cameras see the slots."""

    @abstractmethod
    def _invent_one(self, scene: S, index: int, slot: int, odom_pose: np.ndarray) -> None:
        """Put a false alarm into a free slot of one scene: position, velocity, heading, class and size."""

    def reset(self, index: int, seed: int | Sequence[int]) -> None:
        """Forget everything of one scene and start its random stream anew."""
        self._rng[index] = np.random.default_rng(seed)
        self.tracks.clear(index)
        self._agent_id[index], self._hits[index], self._invented[index] = -1, 0, False
        self._latent[index] = self._rng[index].standard_normal(self._latent.shape[1:])
        self._next_id[index] = 0

    def update(self, scene: S, odom_pose: np.ndarray, fresh: np.ndarray | None = None) -> PerceivedTracks:
        """Advance every scene by one tick of 0.1 s, or only those of the mask ``fresh`` [B].

        The returned object is a new one at every call.
        """
        count, slots = self.tracks.present.shape
        frozen = np.zeros(count, bool) if fresh is None else ~fresh
        old = self.tracks
        before = {name: getattr(self, name).copy() for name in self.state} if frozen.any() else {}
        self.tracks = PerceivedTracks(**{name: value.copy() for name, value in vars(old).items()})
        noise = np.zeros((count, slots, self.noise_channels))
        for index in np.flatnonzero(~frozen):
            self._rng[index].standard_normal(out=noise[index])
        self._latent = self._rho * self._latent + self._fresh * noise[..., :6]
        self._forget_replaced(scene)
        motion = self._move(scene, odom_pose)
        sight = self._look(scene, odom_pose, motion)
        detected = scene.agent_present & (self._latent[..., 0] < ndtri(sight.chance))
        born = self._follow(scene, detected, sight.coast_s, noise)
        self._measure(scene, detected, born, motion, sight)
        self._invent(scene, odom_pose, noise)
        for name, value in before.items():
            getattr(self, name)[frozen] = value[frozen]
        if before:
            for name, value in vars(old).items():
                getattr(self.tracks, name)[frozen] = value[frozen]
        return self.tracks

    def _forget_replaced(self, scene: S) -> None:
        """Slots whose agent left or changed lose their track, and so does an invented one whose slot is needed."""
        changed = ~self._invented & (self._agent_id != np.where(scene.agent_present, scene.agent_id, -1))
        changed |= self._invented & scene.agent_present
        self._agent_id = np.where(scene.agent_present, scene.agent_id, -1)
        self._hits[changed] = 0
        self.tracks.present[changed] = False
        self._invented[changed] = False

    def _follow(self, scene: S, detected: np.ndarray, coast_s: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Birth, coasting, death and identity of tracks; the mask [B, N] of those born now."""
        p, t = self.parameters, self.tracks
        self._hits = np.where(detected, self._hits + 1, np.maximum(self._hits - 1, 0))
        real = t.present & ~self._invented
        born = scene.agent_present & ~real & detected & (self._hits >= p.birth_hits)
        t.unseen_s = np.where(detected | born, 0.0, t.unseen_s + DT_S)
        lost = real & (t.unseen_s > coast_s + 1e-6)
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
            wrong = noise[..., 10][born] > -ndtri(np.maximum(self._confusion[true_class], 1e-12))
            t.class_id[born] = np.where(wrong, self.confused_with[true_class], true_class)
        return born

    def _name(self, mask: np.ndarray) -> None:
        """Give every track in the mask a fresh id of its scene."""
        for index in np.flatnonzero(mask.any(axis=1)):
            slots = np.flatnonzero(mask[index])
            self.tracks.track_id[index, slots] = self._next_id[index] + np.arange(len(slots))
            self._next_id[index] += len(slots)

    def _measure(self, scene: S, detected: np.ndarray, born: np.ndarray, motion: Motion, sight: Sight) -> None:
        """Kinematic state of the followed tracks: noisy where detected, extrapolated where not."""
        p, t = self.parameters, self.tracks
        across = np.stack([-sight.along[..., 1], sight.along[..., 0]], axis=-1)

        def spread(channel: int, along: np.ndarray, sideways: np.ndarray) -> np.ndarray:
            latent = self._latent[..., channel : channel + 2] * self._scale[..., None]
            return sight.along * (latent[..., :1] * along[..., None]) + across * (latent[..., 1:] * sideways[..., None])

        gain = 1.0 - np.exp(-DT_S / p.velocity_lag_s)
        self._velocity_mps = np.where(
            born[..., None],
            p.velocity_at_birth * motion.velocity_mps,
            self._velocity_mps + (gain * detected)[..., None] * (motion.velocity_mps - self._velocity_mps),
        )
        measured_mps = self._velocity_mps + spread(3, sight.along_mps, sight.across_mps)
        late_m = motion.position_m - p.latency_s * motion.velocity_mps
        measured_m = late_m + spread(1, sight.along_m, sight.across_m)
        followed = t.present & ~self._invented
        update, coast = (followed & detected)[..., None], (followed & ~detected)[..., None]
        t.velocity_mps = np.where(update, measured_mps, t.velocity_mps)
        t.position_m = np.where(update, measured_m, t.position_m + np.where(coast, DT_S * t.velocity_mps, 0.0))
        heading_rad = motion.heading_rad + self._heading_noise_rad[scene.agent_class] * self._latent[..., 5]
        t.heading_rad = np.where(update[..., 0], self._fold(scene, heading_rad, born), t.heading_rad)
        t.size_m = np.where(update, scene.agent_size_m[..., :2] * self._size_scale, t.size_m)

    def _fold(self, scene: S, heading_rad: np.ndarray, born: np.ndarray) -> np.ndarray:
        """Measured headings [B, N] as the tracker would give them."""
        return wrap_rad(heading_rad)

    def _invent(self, scene: S, odom_pose: np.ndarray, noise: np.ndarray) -> None:
        """False alarms: short tracks of nothing, beside a real agent or anywhere in front, standing or moving."""
        p, t = self.parameters, self.tracks
        ending = self._invented & self._ending(noise)
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
                self._start_one(scene, int(index), int(free[-1]), odom_pose[index])

    def _ending(self, noise: np.ndarray) -> np.ndarray:
        """Invented tracks [B, N] that end now."""
        return noise[..., 11] > -ndtri(min(DT_S / self.parameters.false_alarm_life_s, 0.999))

    def _start_one(self, scene: S, index: int, slot: int, odom_pose: np.ndarray) -> None:
        t = self.tracks
        self._invent_one(scene, index, slot, odom_pose)
        self._invented[index, slot] = t.present[index, slot] = True
        t.age_s[index, slot] = t.unseen_s[index, slot] = 0.0
        t.track_id[index, slot] = self._next_id[index]
        self._next_id[index] += 1
