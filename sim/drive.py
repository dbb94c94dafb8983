"""B worlds of the driving task side by side: the ego cars in PyBullet, everybody else in one numpy pass per step.

Struct of arrays; the running graph is the case B = 1. The same case and the same commands give the same states bit for
bit, whatever the other worlds of the batch do and whatever ran before.
"""

from __future__ import annotations

import numpy as np

from visuomotor.control.config import VEHICLE
from visuomotor.messages.schema import PEDESTRIAN
from visuomotor.sim.car import Car, attitude
from visuomotor.sim.collision import boxes_overlap, corners
from visuomotor.sim.events import let_appear, run_scripts
from visuomotor.sim.neighbours import Ego
from visuomotor.sim.road import Road, RoadBatch
from visuomotor.sim.scenario import AGENTS_MAX, DriveCase
from visuomotor.sim.traffic import DT_S, MANOEUVRES, Traffic

__all__ = ["DT_S", "ENDS", "MANOEUVRES", "DriveWorlds"]

ENDS = ("", "goal", "collision", "offroad", "timeout", "fault")
RUNNING, GOAL, COLLISION, OFFROAD, TIMEOUT, FAULT = range(len(ENDS))
WHEEL_OVERHANG_M = 0.3  # off the road: the centre beyond the shoulder, or a corner by more than this
OWN_CHANGE_S = 2.5  # who has moved over this shortly before answers for a car that comes from behind
STANDING_MPS = 0.3


