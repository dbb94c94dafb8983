"""The scene along the route: ego, tracks and forecasts in lane coordinates, and who is ahead and behind in each lane.

Shared by the observation, the decoding of actions, the baselines and the guard, and computed once per ``DriveInputs``.
Lane axis L = 4: left of the nearest lane, the nearest lane, right of it, and the strip that the car's own body sweeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from visuomotor.control.config import VEHICLE
from visuomotor.control.route_frame import RouteFrame
from visuomotor.messages.schema import CONE, PEDESTRIAN

if TYPE_CHECKING:
    from visuomotor.control.inputs import DriveInputs

LEFT, CURRENT, RIGHT, BODY = range(4)
LANE_STEP = np.array([1, 0, -1], np.int64)
RANGE_M = 100.0  # tracks farther along the route than this are not considered
FORECAST_AHEAD_M = 70.0
FORECAST_BEHIND_M = -15.0
FORECAST_STRIDE = 3  # every third forecast step: 0.6 s
FORECAST_HORIZONS_S = (1.2, 1.8, 3.0)
LANE_MARGIN_M = 0.25  # lateral clearance that still counts as in the lane
PEDESTRIAN_MARGIN_M = 0.5
BODY_MARGIN_M = 0.15
STANDSTILL_GAP_M = 1.5  # bumper to bumper, kept when yielding to a forecast
UNLIKELY = 0.1  # modes below this probability don't count for the worst case
HALF_LENGTH_M = VEHICLE.length_m / 2
HALF_WIDTH_M = VEHICLE.width_m / 2


@dataclass
class Forecasts:
    """Conflicts of forecasts with lanes, against the ego at constant speed; [B, N, 3] over the three lanes, 0 if none.

    ``expected_mps2`` is the acceleration (<= 0) needed to stay behind the object, averaged over modes by probability;
    ``worst_mps2`` the lowest over likely modes; ``probability`` that it is in the lane ahead of the car before the
    horizon's end; ``gap_m`` [B, N, 3, 3] the expected least gap within each of ``FORECAST_HORIZONS_S`` (last axis).
    """

    expected_mps2: np.ndarray
    worst_mps2: np.ndarray
    probability: np.ndarray
    gap_m: np.ndarray


@dataclass
class Scene:
    """Lane coordinates of B worlds with N slots; s is measured from the ego along the route, d from the rightmost lane.

    ``has_lane`` [B, 3], ``inside`` [B, L, N] (track overlaps that strip), ``leader`` and ``follower`` [B, L] slot index
    or -1, ``leader_gap_m`` and ``follower_gap_m`` [B, L] bumper to bumper, 100 when there is none.
    """

    frame: RouteFrame
    ego_s_m: np.ndarray  # [B] along the frame's polyline
    ego_d_m: np.ndarray
    heading_error_rad: np.ndarray  # body relative to the route's tangent
    lateral_velocity_mps: np.ndarray
    curvature_pm: np.ndarray  # of the route at the ego
    lane: np.ndarray  # int, nearest, 0 = rightmost
    lane_offset_m: np.ndarray
    has_lane: np.ndarray
    present: np.ndarray  # [B, N]
    s_m: np.ndarray
    d_m: np.ndarray
    s_speed_mps: np.ndarray
    d_speed_mps: np.ndarray
    half_s_m: np.ndarray
    half_d_m: np.ndarray
    gap_ahead_m: np.ndarray  # bumper to bumper if the track is ahead
    gap_behind_m: np.ndarray
    inside: np.ndarray
    leader: np.ndarray
    leader_gap_m: np.ndarray
    leader_speed_mps: np.ndarray  # along the lane; the ego's when there is none
    follower: np.ndarray
    follower_gap_m: np.ndarray
    follower_speed_mps: np.ndarray
    beside: np.ndarray  # [B, 3] a track overlaps lengthwise in that lane
    forecasts: Forecasts | None

    @classmethod
    def of(cls, inputs: DriveInputs) -> Scene:
        """Project everything onto the route."""
        origin = inputs.odom_pose[:, :2]
        frame = RouteFrame.of(inputs.route_m, origin, inputs.route_spacing_m)
        worlds = np.arange(inputs.count)
        ego_s, ego_d, row = frame.project(np.zeros((inputs.count, 2), np.float32), worlds)
        tangent = frame.table[row]
        yaw = inputs.odom_pose[:, 2]
        cos, sin = np.cos(yaw), np.sin(yaw)
        heading_error = np.arctan2(
            tangent[:, 2] * sin - tangent[:, 3] * cos, tangent[:, 2] * cos + tangent[:, 3] * sin
        ).astype(np.float32)
        # Motion of the middle of the wheelbase: its course leads the body by the slip angle of the bicycle model.
        course = heading_error + np.arctan(0.5 * np.tan(inputs.steering_angle_rad))
        width = inputs.lane_width_m
        lane = np.clip(np.rint(ego_d / width), 0, inputs.lane_count - 1).astype(np.int64)
        neighbours = lane[:, None] + LANE_STEP
        has_lane = (neighbours >= 0) & (neighbours < np.asarray(inputs.lane_count)[:, None])
        centre = np.empty((inputs.count, 4), np.float32)
        centre[:, :3] = neighbours * np.asarray(width)[:, None]
        centre[:, BODY] = ego_d

        shape = inputs.track_present.shape
        tracks = np.zeros((6, *shape), np.float32)  # s, d, s speed, d speed, half s, half d
        world, slot = np.nonzero(inputs.track_present)
        position = (inputs.track_position_m[world, slot] - origin[world]).astype(np.float32)
        s, d, row = frame.project(position, world)
        s -= ego_s[world]
        tx, ty = frame.columns[2].take(row), frame.columns[3].take(row)
        velocity = inputs.track_velocity_mps[world, slot]
        heading = inputs.track_heading_rad[world, slot]
        hx, hy = np.cos(heading), np.sin(heading)
        along, across = np.abs(hx * tx + hy * ty), np.abs(hy * tx - hx * ty)
        size = inputs.track_size_m[world, slot] * 0.5
        compact = np.stack(
            [
                s,
                d,
                velocity[:, 0] * tx + velocity[:, 1] * ty,
                velocity[:, 1] * tx - velocity[:, 0] * ty,
                size[:, 0] * along + size[:, 1] * across,
                size[:, 0] * across + size[:, 1] * along,
            ]
        )
        tracks[:, world, slot] = compact
        s_m, d_m, s_speed, d_speed, half_s, half_d = tracks
        present = inputs.track_present & (np.abs(s_m) < RANGE_M)
        margin = np.where(inputs.class_id == PEDESTRIAN, PEDESTRIAN_MARGIN_M, LANE_MARGIN_M).astype(np.float32)
        reach = np.empty((shape[0], 4, shape[1]), np.float32)
        reach[:, :3] = (half_d + margin + np.float32(HALF_WIDTH_M))[:, None]
        reach[:, BODY] = half_d + np.float32(HALF_WIDTH_M + BODY_MARGIN_M)
        inside = (np.abs(d_m[:, None] - centre[:, :, None]) < reach) & present[:, None]

        bumper = half_s + np.float32(HALF_LENGTH_M)
        gap_ahead, gap_behind = s_m - bumper, -s_m - bumper
        ahead = (s_m > 0.0)[:, None]
        moves_on = ((inputs.class_id != CONE) & (inputs.class_id != PEDESTRIAN))[:, None]
        leader, leader_gap, leader_speed = _nearest(inside & ahead, gap_ahead, s_speed, inputs.speed_mps)
        follower, follower_gap, follower_speed = _nearest(
            inside & ~ahead & moves_on, gap_behind, s_speed, inputs.speed_mps
        )
        overlap = np.maximum(gap_ahead, gap_behind) < 0.0
        beside = (inside[:, :3] & overlap[:, None]).any(axis=2)

        forecasts = None
        if inputs.forecast_m.shape[2]:
            near = (s > FORECAST_BEHIND_M) & (s < FORECAST_AHEAD_M)
            forecasts = _forecasts(
                inputs, frame, ego_s, centre, margin, world[near], slot[near], compact[:, near], (tx[near], ty[near])
            )
        return cls(
            frame=frame,
            ego_s_m=ego_s,
            ego_d_m=ego_d,
            heading_error_rad=heading_error,
            lateral_velocity_mps=inputs.speed_mps * np.sin(course),
            curvature_pm=tangent[:, 4],
            lane=lane,
            lane_offset_m=ego_d - centre[:, CURRENT],
            has_lane=has_lane,
            present=present,
            s_m=s_m,
            d_m=d_m,
            s_speed_mps=s_speed,
            d_speed_mps=d_speed,
            half_s_m=half_s,
            half_d_m=half_d,
            gap_ahead_m=gap_ahead,
            gap_behind_m=gap_behind,
            inside=inside,
            leader=leader,
            leader_gap_m=leader_gap,
            leader_speed_mps=leader_speed,
            follower=follower,
            follower_gap_m=follower_gap,
            follower_speed_mps=follower_speed,
            beside=beside,
            forecasts=forecasts,
        )


def _nearest(
    mask: np.ndarray, gap_m: np.ndarray, speed_mps: np.ndarray, ego_speed_mps: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slot of the least gap under the mask [B, L, N] or -1, the gap (0 .. 100) and the speed there, each [B, L]."""
    gaps = np.where(mask, gap_m[:, None], np.float32(2.0 * RANGE_M))
    slot = gaps.argmin(axis=2)
    rows = np.arange(len(gaps))[:, None]
    gap = gaps[rows, np.arange(gaps.shape[1]), slot]
    found = gap < 1.5 * RANGE_M
    speed = np.where(found, speed_mps[rows, slot], ego_speed_mps[:, None])
    return np.where(found, slot, -1), np.minimum(np.maximum(gap, 0.0), RANGE_M), speed


