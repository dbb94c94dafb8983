"""Where everybody will be, from the simulator's true state: for the privileged planner, in training only.

Vehicles follow the leader they have now under their own driver parameters and finish the lane change they have begun;
walkers keep their pace. Nobody reacts to what the ego is going to do, but for who follows it already.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from visuomotor.control.car_following import idm_acceleration
from visuomotor.control.config import VEHICLE
from visuomotor.sim.drive import DriveWorlds
from visuomotor.sim.scenario import BRAKER, STATIC, WALKER

STEPS_S = (0.1, *([0.25] * 18))  # the first is the tick that the command of the last one still rules
TIMES_S = np.cumsum(STEPS_S)
LOOKAHEAD_STEPS = 6  # by so much earlier somebody who comes into a corridor counts as in it
AHEAD_M, BEHIND_M = 95.0, 45.0
HARD_BRAKE_MPS2 = 5.5  # what a leader may do at any time
SWEEP_STEP = 12  # 3.1 s
PAUSE_REACH_M = 2.6  # who hesitates on the road may walk on at any time: kept free before them
KERB, PAUSES = 0, 2  # phases of a walker's script
HALF_LENGTH_M, HALF_WIDTH_M = VEHICLE.length_m / 2, VEHICLE.width_m / 2


@dataclass(frozen=True)
class Prediction:
    """Agents over T steps (ends at ``TIMES_S``), float32 [T, B, N]; the rest [B, N]. Frenet of the reference line.

    The agents within ``BEHIND_M`` and ``AHEAD_M`` of the ego are moved to the first slots, the others dropped; what is
    left of a row is far away. ``low_m`` and ``high_m`` bound the way across from each step to ``LOOKAHEAD_STEPS``
    later, ``sweep_*`` [B, N] that of the next ``SWEEP_STEP`` steps. ``worst_way_m`` is what is left of an agent's way,
    were it to brake hard at once.
    """

    s_m: np.ndarray
    d_m: np.ndarray
    speed_mps: np.ndarray
    low_m: np.ndarray
    high_m: np.ndarray
    sweep_low_m: np.ndarray
    sweep_high_m: np.ndarray
    half_s_m: np.ndarray
    half_d_m: np.ndarray
    walks: np.ndarray
    waits: np.ndarray  # a walker who stands at the kerb and may step out
    stands: np.ndarray  # an obstacle or a vehicle at rest
    worst_way_m: np.ndarray


def predict(worlds: DriveWorlds) -> Prediction:
    """Roll all agents out from the present state."""
    t = worlds.traffic
    shape = (len(TIMES_S), *t.present.shape)
    walks, static = t.role == WALKER, t.role == STATIC
    curvature = worlds.road_batch.line(t.s_m)[3]
    stretch = 1.0 / np.maximum(1.0 - curvature * t.d_m, 0.5)
    leader, found = _leaders(worlds)
    rows = np.arange(worlds.count)[:, None]
    ego_heading = worlds.ego_pose[:, 2] - worlds.road_batch.line(worlds.ego_s_m[:, None])[2][:, 0]
    ego_speed = np.maximum(worlds.ego_speed_mps * np.cos(ego_heading), 0.0)
    lead_half = np.concatenate([0.5 * t.size_m[..., 0], np.full((worlds.count, 1), HALF_LENGTH_M)], axis=1)
    room = lead_half[rows, leader] + 0.5 * t.size_m[..., 0]
    lead_static = np.concatenate([static, np.zeros((worlds.count, 1), bool)], axis=1)[rows, leader]
    min_gap = np.where(lead_static & found, np.where(t.changing, 1.0, 9.0), t.min_gap)
    desired = np.maximum(np.minimum(t.desired, t.speed_cap), 0.01)

    s, d = t.s_m.copy(), t.d_m.copy()
    speed = np.where(walks | static, 0.0, t.speed)
    share = t.share.copy()
    ego_s = worlds.ego_s_m.copy()
    pace = np.where(walks, t.lateral_speed, 0.0)
    held = (t.role == BRAKER) & (t.phase == 2)  # stands a while after braking
    out_s, out_d, out_v = np.empty(shape), np.empty(shape), np.empty(shape)
    for k, dt in enumerate(STEPS_S):
        all_s = np.concatenate([s, ego_s[:, None]], axis=1)[rows, leader]
        all_v = np.concatenate([speed, ego_speed[:, None]], axis=1)[rows, leader]
        gap = np.where(found, all_s - s - room, 1e6)
        a = idm_acceleration(
            speed,
            np.maximum(desired, speed / 1.25),
            gap,
            all_v,
            time_headway_s=t.headway,
            min_gap_m=min_gap,
            max_acceleration_mps2=np.maximum(t.driver_a, 0.5),
            comfortable_deceleration_mps2=np.maximum(t.driver_b, 0.5),
        )
        a = np.minimum(np.maximum(a, -8.0), np.where(TIMES_S[k] < 3.0, t.forced, np.inf))
        a = np.where(desired < 0.05, np.minimum(a, -3.0), a)
        new = np.maximum(speed + a * dt, 0.0)
        new = np.where(walks | static | held, 0.0, new)
        mean = 0.5 * (speed + new)
        s = s + mean * stretch * dt
        share = np.minimum(share + dt / t.change_s * np.maximum(np.minimum(mean / 4.0, 1.0), 0.15 * t.creeps), 1.0)
        smooth = share**3 * (10.0 + share * (6.0 * share - 15.0))
        d = np.where(t.changing, t.from_d + (t.to_d - t.from_d) * smooth, d + pace * dt)
        speed = new
        ego_s = ego_s + ego_speed * dt
        out_s[k], out_d[k], out_v[k] = s, d, speed

    later = np.minimum(np.arange(len(STEPS_S)) + LOOKAHEAD_STEPS, len(STEPS_S) - 1)
    low, high = np.minimum(out_d, out_d[later]), np.maximum(out_d, out_d[later])
    paused = walks & (t.phase == PAUSES)
    way = np.sign(np.sin(t.yaw_offset))  # where a walker who hesitates looks
    low -= np.where(paused & (way < 0.0), PAUSE_REACH_M, 0.0)
    high += np.where(paused & (way > 0.0), PAUSE_REACH_M, 0.0)
    turn = np.abs(np.sin(t.yaw_offset)) * ~walks + np.abs(t.lateral_speed) / np.maximum(t.speed, 2.0) * ~walks
    half_s = 0.5 * (t.size_m[..., 0] + turn * t.size_m[..., 1]) * stretch
    half_d = 0.5 * (t.size_m[..., 1] + turn * t.size_m[..., 0])
    brake = np.where(t.role == BRAKER, np.maximum(t.value, HARD_BRAKE_MPS2), HARD_BRAKE_MPS2)
    apart = t.s_m - worlds.ego_s_m[:, None]
    on = t.present & (apart > -BEHIND_M) & (apart < AHEAD_M)
    slots = np.argsort(~on, axis=1, kind="stable")[:, : max(int(on.sum(axis=1).max()), 1)]
    kept = np.take_along_axis(on, slots, 1)

    def flags(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, slots, 1) & kept

    def narrow(values: np.ndarray, absent: float = 0.0) -> np.ndarray:
        picked = np.take_along_axis(values, slots if values.ndim == 2 else slots[None], -1)
        return np.where(kept, picked, absent).astype(np.float32)

    return Prediction(
        s_m=narrow(out_s, -1e4),
        d_m=narrow(out_d, 1e3),
        speed_mps=narrow(out_v),
        low_m=narrow(low, 1e3),
        high_m=narrow(high, 1e3),
        sweep_low_m=narrow(np.minimum(low[0], out_d[SWEEP_STEP]), 1e3),
        sweep_high_m=narrow(np.maximum(high[0], out_d[SWEEP_STEP]), 1e3),
        half_s_m=narrow(half_s),
        half_d_m=narrow(half_d),
        walks=flags(walks),
        waits=flags(walks & (t.phase == KERB)),
        stands=flags(~walks & (t.speed < 0.5)),
        worst_way_m=narrow(np.where(walks, 0.0, t.speed**2 / (2.0 * brake) * stretch)),
    )


def _leaders(worlds: DriveWorlds) -> tuple[np.ndarray, np.ndarray]:
    """Column of whom each agent follows (N is the ego) and whether there is anybody, [B, N]."""
    t = worlds.traffic
    s = np.concatenate([t.s_m, worlds.ego_s_m[:, None]], axis=1).astype(np.float32)
    d = np.concatenate([t.d_m, worlds.ego_d_m[:, None]], axis=1).astype(np.float32)
    to_d = np.where(t.changing, t.to_d, t.d_m + np.where(t.role == WALKER, 2.0 * t.lateral_speed, 0.0))
    to_d = np.concatenate([to_d, worlds.ego_d_m[:, None]], axis=1).astype(np.float32)
    half = np.concatenate([0.5 * t.size_m[..., 1], np.full((worlds.count, 1), HALF_WIDTH_M)], axis=1).astype(np.float32)
    low, high = np.minimum(d, to_d) - half, np.maximum(d, to_d) + half
    present = np.concatenate([t.present, np.ones((worlds.count, 1), bool)], axis=1)
    mine_low, mine_high = low[:, :-1, None] - 0.3, high[:, :-1, None] + 0.3
    ahead = s[:, None, :] - s[:, :-1, None]
    mask = present[:, None, :] & (ahead > 0.0) & (low[:, None, :] < mine_high) & (high[:, None, :] > mine_low)
    distance = np.where(mask, ahead, np.float32(1e6))
    leader = distance.argmin(axis=2)
    found = np.take_along_axis(distance, leader[..., None], axis=2)[..., 0] < 1e5
    return leader, found
