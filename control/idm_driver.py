"""The rule-based driver: IDM along the lane, MOBIL across lanes, with pedestrians, cyclists, cones and curves."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np

from visuomotor.control.action import CONTROL_PERIOD_S, encode_acceleration, encode_lateral
from visuomotor.control.car_following import idm_acceleration, mobil_incentive, mobil_safe
from visuomotor.control.inputs import DriveInputs
from visuomotor.control.kinematics import curve_acceleration
from visuomotor.control.observation import CURVE_M
from visuomotor.control.scene import BODY, CURRENT, LANE_STEP, Scene

NO_LEADER_M = np.float32(1e6)


class IdmMobilSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Tuned on tuning seeds of drive-v1."""

    max_acceleration_mps2: float = 1.8
    comfortable_deceleration_mps2: float = 2.2
    time_headway_s: float = 1.2
    min_gap_m: float = 2.5
    curve_lateral_mps2: float = 2.0
    politeness: float = 0.2
    threshold_mps2: float = 0.35
    obstacle_lookahead_m: float = 60.0
    new_follower_braking_mps2: float = 2.0  # a lane change may ask this of the one behind
    desperate_braking_mps2: float = 3.0  # the same, when the own lane ends at an obstacle
    side_gap_m: float = 2.0  # bumper to bumper in the target lane, at equal speeds
    change_time_s: float = 4.0  # a change not finished by then is over
    pause_time_s: float = 2.0  # between changes


class IdmMobilDriver:
    """Drives B worlds; ``act`` returns the same actions as a learned policy, so that it can be imitated.

    State per world: the lane it is changing to and since when. Lane indices count from the rightmost.
    """

    def __init__(self, count: int = 1, settings: IdmMobilSettings | None = None) -> None:
        self.settings = settings or IdmMobilSettings()
        self._target = np.full(count, -1, np.int64)  # lane being changed to, -1: none
        self._since_s = np.full(count, 1e3)

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Forget the state of the worlds of the mask [B] (all by default)."""
        chosen = np.ones(len(self._target), bool) if mask is None else np.asarray(mask, bool)
        self._target[chosen] = -1
        self._since_s[chosen] = 1e3

    def act(self, inputs: DriveInputs) -> np.ndarray:
        """Action [B, 2] in [-1, 1]."""
        if not inputs.forecast_m.shape[2]:
            inputs = with_constant_velocity(inputs)
        scene = inputs.scene
        speed = np.maximum(inputs.speed_mps, 0.0)
        along = self._lane_accelerations(inputs, scene, speed)
        lane = self._choose(inputs, scene, speed, along)
        step = np.clip(lane - scene.lane, -1, 1)
        acceleration = along[:, CURRENT].copy()
        moving = step != 0
        target = np.where(step > 0, 0, 2)
        rows = np.arange(inputs.count)
        acceleration = np.where(moving, np.minimum(acceleration, along[rows, target]), acceleration)
        return np.stack([encode_acceleration(acceleration), encode_lateral(step)], axis=1)

    def _lane_accelerations(self, inputs: DriveInputs, scene: Scene, speed: np.ndarray) -> np.ndarray:
        """Acceleration [B, 3] that each lane would allow: leaders, forecast conflicts, curves, the body's own strip."""
        s = self.settings
        limit = np.asarray(inputs.speed_limit_mps)
        found = scene.leader >= 0
        gap = np.where(found, scene.leader_gap_m, NO_LEADER_M)
        idm = idm_acceleration(
            speed[:, None],
            limit[:, None],
            gap,
            np.maximum(scene.leader_speed_mps, 0.0),
            max_acceleration_mps2=s.max_acceleration_mps2,
            comfortable_deceleration_mps2=s.comfortable_deceleration_mps2,
            time_headway_s=s.time_headway_s,
            min_gap_m=s.min_gap_m,
        )
        along = np.minimum(idm[:, :3], idm[:, BODY, None])
        if scene.forecasts is not None:
            conflict = np.minimum(scene.forecasts.expected_mps2, 0.7 * scene.forecasts.worst_mps2).min(axis=1)
            along = np.where(conflict < -0.3, np.minimum(along, conflict), along)
        curvature = scene.frame.curvature(scene.ego_s_m[:, None] + CURVE_M)
        bend = curve_acceleration(speed, CURVE_M, curvature, s.curve_lateral_mps2)
        return np.minimum(along, bend[:, None])

    def _choose(self, inputs: DriveInputs, scene: Scene, speed: np.ndarray, along: np.ndarray) -> np.ndarray:
        """Lane to steer to, [B]: finishes or gives up a change that is under way, or begins one."""
        s = self.settings
        self._since_s += CONTROL_PERIOD_S
        active = self._target >= 0
        arrived = active & (scene.lane == self._target) & (np.abs(scene.lane_offset_m) < 0.5)
        late = active & (self._since_s > s.change_time_s)
        self._target[arrived | late] = -1
        self._since_s[arrived | late] = 0.0
        active = self._target >= 0
        ready = ~active & (self._since_s > s.pause_time_s) & (np.abs(scene.lane_offset_m) < 0.6) & (speed > 1.5)

        gain = along - along[:, CURRENT, None]
        follower_speed = np.maximum(scene.follower_speed_mps[:, :3], 0.0)
        behind = scene.follower[:, :3] >= 0
        follower_gap = np.where(behind, scene.follower_gap_m[:, :3], NO_LEADER_M)
        limit = np.asarray(inputs.speed_limit_mps)[:, None]
        pushed = idm_acceleration(
            follower_speed, np.maximum(limit, follower_speed), follower_gap, speed[:, None], time_headway_s=1.0
        )
        pressed = along[:, CURRENT] < -1.0
        braking = np.where(pressed, s.desperate_braking_mps2, s.new_follower_braking_mps2)[:, None]
        closing = np.maximum(follower_speed - speed[:, None], 0.0)
        safe = mobil_safe(pushed, safe_deceleration_mps2=braking) & (follower_gap > s.side_gap_m + 1.5 * closing)
        ahead = np.maximum(speed[:, None] - scene.leader_speed_mps[:, :3], 0.0)
        safe &= (scene.leader[:, :3] < 0) | (scene.leader_gap_m[:, :3] > s.side_gap_m + 1.5 * ahead)
        safe &= scene.has_lane & ~scene.beside
        incentive = mobil_incentive(gain, np.minimum(pushed, 0.0), 0.0, politeness=s.politeness)
        incentive = np.where(safe, incentive, -np.inf)
        incentive[:, CURRENT] = -np.inf
        best = incentive.argmax(axis=1)
        rows = np.arange(inputs.count)
        begin = ready & (incentive[rows, best] > s.threshold_mps2)
        self._target = np.where(begin, scene.lane + LANE_STEP[best], self._target)
        self._since_s[begin] = 0.0
        return np.where(self._target >= 0, self._target, scene.lane)


def with_constant_velocity(inputs: DriveInputs, steps: int = 15, step_s: float = 0.2) -> DriveInputs:
    """The inputs with one future per track, straight on at its present velocity."""
    time = (np.arange(steps) + 1.0) * step_s
    way = inputs.track_velocity_mps[:, :, None, None, :] * time[:, None]
    return dataclasses.replace(
        inputs,
        forecast_m=(inputs.track_position_m[:, :, None, None, :] + way).astype(np.float32),
        forecast_probability=np.ones((*inputs.track_present.shape, 1), np.float32),
        forecast_step_s=step_s,
    )
