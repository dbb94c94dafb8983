"""The one definition of what the picking policy sees: names, units, ranges and order, and their computation.

Simulation, training and the arm itself all use it; the hash of the table is stored with a policy and checked at
loading. It has no memory: what the hand holds follows from its width and force, and into which bin that goes from the
last action (``control.arm.hand``). Where a part is going to be comes from the forecast alone, never from the tracker's
velocity: without a forecast, and with one that says "it stays", a policy sees the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visuomotor.control.arm.config import ACTION_NAMES, JOINTS, LIMITS
from visuomotor.control.arm.hand import plain_grip
from visuomotor.control.arm.inputs import CAMERA_NAMES, ArmInputs
from visuomotor.control.arm.targets import BALL, CANDIDATES, HORIZONS_S, NEIGHBOUR_MAX_M, ROUND, TIME_MAX_S
from visuomotor.control.layout import Feature, ObservationLayout, make_features

LAYOUT_VERSION = 2  # raise when the meaning of a feature changes without its name or range
JOINT_MARGIN_RAD = 0.5  # nearer than that to a limit is told
FORCE_MAX_N = 2.0 * LIMITS.gripper_force_n


def _features() -> Iterator[Feature]:
    yield from make_features(
        "tool_",
        ("x", "m", 0.0, 0.8),
        ("y", "m", -0.6, 0.6),
        ("z", "m", 0.0, 0.5),
        ("velocity_x", "m/s", -1.0, 1.0),
        ("velocity_y", "m/s", -1.0, 1.0),
        ("velocity_z", "m/s", -1.0, 1.0),
        ("yaw", "rad", -3.2, 3.2),
        ("next_z", "m", 0.0, 0.5),
        ("next_yaw", "rad", -3.2, 3.2),
    )
    yield from make_features(
        "hand_",
        ("width", "m", 0.0, 0.08),
        ("force", "N", 0.0, FORCE_MAX_N),
        ("closing", "", 0.0, 1.0),
        ("holding", "", 0.0, 1.0),
        ("empty", "", 0.0, 1.0),
        ("bin", "", 0.0, 1.0),
        ("bin_x", "m", -0.8, 0.8),
        ("bin_y", "m", -1.0, 1.0),
        ("bin_distance", "m", 0.0, 1.0),
        ("any_bin_distance", "m", 0.0, 1.0),
    )
    yield from make_features("joint", *((f"{i}_margin", "rad", 0.0, JOINT_MARGIN_RAD) for i in range(JOINTS)))
    yield from make_features("last_action_", *((name, "", -1.0, 1.0) for name in ACTION_NAMES))
    for index in range(CANDIDATES):
        yield from make_features(
            f"part{index}_",
            ("present", "", 0.0, 1.0),
            *((f"{axis}_{horizon:.1f}s", "m", -0.6, 0.6) for horizon in HORIZONS_S for axis in "xy"),
            ("next_x", "m", -0.1, 0.1),
            ("next_y", "m", -0.1, 0.1),
            ("next_distance", "m", 0.0, 0.2),
            ("velocity_x", "m/s", -0.4, 0.4),
            ("velocity_y", "m/s", -0.4, 0.4),
            ("spread_0.5s", "m", 0.0, 0.1),
            ("spread_1.2s", "m", 0.0, 0.2),
            ("intercept_time", "s", 0.0, TIME_MAX_S),
            ("intercept_x", "m", -0.6, 0.6),
            ("intercept_y", "m", -1.0, 1.0),
            ("outside", "m", 0.0, 0.5),
            ("time_left", "s", 0.0, TIME_MAX_S),
            ("turn", "rad", -2.0, 2.0),
            ("above", "m", -0.03, 0.2),
            ("grip_width", "m", 0.0, 0.08),
            ("is_round", "", 0.0, 1.0),
            ("is_ball", "", 0.0, 1.0),
            ("obstruction", "", 0.0, 1.0),
            ("neighbour_along", "m", -NEIGHBOUR_MAX_M, NEIGHBOUR_MAX_M),
            ("neighbour_across", "m", -NEIGHBOUR_MAX_M, NEIGHBOUR_MAX_M),
            ("age", "s", 0.0, 2.0),
            ("unseen", "s", 0.0, 2.0),
            ("bin", "", 0.0, 1.0),
        )
    yield from make_features("", *((f"{name}_present", "", 0.0, 1.0) for name in CAMERA_NAMES))


LAYOUT = ObservationLayout(tuple(_features()), LAYOUT_VERSION)
_PART = sum(feature.name.startswith("part0_") for feature in LAYOUT.features)
_LOW, _HIGH = (np.array(border) for border in (LIMITS.position_min_rad, LIMITS.position_max_rad))


def observe(inputs: ArmInputs) -> np.ndarray:
    """The observation, float32 [B, D], finite and inside ``LAYOUT.low`` .. ``LAYOUT.high``.

    Parts are those of ``inputs.targets`` in their order; all places are relative to where the tool is going to be at
    ``targets.NEXT_S``. An absent part has flag 0 and zeros.
    """
    out = np.concatenate([_own(inputs), _parts(inputs), np.asarray(inputs.camera_present, np.float32)], axis=1)
    np.nan_to_num(out, copy=False, nan=0.0, posinf=1e9, neginf=-1e9)
    return np.minimum(np.maximum(out, LAYOUT.low, out=out), LAYOUT.high, out=out)


def _own(inputs: ArmInputs) -> np.ndarray:
    """The arm, its hand and the last action."""
    hand, targets = inputs.hand, inputs.targets
    bins = inputs.bin_m.shape[1]
    tool = targets.tool_next_m
    away = inputs.bin_m[:, :, :2] - tool[:, None, :2]
    distance = np.hypot(away[..., 0], away[..., 1])
    rows = np.arange(inputs.count)
    out = np.empty((inputs.count, 19 + JOINTS + len(ACTION_NAMES)), np.float32)
    out[:, 0:3] = inputs.tool_position_m
    out[:, 3:6] = inputs.tool_velocity_mps
    out[:, 6] = inputs.tool_yaw_rad
    out[:, 7] = tool[:, 2]
    out[:, 8] = targets.yaw_next_rad
    out[:, 9] = inputs.gripper_width_m
    out[:, 10] = inputs.gripper_force_n
    out[:, 11] = hand.closing
    out[:, 12] = hand.holding
    out[:, 13] = hand.empty
    out[:, 14] = hand.bin_index / max(bins - 1, 1)
    out[:, 15:17] = away[rows, hand.bin_index]
    out[:, 17] = distance[rows, hand.bin_index]
    out[:, 18] = distance.min(axis=1)
    margin = np.minimum(inputs.joint_position_rad - _LOW, _HIGH - inputs.joint_position_rad)
    out[:, 19 : 19 + JOINTS] = margin
    out[:, 19 + JOINTS :] = inputs.last_action_norm
    out[:, -1] = plain_grip(inputs.last_action_norm[:, -1], bins)
    return out


def _parts(inputs: ArmInputs) -> np.ndarray:
    """The candidates, [B, K * features]."""
    targets = inputs.targets
    tool = targets.tool_next_m[:, None, :2]
    out = np.empty((*targets.found.shape, _PART), np.float32)
    near = targets.next_m - tool
    column = 1 + 2 * len(HORIZONS_S)
    for index, horizon in enumerate(HORIZONS_S):
        out[..., 1 + 2 * index : 3 + 2 * index] = targets.at(horizon) - tool
    columns = (
        near[..., 0],
        near[..., 1],
        np.hypot(near[..., 0], near[..., 1]),
        targets.velocity_mps[..., 0],
        targets.velocity_mps[..., 1],
        targets.spread_m[..., 0],
        targets.spread_m[..., 1],
        targets.intercept_s,
        targets.intercept_m[..., 0] - tool[..., 0],
        targets.intercept_m[..., 1] - tool[..., 1],
        targets.outside_m,
        targets.time_left_s,
        targets.grip_yaw_rad - targets.yaw_next_rad[:, None],
        targets.tool_next_m[:, None, 2] - targets.grip_height_m,
        targets.grip_width_m,
        ROUND[targets.class_id],
        BALL[targets.class_id],
        targets.obstruction,
        targets.neighbour_m[..., 0],
        targets.neighbour_m[..., 1],
        targets.age_s,
        targets.unseen_s,
        targets.bin_index / max(inputs.bin_m.shape[1] - 1, 1),
    )
    for index, values in enumerate(columns):
        out[..., column + index] = values
    out[~targets.found] = 0.0
    out[..., 0] = targets.found
    return out.reshape(inputs.count, -1)
