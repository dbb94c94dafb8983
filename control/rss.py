"""Safe distances of Responsibility-Sensitive Safety (RSS), and the numbers for which the guard keeps them.

Source: S. Shalev-Shwartz, S. Shammah, A. Shashua, "On a Formal Model of Safe and Scalable Self-driving Cars",
arXiv:1708.06374, the definitions of the safe longitudinal distance in the same direction and of the safe lateral one.
All arguments broadcast; a distance is between the nearest points, m, and never negative.
"""

from __future__ import annotations

import msgspec
import numpy as np

from visuomotor.control.config import ENVELOPE
from visuomotor.control.kinematics import Numbers, stopping_distance


class RssSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What each side may do: for ``response_s`` the worst, and from then on at least to brake as stated.

    The guard keeps what these promise, see docs/guard.md; who brakes is a car with it, whose policy does the worst.
    """

    response_s: float = 0.35  # a tick until it is seen, a tick until the command acts, and the brakes' lag of 0.15 s
    max_acceleration_mps2: float = ENVELOPE.max_acceleration_mps2
    braking_mps2: float = 4.0  # from where the guard brakes (GuardSettings.brake_from_mps2)
    front_braking_mps2: float = 8.0  # what a car ahead may do: the tyres' limit
    lateral_acceleration_mps2: float = 1.5  # of the lane-keeping law
    lateral_braking_mps2: float = 1.5
    lateral_margin_m: float = 0.2  # by which cars waver in their lanes


RSS = RssSettings()


def longitudinal_distance(rear_mps: Numbers, front_mps: Numbers, settings: RssSettings = RSS) -> np.ndarray:
    """Gap that the rear car needs to a front one in the same direction, which may brake as hard as it can."""
    way = standing_distance(rear_mps, settings)
    return np.maximum(way - stopping_distance(front_mps, settings.front_braking_mps2), 0.0)


def standing_distance(speed_mps: Numbers, settings: RssSettings = RSS) -> np.ndarray:
    """Gap that a car needs to what stands or crosses in its way, and so may be there when it arrives."""
    speed = np.maximum(speed_mps, 0.0)
    after = speed + settings.max_acceleration_mps2 * settings.response_s
    return 0.5 * (speed + after) * settings.response_s + stopping_distance(after, settings.braking_mps2)


def lateral_distance(left_mps: Numbers, right_mps: Numbers, settings: RssSettings = RSS) -> np.ndarray:
    """Gap sideways between a car on the left and one on the right, given their lateral speeds, left positive.

    For the response time each may accelerate towards the other, then it brakes its lateral speed to zero.
    """
    left = _way_sideways(np.negative(left_mps), settings)
    right = _way_sideways(np.asarray(right_mps), settings)
    return settings.lateral_margin_m + np.maximum(left + right, 0.0)


def _way_sideways(towards_mps: np.ndarray, settings: RssSettings) -> np.ndarray:
    """Way towards the other car, m; negative for one that moves away and stays so."""
    after = towards_mps + settings.lateral_acceleration_mps2 * settings.response_s
    braking = after * np.abs(after) / (2.0 * settings.lateral_braking_mps2)
    return 0.5 * (towards_mps + after) * settings.response_s + braking
