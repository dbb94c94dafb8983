"""A driver that collects camera views: keeps a lane with some wander, follows, changes lanes around what stands still.

It reads the simulator's truth and is used only to make data sets; it drives one world of ``sim.drive.DriveWorlds``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from visuomotor.control.config import ENVELOPE, VEHICLE
from visuomotor.messages.schema import CONE, PEDESTRIAN

if TYPE_CHECKING:
    from visuomotor.sim.drive import DriveWorlds

DT_S = 0.1


class LaneFollower:
    """Acceleration and front-wheel angle for world ``index`` from its state and an own random stream."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._speed_share = rng.uniform(0.6, 1.1)
        self._wander_m = 0.0
        self._wander_scale_m = rng.uniform(0.1, 0.45)
        self._lane: int | None = None
        self._next_change_s = rng.uniform(3.0, 10.0)

    def act(self, worlds: DriveWorlds, index: int = 0) -> tuple[float, float]:
        """Command for the coming 0.1 s: m/s2, rad."""
        road = worlds.roads[index]
        speed, s, d = (float(v[index]) for v in (worlds.ego_speed_mps, worlds.ego_s_m, worlds.ego_d_m))
        present = worlds.agent_present[index]
        ahead = worlds.agent_s_m[index][present] - s
        lateral = worlds.agent_d_m[index][present]
        size = worlds.agent_size_m[index][present]
        class_id = worlds.agent_class[index][present]
        velocity = worlds.agent_velocity_mps[index][present]
        heading = float(road.heading(np.array([s]))[0])
        along = velocity @ np.array([np.cos(heading), np.sin(heading)])

        def leader(lane_d: float) -> tuple[float, float]:
            """Gap (m) to and speed of the nearest agent ahead that reaches into a lane."""
            width = (VEHICLE.width_m + size[:, 1]) / 2 + np.where(class_id == PEDESTRIAN, 1.5, 0.5)
            mine = (ahead > 0) & (np.abs(lateral - lane_d) < width)
            if not mine.any():
                return 200.0, 30.0
            gaps = ahead - (VEHICLE.length_m + size[:, 0]) / 2
            nearest = int(np.argmin(np.where(mine, gaps, np.inf)))
            return float(max(gaps[nearest], 0.1)), float(max(along[nearest], 0.0))

        lane_width = road.lane_width_m
        if self._lane is None:
            self._lane = int(np.clip(round(d / lane_width), 0, road.lane_count - 1))
        gap, lead_speed = leader(d)
        self._next_change_s -= DT_S
        settled = abs(d - self._lane * lane_width) < 0.8
        if settled and (self._next_change_s < 0 or (gap < 30.0 and lead_speed < 3.0)):
            for lane in self._rng.permutation([self._lane - 1, self._lane + 1]):
                beside = (np.abs(lateral - lane * lane_width) < 2.6) & (ahead > -14.0) & (ahead < 9.0)
                free = leader(lane * lane_width)[0] > max(gap + 5.0, 14.0) or self._next_change_s < 0
                if 0 <= lane < road.lane_count and not beside.any() and free:
                    self._lane = int(lane)
                    self._next_change_s = self._rng.uniform(4.0, 14.0)
                    break
        self._wander_m += 0.03 * (-self._wander_m) + 0.25 * self._wander_scale_m * float(self._rng.standard_normal())
        target = self._lane * lane_width + float(np.clip(self._wander_m, -0.6, 0.6))

        curvature = float(road.curvature(np.array([s]))[0])
        heading_error = (float(worlds.ego_pose[index, 2]) - heading + np.pi) % (2 * np.pi) - np.pi
        wanted = float(np.clip(1.2 * (target - d) / max(speed, 3.0), -0.35, 0.35))
        feed = curvature / (1.0 - curvature * d)
        turn = feed + 1.6 * (wanted - heading_error) / max(speed, 3.0)
        turn = float(np.clip(turn, -1, 1) if speed < 3 else np.clip(turn, -2.8 / speed**2, 2.8 / speed**2))
        steering = float(np.clip(np.arctan(VEHICLE.wheelbase_m * turn), -VEHICLE.max_steering_angle_rad, 0.55))

        desired = self._speed_share * road.speed_limit_mps
        cautious = (
            (class_id != CONE) & (ahead > 0) & (ahead < 25) & (np.abs(lateral - d) < 5) & (class_id == PEDESTRIAN)
        )
        if cautious.any():
            desired = min(desired, 5.0)
        closing = speed - lead_speed
        wish = 2.5 + max(0.0, 1.3 * speed + speed * closing / (2 * np.sqrt(1.5 * 2.0)))
        acceleration = 1.5 * (1 - (speed / desired) ** 4 - (wish / gap) ** 2)
        acceleration = float(np.clip(acceleration, ENVELOPE.min_acceleration_mps2, ENVELOPE.max_acceleration_mps2))
        return acceleration, steering
