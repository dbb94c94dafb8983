"""Scripts of the events: cut-in, hard braking, queue, pedestrian, blind spot. Each acts on the agents of its role.

Every script leaves the ego room: what it forces can be met with less than the envelope of comfortable braking, after a
reaction time, if the ego keeps the distance that a careful driver would keep.
"""

from __future__ import annotations

import numpy as np

from visuomotor.control.config import VEHICLE
from visuomotor.sim.neighbours import Ego, View
from visuomotor.sim.scenario import (
    BRAKER,
    CROSS,
    CUT_IN,
    ESCORT,
    HESITATE,
    QUEUE,
    RIDER,
    TRAFFIC,
    TURN_BACK,
    WALKER,
)
from visuomotor.sim.traffic import DT_S, Traffic

APPEAR_AHEAD_M = 92.0
FIRM_BRAKE_MPS2 = 3.0  # what an event may ask of the ego (its envelope ends at 3.5) ...
REACTION_S = 0.45  # ... after this time, of which 0.2 s are the delay of the loop and 0.15 s the lag of the brakes
MARGIN_M = 2.5
TAILGATING_S = 2.5  # a leader brakes for one that is too close behind for so long
WARY_SHARE = 0.65  # of the speed limit: the speed from which one can stop for a walker who steps out late


def stopping_distance(speed_mps: np.ndarray) -> np.ndarray:
    """Room that the ego needs to come to rest comfortably, m."""
    return speed_mps * REACTION_S + speed_mps**2 / (2.0 * FIRM_BRAKE_MPS2) + MARGIN_M


def run_scripts(traffic: Traffic, view: View, ego: Ego, live: np.ndarray) -> None:
    """Advance all scripts one step; call before the drivers plan, ``live`` [B]."""
    on = traffic.present & live[:, None]
    role = traffic.role
    for kind, script in _SCRIPTS.items():
        b, i = np.nonzero(on & (role == kind))
        if len(b):
            script(traffic, view, ego, b, i)


def let_appear(t: Traffic, ego: Ego, live: np.ndarray) -> None:
    """Put waiting agents on the road, far ahead, at their trigger; call before the view is taken."""
    ready = t.waiting & live[:, None] & (ego.s_m[:, None] >= t.trigger)
    for b, i in zip(*np.nonzero(ready), strict=True):
        ego_lane = int(np.clip(np.round(ego.d_m[b] / t.lane_width), 0, t.lane_count[b] - 1))
        role = t.role[b, i]
        if role == TRAFFIC:
            lane = int(t.streams[b].integers(t.lane_count[b]))
        elif role == RIDER:
            lane = 0
        elif role == CUT_IN:
            side = 1 if t.variant[b, i] == 0 else -1
            lane = ego_lane + side if 0 <= ego_lane + side < t.lane_count[b] else ego_lane - side
        else:
            lane = ego_lane
        for extra in (0.0, 12.0, 24.0, 36.0):
            s = ego.s_m[b] + APPEAR_AHEAD_M + extra
            if s < t.end_s[b] - 20.0 and t.is_free(b, s, lane, 8.0 + t.size_m[b, i, 0]):
                d = t.d_m[b, i]
                speed = t.speed[b, i] if role != TRAFFIC else 0.8 * t.limit[b]
                t.put(b, i, s, lane, speed)
                if role == RIDER:
                    t.d_m[b, i] = t.to_d[b, i] = d
                break
        else:
            t.trigger[b, i] += 5.0