def _forecasts(
    inputs: DriveInputs,
    frame: RouteFrame,
    ego_s_m: np.ndarray,
    centre_m: np.ndarray,
    margin_m: np.ndarray,
    world: np.ndarray,
    slot: np.ndarray,
    tracks: np.ndarray,
    tangent: tuple[np.ndarray, np.ndarray],
) -> Forecasts:
    """Conflicts of the forecasts of M tracks (``world``, ``slot`` [M]; ``tracks`` [6, M]) with the three lanes.

    Arrays are [S, K, M] with the long axis last: sampled steps, futures, tracks.
    """
    steps = np.arange(FORECAST_STRIDE - 1, inputs.forecast_m.shape[3], FORECAST_STRIDE)
    time = ((steps + 1) * inputs.forecast_step_s).astype(np.float32)
    origin = inputs.odom_pose[world, :2]
    points = inputs.forecast_m[:, :, :, FORECAST_STRIDE - 1 :: FORECAST_STRIDE][world, slot]
    x = np.ascontiguousarray((points[..., 0] - origin[:, None, None, 0]).transpose(2, 1, 0), np.float32)
    y = np.ascontiguousarray((points[..., 1] - origin[:, None, None, 1]).transpose(2, 1, 0), np.float32)
    here = (inputs.track_position_m[world, slot] - origin).astype(np.float32)
    along = (x - here[:, 0]) * tangent[0] + (y - here[:, 1]) * tangent[1]
    ego_s = ego_s_m[world]
    s, d, _ = frame.refine((x, y), world * frame.vertices, along + (tracks[0] + ego_s), steps=0)
    when = time[:, None, None]
    advance = inputs.speed_mps[world].astype(np.float32) * when
    ahead = s - ego_s - advance  # of the track's centre from the ego's centre, at constant ego speed
    gap = ahead - (tracks[4] + np.float32(HALF_LENGTH_M))
    needed = np.minimum((gap - np.float32(STANDSTILL_GAP_M)) * (2.0 / (when * when)), 0.0)
    # Passed by less than the way between two samples may have been touched in between.
    passed = np.minimum(tracks[2] - inputs.speed_mps[world].astype(np.float32), 0.0) * time[0]
    behind = ahead <= passed
    needed = np.where(behind, np.float32(0.0), needed)
    open_gap = np.where(behind, np.float32(RANGE_M), np.maximum(gap, 0.0))
    reach = tracks[5] + np.float32(HALF_WIDTH_M) + margin_m[world, slot]
    weight = np.ascontiguousarray(inputs.forecast_probability[world, slot].T, np.float32)  # [K, M]
    total = weight.sum(axis=0)
    weight = weight / np.maximum(total, 1e-6)
    likely = weight > UNLIKELY

    # Per lane and future: acceleration to yield, whether it comes into the lane, least gap within each horizon.
    upto = np.maximum(np.searchsorted(time, np.add(FORECAST_HORIZONS_S, 1e-3)), 1).tolist()
    mode = np.empty((3, 2 + len(upto), *weight.shape), np.float32)
    worst = np.empty((3, len(world)), np.float32)
    nothing, far = np.float32(0.0), np.float32(RANGE_M)
    for lane in range(3):
        inside = np.abs(d - centre_m[world, lane]) < reach
        yielding = np.where(inside, needed, nothing).min(axis=0, out=mode[lane, 0])
        worst[lane] = np.where(likely, yielding, nothing).min(axis=0)
        gaps = np.where(inside, open_gap, far)
        first = 0
        for index, count in enumerate(upto, start=2):
            least = gaps[first:count].min(axis=0, out=mode[lane, index], initial=far)
            if index > 2:
                np.minimum(least, mode[lane, index - 1], out=least)
            first = count
        np.less(mode[lane, -1], far, out=mode[lane, 1])
    expected = np.einsum("km,lfkm->lfm", weight, mode)
    expected[:, 2:] = np.where(total > 0.0, expected[:, 2:], far)

    shape = inputs.track_present.shape
    out = Forecasts(
        expected_mps2=np.zeros((*shape, 3), np.float32),
        worst_mps2=np.zeros((*shape, 3), np.float32),
        probability=np.zeros((*shape, 3), np.float32),
        gap_m=np.full((*shape, 3, len(upto)), RANGE_M, np.float32),
    )
    out.expected_mps2[world, slot] = expected[:, 0].T
    out.worst_mps2[world, slot] = worst.T
    out.probability[world, slot] = expected[:, 1].T
    out.gap_m[world, slot] = expected[:, 2:].transpose(2, 0, 1)
    return out
