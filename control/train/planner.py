"""A privileged planner that teaches: it sees the simulator's true state, rolls out proposals and takes the best.

Learning by cheating (Chen et al. 2019); proposals of IDM kind scored by simulation as in PDM-Closed (Dauner et al.
2023). For training only: nothing of it exists in the vehicle.
"""

from __future__ import annotations

import msgspec
import numpy as np

from visuomotor.control.action import decode_acceleration, encode_acceleration, encode_lateral
from visuomotor.control.inputs import DriveInputs
from visuomotor.control.kinematics import LANE_KEEPING, bicycle_slip_rad, curve_acceleration
from visuomotor.control.observation import CURVE_M
from visuomotor.control.train.prediction import HALF_LENGTH_M, HALF_WIDTH_M, STEPS_S, TIMES_S, Prediction, predict
from visuomotor.sim.drive import DriveWorlds
from visuomotor.sim.events import WARY_SHARE, stopping_distance

BRAKE_LAG_S = 0.15
LANE_STEPS = np.array([0.0, 1.0, -1.0, 0.0, 0.0], np.float32)  # lateral proposals: lane from the nearest one ...
OFFSETS_M = np.array([0.0, 0.0, 0.0, 0.8, -0.8], np.float32)  # ... and offset in it
SHARES = np.array(
    [1.0, 1.0, 0.75, 0.5, 0.3, 0.15, 0.0], np.float32
)  # longitudinal: of the free speed; 0 is a full stop
MINDS_BODY = np.array([0, 1, 0, 0, 0, 0, 0], bool)  # follows what is ahead of the body, too, not of the target alone
PROPOSALS = [(k, plan) for k in range(5) for plan in range(len(SHARES)) if k < 3 or plan in (0, 3, 5)]
LATERAL, LONGITUDINAL = np.array(PROPOSALS).T


class PlannerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Tuned on tuning seeds of drive-v1. Costs are in metres of progress."""

    max_acceleration_mps2: float = 1.9
    comfortable_deceleration_mps2: float = 2.0
    time_headway_s: float = 1.2
    min_gap_m: float = 2.5
    standing_gap_m: float = 7.5
    standing_mps: float = 4.0  # slower than this counts as standing, in proportion
    curve_lateral_mps2: float = 2.1
    corridor_margin_m: float = 0.25
    person_margin_m: float = 0.6
    side_margin_m: float = 0.2
    margin_growth_mps: float = 0.04
    front_margin_m: float = 0.7
    collision: float = 300.0
    rear: float = 120.0
    rear_braking_mps2: float = 2.5
    rear_gap_m: float = 1.5
    pressing_mps: float = 3.0  # slower than this, the car asks more of those behind, or it would never get in
    pressing_braking_mps2: float = 3.3
    pressing_gap_m: float = 1.0
    clearance: float = 3.0
    shortfall: float = 12.0  # per metre that full braking after this tick would be too long ...
    shortfall_base: float = 15.0  # ... and for any
    hard_braking: float = 1.5  # per m/s2 beyond 2 and second
    shortfall_margin_m: float = 1.0
    lane_value: float = 0.25  # per metre of way in the lane in the next ``value_horizon_s``
    value_horizon_s: float = 9.0
    value_range_m: float = 85.0
    blocked: float = 15.0  # for somebody who stands in the lane, the more the nearer
    change: float = 5.0
    offset: float = 3.0
    switch: float = 4.0
    comfort: float = 0.3
    wary_share: float = 0.95  # of the speed from which one can stop for a late walker
    wary_braking_mps2: float = 1.2


class PlannerTeacher:
    """Drives the worlds it was made for; ``act`` has the form of ``IdmMobilDriver.act``.

    Tracks and forecasts of the inputs are not read: what the others do comes from the worlds. State: the lateral target
    chosen last, which is kept unless another is clearly better.
    """

    def __init__(self, worlds: DriveWorlds, settings: PlannerSettings | None = None) -> None:
        self.settings = settings or PlannerSettings()
        self._worlds = worlds
        self._target_m = np.full(worlds.count, np.nan)
        self._plan = np.zeros((worlds.count, 2))
        self._costs: dict[str, np.ndarray] = {}

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Forget the plans of the worlds of the mask [B] (all by default)."""
        self._target_m[slice(None) if mask is None else np.asarray(mask, bool)] = np.nan

    def act(self, inputs: DriveInputs) -> np.ndarray:
        """Action [B, 2] in [-1, 1], float32."""
        w, s = self._worlds, self.settings
        width = np.asarray(inputs.lane_width_m, np.float32)
        last_lane = np.asarray(inputs.lane_count) - 1
        lane = np.clip(np.rint(w.ego_d_m / width), 0, last_lane)
        future = predict(w)
        target = ((lane[:, None] + LANE_STEPS) * width[:, None] + OFFSETS_M).astype(np.float32)
        edge = (last_lane * width)[:, None]
        exists = (target > -1.0) & (target < edge + 1.0)
        target = np.clip(target, 0.0, edge).astype(np.float32)
        exists[:, 3:] &= np.abs(target[:, 3:] - target[:, :1]) > 0.3

        rollout = _Rollout(w, inputs, s, future, target)
        cost = rollout.run()
        cost += self._lateral_cost(rollout, future, target, lane * width, width)[:, LATERAL]
        cost[~exists[:, LATERAL]] = np.inf
        best = cost.argmin(axis=1)
        rows = np.arange(w.count)
        chosen = target[rows, LATERAL[best]]
        self._target_m = chosen.astype(np.float64)
        self._plan = np.stack([LATERAL[best], LONGITUDINAL[best]], axis=1)
        self._costs = {**rollout.costs, "total": cost}
        acceleration = rollout.first_acceleration[rows, best]
        step = chosen / width - inputs.scene.lane
        step = np.where(np.abs(step) < 0.03, 0.0, step)
        return np.stack([encode_acceleration(acceleration), encode_lateral(np.clip(step, -1, 1))], axis=1).astype(
            np.float32
        )

    def _lateral_cost(
        self, rollout: _Rollout, future: Prediction, target: np.ndarray, centre: np.ndarray, width: np.ndarray
    ) -> np.ndarray:
        """What each lateral target [B, K] costs beyond the horizon and by itself."""
        s = self.settings
        w = self._worlds
        limit = rollout.limit[:, None, None]
        ahead = future.s_m[0] - future.half_s_m - (w.ego_s_m + HALF_LENGTH_M)[:, None]
        reach = future.half_d_m + np.float32(HALF_WIDTH_M + s.corridor_margin_m)
        # Who is about to leave the corridor doesn't count, who is about to come does.
        d = future.d_m[-1]
        inside = np.abs(d[:, None] - target[:, :, None]) < reach[:, None]
        relevant = inside & ((future.s_m[0] > w.ego_s_m[:, None]) & ~future.walks & (ahead < s.value_range_m))[:, None]
        speed = future.speed_mps[0][:, None]
        way = ahead[:, None] + speed * s.value_horizon_s - s.standing_gap_m - 0.6 * speed
        free = limit * s.value_horizon_s
        way = np.clip(np.where(relevant, way, free), 0.0, free).min(axis=2)
        cost = s.lane_value * (free[:, :, 0] - way)
        nearness = np.clip(1.0 - (ahead - 10.0) / (s.value_range_m - 10.0), 0.0, 1.0)
        cost += s.blocked * np.where(relevant & future.stands[:, None], nearness[:, None], 0.0).max(axis=2)
        previous = np.where(np.isnan(self._target_m), centre, self._target_m)
        lane_of = np.rint(target / width[:, None])
        changes = np.abs(lane_of - (w.ego_d_m / width)[:, None])  # in lanes, what is left of the way over
        cost += s.change * np.clip(changes, 0.0, 1.0)
        cost += s.switch * (np.abs(target - previous[:, None]) > 0.5)
        cost += s.offset * (OFFSETS_M != 0.0)
        return cost


