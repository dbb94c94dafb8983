"""The cell and the arm as numbers: geometry in ``base_``, the manufacturer's limits, rates, the task's classes.

``base_`` is the frame of the arm's foot: x forward, y left, z up; z = 0 is the plate that the arm is bolted to and, at
the same height, the upper side of the belt. The arm stands still, so ``odom_`` and ``map_`` are ``base_``.
"""

from __future__ import annotations

import math

import msgspec

from visuomotor.messages.tasks import TASKS

CLASS_NAMES = TASKS["pick"].class_names
CONTROL_PERIOD_S = 0.1
JOINTS = 7
ACTION_NAMES = ("velocity_x", "velocity_y", "velocity_z", "yaw_rate", "gripper")  # each in [-1, 1]
ACTION_SIZE = len(ACTION_NAMES)
REST_RAD = (0.0, 0.2, 0.0, -2.1, 0.0, 2.3, math.pi / 4)  # tool at (0.573, 0, 0.22), pointing down


class ArmLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the Franka Emika Panda (Franka Control Interface documentation, "Robot and interface specifications").

    The tool's own limits are the envelope of the policy: trained in it, held by the guard.
    """

    position_min_rad: tuple[float, ...] = (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973)
    position_max_rad: tuple[float, ...] = (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973)
    velocity_radps: tuple[float, ...] = (2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61)
    acceleration_radps2: tuple[float, ...] = (15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0)
    gripper_width_m: float = 0.08
    gripper_speed_mps: float = 0.1  # of the width
    gripper_force_n: float = 70.0  # continuous; grasps use 40
    tool_speed_mps: float = 0.8
    tool_acceleration_mps2: float = 5.0
    yaw_rate_radps: float = 2.0


class CellGeometry(msgspec.Struct, frozen=True, kw_only=True):
    """Where things are, m in ``base_``. The belt runs towards -y."""

    belt_x_m: tuple[float, float] = (0.34, 0.66)
    belt_y_m: tuple[float, float] = (-0.90, 1.30)
    reach_y_m: tuple[float, float] = (-0.40, 0.40)  # of the belt, where parts may be taken
    lane_x_m: tuple[float, float] = (0.40, 0.60)  # where parts lie
    bin_centre_m: tuple[tuple[float, float], ...] = ((0.20, 0.36), (0.20, -0.36))
    bin_size_m: tuple[float, float, float] = (0.20, 0.20, 0.08)  # inner length, width, height of the rim above z = 0
    workspace_min_m: tuple[float, float, float] = (0.10, -0.50, 0.010)  # of the tool; the finger tips end 7 mm lower
    workspace_max_m: tuple[float, float, float] = (0.70, 0.50, 0.45)
    grasp_height_m: float = 0.018  # of the tool above the belt: near the middle of the lowest parts
    travel_height_m: float = 0.16  # of the tool with a part, clear of rims and of other parts


LIMITS = ArmLimits()
CELL = CellGeometry()
