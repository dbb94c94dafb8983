"""The reward of driving: named terms computed from the truth, times a table of scales."""

from __future__ import annotations

import msgspec
import numpy as np

from visuomotor.control.config import ENVELOPE, VEHICLE
from visuomotor.messages.schema import CYCLIST, PEDESTRIAN
from visuomotor.sim.drive import ENDS, DriveWorlds

DT_S = 0.1
END_GOAL, END_COLLISION, END_OFFROAD, END_TIMEOUT = (
    ENDS.index(name) for name in ("goal", "collision", "offroad", "timeout")
)
HEADWAY_S = 1.2
TTC_S = 3.5
NEAR_HORIZON_S = 2.5
NEAR_M = 1.6  # from the car's outline to the middle of a person
SIDE_CLEARANCE_M = 0.9


class RewardScales(msgspec.Struct, frozen=True, kw_only=True):
    """Weight of each term; the terms are dimensionless, of order one when they matter, and per tick of 0.1 s.

    Driving at the limit earns 1 per second; with a discount of 0.99 a tick, arriving is worth what driving on would be.
    """

    progress: float = 0.1  # route covered over what the limit allows
    goal: float = 10.0
    collision: float = -20.0
    offroad: float = -20.0
    timeout: float = -5.0
    overspeed: float = -0.1  # per 10 % above the limit
    headway: float = -0.05
    time_to_collision: float = -0.3
    person_near: float = -0.3
    side_clearance: float = -0.1
    jerk: float = -0.01
    lateral_acceleration: float = -0.02
    lane_offset: float = -0.02
    lane_change: float = -0.25  # each crossing of a lane's border
    restlessness: float = -0.01  # change of the lateral action

    def __post_init__(self) -> None:
        """Raise ValueError that names a scale that is not finite."""
        for name in self.__struct_fields__:
            if not np.isfinite(getattr(self, name)):
                raise ValueError(f"reward scale {name} must be finite, got {getattr(self, name)}")


TERMS: tuple[str, ...] = RewardScales.__struct_fields__


def nearest_lane(d_m: np.ndarray, lane_width_m: np.ndarray, lane_count: np.ndarray) -> np.ndarray:
    """Index of the lane (0 = rightmost) whose centre is nearest to the offset, [B]."""
    return np.clip(np.rint(d_m / lane_width_m), 0, lane_count - 1)