class _Rollout:
    """All proposals [B, M] of one tick, forward from the present state under delay, lags and the lane-keeping law."""

    def __init__(
        self,
        worlds: DriveWorlds,
        inputs: DriveInputs,
        settings: PlannerSettings,
        future: Prediction,
        target: np.ndarray,
    ) -> None:
        self.settings, self.future = settings, future
        self.target = target[:, LATERAL]
        road = worlds.road_batch
        heading = worlds.ego_pose[:, 2] - road.line(worlds.ego_s_m[:, None])[2][:, 0]
        course = (heading + np.pi) % (2 * np.pi) - np.pi + bicycle_slip_rad(worlds.ego_steering_angle_rad)
        ahead = worlds.ego_s_m[:, None] + CURVE_M
        self.curvature = road.line(worlds.ego_s_m[:, None] + 10.0)[3].astype(np.float32)
        self.limit = np.asarray(inputs.speed_limit_mps, np.float32)
        speed = np.maximum(worlds.ego_speed_mps, 0.0)
        bend = curve_acceleration(speed, CURVE_M, road.line(ahead)[3], settings.curve_lateral_mps2)
        self.bend = bend.astype(np.float32)[:, None]
        self.wary = self._wary(worlds, future).astype(np.float32)[:, None]
        pending = decode_acceleration(np.asarray(inputs.last_action_norm)[:, 0], speed, self.limit)
        shape = self.target.shape

        def spread(values: np.ndarray) -> np.ndarray:
            return np.broadcast_to(np.asarray(values, np.float32)[:, None], shape).copy()

        self.s, self.d, self.v = spread(worlds.ego_s_m), spread(worlds.ego_d_m), spread(speed)
        self.course, self.a = spread(course), spread(worlds.ego_acceleration_mps2)
        self.pending = spread(pending)
        self.start = self.s.copy()
        self.first_acceleration = np.zeros(shape, np.float32)
        self.costs: dict[str, np.ndarray] = {}

    def _wary(self, worlds: DriveWorlds, future: Prediction) -> np.ndarray:
        """Speed [B] at which one may come up to people who wait at the kerb."""
        s = self.settings
        limit = self.limit[:, None]
        share = WARY_SHARE * s.wary_share * limit
        distance = future.s_m[0] - worlds.ego_s_m[:, None] - HALF_LENGTH_M
        before = distance - stopping_distance(WARY_SHARE * limit) - 3.0
        allowed = np.sqrt(share**2 + 2.0 * s.wary_braking_mps2 * np.maximum(before, 0.0))
        return np.where(future.waits & (distance > 0.0), allowed, 1e3).min(axis=1)

    def run(self) -> np.ndarray:
        """Cost [B, M] of what happens within the horizon."""
        s, f = self.settings, self.future
        shape = self.target.shape
        half_d = (f.half_d_m + np.float32(HALF_WIDTH_M))[:, None]
        reach_s = (f.half_s_m + np.float32(HALF_LENGTH_M))[:, None]
        person = f.walks[:, None]
        seen = np.zeros((*shape, f.walks.shape[1]), bool)
        behind = np.zeros_like(seen)
        hit_at = np.full(shape, np.inf, np.float32)
        impact, hard = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        rear = np.zeros(shape, bool)
        close = np.zeros(shape, np.float32)
        desired = SHARES[LONGITUDINAL] * np.minimum(self.limit[:, None], self.wary)
        side = np.where(person, s.person_margin_m, s.side_margin_m).astype(np.float32)
        lack = np.zeros(shape, np.float32)
        presses = (self.v < s.pressing_mps)[..., None]
        rear_gap = np.where(presses, s.pressing_gap_m, s.rear_gap_m).astype(np.float32)
        rear_braking = np.where(presses, s.pressing_braking_mps2, s.rear_braking_mps2).astype(np.float32)
        command: np.ndarray = self.pending
        for k, dt in enumerate(STEPS_S):
            if k:
                command = self._command(k - 1, desired, half_d)
                if k == 1:
                    self.first_acceleration = command
            self._advance(command, np.float32(dt))
            if k == 1:
                lack = self._shortfall(k)
            body = self.d[..., None]
            low = np.where(person, f.low_m[k][:, None], f.d_m[k][:, None])
            high = np.where(person, f.high_m[k][:, None], f.d_m[k][:, None])
            aside = np.maximum(low - body, body - high)
            along = f.s_m[k][:, None] - self.s[..., None]
            width = half_d + (2.0 * np.abs(np.sin(self.course)))[..., None]
            clear = aside - width
            time = np.float32(TIMES_S[k])
            overlap = clear < side + np.float32(s.margin_growth_mps) * time
            gap = np.abs(along) - reach_s
            fresh = overlap & ~seen & (along < 0.0) & ~person & ~f.stands[:, None]
            if fresh.any() and k:
                closing = np.maximum(f.speed_mps[k][:, None] - self.v[..., None], 0.0)
                room = gap - rear_gap
                bad = fresh & ((room < 0.3 * closing) | (closing * closing > 2.0 * rear_braking * room))
                rear |= bad.any(axis=2)
            behind |= fresh & (gap > (0.0 if k else -1.0))
            seen |= overlap
            front = s.front_margin_m + np.float32(0.5 * s.margin_growth_mps) * time
            near = gap < np.where(along > 0.0, front, np.float32(0.3))
            touch = overlap & near & ~behind & (self.v > 0.2)[..., None]
            new = (hit_at > 99.0) & touch.any(axis=2)
            hit_at[new] = time
            impact[new] = self.v[new]
            hard += np.maximum(-2.0 - command, 0.0) * (self.v > 0.2) * np.float32(dt)
            slack = np.where(near & ~behind, np.clip(1.0 - (clear - side) / 0.5, 0.0, 1.0), np.float32(0.0))
            close += slack.max(axis=2) * (self.v * np.float32(dt) * 0.1)
        collision = np.where(hit_at < 99.0, s.collision * (1.2 - hit_at / 6.0) * (0.4 + impact / 8.0), 0.0)
        self.costs = {
            "collision": collision,
            "rear": s.rear * rear,
            "close": s.clearance * close,
            "shortfall": s.shortfall * lack + s.shortfall_base * np.minimum(lack / 0.3, 1.0),
            "hard": s.hard_braking * hard,
            "progress": self.start - self.s,
            "comfort": s.comfort * np.abs(self.first_acceleration - self.pending),
        }
        return sum(self.costs.values(), np.zeros(shape, np.float32))

    def _command(self, k: int, desired: np.ndarray, half_d: np.ndarray) -> np.ndarray:
        """Acceleration [B, M] that the proposals' IDM asks for at step k."""
        s, f = self.settings, self.future
        free = np.clip((desired - self.v) / 0.8, -2.5, s.max_acceleration_mps2)
        free = np.minimum(free, np.maximum(self.bend, -3.5) if k == 0 else np.maximum(self.bend, -0.5))
        gap = f.s_m[k][:, None] - f.half_s_m[:, None] - (self.s + np.float32(HALF_LENGTH_M))[..., None]
        reach = half_d + np.where(f.walks, s.person_margin_m, s.corridor_margin_m).astype(np.float32)[:, None]
        low, high = f.low_m[k][:, None] - reach, f.high_m[k][:, None] + reach
        goal = self.target[..., None]
        inside = (low < goal) & (high > goal)
        body = self.d[..., None]
        inside |= MINDS_BODY[LONGITUDINAL][:, None] & (low < body) & (high > body)
        inside &= gap > -1.0
        speed = f.speed_mps[k][:, None]
        v = self.v[..., None]
        root = np.float32(2.0 * np.sqrt(s.max_acceleration_mps2 * s.comfortable_deceleration_mps2))
        # Behind who stands, or is about to, room is kept to steer out.
        slow = np.where(f.walks, 0.0, np.clip(1.0 - f.speed_mps[k] / s.standing_mps, 0.0, 1.0)).astype(np.float32)
        rest = (s.min_gap_m + (s.standing_gap_m - s.min_gap_m) * slow)[:, None]
        wanted = rest + np.maximum(v * s.time_headway_s + v * (v - speed) / root, 0.0)
        push = np.where(inside, wanted / np.maximum(gap, np.float32(0.1)), np.float32(0.0)).max(axis=2)
        a = free - s.max_acceleration_mps2 * push * push
        a = np.where(SHARES[LONGITUDINAL] == 0.0, np.float32(-3.5), a)
        return np.clip(a, -3.5, s.max_acceleration_mps2).astype(np.float32)

    def _advance(self, command: np.ndarray, dt: np.float32) -> None:
        gains = LANE_KEEPING
        keep = np.float32(np.exp(-dt / BRAKE_LAG_S))
        mean = command + (self.a - command) * np.float32(BRAKE_LAG_S / dt) * (1 - keep)
        self.a = command + (self.a - command) * keep
        new = np.maximum(self.v + mean * dt, 0.0)
        way = 0.5 * (self.v + new) * dt
        error = self.d - self.target
        size = np.abs(error)
        wanted = np.minimum(np.minimum(size / gains.error_time_s, np.sqrt(1.8 * size)), gains.max_lateral_velocity_mps)
        floor = np.maximum(new, 3.0)
        most = np.float32(np.sin(gains.max_course_rad))
        course = -np.sign(error) * np.arcsin(np.minimum(wanted / floor, most))
        bound = gains.max_lateral_acceleration_mps2 / (floor * floor)
        bent = np.clip((course - self.course) / (floor * gains.course_time_s), -bound, bound)
        turned = self.course + bent * way
        middle = 0.5 * (self.course + turned)
        self.d = self.d + way * np.sin(middle)
        self.s = self.s + way * np.cos(middle) / np.maximum(1.0 - self.curvature * self.d, 0.5)
        self.course, self.v = turned, new

    def _shortfall(self, k: int) -> np.ndarray:
        """By how many metres full braking from here would be too long for what is ahead, [B, M]."""
        s, f = self.settings, self.future
        stop = self.s + self.v * np.float32(BRAKE_LAG_S) + self.v**2 / np.float32(2.0 * 3.2)
        reach = f.half_d_m[:, None] + np.float32(HALF_WIDTH_M + 0.15)
        low, high = f.sweep_low_m[:, None] - reach, f.sweep_high_m[:, None] + reach
        rear = (f.s_m[k] - f.half_s_m + f.worst_way_m)[:, None]
        in_way = (low < self.target[..., None]) & (high > self.target[..., None])
        in_way |= (low < self.d[..., None]) & (high > self.d[..., None])
        in_way &= f.s_m[k][:, None] - f.half_s_m[:, None] > (self.s + np.float32(HALF_LENGTH_M - 1.0))[..., None]
        lack = (stop + np.float32(HALF_LENGTH_M + s.shortfall_margin_m))[..., None] - rear
        return np.where(in_way, np.clip(lack, 0.0, 10.0), np.float32(0.0)).max(axis=2)
