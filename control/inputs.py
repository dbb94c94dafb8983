"""What the driving policy is given: the state of B worlds with N track slots each, from messages or from simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from visuomotor.control.slots import TrackSlots
from visuomotor.messages.schema import Forecast, Route, Tracks, VehicleState

if TYPE_CHECKING:
    from visuomotor.control.scene import Scene

CAMERA_NAMES: tuple[str, ...] = ("camera_front", "camera_left", "camera_right")
AGENTS_MAX = 32
ROUTE_SPACING_M = 2.0
ROUTE_START_M = -40.0


@dataclass(frozen=True, kw_only=True)
class DriveInputs:
    """Everything that observation, action and baselines read; B worlds, N slots, K futures of T steps, P route points.

    Positions, velocities and headings are in ``odom_``. ``route_m`` is the centre line of the rightmost lane, left
    positive; ``track_size_m`` is length, width. ``forecast_m`` may have K = 0: no forecast. Absent slots may hold
    anything finite. Derived geometry is computed once and kept in ``scene``.
    """

    speed_mps: np.ndarray  # [B]
    acceleration_mps2: np.ndarray  # [B]
    yaw_rate_radps: np.ndarray  # [B]
    steering_angle_rad: np.ndarray  # [B]
    odom_pose: np.ndarray  # [B, 3] x m, y m, yaw rad
    route_m: np.ndarray  # [B, P, 2]
    lane_count: np.ndarray  # [B]
    lane_width_m: np.ndarray  # [B]
    speed_limit_mps: np.ndarray  # [B]
    goal_distance_m: np.ndarray  # [B]
    track_present: np.ndarray  # [B, N] bool
    track_id: np.ndarray  # [B, N]
    class_id: np.ndarray  # [B, N]
    track_position_m: np.ndarray  # [B, N, 2]
    track_velocity_mps: np.ndarray  # [B, N, 2]
    track_heading_rad: np.ndarray  # [B, N]
    track_size_m: np.ndarray  # [B, N, 2]
    track_unseen_s: np.ndarray  # [B, N]
    forecast_m: np.ndarray  # [B, N, K, T, 2]
    forecast_probability: np.ndarray  # [B, N, K]
    last_action_norm: np.ndarray  # [B, 2]
    camera_present: np.ndarray  # [B, 3] in the order of CAMERA_NAMES
    route_spacing_m: float = ROUTE_SPACING_M
    forecast_step_s: float = 0.2

    @property
    def count(self) -> int:
        """B, the number of worlds."""
        return len(self.speed_mps)

    @cached_property
    def scene(self) -> Scene:
        """Ego and tracks along the route."""
        from visuomotor.control.scene import Scene

        return Scene.of(self)


def inputs_from_messages(
    vehicle_state: VehicleState,
    route: Route,
    tracks: Tracks | None,
    forecast: Forecast | None,
    last_action_norm: np.ndarray | Sequence[float] = (0.0, 0.0),
    cameras: Sequence[str] | None = None,
) -> DriveInputs:
    """One world (B = 1) from the messages of one tick.

    ``cameras`` are the cameras alive, by default those that ``tracks`` names. At most 32 tracks are kept, the nearest.
    Forecasts are matched to tracks by id; a track without one is forecast to stand where it is, with probability zero.
    Raises ValueError when the route has fewer than two points.
    """
    points = np.asarray(route.odom_reference_m, np.float32)
    if points.ndim != 2 or points.shape[0] < 2 or points.shape[1] != 2:
        raise ValueError(f"route.odom_reference_m: expected shape (P >= 2, 2), got {points.shape}")
    here = np.array([vehicle_state.odom_x_m, vehicle_state.odom_y_m], np.float32)
    slots = TrackSlots(tracks, here, AGENTS_MAX)
    alive = tuple(cameras if cameras is not None else (tracks.cameras if tracks is not None else ()))
    forecast_m, probability = slots.match(forecast)
    return DriveInputs(
        speed_mps=np.array([vehicle_state.speed_mps]),
        acceleration_mps2=np.array([vehicle_state.acceleration_mps2]),
        yaw_rate_radps=np.array([vehicle_state.yaw_rate_radps]),
        steering_angle_rad=np.array([vehicle_state.steering_angle_rad]),
        odom_pose=np.array([[vehicle_state.odom_x_m, vehicle_state.odom_y_m, vehicle_state.odom_yaw_rad]]),
        route_m=points[None],
        lane_count=np.array([route.lane_count]),
        lane_width_m=np.array([route.lane_width_m]),
        speed_limit_mps=np.array([route.speed_limit_mps]),
        goal_distance_m=np.array([route.goal_distance_m]),
        track_present=slots.present,
        track_id=slots.fill("track_id", dtype=np.int64),
        class_id=slots.fill("class_id", dtype=np.int64),
        track_position_m=slots.fill("odom_position_m", 2),
        track_velocity_mps=slots.fill("odom_velocity_mps", 2),
        track_heading_rad=slots.fill("odom_heading_rad"),
        track_size_m=slots.fill("size_m", 2),
        track_unseen_s=slots.fill("unseen_s"),
        forecast_m=forecast_m,
        forecast_probability=probability,
        last_action_norm=np.asarray(last_action_norm, np.float32).reshape(1, 2),
        camera_present=np.array([[name in alive for name in CAMERA_NAMES]]),
        route_spacing_m=float(route.spacing_m),
        forecast_step_s=0.2 if forecast is None else float(forecast.step_s),
    )