class DriveReward:
    """Terms of the last step of B worlds; keeps what it needs of the step before."""

    def __init__(self, worlds: DriveWorlds, scales: RewardScales | None = None) -> None:
        self.scales = scales or RewardScales()
        self._scale = np.array([getattr(self.scales, name) for name in TERMS])
        self._worlds = worlds
        count = len(worlds.ego_speed_mps)
        self._progress_m = np.zeros(count)
        self._acceleration_mps2 = np.zeros(count)
        self._lane = np.zeros(count)
        self._lateral_norm = np.zeros(count)
        self._lane_count, self._lane_width_m, self._limit_mps = np.ones(count), np.ones(count), np.ones(count)
        self.sums = np.zeros((count, len(TERMS)))  # of the running episodes, scaled

    def reset(self, index: int) -> None:
        """Start the accounts of one world, which was reset just before."""
        w, road = self._worlds, self._worlds.roads[index]
        self._lane_count[index], self._lane_width_m[index] = road.lane_count, road.lane_width_m
        self._limit_mps[index] = road.speed_limit_mps
        self._progress_m[index], self._acceleration_mps2[index] = w.progress_m[index], 0.0
        self._lane[index] = nearest_lane(w.ego_d_m[index], self._lane_width_m[index], self._lane_count[index])
        self._lateral_norm[index] = 0.0
        self.sums[index] = 0.0

    def step(self, acceleration_mps2: np.ndarray, action_norm: np.ndarray) -> np.ndarray:
        """Reward [B] of the step that the worlds just made under the commanded acceleration [B] and action [B, 2]."""
        w = self._worlds
        speed = np.maximum(w.ego_speed_mps, 0.0)
        lane = nearest_lane(w.ego_d_m, self._lane_width_m, self._lane_count)
        gap_m, closing_mps = self._leader()
        values = {
            "progress": (w.progress_m - self._progress_m) / (self._limit_mps * DT_S),
            "goal": w.end == END_GOAL,
            "collision": w.end == END_COLLISION,
            "offroad": w.end == END_OFFROAD,
            "timeout": w.end == END_TIMEOUT,
            "overspeed": np.maximum(speed / self._limit_mps - 1.02, 0.0) * 10.0,
            "headway": np.clip(1.0 - gap_m / np.maximum(speed * HEADWAY_S, 2.0), 0.0, 1.0),
            "time_to_collision": np.clip(1.0 - gap_m / np.maximum(closing_mps * TTC_S, 1e-3), 0.0, 1.0) ** 2,
            "person_near": self._person_near(speed),
            "side_clearance": self._side(),
            "jerk": np.minimum(
                np.abs(acceleration_mps2 - self._acceleration_mps2) / (0.1 * ENVELOPE.max_jerk_mps3), 4.0
            ),
            "lateral_acceleration": (w.ego_lateral_acceleration_mps2 / ENVELOPE.max_lateral_acceleration_mps2) ** 2,
            "lane_offset": np.abs(w.ego_d_m - lane * self._lane_width_m) / (0.5 * self._lane_width_m),
            "lane_change": np.abs(lane - self._lane),
            "restlessness": np.abs(action_norm[:, 1] - self._lateral_norm),
        }
        terms = np.stack([values[name] for name in TERMS], axis=1) * self._scale
        self.sums += terms
        self._progress_m, self._acceleration_mps2 = w.progress_m.copy(), acceleration_mps2.copy()
        self._lane, self._lateral_norm = lane, action_norm[:, 1].copy()
        return terms.sum(axis=1)

    def episode(self, index: int) -> dict[str, float]:
        """Sum of each scaled term over the episode so far."""
        return {name: float(value) for name, value in zip(TERMS, self.sums[index], strict=True)}

    def _leader(self) -> tuple[np.ndarray, np.ndarray]:
        """Gap (m) to the nearest agent in the ego's path and the speed of closing in, [B]; no leader: 1e3 and 0."""
        w = self._worlds
        along = w.agent_s_m - w.ego_s_m[:, None]
        beside = np.abs(w.agent_d_m - w.ego_d_m[:, None]) < 0.5 * (w.agent_size_m[..., 1] + VEHICLE.width_m) + 0.2
        ahead = w.agent_present & beside & (along > 0.0)
        gap = np.where(ahead, along - 0.5 * (w.agent_size_m[..., 0] + VEHICLE.length_m), 1e3)
        nearest = gap.argmin(axis=1)
        rows = np.arange(len(nearest))
        heading = w.ego_pose[:, 2]
        leader = w.agent_velocity_mps[rows, nearest]
        along_mps = leader[:, 0] * np.cos(heading) + leader[:, 1] * np.sin(heading)
        gap_m = np.maximum(gap[rows, nearest], 0.0)
        return gap_m, np.where(gap_m < 999.0, np.maximum(w.ego_speed_mps - along_mps, 0.0), 0.0)

    def _person_near(self, speed_mps: np.ndarray) -> np.ndarray:
        """How near the car passes a pedestrian or cyclist if both keep their velocity, weighted by its speed [B]."""
        w = self._worlds
        heading = w.ego_pose[:, 2]
        forward = np.stack([np.cos(heading), np.sin(heading)], axis=1)
        person = w.agent_present & ((w.agent_class == PEDESTRIAN) | (w.agent_class == CYCLIST))
        offset = w.agent_position_m - w.ego_pose[:, None, :2]
        relative = w.agent_velocity_mps - (forward * speed_mps[:, None])[:, None]
        square = np.maximum((relative**2).sum(axis=2), 1e-6)
        closest_s = np.clip(-(offset * relative).sum(axis=2) / square, 0.0, NEAR_HORIZON_S)
        meeting = offset + relative * closest_s[..., None]
        x = np.abs(meeting @ forward[:, :, None])[..., 0]
        y = np.abs(meeting[..., 1] * forward[:, None, 0] - meeting[..., 0] * forward[:, None, 1])
        outline = np.hypot(np.maximum(x - 0.5 * VEHICLE.length_m, 0.0), np.maximum(y - 0.5 * VEHICLE.width_m, 0.0))
        urgency = np.clip(1.0 - outline / NEAR_M, 0.0, 1.0) * (1.0 - 0.5 * closest_s / NEAR_HORIZON_S)
        worst = np.where(person, urgency, 0.0).max(axis=1, initial=0.0)
        return worst * np.minimum(speed_mps / 3.0, 1.0)

    def _side(self) -> np.ndarray:
        """How little room [B] is left to an agent that is alongside."""
        w = self._worlds
        along = np.abs(w.agent_s_m - w.ego_s_m[:, None]) - 0.5 * (w.agent_size_m[..., 0] + VEHICLE.length_m)
        across = np.abs(w.agent_d_m - w.ego_d_m[:, None]) - 0.5 * (w.agent_size_m[..., 1] + VEHICLE.width_m)
        close = np.clip(1.0 - across / SIDE_CLEARANCE_M, 0.0, 1.0) * (along < 1.0) * (w.ego_speed_mps[:, None] > 0.5)
        return np.where(w.agent_present, close, 0.0).max(axis=1, initial=0.0)
