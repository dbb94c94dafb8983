"""Who is ahead of whom: leaders and followers in corridors of the road, for many agents of many worlds at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from visuomotor.control.config import VEHICLE
from visuomotor.sim.scenario import STATIC, WALKER

if TYPE_CHECKING:
    from visuomotor.sim.traffic import Traffic


class Ego:
    """What the traffic sees of the egos: arrays [B], Frenet."""

    def __init__(
        self, s_m: np.ndarray, d_m: np.ndarray, speed: np.ndarray, lateral_speed: np.ndarray, heading: np.ndarray
    ) -> None:
        self.s_m, self.d_m, self.speed, self.lateral_speed = s_m, d_m, speed, lateral_speed
        # half of the width that the car takes across the road, turned by its heading relative to it
        self.half_width = 0.5 * (VEHICLE.width_m * np.abs(np.cos(heading)) + VEHICLE.length_m * np.abs(np.sin(heading)))


class View:
    """Where everything is at the start of a step: [B, N + 1], the ego last; finds leaders and followers."""

    def __init__(self, traffic: Traffic, ego: Ego) -> None:
        t = traffic
        self.present = np.concatenate([t.present, np.ones((len(ego.s_m), 1), bool)], axis=1)
        self.s = np.concatenate([t.s_m, ego.s_m[:, None]], axis=1)
        walks = t.role == WALKER
        along = np.where(walks, 0.0, t.speed)
        self.speed = np.concatenate([along, np.maximum(ego.speed, 0.0)[:, None]], axis=1)
        self.half_length = 0.5 * np.concatenate(
            [t.size_m[..., 0], np.full((len(ego.s_m), 1), VEHICLE.length_m)], axis=1
        )
        half = 0.5 * t.size_m[..., 1]
        reach = t.d_m + np.where(walks, 2.0 * t.lateral_speed, 0.0)
        reach = np.where(t.changing, t.to_d, reach)
        ego_reach = ego.d_m + np.clip(1.0 * ego.lateral_speed, -2.5, 2.5)
        self.low = np.concatenate(
            [np.minimum(t.d_m, reach) - half, (np.minimum(ego.d_m, ego_reach) - ego.half_width)[:, None]], axis=1
        )
        self.high = np.concatenate(
            [np.maximum(t.d_m, reach) + half, (np.maximum(ego.d_m, ego_reach) + ego.half_width)[:, None]], axis=1
        )
        self.walks = np.concatenate([walks, np.zeros((len(ego.s_m), 1), bool)], axis=1)
        self.static = np.concatenate([(t.role == STATIC), np.zeros((len(ego.s_m), 1), bool)], axis=1)

    def leader(
        self, b: np.ndarray, i: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of each row (world b, column i) and corridor: gap m (inf: none), leader's speed, is an obstacle, column."""
        ds = self.s[b] - self.s[b, i][:, None]
        inside = self.present[b] & (self.low[b] < high[:, None]) & (self.high[b] > low[:, None])
        gap = ds - self.half_length[b] - self.half_length[b, i][:, None]
        inside &= ~self.walks[b] | (gap > -0.3)  # who stands beside a car does not hold it back
        gap = np.where(inside & (ds > 0.0), gap, np.inf)
        j = np.argmin(gap, axis=1)
        return gap[np.arange(len(b)), j], self.speed[b, j], self.static[b, j], j

    def follower(
        self, b: np.ndarray, i: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each row and corridor: gap to whoever comes behind, m (inf: none), its column, whether it is the ego."""
        ds = self.s[b, i][:, None] - self.s[b]
        inside = self.present[b] & (self.low[b] < high[:, None]) & (self.high[b] > low[:, None])
        inside[np.arange(len(b)), i] = False
        gap = ds - self.half_length[b] - self.half_length[b, i][:, None]
        gap = np.where(inside & (ds >= 0.0), gap, np.inf)
        j = np.argmin(gap, axis=1)
        return gap[np.arange(len(b)), j], j, j == self.s.shape[1] - 1