class DriveWorlds:
    """B worlds, each with one ego car and at most N agents.

    Arrays, float64 in the map frame: ``ego_pose`` [B, 3] (x, y, yaw); ``ego_*`` [B]; ``agent_*`` [B, N, ...];
    ``collision``, ``at_fault``, ``offroad`` [B] bool; ``end`` [B] int, an index into ENDS; ``tick`` [B] int. A world
    that has ended stays as it is until its next ``reset``.
    """

    def __init__(self, count: int = 1, *, agents_max: int = AGENTS_MAX) -> None:
        if count < 1:
            raise ValueError(f"count: expected at least one world, got {count}")
        self.count = count
        self.agents_max = agents_max
        self.cases: list[DriveCase] = []  # one per world from the first reset on
        self.roads: list[Road] = []
        self._ready = np.zeros(count, bool)
        self._cars = [Car() for _ in range(count)]
        self._traffic = Traffic(count, agents_max)
        self.tick = np.zeros(count, np.int64)
        self.ego_pose = np.zeros((count, 3))
        for name in _EGO_ARRAYS:
            setattr(self, name, np.zeros(count))
        self.route_length_m = np.zeros(count)
        self._time_limit_s = np.zeros(count)
        self._right_edge = np.zeros(count)
        self._left_edge = np.zeros(count)
        self._since_change_s = np.zeros(count)
        self._across_mps = np.zeros(count)  # speed across the road at the start of the step, left positive
        self._lane = np.zeros(count)
        self.collision = np.zeros(count, bool)
        self.at_fault = np.zeros(count, bool)
        self.offroad = np.zeros(count, bool)
        self.end = np.full(count, FAULT, np.int64)  # nothing runs before the first reset
        self.agent_manoeuvre = np.zeros((count, agents_max), np.int64)

    ego_speed_mps: np.ndarray
    ego_acceleration_mps2: np.ndarray
    ego_lateral_acceleration_mps2: np.ndarray
    ego_lateral_speed_mps: np.ndarray
    ego_yaw_rate_radps: np.ndarray
    ego_steering_angle_rad: np.ndarray
    ego_roll_rad: np.ndarray
    ego_pitch_rad: np.ndarray
    ego_s_m: np.ndarray
    ego_d_m: np.ndarray

    agent_present = property(lambda self: self._traffic.present)
    agent_id = property(lambda self: self._traffic.id)
    agent_class = property(lambda self: self._traffic.class_id)
    agent_position_m = property(lambda self: self._traffic.position_m)
    agent_velocity_mps = property(lambda self: self._traffic.velocity_mps)
    agent_yaw_rad = property(lambda self: self._traffic.yaw_rad)
    agent_size_m = property(lambda self: self._traffic.size_m)
    agent_s_m = property(lambda self: self._traffic.s_m)
    agent_d_m = property(lambda self: self._traffic.d_m)

    @property
    def progress_m(self) -> np.ndarray:
        """Distance along the route [B], within 0..route_length_m."""
        return np.clip(self.ego_s_m, 0.0, self.route_length_m)

    def ready(self, index: int) -> bool:
        """Whether world ``index`` has been reset at least once."""
        return bool(self._ready[index])

    @property
    def time_s(self) -> np.ndarray:
        """Simulation time since the reset [B]."""
        return self.tick * DT_S

    @property
    def traffic(self) -> Traffic:
        """The agents with their drivers' intentions: truth of truths, for planners that teach and for analysis."""
        return self._traffic

    @property
    def road_batch(self) -> RoadBatch:
        """The reference lines of all worlds, see `sim.road.RoadBatch`."""
        return self._traffic.roads

    def reset(self, index: int, case: DriveCase) -> None:
        """Start a case in world ``index``; nothing of what ran there before is left."""
        road = Road(case.road)
        if not self.cases:  # worlds not reset yet hold the first case, ended
            self.cases, self.roads = [case] * self.count, [road] * self.count
        self.cases[index], self.roads[index] = case, road
        self._ready[index] = True
        d = case.ego_lane * road.lane_width_m
        x, y = road.cartesian(np.array(0.0), np.array(d))
        yaw = float(road.heading(np.array(0.0)))
        self._write_ego(index, self._cars[index].reset(float(x), float(y), yaw, case.ego_speed_mps))
        self.ego_roll_rad[index] = self.ego_pitch_rad[index] = 0.0
        self.ego_s_m[index], self.ego_d_m[index] = 0.0, d
        self._lane[index], self._since_change_s[index] = case.ego_lane, np.inf
        self.route_length_m[index] = road.length_m
        self._time_limit_s[index] = case.time_limit_s
        self._right_edge[index] = road.right_edge_m - road.shoulder_m
        self._left_edge[index] = road.left_edge_m + road.shoulder_m
        self.tick[index] = 0
        self.end[index] = RUNNING
        for flag in (self.collision, self.at_fault, self.offroad):
            flag[index] = False
        self._traffic.reset(index, case, road)
        self.agent_manoeuvre[index] = self._traffic.manoeuvre()[index]

    def limit_time(self, index: int, limit_s: float) -> None:
        """End the running episode of a world as a timeout after ``limit_s`` at the latest."""
        self._time_limit_s[index] = min(self._time_limit_s[index], limit_s)

    def _write_ego(self, b: int, state: tuple[float, ...]) -> None:
        self.ego_pose[b] = state[:3]
        (
            self.ego_speed_mps[b],
            self.ego_lateral_speed_mps[b],
            self.ego_yaw_rate_radps[b],
            self.ego_acceleration_mps2[b],
            self.ego_lateral_acceleration_mps2[b],
            self.ego_steering_angle_rad[b],
        ) = state[3:]

    def step(self, acceleration_mps2: np.ndarray, steering_angle_rad: np.ndarray) -> None:
        """Advance every running world by 0.1 s under the commands [B]; one that is not finite means full braking."""
        live = self.end == RUNNING
        if not live.any():
            return
        acceleration = np.broadcast_to(np.asarray(acceleration_mps2, np.float64), (self.count,))
        steering = np.broadcast_to(np.asarray(steering_angle_rad, np.float64), (self.count,))
        usable = np.isfinite(acceleration) & np.isfinite(steering)
        acceleration = np.where(usable, np.clip(acceleration, -9.0, 4.0), -8.0)
        steering = np.where(usable, steering, 0.0)
        self._move_agents(live)
        worlds = np.flatnonzero(live)
        for b in worlds.tolist():
            self._write_ego(b, self._cars[b].step(float(acceleration[b]), float(steering[b])))
        roll, pitch = attitude(
            self.ego_roll_rad, self.ego_pitch_rad, self.ego_acceleration_mps2, self.ego_lateral_acceleration_mps2
        )
        self.ego_roll_rad = np.where(live, roll, self.ego_roll_rad)
        self.ego_pitch_rad = np.where(live, pitch, self.ego_pitch_rad)
        self._locate(live)
        self.tick[live] += 1
        self._judge(live)

    def _move_agents(self, live: np.ndarray) -> None:
        traffic = self._traffic
        heading = self.ego_pose[:, 2] - traffic.roads.line(self.ego_s_m[:, None])[2][:, 0]
        cos, sin = np.cos(heading), np.sin(heading)
        along = self.ego_speed_mps * cos - self.ego_lateral_speed_mps * sin
        across = self.ego_speed_mps * sin + self.ego_lateral_speed_mps * cos
        self._across_mps = across
        ego = Ego(self.ego_s_m, self.ego_d_m, along, across, heading)
        let_appear(traffic, ego, live)
        view = traffic.view(ego)
        run_scripts(traffic, view, ego, live)
        traffic.plan(view, live, self.tick)
        traffic.abort_changes(view, live)
        traffic.move(live)
        traffic.recycle(ego, live)
        traffic.place(np.flatnonzero(live))
        self.agent_manoeuvre = np.where(live[:, None], traffic.manoeuvre(), self.agent_manoeuvre)

    def _locate(self, live: np.ndarray) -> None:
        guess = self.ego_s_m + self.ego_speed_mps * DT_S
        s, d = self._traffic.roads.frenet(self.ego_pose[:, None, :2], guess[:, None], iterations=2)
        self.ego_s_m = np.where(live, s[:, 0], self.ego_s_m)
        self.ego_d_m = np.where(live, d[:, 0], self.ego_d_m)
        lane = np.round(self.ego_d_m / 3.5)
        changed = live & (lane != self._lane)
        self._lane = np.where(changed, lane, self._lane)
        self._since_change_s = np.where(changed, 0.0, self._since_change_s + DT_S)

    def _judge(self, live: np.ndarray) -> None:
        size = np.array([VEHICLE.length_m, VEHICLE.width_m])
        ego = corners(self.ego_pose[:, :2], self.ego_pose[:, 2], np.broadcast_to(size, (self.count, 2)))
        hit = boxes_overlap(
            self.ego_pose, size, self.agent_position_m, self.agent_yaw_rad, self.agent_size_m, self.agent_present
        )
        hit &= live[:, None]
        self.collision |= hit.any(axis=1)
        for b in np.flatnonzero(hit.any(axis=1)).tolist():
            self.at_fault[b] = any(self._blame(b, int(i)) for i in np.flatnonzero(hit[b]))
        # Corners in Frenet coordinates of the ego's own foot point: exact to a few centimetres on these curves.
        _, _, heading, _ = self._traffic.roads.line(self.ego_s_m[:, None])
        offset = ego - self.ego_pose[:, None, :2]
        corner_d = self.ego_d_m[:, None] + offset[..., 1] * np.cos(heading) - offset[..., 0] * np.sin(heading)
        outside = (self.ego_d_m < self._right_edge) | (self.ego_d_m > self._left_edge)
        outside |= corner_d.min(axis=1) < self._right_edge - WHEEL_OVERHANG_M
        outside |= corner_d.max(axis=1) > self._left_edge + WHEEL_OVERHANG_M
        self.offroad |= live & outside
        late = self.tick * DT_S >= self._time_limit_s
        goal = self.ego_s_m >= self.route_length_m
        verdict = np.select([self.collision, self.offroad, goal, late], [COLLISION, OFFROAD, GOAL, TIMEOUT], RUNNING)
        self.end = np.where(live, verdict, self.end)

    def _blame(self, b: int, i: int) -> bool:
        """Whether the ego answers for touching agent ``i``.

        It does not when it stands still, when it is hit from behind without having just moved over, or when the other
        moves sideways into its lane faster than it moves itself.
        """
        if abs(self.ego_speed_mps[b]) < STANDING_MPS:
            return False
        yaw = self.ego_pose[b, 2]
        forward, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
        relative = self.agent_position_m[b, i] - self.ego_pose[b, :2]
        ahead, aside = float(relative @ forward), float(relative @ left)
        settled = self._since_change_s[b] > OWN_CHANGE_S
        reach = 0.5 * (VEHICLE.length_m + self.agent_size_m[b, i, 0])
        if ahead < -0.5 * reach and abs(aside) < 0.5 * (VEHICLE.width_m + self.agent_size_m[b, i, 1]):
            return not settled
        if self.agent_class[b, i] == PEDESTRIAN or ahead > 0.8 * reach:
            return True
        side = np.sign(self.agent_d_m[b, i] - self.ego_d_m[b])
        towards = -float(self._traffic.lateral_speed[b, i] * side)
        own = float(self._across_mps[b] * side)
        return not (settled and towards > 0.3 and towards > own)

    def close(self) -> None:
        """Disconnect from PyBullet."""
        for car in self._cars:
            car.close()


_EGO_ARRAYS = (
    "ego_speed_mps",
    "ego_acceleration_mps2",
    "ego_lateral_acceleration_mps2",
    "ego_lateral_speed_mps",
    "ego_yaw_rate_radps",
    "ego_steering_angle_rad",
    "ego_roll_rad",
    "ego_pitch_rad",
    "ego_s_m",
    "ego_d_m",
)