def _cut_in(t: Traffic, view: View, ego: Ego, b: np.ndarray, i: np.ndarray) -> None:
    """Drives in the lane beside the ego's, lets it come close and changes in front of it; then slow for a while."""
    v, ego_v = t.speed[b, i], ego.speed[b]
    gap = t.s_m[b, i] - ego.s_m[b] - 0.5 * (t.size_m[b, i, 0] + VEHICLE.length_m)
    waiting = t.phase[b, i] == 0
    lateral = np.abs(t.d_m[b, i] - ego.d_m[b])
    beside = (lateral > 0.6 * t.lane_width) & (lateral < 1.5 * t.lane_width)
    want = 2.5 + 0.35 * ego_v  # the gap at which it moves over
    limit = t.limit[b]
    approach = np.clip(ego_v + 0.35 * (want - gap), 0.35 * limit, 1.1 * limit)
    closing = np.maximum(ego_v - np.minimum(v, t.value[b, i] * limit), 0.0)
    room = MARGIN_M + closing * (REACTION_S + 0.3) + closing**2 / (2.0 * FIRM_BRAKE_MPS2)
    target = np.round(ego.d_m[b] / t.lane_width) * t.lane_width
    half = 0.5 * t.size_m[b, i, 1] + 0.3
    front, _, _, _ = view.leader(b, i, target - half, target + half)
    back_gap, _, back_is_ego = view.follower(b, i, target - half, target + half)
    centred = np.abs(ego.d_m[b] - target) < 0.9
    go = waiting & beside & centred & (gap > room) & (gap < np.maximum(want + 8.0, room + 6.0)) & (ego_v > 3.0)
    go &= (front > 6.0) & (back_is_ego | ~np.isfinite(back_gap)) & ~t.changing[b, i]
    t.timer[b, i] += DT_S
    t.speed_cap[b, i] = np.where(waiting, approach, t.value[b, i] * limit)
    if go.any():
        t.change_lane(b[go], i[go], target[go])
        t.phase[b[go], i[go]] = 1
        t.timer[b[go], i[go]] = 0.0
    over = ~go & (t.timer[b, i] > np.where(waiting, 45.0, t.hold[b, i])) | (gap < -25.0)
    _to_traffic(t, b[over], i[over])


def _braker(t: Traffic, view: View, ego: Ego, b: np.ndarray, i: np.ndarray) -> None:
    """Lets the ego come up from behind and brakes hard, stands, drives on."""
    ego_v = ego.speed[b]
    gap = t.s_m[b, i] - ego.s_m[b] - 0.5 * (t.size_m[b, i, 0] + VEHICLE.length_m)
    same = np.abs(t.d_m[b, i] - ego.d_m[b]) < 1.8
    phase = t.phase[b, i]
    brake = t.value[b, i]
    needed = stopping_distance(ego_v) - t.speed[b, i] ** 2 / (2.0 * brake)
    close = same & (gap > 0.0) & (gap < np.maximum(needed + 6.0, 1.9 * ego_v))
    t.timer[b, i] += np.where(close | (phase > 0), DT_S, 0.0)
    # A careful ego gets the brake when it has room for it; who tailgates gets it anyway after a while.
    go = (
        (phase == 0)
        & close
        & (t.timer[b, i] > 1.0)
        & ((gap > needed) | (t.timer[b, i] > TAILGATING_S))
        & (t.speed[b, i] > 4.0)
    )
    stopped = (phase == 1) & (t.speed[b, i] < 0.1)
    done = (phase == 2) & (t.timer[b, i] > t.hold[b, i])
    # Until then it waits for the ego, so that one that lags behind meets it too.
    approach = np.clip(ego_v + 0.3 * (1.4 * ego_v + 4.0 - gap), 0.4 * t.limit[b], 0.9 * t.limit[b])
    t.speed_cap[b, i] = np.where(phase == 0, np.where(same, approach, np.inf), t.speed_cap[b, i])
    t.phase[b, i] = np.where(go, 1, np.where(stopped, 2, phase))
    t.timer[b, i] = np.where(go | stopped, 0.0, t.timer[b, i])
    t.forced[b, i] = np.where(t.phase[b, i] >= 1, -brake, np.inf)
    lost = (phase == 0) & (gap < -25.0)
    _to_traffic(t, b[done | lost], i[done | lost])


def _queue(t: Traffic, view: View, ego: Ego, b: np.ndarray, i: np.ndarray) -> None:
    """Stands (or crawls once the ego is near) and dissolves some time after the ego has come close."""
    ds = t.s_m[b, i] - ego.s_m[b]
    near = (ds < 80.0) | (t.timer[b, i] > 0.0)
    t.timer[b, i] += np.where(near, DT_S, 0.0)
    t.speed_cap[b, i] = np.where(near, t.value[b, i], 0.0)
    over = t.timer[b, i] > t.hold[b, i]
    _to_traffic(t, b[over], i[over])


