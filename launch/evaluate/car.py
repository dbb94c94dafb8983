"""Metrics of a car's episode, from the truth of where it and the others were, and the commands it was given."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from visuomotor.launch.evaluate.metrics import DT_S, Column, GuardCount, Measures
from visuomotor.messages.schema import Message, Truth

TTC_HORIZON_S = 10.0
_EGO_SIZE_M = (4.5, 1.8)
STANDING_MPS = 0.1


class CarMetrics:
    """Accumulates one episode; feed every tick's messages, then read ``result``."""

    measures: ClassVar[Measures] = Measures(
        shares=("success", "collision", "collision_at_fault", "offroad"),
        means=("mean_speed_mps", "min_ttc_s", "max_jerk_mps3", "max_lateral_mps2", "route_completion", "duration_s"),
        columns=(
            Column("speed m/s", "mean_speed_mps", 1),
            Column("route %", "route_completion", 0, 100.0),
            Column("min TTC s", "min_ttc_s", 1),
        ),
    )

    def __init__(self) -> None:
        self._tick = array("l")  # compact: a run may have thousands of episodes
        self._speed = array("d")
        self._acceleration = array("d")
        self._lateral = array("d")
        self._min_ttc_s = TTC_HORIZON_S
        self._guard = GuardCount()
        self._last: Truth | None = None

    def add(self, messages: Mapping[str, Message]) -> None:
        """Messages of one tick by service; only ``truth`` and ``command`` are read."""
        self._guard.add(messages)
        truth = messages.get("truth")
        if not isinstance(truth, Truth):
            return
        self._last = truth
        self._tick.append(truth.header.tick)
        self._speed.append(truth.speed_mps)
        self._acceleration.append(truth.acceleration_mps2)
        self._lateral.append(abs(truth.lateral_acceleration_mps2))
        self._min_ttc_s = min(self._min_ttc_s, time_to_collision(truth))

    @property
    def end(self) -> str:
        """How the episode ended so far; empty while it runs."""
        return self._last.end if self._last is not None else ""

    @property
    def success(self) -> bool:
        """Whether it reached the end of its route."""
        return self.end == "goal"

    @staticmethod
    def progress(truth: Truth) -> tuple[str, float]:
        """Way done of the route, and the speed."""
        text = f"{truth.progress_m:.0f} of {truth.route_length_m:.0f} m, {truth.speed_mps * 3.6:.0f} km/h"
        return text, min(1.0, truth.progress_m / truth.route_length_m) if truth.route_length_m > 0.0 else 0.0

    def _rest_at_s(self) -> float | None:
        """When the car came to the rest in which the episode found its end; None when it was moving then."""
        moving = np.flatnonzero(np.abs(self._speed) >= STANDING_MPS)
        first = int(moving[-1]) + 1 if len(moving) else 0
        return round(self._tick[first] * DT_S, 3) if first < len(self._tick) else None

    def result(self, seed: int, end: str = "") -> dict[str, Any]:
        """The episode's row of ``score.json``. ``end`` overrides the world's word (a fault found by the supervisor)."""
        ended = end or self.end or "fault"
        last = self._last
        acceleration = np.array(self._acceleration)
        jerk = np.abs(np.diff(acceleration)) / DT_S if len(acceleration) > 1 else np.zeros(1)
        return {
            "seed": seed,
            "success": ended == "goal",
            "end": ended,
            "duration_s": round(max(0, len(self._speed) - 1) * DT_S, 3),
            "collision": bool(last is not None and last.collision),
            "collision_at_fault": bool(last is not None and last.collision and last.at_fault),
            "offroad": bool(last is not None and last.offroad),
            "mean_speed_mps": float(np.mean(self._speed)) if self._speed else 0.0,
            "rest_at_s": self._rest_at_s(),
            "min_ttc_s": float(self._min_ttc_s),
            "max_jerk_mps3": float(jerk.max()),
            "max_lateral_mps2": float(max(self._lateral, default=0.0)),
            "route_completion": self.progress(last)[1] if last is not None else 0.0,
            **self._guard.result(),
            "events": list(last.events) if last is not None else [],
        }


def time_to_collision(truth: Truth) -> float:
    """Least time in which the ego's and any agent's boxes would meet at constant velocities, s; at most the horizon.

    Boxes are taken along the ego's axes. 0 when they already overlap.
    """
    if len(truth.agent_id) == 0:
        return TTC_HORIZON_S
    x, y, yaw = truth.map_ego_pose
    cos, sin = math.cos(yaw), math.sin(yaw)
    to_ego = np.array([[cos, -sin], [sin, cos]])
    offset = (truth.map_position_m.astype(np.float64) - (x, y)) @ to_ego
    velocity = truth.map_velocity_mps.astype(np.float64) @ to_ego - (truth.speed_mps, 0.0)
    turn = truth.map_yaw_rad.astype(np.float64) - yaw
    length, width = truth.size_m[:, 0].astype(np.float64), truth.size_m[:, 1].astype(np.float64)
    c, s = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    half = 0.5 * np.stack([length * c + width * s + _EGO_SIZE_M[0], length * s + width * c + _EGO_SIZE_M[1]], axis=1)
    speed = np.where(np.abs(velocity) < 1e-6, 1e-6, velocity)
    a, b = (-half - offset) / speed, (half - offset) / speed
    enter = np.minimum(a, b).max(axis=1)
    leave = np.maximum(a, b).min(axis=1)
    meets = (enter <= leave) & (leave > 0.0)
    if not meets.any():
        return TTC_HORIZON_S
    return float(min(TTC_HORIZON_S, np.maximum(enter[meets], 0.0).min()))
