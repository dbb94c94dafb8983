"""The policy's inputs from simulated sensors and tracks: batched twin of ``control.inputs.inputs_from_messages``."""

from __future__ import annotations

import numpy as np

from visuomotor.control.inputs import CAMERA_NAMES, DriveInputs
from visuomotor.sim.error_model import PerceivedTracks
from visuomotor.sim.sensors import Sensors


def inputs_from_worlds(
    sensors: Sensors,
    tracks: PerceivedTracks,
    last_action_norm: np.ndarray,
    *,
    camera_present: np.ndarray | None = None,
    futures: tuple[np.ndarray, np.ndarray] | None = None,
) -> DriveInputs:
    """What B worlds know; last action [B, 2], cameras [B, 3] (by default all), futures [B, N, K, T, 2] and [B, N, K].

    Readings that the sensors overwrite with the next tick are copied; tracks are not.
    """
    count, slots = tracks.present.shape
    if futures is None:
        futures = np.zeros((count, slots, 0, 0, 2), np.float32), np.zeros((count, slots, 0), np.float32)
    return DriveInputs(
        speed_mps=sensors.speed_mps.copy(),
        acceleration_mps2=sensors.acceleration_mps2.copy(),
        yaw_rate_radps=sensors.yaw_rate_radps.copy(),
        steering_angle_rad=sensors.steering_angle_rad.copy(),
        odom_pose=sensors.odom_pose.copy(),
        route_m=sensors.route_m,
        lane_count=sensors.lane_count,
        lane_width_m=sensors.lane_width_m,
        speed_limit_mps=sensors.speed_limit_mps,
        goal_distance_m=sensors.goal_distance_m,
        track_present=tracks.present,
        track_id=tracks.track_id,
        class_id=tracks.class_id,
        track_position_m=tracks.position_m,
        track_velocity_mps=tracks.velocity_mps,
        track_heading_rad=tracks.heading_rad,
        track_size_m=tracks.size_m,
        track_unseen_s=tracks.unseen_s,
        forecast_m=futures[0],
        forecast_probability=futures[1],
        last_action_norm=last_action_norm,
        camera_present=np.ones((count, len(CAMERA_NAMES)), bool) if camera_present is None else camera_present,
    )