def _walker(t: Traffic, view: View, ego: Ego, b: np.ndarray, i: np.ndarray) -> None:
    """Waits at the kerb, starts to cross when the ego has just room to stop; may hesitate or turn back on the way."""
    d, ego_v = t.d_m[b, i], ego.speed[b]
    pace = t.desired[b, i]
    start = t.to_d[b, i]
    way = np.where(start < 0.0, 1.0, -1.0)  # walks to the left (+) or right (-)
    phase = t.phase[b, i]
    distance = t.s_m[b, i] - ego.s_m[b] - 0.5 * VEHICLE.length_m
    lane_edge = ego.d_m[b] - way * 0.5 * VEHICLE.width_m
    to_walk = np.maximum((lane_edge - d) * way, 0.0) / np.maximum(pace, 0.01)  # time until it is in front of the ego
    meets = distance < np.maximum(stopping_distance(ego_v), to_walk * ego_v * 0.9) + t.value[b, i]
    # A late one steps out when only a wary driver, who has slowed down for people at the kerb, has room.
    late = t.value[b, i] < 0.0
    wary = stopping_distance(WARY_SHARE * t.limit[b]) - t.value[b, i]
    meets = np.where(late, distance < wary, meets)
    room = np.where(late, np.minimum(stopping_distance(ego_v), wary - 2.0), stopping_distance(ego_v))
    go = (phase == 0) & meets & (distance > room) & (ego_v > 1.0)
    walked = (d - start) * way
    # It stops short of the ego's path or in it: what matters is that the driver cannot know.
    stop_at = np.maximum((ego.d_m[b] - start) * way - 1.2, 1.5)
    variant = t.variant[b, i]
    pauses = (phase == 1) & (variant != CROSS) & (walked > stop_at)
    t.timer[b, i] += np.where(phase == 2, DT_S, 0.0)
    rested = (phase == 2) & (t.timer[b, i] > t.hold[b, i] * np.where(variant == TURN_BACK, 0.4, 1.0))
    phase = np.where(go, 1, phase)
    phase = np.where(pauses, 2, phase)
    phase = np.where(rested & (variant == HESITATE), 3, phase)
    phase = np.where(rested & (variant == TURN_BACK), 4, phase)
    far_side = (t.lane_count[b] - 1) * t.lane_width - start  # mirror image of where it stood
    arrived = ((phase == 1) | (phase == 3)) & ((d - far_side) * way >= 0.0) | ((phase == 4) & (walked <= 0.0))
    phase = np.where(arrived, 5, phase)
    t.phase[b, i] = phase
    velocity = np.where((phase == 1) | (phase == 3), pace, np.where(phase == 4, -pace, 0.0)) * way
    velocity = np.where(_blocked(view, b, i, np.sign(velocity)), 0.0, velocity)
    t.lateral_speed[b, i] = velocity
    t.speed[b, i] = np.abs(velocity)
    t.yaw_offset[b, i] = np.where(phase == 4, -way, way) * 0.5 * np.pi


def _blocked(view: View, b: np.ndarray, i: np.ndarray, way: np.ndarray) -> np.ndarray:
    """Whether a vehicle's flank is one step ahead of a walker: nobody walks into the side of a car."""
    ds = np.abs(view.s[b] - view.s[b, i][:, None])
    middle, half = 0.5 * (view.low + view.high), 0.5 * (view.high - view.low)
    room = (middle[b] - middle[b, i][:, None]) * way[:, None] - half[b] - half[b, i][:, None]
    beside = view.present[b] & (ds < view.half_length[b] + 0.5) & (room < 0.8) & (room > -0.5)
    beside[np.arange(len(b)), i] = False
    return beside.any(axis=1)


def _escort(t: Traffic, view: View, ego: Ego, b: np.ndarray, i: np.ndarray) -> None:
    """Stays in the ego's blind spot until the obstacle is near, then for its hold time, then drives on."""
    ego_v = ego.speed[b]
    rel = t.s_m[b, i] - ego.s_m[b]
    lateral = np.abs(t.d_m[b, i] - ego.d_m[b])
    t.speed_cap[b, i] = np.clip(ego_v + 0.5 * (t.value[b, i] - rel), 0.4 * t.limit[b], 1.15 * t.limit[b])
    t.timer[b, i] += np.where((ego.s_m[b] > t.trigger[b, i]) | (ego_v < 1.5), DT_S, 0.0)
    over = (t.timer[b, i] > t.hold[b, i]) | (lateral > 1.6 * t.lane_width) | (np.abs(rel) > 60.0)
    _to_traffic(t, b[over], i[over])


def _to_traffic(t: Traffic, b: np.ndarray, i: np.ndarray) -> None:
    t.role[b, i] = TRAFFIC
    t.speed_cap[b, i] = np.inf
    t.forced[b, i] = np.inf
    t.desired[b, i] = np.maximum(t.desired[b, i], 0.8 * t.limit[b])


_SCRIPTS = {CUT_IN: _cut_in, BRAKER: _braker, QUEUE: _queue, WALKER: _walker, ESCORT: _escort}
