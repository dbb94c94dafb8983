"""The rule-based driver: IDM along the lane, MOBIL across lanes, with pedestrians, cyclists, cones and curves."""

from __future__ import annotations

import msgspec
import numpy as np

from visuomotor.control.action import CONTROL_PERIOD_S, encode_acceleration, encode_lateral
from visuomotor.control.car_following import idm_acceleration, mobil_incentive, mobil_safe
from visuomotor.control.config import VEHICLE
from visuomotor.control.inputs import DriveInputs
from visuomotor.control.kinematics import curve_acceleration
from visuomotor.control.observation import CURVE_M, STATIONARY_MPS
from visuomotor.control.scene import CURRENT, LANE_STEP, Scene
from visuomotor.messages.schema import PEDESTRIAN

FREE_MPS2 = np.float32(99.0)
NO_FOLLOWER_M = np.float32(1e6)
HALF_WIDTH_M = VEHICLE.width_m / 2


class IdmMobilSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Tuned on tuning seeds of drive-v1."""

    max_acceleration_mps2: float = 1.9
    comfortable_deceleration_mps2: float = 2.0
    time_headway_s: float = 1.2
    min_gap_m: float = 2.5
    standing_gap_m: float = 8.0  # behind what stands in the lane: room to steer out
    passing_gap_m: float = 0.7  # left when steering out
    swing: float = 0.45  # way sideways per way ahead when creeping
    swing_gap_m: float = 6.0  # kept behind what stands when steering out has to wait
    curve_lateral_mps2: float = 2.1
    person_margin_m: float = 0.7  # beside the car's body
    vehicle_margin_m: float = 0.3
    person_lookahead_s: float = 6.0  # somebody who will be in the lane by then is in it now
    vehicle_lookahead_s: float = 2.5
    person_lead_s: float = 1.0  # by which the car passes before somebody enters the lane, or else yields
    kerb_speed_share: float = 0.65  # of the limit, where somebody stands near the lane
    kerb_range_m: float = 3.0  # from the car's flank
    kerb_distance_m: float = 20.0  # by which the car has slowed down
    lateral_speed_mps: float = 1.3  # of an own lane change, for judging what can be passed
    politeness: float = 0.2
    threshold_mps2: float = 0.35
    obstacle_incentive_mps2: float = 1.5
    obstacle_range_m: float = 80.0
    new_follower_braking_mps2: float = 2.0  # a lane change may ask this of the one behind
    desperate_braking_mps2: float = 3.5  # the same, when the own lane ends at an obstacle
    side_gap_m: float = 2.0  # bumper to bumper in the target lane, at equal speeds
    change_sight_s: float = 3.5  # the target lane must be clear of what stands for so long
    change_margin_m: float = 0.8
    pause_time_s: float = 1.5  # between changes


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
        scene = inputs.scene
        speed = np.maximum(inputs.speed_mps, 0.0)
        lanes = self._lane_accelerations(inputs, scene, speed)
        self._finish(scene)
        self._begin(inputs, scene, speed, lanes)
        target = np.where(self._target >= 0, self._target, scene.lane)
        acceleration = self._along(inputs, scene, speed, lanes, target)
        step = np.clip(target - scene.lane, -1, 1)
        return np.stack([encode_acceleration(acceleration), encode_lateral(step)], axis=1)

    def _follow(self, inputs: DriveInputs, scene: Scene, speed: np.ndarray, min_gap_m: np.ndarray) -> np.ndarray:
        """IDM acceleration [B, N] behind each track, were it in the lane."""
        s = self.settings
        return idm_acceleration(
            speed[:, None],
            np.asarray(inputs.speed_limit_mps)[:, None],
            np.maximum(scene.gap_ahead_m, 0.1),
            np.maximum(scene.s_speed_mps, 0.0),
            max_acceleration_mps2=s.max_acceleration_mps2,
            comfortable_deceleration_mps2=s.comfortable_deceleration_mps2,
            time_headway_s=s.time_headway_s,
            min_gap_m=min_gap_m,
        )

    def _lane_accelerations(self, inputs: DriveInputs, scene: Scene, speed: np.ndarray) -> np.ndarray:
        """Acceleration [B, 3] that each lane allows: tracks that are or will be in it, curves, the limit."""
        s = self.settings
        standing = (np.abs(scene.s_speed_mps) < STATIONARY_MPS) & (inputs.class_id != PEDESTRIAN)
        follow = self._follow(inputs, scene, speed, np.where(standing, s.standing_gap_m, s.min_gap_m))
        centre = (scene.lane[:, None] + LANE_STEP) * np.asarray(inputs.lane_width_m)[:, None]
        relevant = self._relevant(inputs, scene, speed, centre)
        free = idm_acceleration(
            speed, inputs.speed_limit_mps, np.inf, 0.0, max_acceleration_mps2=s.max_acceleration_mps2
        )
        lanes = np.where(relevant, follow[:, None], FREE_MPS2).min(axis=2)
        curvature = scene.frame.curvature(scene.ego_s_m[:, None] + CURVE_M)
        bend = curve_acceleration(speed, CURVE_M, curvature, s.curve_lateral_mps2)
        wary = self._wary(inputs, scene, speed, centre)
        return np.minimum(np.minimum(lanes, wary), np.minimum(free, bend)[:, None])

    def _wary(self, inputs: DriveInputs, scene: Scene, speed: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """Acceleration [B, 3] to be slow where somebody stands near the lane's edge and may step out."""
        s = self.settings
        waits = scene.present & (inputs.class_id == PEDESTRIAN) & (scene.gap_ahead_m > 0.0)
        beside = np.abs(scene.d_m[:, None] - centre[:, :, None]) - (scene.half_d_m + HALF_WIDTH_M)[:, None]
        near = waits[:, None] & (beside > 0.0) & (beside < s.kerb_range_m)
        slow = np.square(s.kerb_speed_share * np.asarray(inputs.speed_limit_mps))
        way = 2.0 * np.maximum(scene.gap_ahead_m - s.kerb_distance_m, 1.0)
        needed = np.maximum((slow - np.square(speed))[:, None] / way, -s.comfortable_deceleration_mps2)
        return np.where(near, needed[:, None], FREE_MPS2).min(axis=2)

    def _relevant(self, inputs: DriveInputs, scene: Scene, speed: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """Whether each track is ahead and in each lane, or comes into it before the car has passed, [B, 3, N]."""
        s = self.settings
        person = inputs.class_id == PEDESTRIAN
        margin = np.where(person, s.person_margin_m, s.vehicle_margin_m)
        reach = (scene.half_d_m + HALF_WIDTH_M + margin)[:, None]
        aside = scene.d_m[:, None] - centre[:, :, None]
        distance = np.abs(aside) - reach
        towards = -np.sign(aside) * scene.d_speed_mps[:, None]
        pace = np.where(towards > 0.15, towards, 1e-6)
        enters = np.maximum(distance, 0.0) / pace
        leaves = (np.abs(aside) + reach) / pace
        arrives = np.maximum(scene.gap_ahead_m, 0.0) / np.maximum(speed, 1.0)[:, None]
        length = 2.0 * scene.half_s_m + VEHICLE.length_m
        closing = np.maximum(speed[:, None] - scene.s_speed_mps, 1.0)
        cleared = (np.maximum(scene.gap_ahead_m, 0.0) + length) / closing
        look = np.where(person, s.person_lookahead_s, s.vehicle_lookahead_s)[:, None]
        coming = (distance > 0.0) & (enters < look) & (enters < cleared[:, None] + s.person_lead_s)
        coming &= ~person[:, None] | (arrives[:, None] < leaves + 0.5)
        ahead = scene.present & (scene.s_m > 0.0) & (scene.gap_ahead_m > -1.0)
        return ahead[:, None] & ((distance <= 0.0) | coming)

    def _along(
        self, inputs: DriveInputs, scene: Scene, speed: np.ndarray, lanes: np.ndarray, target: np.ndarray
    ) -> np.ndarray:
        """Acceleration [B] towards the target lane: its own, and what is still in the way of the body."""
        s = self.settings
        rows = np.arange(inputs.count)
        goal_d = target * np.asarray(inputs.lane_width_m)
        away = goal_d - scene.ego_d_m
        side = np.sign(away)[:, None]
        acceleration = lanes[rows, 1 - np.clip(target - scene.lane, -1, 1)]
        # In the way is what overlaps the body's strip, unless the car will be clear of it when it gets there.
        aside = scene.d_m - scene.ego_d_m[:, None]
        reach = scene.half_d_m + HALF_WIDTH_M + np.where(inputs.class_id == PEDESTRIAN, 0.5, 0.2)
        ahead = scene.present & (scene.s_m > 0.0) & (scene.gap_ahead_m > -1.0)
        overlap = ahead & (np.abs(aside) < reach)
        # Way still to go sideways until the body is past the track on the target's side.
        sideways = reach + aside * side
        creep = np.maximum(speed, 0.3)  # from standstill, too, going sideways takes a way ahead
        lateral = np.minimum(s.lateral_speed_mps, s.swing * creep)[:, None]
        time = sideways / lateral + 0.5
        closing = np.maximum(creep[:, None] - np.maximum(scene.s_speed_mps, 0.0), 0.0)
        passes = (np.abs(away) > 0.3)[:, None] & (sideways < np.abs(away)[:, None] + 0.2)
        passes &= scene.gap_ahead_m > closing * time + s.passing_gap_m
        standing = (np.abs(scene.s_speed_mps) < STATIONARY_MPS) & (inputs.class_id != PEDESTRIAN)
        gap = np.where(standing & (np.abs(away) > 0.5)[:, None], s.swing_gap_m, s.min_gap_m)
        body = np.where(overlap & ~passes, self._follow(inputs, scene, speed, gap), FREE_MPS2).min(axis=1)
        return np.minimum(acceleration, body)

    def _finish(self, scene: Scene) -> None:
        """End lane changes that have arrived."""
        self._since_s += CONTROL_PERIOD_S
        arrived = (self._target >= 0) & (scene.lane == self._target) & (np.abs(scene.lane_offset_m) < 0.4)
        self._target[arrived] = -1
        self._since_s[arrived] = 0.0

    def _begin(self, inputs: DriveInputs, scene: Scene, speed: np.ndarray, lanes: np.ndarray) -> None:
        """Begin the lane changes that MOBIL finds safe and worth while; give up those that have become unsafe."""
        s = self.settings
        rows = np.arange(inputs.count)
        follower_speed = np.maximum(scene.follower_speed_mps[:, :3], 0.0)
        behind = scene.follower[:, :3] >= 0
        follower_gap = np.where(behind, scene.follower_gap_m[:, :3], NO_FOLLOWER_M)
        limit = np.asarray(inputs.speed_limit_mps)[:, None]
        pushed = idm_acceleration(
            follower_speed, np.maximum(limit, follower_speed), follower_gap, speed[:, None], time_headway_s=1.0
        )
        leader = np.maximum(scene.leader[:, CURRENT], 0)
        blocked = (scene.leader[:, CURRENT] >= 0) & (np.abs(scene.s_speed_mps[rows, leader]) < STATIONARY_MPS)
        blocked &= scene.leader_gap_m[:, CURRENT] < s.obstacle_range_m
        blocked &= inputs.class_id[rows, leader] != PEDESTRIAN
        braking = np.where(blocked, s.desperate_braking_mps2, s.new_follower_braking_mps2)[:, None]
        closing = np.maximum(follower_speed - speed[:, None], 0.0)
        safe = mobil_safe(pushed, safe_deceleration_mps2=braking) & (follower_gap > s.side_gap_m + closing)
        ahead = np.maximum(speed[:, None] - scene.leader_speed_mps[:, :3], 0.0)
        safe &= (scene.leader[:, :3] < 0) | (scene.leader_gap_m[:, :3] > s.side_gap_m + 1.5 * ahead)
        safe &= scene.has_lane & ~scene.beside & ~self._narrow(inputs, scene, speed)

        self._give_up(scene, follower_gap, closing)
        ready = (self._target < 0) & (self._since_s > s.pause_time_s) & (np.abs(scene.lane_offset_m) < 0.6)
        gain = lanes - lanes[:, CURRENT, None] + s.obstacle_incentive_mps2 * blocked[:, None]
        incentive = mobil_incentive(gain, np.minimum(pushed, 0.0), 0.0, politeness=s.politeness)
        incentive = np.where(safe, incentive, -np.inf)
        incentive[:, CURRENT] = -np.inf
        best = incentive.argmax(axis=1)
        begin = ready & (incentive[rows, best] > s.threshold_mps2)
        self._target = np.where(begin, scene.lane + LANE_STEP[best], self._target)
        self._since_s[begin] = 0.0

    def _narrow(self, inputs: DriveInputs, scene: Scene, speed: np.ndarray) -> np.ndarray:
        """Whether something stands in or at the edge of each lane so near that a change would graze it, [B, 3]."""
        s = self.settings
        standing = scene.present & (np.abs(scene.s_speed_mps) < STATIONARY_MPS) & (scene.s_m > 0.0)
        near = standing & (scene.gap_ahead_m < (s.change_sight_s * speed)[:, None] + s.standing_gap_m)
        centre = (scene.lane[:, None] + LANE_STEP) * np.asarray(inputs.lane_width_m)[:, None]
        aside = np.abs(scene.d_m[:, None] - centre[:, :, None])
        return (near[:, None] & (aside < (scene.half_d_m + HALF_WIDTH_M + s.change_margin_m)[:, None])).any(axis=2)

    def _give_up(self, scene: Scene, follower_gap_m: np.ndarray, closing_mps: np.ndarray) -> None:
        """Back to the old lane when, before the border is crossed, somebody shoots up or stands beside."""
        step = self._target - scene.lane
        under_way = (self._target >= 0) & (np.abs(step) == 1)
        rows = np.arange(len(step))
        lane = 1 - np.clip(step, -1, 1)
        blocked = scene.beside[rows, lane]
        blocked |= follower_gap_m[rows, lane] < 0.5 * closing_mps[rows, lane]
        early = np.abs(scene.lane_offset_m) < 0.6
        self._target[under_way & blocked & early] = -1
