"""The one definition of what the driving policy sees: names, units, ranges and order, and their computation.

Simulation, training and vehicle all use it; the hash of the table is stored with a policy and checked at loading.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visuomotor.control.car_following import idm_acceleration
from visuomotor.control.inputs import CAMERA_NAMES, DriveInputs, inputs_from_messages
from visuomotor.control.kinematics import bicycle_slip_rad, curve_acceleration
from visuomotor.control.layout import Feature, ObservationLayout, make_features
from visuomotor.control.scene import BODY, FORECAST_HORIZONS_S, LEFT, RANGE_M, RIGHT, Scene
from visuomotor.messages.schema import CAR, CONE, CYCLIST, PEDESTRIAN, TRUCK

__all__ = ["CAMERA_NAMES", "LAYOUT", "DriveInputs", "ObservationLayout", "inputs_from_messages", "observe"]

LAYOUT_VERSION = 2  # raise when the meaning of a feature changes without its name or range
PREVIEW_M = (5.0, 10.0, 20.0, 30.0, 45.0, 60.0)
CURVE_M = np.array([5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0, 70.0])
LANES = ("left", "current", "right")
HAZARDS = 3
OTHERS = 4
STATIONARY_MPS = 0.5
CHANGE_WAY_M, CHANGE_TIME_S = 6.0, 2.5  # a lane change takes so much way, and so much more per m/s
HAZARD_BEHIND_M = -4.0
HAZARD_RANGE_M = 70.0
OTHER_RANGE_M = 60.0


def _features() -> Iterator[Feature]:
    yield from make_features(
        "ego_",
        ("speed", "m/s", 0.0, 30.0),
        ("speed_limit", "m/s", 0.0, 30.0),
        ("speed_share", "", 0.0, 2.0),
        ("acceleration", "m/s2", -8.0, 4.0),
        ("yaw_rate", "rad/s", -1.0, 1.0),
        ("steering_angle", "rad", -0.6, 0.6),
        ("lane_offset", "m", -3.0, 3.0),
        ("heading_error", "rad", -0.6, 0.6),
        ("lateral_velocity", "m/s", -3.0, 3.0),
        ("left_edge_distance", "m", -2.0, 14.0),
        ("right_edge_distance", "m", -2.0, 14.0),
        ("lanes_left", "", 0.0, 3.0),
        ("lanes_right", "", 0.0, 3.0),
        ("goal_distance", "m", 0.0, 100.0),
        ("free_acceleration", "m/s2", -4.0, 2.0),
        ("curve_acceleration", "m/s2", -4.0, 2.0),
        ("last_action_acceleration", "", -1.0, 1.0),
        ("last_action_lateral", "", -1.0, 1.0),
        ("body_gap", "m", 0.0, RANGE_M),
        ("body_closing_speed", "m/s", -20.0, 20.0),
        ("body_idm_acceleration", "m/s2", -8.0, 2.0),
        ("forecast_present", "", 0.0, 1.0),
    )
    yield from make_features("", *((f"curvature_{distance:.0f}m", "1/m", -0.06, 0.06) for distance in PREVIEW_M))
    for lane in LANES:
        yield from make_features(
            f"{lane}_",
            ("exists", "", 0.0, 1.0),
            ("leader_present", "", 0.0, 1.0),
            ("leader_gap", "m", 0.0, RANGE_M),
            ("leader_headway", "s", 0.0, 8.0),
            ("leader_relative_speed", "m/s", -20.0, 20.0),
            ("leader_inverse_ttc", "1/s", 0.0, 2.0),
            ("leader_is_vehicle", "", 0.0, 1.0),
            ("leader_is_cyclist", "", 0.0, 1.0),
            ("leader_is_pedestrian", "", 0.0, 1.0),
            ("leader_is_cone", "", 0.0, 1.0),
            ("idm_acceleration", "m/s2", -8.0, 2.0),
            ("static_gap", "m", 0.0, RANGE_M),
            ("follower_present", "", 0.0, 1.0),
            ("follower_gap", "m", 0.0, RANGE_M),
            ("follower_relative_speed", "m/s", -20.0, 20.0),
            ("follower_idm_acceleration", "m/s2", -8.0, 2.0),
            ("beside", "", 0.0, 1.0),
            ("yield_expected", "m/s2", -8.0, 0.0),
            ("yield_worst", "m/s2", -8.0, 0.0),
            *((f"forecast_gap_{horizon:.1f}s", "m", 0.0, RANGE_M) for horizon in FORECAST_HORIZONS_S),
        )
    for index in range(HAZARDS):
        yield from make_features(
            f"hazard{index}_",
            ("present", "", 0.0, 1.0),
            ("ahead", "m", HAZARD_BEHIND_M, HAZARD_RANGE_M),
            ("lateral", "m", -12.0, 12.0),
            ("speed_along", "m/s", -8.0, 8.0),
            ("speed_across", "m/s", -5.0, 5.0),
            ("is_pedestrian", "", 0.0, 1.0),
            ("arrival_time", "s", 0.0, 8.0),
            ("arrival_lateral", "m", -15.0, 15.0),
            ("path_probability", "", 0.0, 1.0),
            ("yield_acceleration", "m/s2", -8.0, 0.0),
        )
    for index in range(OTHERS):
        yield from make_features(
            f"other{index}_",
            ("present", "", 0.0, 1.0),
            ("ahead", "m", -OTHER_RANGE_M, OTHER_RANGE_M),
            ("lateral", "m", -12.0, 12.0),
            ("relative_speed", "m/s", -20.0, 20.0),
            ("speed_across", "m/s", -4.0, 4.0),
            ("length", "m", 0.0, 14.0),
            ("path_probability", "", 0.0, 1.0),
            ("unseen", "s", 0.0, 2.0),
        )
    yield from make_features("", *((f"{name}_present", "", 0.0, 1.0) for name in CAMERA_NAMES))


LAYOUT = ObservationLayout(tuple(_features()), LAYOUT_VERSION)


def observe(inputs: DriveInputs) -> np.ndarray:
    """The observation, float32 [B, D], finite and inside ``LAYOUT.low`` .. ``LAYOUT.high``.

    A missing object has flag 0 and neutral values: no gap closes, no acceleration is asked for.
    """
    scene = inputs.scene
    speed = np.maximum(inputs.speed_mps, 0.0).astype(np.float32)
    parts = [_ego(inputs, scene, speed), _lanes(inputs, scene, speed)]
    parts += [_hazards(inputs, scene, speed), _others(inputs, scene, speed)]
    parts.append(np.asarray(inputs.camera_present, np.float32))
    out = np.concatenate(parts, axis=1)
    np.nan_to_num(out, copy=False, nan=0.0, posinf=1e9, neginf=-1e9)
    return np.minimum(np.maximum(out, LAYOUT.low, out=out), LAYOUT.high, out=out)


def _ego(inputs: DriveInputs, scene: Scene, speed: np.ndarray) -> np.ndarray:
    width = np.asarray(inputs.lane_width_m, np.float32)
    count = np.asarray(inputs.lane_count)
    limit = np.asarray(inputs.speed_limit_mps, np.float32)
    d = scene.ego_d_m
    distances = np.concatenate([PREVIEW_M, CURVE_M]).astype(np.float32)
    curvature = scene.frame.curvature(scene.ego_s_m[:, None] + distances)
    body_speed = scene.leader_speed_mps[:, BODY]
    out = np.empty((inputs.count, 22 + len(PREVIEW_M)), np.float32)
    out[:, 0] = speed
    out[:, 1] = limit
    out[:, 2] = speed / np.maximum(limit, 1.0)
    out[:, 3] = inputs.acceleration_mps2
    out[:, 4] = inputs.yaw_rate_radps
    out[:, 5] = inputs.steering_angle_rad
    out[:, 6] = scene.lane_offset_m
    out[:, 7] = scene.heading_error_rad + bicycle_slip_rad(inputs.steering_angle_rad)
    out[:, 8] = scene.lateral_velocity_mps
    out[:, 9] = (count - 0.5) * width - d
    out[:, 10] = d + 0.5 * width
    out[:, 11] = count - 1 - scene.lane
    out[:, 12] = scene.lane
    out[:, 13] = inputs.goal_distance_m
    out[:, 14] = limit - speed
    out[:, 15] = curve_acceleration(speed, CURVE_M, curvature[:, len(PREVIEW_M) :])
    out[:, 16:18] = inputs.last_action_norm
    out[:, 18] = scene.leader_gap_m[:, BODY]
    out[:, 19] = speed - body_speed
    out[:, 20] = _idm(speed, limit, scene.leader[:, BODY] >= 0, scene.leader_gap_m[:, BODY], body_speed)
    out[:, 21] = inputs.forecast_m.shape[2] > 0
    out[:, 22:] = curvature[:, : len(PREVIEW_M)]
    return out


def _idm(
    speed: np.ndarray, limit: np.ndarray, found: np.ndarray, gap: np.ndarray, leader_speed: np.ndarray
) -> np.ndarray:
    return idm_acceleration(speed, limit, np.where(found, gap, np.float32(1e6)), np.maximum(leader_speed, 0.0))


def _lanes(inputs: DriveInputs, scene: Scene, speed: np.ndarray) -> np.ndarray:
    count, lanes = inputs.count, len(LANES)
    width = len([name for name in LAYOUT.names if name.startswith("left_")])
    out = np.empty((count, lanes, width), np.float32)
    static = _standing(inputs, scene)
    leader, gap, leader_speed = scene.leader[:, :3], scene.leader_gap_m[:, :3], scene.leader_speed_mps[:, :3]
    first = np.where(static, scene.gap_ahead_m[:, None], np.float32(RANGE_M))
    obstacle = first.argmin(axis=2)
    static_gap = np.maximum(np.take_along_axis(first, obstacle[..., None], axis=2)[..., 0], 0.0)
    nearer = static_gap < gap
    leader, gap = np.where(nearer, obstacle, leader), np.where(nearer, static_gap, gap)
    leader_speed = np.where(nearer, np.take_along_axis(scene.s_speed_mps, obstacle, axis=1), leader_speed)
    found = leader >= 0
    closing = speed[:, None] - leader_speed
    kind = np.where(found, inputs.class_id[np.arange(count)[:, None], leader], -1)
    limit = np.asarray(inputs.speed_limit_mps, np.float32)[:, None]
    behind = scene.follower[:, :3] >= 0
    follower_speed = scene.follower_speed_mps[:, :3]
    follower_gap = scene.follower_gap_m[:, :3]
    out[..., 0] = scene.has_lane
    out[..., 1] = found
    out[..., 2] = gap
    out[..., 3] = gap / np.maximum(speed, 1.0)[:, None]
    out[..., 4] = -closing
    out[..., 5] = closing / np.maximum(gap, 0.5)
    out[..., 6] = (kind == CAR) | (kind == TRUCK)
    out[..., 7] = kind == CYCLIST
    out[..., 8] = kind == PEDESTRIAN
    out[..., 9] = kind == CONE
    out[..., 10] = _idm(speed[:, None], limit, found, gap, leader_speed)
    out[..., 11] = static_gap
    out[..., 12] = behind
    out[..., 13] = follower_gap
    out[..., 14] = follower_speed - speed[:, None]
    out[..., 15] = _idm(follower_speed, np.maximum(limit, follower_speed), behind, follower_gap, speed[:, None])
    out[..., 16] = scene.beside | (static_gap <= 0.0)
    forecasts = scene.forecasts
    if forecasts is None:
        out[..., 17:19] = 0.0
        out[..., 19:] = RANGE_M
    else:
        out[..., 17] = forecasts.expected_mps2.min(axis=1)
        out[..., 18] = forecasts.worst_mps2.min(axis=1)
        out[..., 19:] = forecasts.gap_m.min(axis=1)
    return out.reshape(count, -1)


def _standing(inputs: DriveInputs, scene: Scene) -> np.ndarray:
    """What stands in each lane and is not passed yet [B, 3, N]; in a side lane, what stands on the way there, too."""
    stands = scene.present & (np.abs(scene.s_speed_mps) < STATIONARY_MPS)
    inside = scene.inside[:, :3] & (stands & (scene.s_m > 0.0))[:, None]
    aside = scene.d_m - scene.ego_d_m[:, None]
    unpassed = stands & (scene.gap_behind_m < 0.0) & ~scene.inside.any(axis=1)
    unpassed &= np.abs(aside) < np.asarray(inputs.lane_width_m)[:, None]
    way = CHANGE_WAY_M + CHANGE_TIME_S * np.maximum(inputs.speed_mps, 0.0)
    unpassed &= scene.gap_ahead_m < way.astype(np.float32)[:, None]
    inside[:, LEFT] |= unpassed & (aside > 0.0)
    inside[:, RIGHT] |= unpassed & (aside < 0.0)
    return inside


def _hazards(inputs: DriveInputs, scene: Scene, speed: np.ndarray) -> np.ndarray:
    """The nearest pedestrians and cyclists ahead."""
    mask = scene.present & ((inputs.class_id == PEDESTRIAN) | (inputs.class_id == CYCLIST))
    mask &= (scene.s_m > HAZARD_BEHIND_M) & (scene.s_m < HAZARD_RANGE_M)
    slot, found = _closest(mask, np.abs(scene.s_m), HAZARDS)
    arrival = np.maximum(scene.gap_ahead_m, 0.0) / np.maximum(speed, 1.0)[:, None]
    lateral = scene.d_m - scene.ego_d_m[:, None]
    columns = [
        scene.s_m,
        lateral,
        scene.s_speed_mps,
        scene.d_speed_mps,
        inputs.class_id == PEDESTRIAN,
        arrival,
        lateral + scene.d_speed_mps * np.minimum(arrival, 8.0),
    ]
    neutral = [HAZARD_RANGE_M, 0.0, 0.0, 0.0, 0.0, 8.0, 0.0, 0.0, 0.0]
    columns += _forecast_columns(scene, mask.shape)
    return _gather(columns, neutral, slot, found)


def _others(inputs: DriveInputs, scene: Scene, speed: np.ndarray) -> np.ndarray:
    """The nearest cars and trucks."""
    mask = scene.present & ((inputs.class_id == CAR) | (inputs.class_id == TRUCK))
    mask &= np.abs(scene.s_m) < OTHER_RANGE_M
    slot, found = _closest(mask, np.abs(scene.s_m), OTHERS)
    columns = [
        scene.s_m,
        scene.d_m - scene.ego_d_m[:, None],
        scene.s_speed_mps - speed[:, None],
        scene.d_speed_mps,
        2.0 * scene.half_s_m,
        _forecast_columns(scene, mask.shape)[0],
        inputs.track_unseen_s,
    ]
    return _gather(columns, [OTHER_RANGE_M, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], slot, found)


def _forecast_columns(scene: Scene, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Probability of being in the nearest lane ahead, and the expected acceleration to yield, each [B, N]."""
    if scene.forecasts is None:
        return [np.zeros(shape, np.float32)] * 2
    return [scene.forecasts.probability[..., 1], scene.forecasts.expected_mps2[..., 1]]


def _closest(mask: np.ndarray, key: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Slots [B, count] of the least keys under the mask in order, and whether each exists."""
    ranked = np.where(mask, key, np.float32(np.inf))
    slot = np.argsort(ranked, axis=1, kind="stable")[:, :count]
    return slot, mask[np.arange(len(mask))[:, None], slot]


def _gather(columns: list[np.ndarray], neutral: list[float], slot: np.ndarray, found: np.ndarray) -> np.ndarray:
    """[B, count * (1 + C)]: flag and columns of each slot, neutral values where not found."""
    out = np.empty((*slot.shape, 1 + len(columns)), np.float32)
    rows = np.arange(len(slot))[:, None]
    out[..., 0] = found
    for index, column in enumerate(columns):
        out[..., 1 + index] = column[rows, slot]
    out[..., 1:][~found] = np.asarray(neutral, np.float32)
    return out.reshape(len(slot), -1)
