"""Synthetic scenes for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from visuomotor.control.inputs import AGENTS_MAX, DriveInputs
from visuomotor.messages.schema import CAR

N = AGENTS_MAX
SIZES = np.array([[4.5, 1.8], [8.0, 2.4], [1.8, 0.6], [0.5, 0.5], [0.3, 0.3]])


def build_inputs(
    agents: list[dict] | None = None,
    *,
    count: int = 1,
    lanes: int = 3,
    lane: float = 1.0,
    speed: float = 10.0,
    curvature: float = 0.0,
    futures: np.ndarray | None = None,
    **changes: np.ndarray,
) -> DriveInputs:
    """``count`` copies of one scene: the car at the origin heading along x in lane ``lane`` of an evenly bent road.

    An agent is {s, d (left of the rightmost lane), speed, across, kind}, on the reference line's frame.
    """
    s = np.arange(81) * 2.0 - 40.0
    start = -lane * 3.5

    def place(s: np.ndarray, d: np.ndarray) -> np.ndarray:
        if curvature == 0.0:
            return np.stack([s, start + d], axis=-1)
        radius = 1.0 / curvature
        return np.stack(
            [np.sin(s * curvature) * (radius - d), start + radius - np.cos(s * curvature) * (radius - d)], -1
        )

    def slots(values: list, dtype: type = float) -> np.ndarray:
        out = np.zeros((count, N, *np.shape(values)[1:]), dtype)
        if values:
            out[:, : len(values)] = np.asarray(values, dtype)
        return out

    agents = agents or []
    along = [agent["s"] * curvature for agent in agents]
    rotate = [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in along]
    velocity = [
        r @ np.array([agent.get("speed", 0.0), agent.get("across", 0.0)])
        for r, agent in zip(rotate, agents, strict=True)
    ]
    position = [place(np.array(agent["s"]), np.array(agent["d"])) for agent in agents]
    kinds = [agent.get("kind", CAR) for agent in agents]
    present = np.zeros((count, N), bool)
    present[:, : len(agents)] = True
    k, steps = (0, 0) if futures is None else futures.shape[1:3]
    forecast = np.zeros((count, N, k, steps, 2), np.float32)
    probability = np.zeros((count, N, k), np.float32)
    if futures is not None:
        forecast[:, : len(agents)] = futures
        probability[:, : len(agents)] = 1.0 / k
    values = {
        "speed_mps": np.full(count, speed),
        "acceleration_mps2": np.zeros(count),
        "yaw_rate_radps": np.zeros(count),
        "steering_angle_rad": np.zeros(count),
        "odom_pose": np.zeros((count, 3)),
        "route_m": np.repeat(place(s, np.zeros(81))[None], count, axis=0).astype(np.float32),
        "lane_count": np.full(count, lanes),
        "lane_width_m": np.full(count, 3.5),
        "speed_limit_mps": np.full(count, 13.9),
        "goal_distance_m": np.full(count, 60.0),
        "track_present": present,
        "track_id": np.tile(np.arange(N), (count, 1)),
        "class_id": slots(kinds, int),
        "track_position_m": slots(position, float) if agents else np.zeros((count, N, 2)),
        "track_velocity_mps": slots(velocity, float) if agents else np.zeros((count, N, 2)),
        "track_heading_rad": slots(along),
        "track_size_m": slots([SIZES[kind] for kind in kinds]) if agents else np.zeros((count, N, 2)),
        "track_unseen_s": np.zeros((count, N)),
        "forecast_m": forecast,
        "forecast_probability": probability,
        "last_action_norm": np.zeros((count, 2)),
        "camera_present": np.ones((count, 3), bool),
    }
    values.update(changes)
    return DriveInputs(**values)


def build_futures(agents: list[dict], lane: float = 1.0, k: int = 1) -> np.ndarray:
    """Constant velocity on a straight road, [A, K, 15, 2]."""
    time = np.arange(1, 16) * 0.2
    out = []
    for agent in agents:
        x = agent["s"] + agent.get("speed", 0.0) * time
        y = agent["d"] - 3.5 * lane + agent.get("across", 0.0) * time
        out.append(np.repeat(np.stack([x, y], axis=1)[None], k, axis=0))
    return np.array(out)


@pytest.fixture(scope="session")
def make_inputs() -> Callable[..., DriveInputs]:
    return build_inputs


@pytest.fixture(scope="session")
def straight_futures() -> Callable[..., np.ndarray]:
    return build_futures
