"""Traffic: cars and trucks under IDM and MOBIL and the scripts of events, over [B, N] in one numpy pass per step.

Agents move kinematically in Frenet coordinates of the reference line. IDM: Treiber, Hennecke, Helbing 2000; MOBIL:
Kesting, Treiber, Helbing 2007. The scripts of the roles are in ``sim.events``.
"""

from __future__ import annotations

import numpy as np

from visuomotor.control.car_following import idm_acceleration
from visuomotor.messages.schema import TRUCK
from visuomotor.sim.neighbours import Ego, View
from visuomotor.sim.road import LEAD_IN_M, LEAD_OUT_M, Road, RoadBatch
from visuomotor.sim.scenario import (
    AGENTS_MAX,
    ESCORT,
    QUEUE,
    STATIC,
    TRAFFIC,
    WALKER,
    DriveCase,
    Driver,
    draw_driver,
    draw_vehicle,
)

DT_S = 0.1
MANOEUVRES = ("straight", "lane_change", "brake", "crossing", "static")
STRAIGHT, LANE_CHANGE, BRAKE, CROSSING, STANDING = range(len(MANOEUVRES))

HARDEST_BRAKE_MPS2 = 8.0
TOO_FAST = 1.25  # times the desired speed: the most that counts in the IDM's free term
SIDE_MARGIN_M = 0.3  # what drivers want beside them
STATIC_GAP_M = 9.0  # stop this far from an obstacle, so that there is room to steer out
CREEP_GAP_M = 1.0  # ... while steering out
MOBIL_PERIOD_TICKS = 10
MOBIL_THRESHOLD_MPS2 = 0.25
MOBIL_SAFE_MPS2 = 2.5  # hardest braking asked of a new follower
OBSTACLE_SIGHT_M = 110.0
RECYCLE_BEHIND_M, RECYCLE_AHEAD_M = 120.0, 170.0
SPAWN_AHEAD_M = (95.0, 150.0)
SPAWN_BEHIND_M = (85.0, 110.0)


def _idm(
    speed: np.ndarray,
    desired: np.ndarray,
    gap: np.ndarray,
    leader_speed: np.ndarray,
    headway: np.ndarray | float,
    min_gap: np.ndarray | float,
    a: np.ndarray | float,
    b: np.ndarray | float,
) -> np.ndarray:
    """IDM within what the tyres give; who is faster than he wants to be brakes gently, not as the fourth power says."""
    result = idm_acceleration(
        speed,
        np.maximum(desired, speed / TOO_FAST),
        gap,
        leader_speed,
        time_headway_s=headway,
        min_gap_m=min_gap,
        max_acceleration_mps2=a,
        comfortable_deceleration_mps2=b,
    )
    return np.maximum(result, -HARDEST_BRAKE_MPS2)


