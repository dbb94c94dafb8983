"""What a tracker holds of its tracks and of one tick's detections: arrays, a row for each object."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np


@dataclass
class TrackBank:
    """All tracks, struct of arrays over N."""

    id: np.ndarray
    state: np.ndarray  # [N, 4] x, y, vx, vy
    covariance: np.ndarray  # [N, 4, 4] of what goes on as it did
    loose: np.ndarray  # [N, 4, 4] of what may have done anything since it was seen
    heading: np.ndarray  # [N, 2] unit vector
    size: np.ndarray  # [N, 2]
    votes: np.ndarray  # [N, classes]
    plain: np.ndarray  # sum of the weights of the readings that heading and size come from
    score: np.ndarray
    evidence: np.ndarray
    hits: np.ndarray
    confirmed: np.ndarray
    born_s: np.ndarray
    seen_s: np.ndarray
    missed_s: np.ndarray

    @classmethod
    def empty(cls, classes: int) -> TrackBank:
        """No tracks yet."""
        return cls(
            np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros((0, 4, 4)), np.zeros((0, 4, 4)), np.zeros((0, 2)),
            np.zeros((0, 2)), np.zeros((0, classes)), np.zeros(0), np.zeros(0), np.zeros(0),
            np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0), np.zeros(0), np.zeros(0),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.id)

    def keep(self, mask: np.ndarray) -> None:
        """Drop all tracks [N] but these."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[mask])

    def extend(self, other: TrackBank) -> None:
        """Append the tracks of another."""
        for field in fields(self):
            setattr(self, field.name, np.concatenate([getattr(self, field.name), getattr(other, field.name)]))

    @property
    def class_id(self) -> np.ndarray:
        """What each track was called most."""
        return self.votes.argmax(1)


@dataclass
class Measured:
    """Merged detections of one tick in ``odom_``."""

    position: np.ndarray
    covariance: np.ndarray
    class_id: np.ndarray
    score: np.ndarray
    heading_rad: np.ndarray
    size: np.ndarray
    votes: np.ndarray
    hidden: np.ndarray  # share of it that the robot's own limbs hide
    plain: np.ndarray  # weight of its heading and size: 1 in plain view
