"""What the picking policy is given: the state of B cells with N track slots each, from messages or from simulation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from visuomotor.control.arm.hand import Hand
    from visuomotor.control.arm.targets import Targets

CAMERA_NAMES: tuple[str, ...] = ("camera_top",)
AGENTS_MAX = 16


@dataclass(frozen=True, kw_only=True)
class ArmInputs:
    """Everything that observation, action and baselines read; B cells, N slots, K futures of T steps, C classes.

    All positions are in ``base_``. ``tool_*`` follow from the joints (``control.arm.kinematics``): the point between
    the finger tips, its yaw about the vertical and its linear velocity. ``track_heading_rad`` is the yaw of the part's
    longer side. ``forecast_m`` may have K = 0: no forecast. Absent slots may hold anything finite. What follows
    from them is computed once and kept in ``targets`` and ``hand``.
    """

    joint_position_rad: np.ndarray  # [B, 7]
    joint_velocity_radps: np.ndarray  # [B, 7]
    gripper_width_m: np.ndarray  # [B]
    gripper_force_n: np.ndarray  # [B]
    tool_position_m: np.ndarray  # [B, 3]
    tool_yaw_rad: np.ndarray  # [B]
    tool_velocity_mps: np.ndarray  # [B, 3]
    wanted: np.ndarray  # [B, C] parts still wanted
    bin_index: np.ndarray  # [B, C] -1: not ordered
    bin_m: np.ndarray  # [B, M, 3]
    track_present: np.ndarray  # [B, N] bool
    track_id: np.ndarray  # [B, N]
    class_id: np.ndarray  # [B, N]
    track_position_m: np.ndarray  # [B, N, 2]
    track_velocity_mps: np.ndarray  # [B, N, 2]
    track_heading_rad: np.ndarray  # [B, N]
    track_size_m: np.ndarray  # [B, N, 2] length, width
    track_age_s: np.ndarray  # [B, N]
    track_unseen_s: np.ndarray  # [B, N]
    forecast_m: np.ndarray  # [B, N, K, T, 2]
    forecast_probability: np.ndarray  # [B, N, K]
    last_action_norm: np.ndarray  # [B, 5]
    camera_present: np.ndarray  # [B, 1] in the order of CAMERA_NAMES
    forecast_step_s: float = 0.1

    @property
    def count(self) -> int:
        """B, the number of cells."""
        return len(self.joint_position_rad)

    @cached_property
    def targets(self) -> Targets:
        """The parts that may be taken, the best first."""
        from visuomotor.control.arm.targets import Targets

        return Targets.of(self)

    @cached_property
    def hand(self) -> Hand:
        """What the hand is doing."""
        from visuomotor.control.arm.hand import Hand

        return Hand.of(self)