class Traffic:
    """All agents of B worlds. Arrays are [B, N]; a slot that is not ``present`` holds stale numbers."""

    def __init__(self, count: int, agents_max: int = AGENTS_MAX) -> None:
        shape = (count, agents_max)
        self.roads = RoadBatch(count)
        self.present = np.zeros(shape, bool)
        self.waiting = np.zeros(shape, bool)  # will appear when the ego comes to its trigger
        self.id = np.zeros(shape, np.int64)
        self.class_id = np.zeros(shape, np.int64)
        self.role = np.zeros(shape, np.int64)
        self.variant = np.zeros(shape, np.int64)
        self.phase = np.zeros(shape, np.int64)  # of the role's script
        self.size_m = np.ones((*shape, 3))
        floats = (
            "s_m d_m speed acceleration lateral_speed yaw_offset desired headway min_gap driver_a driver_b politeness "
            "change_s from_d to_d share trigger hold value timer speed_cap forced"
        )
        for name in floats.split():
            setattr(self, name, np.zeros(shape))
        self.change_s[:] = 3.5
        self.changing = np.zeros(shape, bool)
        self.creeps = np.zeros(shape, bool)
        self.lane_count = np.ones(count, np.int64)
        self.limit = np.ones(count)
        self.end_s = np.zeros(count)
        self.lane_width = 3.5
        self.next_id = np.zeros(count, np.int64)
        self.streams = [np.random.default_rng(0) for _ in range(count)]
        # motion of the agents in the map frame, written by ``place``
        self.position_m = np.zeros((*shape, 2))
        self.velocity_mps = np.zeros((*shape, 2))
        self.yaw_rad = np.zeros(shape)

    s_m: np.ndarray
    d_m: np.ndarray
    speed: np.ndarray
    acceleration: np.ndarray
    lateral_speed: np.ndarray
    yaw_offset: np.ndarray
    desired: np.ndarray
    headway: np.ndarray
    min_gap: np.ndarray
    driver_a: np.ndarray
    driver_b: np.ndarray
    politeness: np.ndarray
    change_s: np.ndarray
    from_d: np.ndarray
    to_d: np.ndarray
    share: np.ndarray
    trigger: np.ndarray
    hold: np.ndarray
    value: np.ndarray
    timer: np.ndarray
    speed_cap: np.ndarray  # what a script lets the agent drive at most
    forced: np.ndarray  # acceleration that a script imposes at most

    def reset(self, b: int, case: DriveCase, road: Road) -> None:
        """Put the agents of a case into world ``b``."""
        count = len(case.agents)
        if count > self.present.shape[1]:
            raise ValueError(f"case {case.seed}: {count} agents, room for {self.present.shape[1]}")
        self.roads.set_road(b, road)
        self.lane_count[b] = road.lane_count
        self.limit[b] = road.speed_limit_mps
        self.end_s[b] = road.length_m + LEAD_OUT_M - 20.0
        self.streams[b] = np.random.default_rng([case.stream_seed, 1])
        self.next_id[b] = self.present.shape[1]
        self.present[b] = False
        self.waiting[b] = False
        self.id[b] = np.arange(self.present.shape[1])
        for name in ("speed", "acceleration", "lateral_speed", "timer", "share", "phase", "changing"):
            getattr(self, name)[b] = 0
        self.speed_cap[b] = np.inf
        self.forced[b] = np.inf
        for i, agent in enumerate(case.agents):
            self.class_id[b, i], self.role[b, i], self.variant[b, i] = agent.class_id, agent.role, agent.variant
            self.size_m[b, i] = agent.size_m
            self.s_m[b, i], self.d_m[b, i], self.speed[b, i] = agent.s_m, agent.d_m, agent.speed_mps
            self.to_d[b, i] = agent.d_m
            self.yaw_offset[b, i] = agent.yaw_offset_rad
            self.trigger[b, i], self.hold[b, i], self.value[b, i] = agent.trigger_s_m, agent.hold_s, agent.value
            self._set_driver(b, i, agent.driver)
            late = agent.trigger_s_m > 0.0 and agent.role not in (ESCORT, WALKER, STATIC, QUEUE)
            self.waiting[b, i], self.present[b, i] = late, not late
        self.place(np.array([b]))

    def _set_driver(self, b: int, i: int, driver: Driver) -> None:
        self.desired[b, i], self.headway[b, i] = driver.desired_speed_mps, driver.headway_s
        self.min_gap[b, i], self.politeness[b, i] = driver.min_gap_m, driver.politeness
        self.driver_a[b, i], self.driver_b[b, i] = driver.acceleration_mps2, driver.deceleration_mps2
        self.change_s[b, i] = driver.lane_change_s

    def view(self, ego: Ego) -> View:
        """Snapshot of everything on the roads, the ego as the last column."""
        return View(self, ego)

    def plan(self, view: View, live: np.ndarray, tick: np.ndarray) -> None:
        """Choose accelerations and lane changes of all drivers in the worlds that are ``live`` [B]."""
        movers = self.present & live[:, None] & (self.role != STATIC) & (self.role != WALKER)
        b, i = np.nonzero(movers)
        if len(b) == 0:
            return
        half = 0.5 * self.size_m[b, i, 1] + SIDE_MARGIN_M
        d, to_d = self.d_m[b, i], np.where(self.changing[b, i], self.to_d[b, i], self.d_m[b, i])
        corridor = (np.minimum(d, to_d) - half, np.maximum(d, to_d) + half)
        gap, leader_speed, static, _ = view.leader(b, i, *corridor)
        desired = np.minimum(self.desired[b, i], self.speed_cap[b, i])
        changing = self.changing[b, i]
        min_gap = np.where(static, np.where(changing, CREEP_GAP_M, STATIC_GAP_M), self.min_gap[b, i])
        self.creeps[b, i] = changing & static & (gap < 6.0)
        a = self._follow(b, i, desired, gap, leader_speed, min_gap)
        a = np.minimum(a, self.forced[b, i])
        a = np.where(desired < 0.05, np.minimum(a, -np.minimum(self.speed[b, i] / DT_S, 3.0)), a)  # the IDM would creep
        self.acceleration[b, i] = a
        due = (self.role[b, i] == TRAFFIC) & ~self.changing[b, i] & ((tick[b] + 3 * i) % MOBIL_PERIOD_TICKS == 0)
        if due.any():
            self._mobil(view, b[due], i[due], a[due], static[due] & (gap[due] < OBSTACLE_SIGHT_M))

    def _follow(
        self,
        b: np.ndarray,
        i: np.ndarray,
        desired: np.ndarray,
        gap: np.ndarray,
        leader_speed: np.ndarray,
        min_gap: np.ndarray,
    ) -> np.ndarray:
        a, dec = self.driver_a[b, i], self.driver_b[b, i]
        return _idm(self.speed[b, i], desired, gap, leader_speed, self.headway[b, i], min_gap, a, dec)

    def _mobil(self, view: View, b: np.ndarray, i: np.ndarray, a: np.ndarray, must: np.ndarray) -> None:
        """Start lane changes that pay, or that an obstacle ahead forces."""
        lane = np.round(self.d_m[b, i] / self.lane_width)
        half = 0.5 * self.size_m[b, i, 1] + SIDE_MARGIN_M
        best = np.full(len(b), -np.inf)
        side = np.zeros(len(b))
        for step in (1.0, -1.0):
            target = lane + step
            centre = target * self.lane_width
            low, high = centre - half, centre + half
            gap, leader_speed, static, _ = view.leader(b, i, low, high)
            back_gap, back, is_ego = view.follower(b, i, low, high)
            mine = self._follow(b, i, self.desired[b, i], gap, leader_speed, self.min_gap[b, i])
            back_speed = np.where(np.isfinite(back_gap), view.speed[b, back], 0.0)
            theirs = _idm(back_speed, np.maximum(back_speed, 1.0), back_gap, self.speed[b, i], 1.2, 2.0, 1.5, 2.0)
            hurry = np.maximum(back_speed - self.speed[b, i], 0.0)
            stands = back_speed < 0.5  # who stands can wait
            theirs = np.where(stands, 0.0, theirs)
            room = np.where(must, np.where(stands, 0.3, 1.0), 2.5) + 0.4 * back_speed * is_ego + hurry + hurry**2 / 4.0
            safe = (theirs > -np.where(must, 3.5, MOBIL_SAFE_MPS2)) & (back_gap > room)
            safe &= (gap > 2.0 + 0.3 * self.speed[b, i]) & (mine > -3.0) & ~(static & (gap < 60.0))
            safe &= (target >= 0) & (target < self.lane_count[b])
            gain = mine - a + self.politeness[b, i] * np.minimum(theirs, 0.0)
            gain = np.where(must, gain + 10.0, gain)
            gain = np.where(safe & (gain > MOBIL_THRESHOLD_MPS2), gain, -np.inf)
            better = gain > best
            best, side = np.where(better, gain, best), np.where(better, step, side)
        go = side != 0
        self.change_lane(b[go], i[go], (lane + side)[go] * self.lane_width)

    def change_lane(self, b: np.ndarray, i: np.ndarray, to_d: np.ndarray) -> None:
        """Start a smooth lateral move to ``to_d`` [A]."""
        self.changing[b, i] = True
        self.from_d[b, i], self.to_d[b, i] = self.d_m[b, i], to_d
        self.share[b, i] = 0.0

    def abort_changes(self, view: View, live: np.ndarray) -> None:
        """Take back lane changes whose target got occupied beside or close behind while still in the own lane."""
        b, i = np.nonzero(self.changing & self.present & live[:, None] & (self.share < 0.35))
        if len(b) == 0:
            return
        half = 0.5 * self.size_m[b, i, 1] + 0.1
        centre = self.to_d[b, i]
        low, high = np.minimum(self.d_m[b, i] + half, centre - half), np.maximum(self.d_m[b, i] - half, centre + half)
        low = np.where(centre > self.d_m[b, i], self.d_m[b, i] + half, low)
        high = np.where(centre < self.d_m[b, i], self.d_m[b, i] - half, high)
        back_gap, back, _ = view.follower(b, i, low, high)
        gap, _, _, _ = view.leader(b, i, low, high)
        hurry = np.where(np.isfinite(back_gap), view.speed[b, back] - self.speed[b, i], 0.0)
        bad = (back_gap < 0.5 + np.maximum(hurry, 0.0) ** 2 / 7.0) | (gap < 0.5)
        b, i = b[bad], i[bad]
        self.to_d[b, i], self.from_d[b, i] = self.from_d[b, i], self.d_m[b, i]
        self.share[b, i] = 0.0

    def move(self, live: np.ndarray) -> None:
        """Integrate one step of all agents in the worlds that are ``live`` [B]."""
        on = self.present & live[:, None]
        drives = on & (self.role != STATIC) & (self.role != WALKER)
        speed = np.where(drives, np.maximum(self.speed + self.acceleration * DT_S, 0.0), self.speed)
        mean = 0.5 * (speed + self.speed)
        curvature = self.roads.line(self.s_m)[3]
        forward = np.where(self.role == WALKER, 0.0, mean / (1.0 - curvature * self.d_m))
        self.s_m += np.where(on, forward * DT_S, 0.0)
        self.speed = np.where(on, speed, self.speed)
        lateral = np.where(self.role == WALKER, self.lateral_speed, 0.0)
        if self.changing.any():
            active = self.changing & on
            # Nobody moves sideways at a standstill, but for who winds himself out from behind an obstacle.
            pace = np.maximum(np.minimum(mean / 4.0, 1.0), np.where(self.creeps, 0.15, 0.0))
            share = np.where(active, np.minimum(self.share + DT_S / self.change_s * pace, 1.0), self.share)
            smooth = share**3 * (10.0 + share * (6.0 * share - 15.0))  # quintic: no jerk at either end
            d = self.from_d + (self.to_d - self.from_d) * smooth
            lateral = np.where(active, (d - self.d_m) / DT_S, lateral)
            self.share = share
            self.changing &= ~(active & (share >= 1.0))
        self.lateral_speed = np.where(on, lateral, self.lateral_speed)
        self.d_m += np.where(on, lateral * DT_S, 0.0)

    def place(self, worlds: np.ndarray) -> None:
        """Write position, velocity and yaw in the map frame for the worlds named [W]."""
        w = worlds[:, None]
        s, d = self.s_m[worlds], self.d_m[worlds]
        x, y, heading, _ = self.roads.line(s, w)
        cos, sin = np.cos(heading), np.sin(heading)
        self.position_m[worlds, :, 0] = x - d * sin
        self.position_m[worlds, :, 1] = y + d * cos
        walks = self.role[worlds] == WALKER
        along = np.where(walks, 0.0, self.speed[worlds])
        across = self.lateral_speed[worlds]
        self.velocity_mps[worlds, :, 0] = along * cos - across * sin
        self.velocity_mps[worlds, :, 1] = along * sin + across * cos
        slip = np.where(walks | (along < 0.5), 0.0, np.arctan2(across, np.maximum(along, 2.0)))
        self.yaw_rad[worlds] = (heading + slip + self.yaw_offset[worlds] + np.pi) % (2 * np.pi) - np.pi

    def recycle(self, ego: Ego, live: np.ndarray) -> None:
        """Let traffic that is far from the ego appear again elsewhere, far away too, as somebody else."""
        ds = self.s_m - ego.s_m[:, None]
        gone = self.present & ((self.s_m > self.end_s[:, None]) | (self.s_m < 12.0 - LEAD_IN_M))
        far = (self.role == TRAFFIC) & self.present & ((ds < -RECYCLE_BEHIND_M) | (ds > RECYCLE_AHEAD_M))
        for b, i in zip(*np.nonzero((gone | far) & live[:, None]), strict=True):
            self.present[b, i] = False
            if self.role[b, i] == TRAFFIC:
                self._respawn(int(b), int(i), float(ego.s_m[b]), float(ego.speed[b]))

    def _respawn(self, b: int, i: int, ego_s: float, ego_speed: float) -> None:
        rng, limit = self.streams[b], self.limit[b]
        class_id, size = draw_vehicle(rng)
        driver = draw_driver(rng, limit, class_id == TRUCK)
        ahead = rng.random() < 0.6
        for _ in range(6):
            s = ego_s + (rng.uniform(*SPAWN_AHEAD_M) if ahead else -rng.uniform(*SPAWN_BEHIND_M))
            lane = int(rng.integers(self.lane_count[b]))
            if s > self.end_s[b] - 10.0 or s < 20.0 - LEAD_IN_M or not self.is_free(b, s, lane, 25.0 + size[0]):
                continue
            self.class_id[b, i] = class_id
            self.size_m[b, i] = size
            self.put(b, i, s, lane, min(driver.desired_speed_mps, limit) * (0.85 if ahead else 1.0))
            self._set_driver(b, i, driver)
            return
        # no room now: the slot stays far behind, absent, and is tried again by the events' pass
        self.waiting[b, i] = True
        self.trigger[b, i] = ego_s + 10.0

    def is_free(self, b: int, s_m: float, lane: int, clear_m: float) -> bool:
        """Whether a lane of world ``b`` is empty within ``clear_m`` of s."""
        near = np.abs(self.s_m[b] - s_m) < clear_m
        return not (self.present[b] & near & (np.abs(self.d_m[b] - lane * self.lane_width) < 2.5)).any()

    def put(self, b: int, i: int, s_m: float, lane: int, speed_mps: float) -> None:
        """Make an agent appear on the road as somebody new."""
        self.present[b, i], self.waiting[b, i] = True, False
        self.s_m[b, i], self.d_m[b, i], self.to_d[b, i] = s_m, lane * self.lane_width, lane * self.lane_width
        self.speed[b, i], self.acceleration[b, i], self.lateral_speed[b, i] = speed_mps, 0.0, 0.0
        self.changing[b, i], self.share[b, i] = False, 0.0
        self.id[b, i] = self.next_id[b]
        self.next_id[b] += 1

    def manoeuvre(self) -> np.ndarray:
        """Label of every agent, int [B, N], an index into MANOEUVRES."""
        walks = (self.role == WALKER) & (np.abs(self.lateral_speed) > 0.05)
        still = (self.speed < 0.2) & ~walks
        label = np.where(self.acceleration < -2.0, BRAKE, STRAIGHT)
        label = np.where(still, STANDING, label)
        label = np.where(self.changing, LANE_CHANGE, label)
        return np.where(walks, CROSSING, label)
