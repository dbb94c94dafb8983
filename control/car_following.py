"""Car-following and lane-change models of the literature, as pure vectorised functions.

Used by the traffic in simulation, by the baseline driver, and as features of the observation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
Numbers = float | npt.NDArray[np.floating]

DESIRED_DECELERATION_FLOOR_MPS2 = -9.0  # below this a road vehicle cannot brake anyway


def idm_acceleration(
    speed_mps: Numbers,
    desired_speed_mps: Numbers,
    gap_m: Numbers,
    leader_speed_mps: Numbers,
    *,
    max_acceleration_mps2: Numbers = 1.5,
    comfortable_deceleration_mps2: Numbers = 2.0,
    time_headway_s: Numbers = 1.4,
    min_gap_m: Numbers = 2.0,
    exponent: float = 4.0,
) -> Array:
    """Acceleration of the Intelligent Driver Model.

    All arguments broadcast; ``gap_m`` is bumper to bumper, infinity without a leader (its speed is then ignored).
    The result lies in [-9 m/s2, ``max_acceleration_mps2``]. Source: Treiber, Hennecke, Helbing, Phys. Rev. E 62 (2000),
    equations 3 and 4; the exponent is their delta.
    """
    speed = np.maximum(speed_mps, 0.0)
    closing = speed - leader_speed_mps
    root = 2.0 * np.sqrt(np.multiply(max_acceleration_mps2, comfortable_deceleration_mps2))
    desired_gap = min_gap_m + np.maximum(speed * time_headway_s + speed * closing / root, 0.0)
    interaction = desired_gap / np.maximum(gap_m, 0.1)
    free = speed / np.maximum(desired_speed_mps, 0.1)
    acceleration = max_acceleration_mps2 * (1.0 - free**exponent - interaction * interaction)
    return np.clip(acceleration, DESIRED_DECELERATION_FLOOR_MPS2, max_acceleration_mps2)


def mobil_incentive(
    own_gain_mps2: Numbers,
    new_follower_gain_mps2: Numbers,
    old_follower_gain_mps2: Numbers,
    *,
    politeness: Numbers = 0.2,
) -> Array:
    """Advantage of a lane change: own gain of acceleration plus the neighbours' gains weighted by politeness, m/s2.

    A gain is the acceleration after the change minus the one before. Source: Kesting, Treiber, Helbing, Transportation
    Research Record 1999 (2007), equation 5.
    """
    return np.asarray(own_gain_mps2 + politeness * (np.add(new_follower_gain_mps2, old_follower_gain_mps2)))


def mobil_safe(new_follower_acceleration_mps2: Numbers, *, safe_deceleration_mps2: Numbers = 3.0) -> np.ndarray:
    """Whether the new follower need not brake harder than ``safe_deceleration_mps2`` (Kesting 2007, equation 4)."""
    return np.asarray(new_follower_acceleration_mps2 >= -np.asarray(safe_deceleration_mps2))


def mobil_change(
    own_gain_mps2: Numbers,
    new_follower_gain_mps2: Numbers,
    old_follower_gain_mps2: Numbers,
    new_follower_acceleration_mps2: Numbers,
    *,
    politeness: Numbers = 0.2,
    threshold_mps2: Numbers = 0.1,
    bias_mps2: Numbers = 0.0,
    safe_deceleration_mps2: Numbers = 3.0,
) -> np.ndarray:
    """Whether MOBIL changes lane: safe for the new follower, and the incentive with ``bias_mps2`` beats the threshold.

    A positive bias pulls towards the target lane (keep-right rule, Kesting 2007, equation 7).
    """
    incentive = mobil_incentive(own_gain_mps2, new_follower_gain_mps2, old_follower_gain_mps2, politeness=politeness)
    safe = mobil_safe(new_follower_acceleration_mps2, safe_deceleration_mps2=safe_deceleration_mps2)
    return safe & (incentive + bias_mps2 > threshold_mps2)
