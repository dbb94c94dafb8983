"""Baseline drivers that a learned policy is compared with: IDM + MOBIL, and random."""

from __future__ import annotations

import numpy as np

from visuomotor.control.action import ACTION_SIZE
from visuomotor.control.car_following import idm_acceleration, mobil_change, mobil_incentive, mobil_safe
from visuomotor.control.idm_driver import IdmMobilDriver
from visuomotor.control.inputs import DriveInputs

__all__ = ["IdmMobilDriver", "RandomDriver", "idm_acceleration", "mobil_change", "mobil_incentive", "mobil_safe"]


class RandomDriver:
    """Uniform actions, one random stream per world."""

    def __init__(self, count: int = 1, seed: int = 0) -> None:
        self._streams = [np.random.default_rng([seed, index]) for index in range(count)]

    def reset(self, mask: np.ndarray | None = None, seed: int | None = None) -> None:
        """Begin a new episode in the worlds of the mask (all by default); ``seed`` restarts their streams."""
        if seed is not None:
            chosen = range(len(self._streams)) if mask is None else np.flatnonzero(mask)
            for index in chosen:
                self._streams[index] = np.random.default_rng([seed, int(index)])

    def act(self, inputs: DriveInputs) -> np.ndarray:
        """Action [B, 2] in [-1, 1]."""
        return np.stack([stream.uniform(-1.0, 1.0, ACTION_SIZE) for stream in self._streams])
