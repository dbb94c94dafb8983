"""Baseline drivers that a learned policy is compared with: IDM + MOBIL, and random."""

from __future__ import annotations

from visuomotor.control.action import ACTION_SIZE
from visuomotor.control.car_following import idm_acceleration, mobil_change, mobil_incentive, mobil_safe
from visuomotor.control.deciding import RandomActions
from visuomotor.control.idm_driver import IdmMobilDriver
from visuomotor.control.inputs import DriveInputs

__all__ = ["IdmMobilDriver", "RandomDriver", "idm_acceleration", "mobil_change", "mobil_incentive", "mobil_safe"]


class RandomDriver(RandomActions[DriveInputs]):
    """Uniform actions, one random stream per world."""

    def __init__(self, count: int = 1, seed: int = 0) -> None:
        super().__init__(ACTION_SIZE, count, seed)
