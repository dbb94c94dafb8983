"""Which parts may be taken now, where each of them will be, and how it is best gripped.

Shared by the observation and the scripted picker, and computed once per ``ArmInputs``. Motion comes from the forecast
alone: without one (K = 0) every part is taken to stay where it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from visuomotor.control.arm.action import decode
from visuomotor.control.arm.config import CELL, CLASS_NAMES, CONTROL_PERIOD_S, LIMITS

if TYPE_CHECKING:
    from visuomotor.control.arm.inputs import ArmInputs

CANDIDATES = 3
NEXT_S = 1.5 * CONTROL_PERIOD_S
HORIZONS_S = (0.1, 0.2, 0.3, 0.5, 0.8, 1.2)
SPREAD_HORIZONS_S = (0.5, 1.2)
STEPS = 20  # of a forecast that is not there
ROUND = np.array([name in ("blue cylinder", "yellow ball") for name in CLASS_NAMES])  # gripped the same from all sides
BALL = np.array([name == "yellow ball" for name in CLASS_NAMES])
TIME_MAX_S = 10.0

# Which part first
TRAVEL_SPEED_MPS = 0.65  # of the tool on its way to a part, acceleration included
GRASP_TIME_S = 0.9  # to go down and to close
AGE_MIN_S = 0.15  # a younger track may be a false alarm
UNSEEN_MAX_S, UNSEEN_BELOW_HAND_S = 0.6, 1.5  # the hand hides what it is about to grip
FOLLOWED_XY_M, FOLLOWED_HEIGHT_M = 0.045, 0.13  # the tool is as near as that: it is at this part already
FOLLOWED_BONUS_S = 20.0
OBSTRUCTED_S, LOST_S = 4.0, 40.0  # a part between others, or one that is gone before it is gripped, comes later
EDGE_M = 0.01  # parts lie on the belt
TAKE_AFTER_S, TAKE_Y_M = 1.0, 0.22  # parts come this far into reach before they are taken, but not farther than that:
WAIT_Y_M = 0.20  # a hand that waits here, below the camera, does not hide what comes

# How to grip it
OPTIONS = 4  # an eighth of a turn apart
YAW_CENTRE_RAD = math.radians(25.0)  # the last joint reaches -75 .. 125 degrees wherever parts lie
YAW_HYSTERESIS_RAD = math.radians(10.0)
ACROSS_MAX_M = 0.066  # what still fits between the open fingers
FINGER_HALF_M = 0.012
FINGER_OUT_M = 0.5 * LIMITS.gripper_width_m + FINGER_HALF_M  # of an open finger's middle from the tool
CLEARANCE_M, CONTACT_M = 0.006, -0.010  # free beyond this gap to a finger, blocked within that
OBSTRUCTION_COST, WIDTH_COST_PM, TURN_COST_PRAD = 2.0, 8.0, 0.05
ALONG_BELT_COST = 0.12  # what nobody has detected stands before or behind a part rather than beside it
BALL_HEIGHT_M = (CELL.grasp_height_m, 0.028)


@dataclass(frozen=True)
class Targets:
    """The best K parts of each cell in order, [B, K, ...]; where ``found`` is False the rest is arbitrary but finite.

    ``tool_next_m`` and ``yaw_next_rad`` are where the tool is going to be ``NEXT_S`` after the capture, in the middle
    of the period in which the next command acts, if that one keeps to the last one's velocity.
    """

    tool_next_m: np.ndarray  # [B, 3]
    yaw_next_rad: np.ndarray  # [B]
    found: np.ndarray
    slot: np.ndarray  # of the track
    class_id: np.ndarray
    bin_index: np.ndarray
    position_m: np.ndarray  # [B, K, 2] now
    future_m: np.ndarray  # [B, K, T, 2] expected, one step of the forecast apart
    step_s: float
    spread_m: np.ndarray  # [B, K, 2] between the futures, at SPREAD_HORIZONS_S
    intercept_s: np.ndarray  # the tool can be there after so long, waiting for it included
    intercept_m: np.ndarray  # [B, K, 2] where, or where to wait for it
    outside_m: np.ndarray  # how far it is from where it may be taken, at NEXT_S
    time_left_s: np.ndarray  # in reach
    grip_yaw_rad: np.ndarray  # of the tool
    grip_width_m: np.ndarray  # of the part between the fingers
    grip_height_m: np.ndarray  # of the tool
    obstruction: np.ndarray  # 0: both fingers have room; 1: one would hit another part
    neighbour_m: (
        np.ndarray
    )  # [B, K, 2] nearest other part, along and across the direction of closing; far: NEIGHBOUR_MAX
    age_s: np.ndarray
    unseen_s: np.ndarray

    @classmethod
    def of(cls, inputs: ArmInputs) -> Targets:
        """Rank the tracks of every cell."""
        last, _ = decode(inputs.last_action_norm)
        tool = inputs.tool_position_m + CONTROL_PERIOD_S * (0.5 * inputs.tool_velocity_mps + last[:, :3])
        yaw = inputs.tool_yaw_rad + CONTROL_PERIOD_S * 1.5 * last[:, 3]
        future, spread = _expect(inputs)
        pace = _at(future, 1.2, inputs.forecast_step_s) - _at(future, 0.3, inputs.forecast_step_s)
        approach = np.maximum(-pace[..., 1] / 0.9, 1e-3)
        take_y = np.maximum(CELL.reach_y_m[1] - TAKE_AFTER_S * np.where(approach > 0.02, approach, 0.0), TAKE_Y_M)
        intercept, place = _intercept(tool, future, take_y, approach, inputs.forecast_step_s)
        following = 0.5 * (_at(future, 0.1, inputs.forecast_step_s) + _at(future, 0.2, inputs.forecast_step_s))
        low = np.array([CELL.belt_x_m[0], CELL.reach_y_m[0]])
        high = np.stack([np.full_like(take_y, CELL.belt_x_m[1]), take_y], axis=2)
        outside = np.abs(following - np.clip(following, low, high)).max(axis=2)
        y = inputs.track_position_m[..., 1]
        time_left = np.clip((y - CELL.reach_y_m[0]) / approach, 0.0, TIME_MAX_S)
        cost = _cost(inputs, intercept, time_left)
        rows = np.arange(inputs.count)[:, None]
        slot = np.argsort(cost, axis=1, kind="stable")[:, :CANDIDATES]
        grip = _grip(inputs, slot, yaw)
        cost = cost[rows, slot] + OBSTRUCTED_S * grip.obstruction
        order = np.argsort(cost, axis=1, kind="stable")
        slot, cost = slot[rows, order], cost[rows, order]
        class_id = np.clip(inputs.class_id[rows, slot], 0, len(CLASS_NAMES) - 1)
        width = grip.width_m[rows, order]
        return cls(
            tool_next_m=tool,
            yaw_next_rad=yaw,
            found=np.isfinite(cost),
            slot=slot,
            class_id=class_id,
            bin_index=np.maximum(inputs.bin_index[rows, class_id], 0),
            position_m=inputs.track_position_m[rows, slot],
            future_m=future[rows, slot],
            step_s=inputs.forecast_step_s,
            spread_m=spread[rows, slot],
            intercept_s=intercept[rows, slot],
            intercept_m=place[rows, slot],
            outside_m=outside[rows, slot],
            time_left_s=time_left[rows, slot],
            grip_yaw_rad=grip.yaw_rad[rows, order],
            grip_width_m=width,
            grip_height_m=np.where(BALL[class_id], np.clip(0.5 * width, *BALL_HEIGHT_M), CELL.grasp_height_m),
            obstruction=grip.obstruction[rows, order],
            neighbour_m=grip.neighbour_m[rows, order],
            age_s=inputs.track_age_s[rows, slot],
            unseen_s=inputs.track_unseen_s[rows, slot],
        )

    def at(self, time_s: float) -> np.ndarray:
        """Expected positions [B, K, 2] so long after the capture."""
        return _at(self.future_m, time_s, self.step_s)

    @property
    def next_m(self) -> np.ndarray:
        """Expected positions [B, K, 2] at ``NEXT_S``."""
        return 0.5 * (self.at(0.1) + self.at(0.2))

    @property
    def velocity_mps(self) -> np.ndarray:
        """Expected velocities [B, K, 2] while the next command acts, from the forecast."""
        return (self.at(0.3) - self.at(0.1)) / 0.2


def _at(future: np.ndarray, time_s: float, step_s: float) -> np.ndarray:
    index = min(max(round(time_s / step_s), 1), future.shape[2]) - 1
    return future[:, :, index]


def _expect(inputs: ArmInputs) -> tuple[np.ndarray, np.ndarray]:
    """Mean position by probability [B, N, T, 2] and deviation between futures [B, N, 2] at SPREAD_HORIZONS_S."""
    now = inputs.track_position_m
    count, slots, futures, steps, _ = inputs.forecast_m.shape
    if futures == 0:
        standing = np.broadcast_to(now[:, :, None], (count, slots, STEPS, 2))
        return standing, np.zeros((count, slots, len(SPREAD_HORIZONS_S)))
    weight = np.maximum(inputs.forecast_probability, 0.0)
    total = weight.sum(axis=2, keepdims=True)
    weight = weight / np.maximum(total, 1e-6)
    mean = (weight[:, :, None] @ inputs.forecast_m.reshape(count, slots, futures, -1))[:, :, 0]
    mean = np.where(total > 1e-6, mean, np.tile(now, (1, 1, steps))).reshape(count, slots, steps, 2)
    index = [min(round(horizon / inputs.forecast_step_s), steps) - 1 for horizon in SPREAD_HORIZONS_S]
    away = ((inputs.forecast_m[:, :, :, index] - mean[:, :, None, index]) ** 2).sum(axis=4)
    return mean, np.sqrt((weight[..., None] * away).sum(axis=2))


def _intercept(
    tool: np.ndarray, future: np.ndarray, take_y: np.ndarray, approach: np.ndarray, step_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Time [B, N] after which the tool can be where a part is then, and that place [B, N, 2].

    ``take_y`` [B, N]: no farther upstream than this; a part that is not there within the forecast is waited for.
    """
    steps = future.shape[2]
    time = step_s * np.arange(1, steps + 1)
    away = np.hypot(future[..., 0] - tool[:, None, None, 0], future[..., 1] - tool[:, None, None, 1])
    possible = away <= TRAVEL_SPEED_MPS * np.maximum(time - CONTROL_PERIOD_S, 0.0) + 1e-3
    possible &= future[..., 1] <= take_y[..., None]
    possible[..., -1] = True
    index = possible.argmax(axis=2)
    place = np.take_along_axis(future, index[:, :, None, None], axis=2)[:, :, 0]
    upstream = np.maximum(place[..., 1] - take_y, 0.0)  # not there within the forecast
    intercept = time[index] + upstream / np.maximum(approach, 0.02)
    coming = future[:, :, 0, 1] > take_y
    place = np.stack(
        [
            np.clip(place[..., 0], *CELL.belt_x_m),
            np.clip(place[..., 1], CELL.reach_y_m[0], np.where(coming, np.minimum(take_y, WAIT_Y_M), take_y)),
        ],
        axis=2,
    )
    return np.minimum(intercept, TIME_MAX_S), place


def _cost(inputs: ArmInputs, intercept: np.ndarray, time_left: np.ndarray) -> np.ndarray:
    """Seconds [B, N] by which parts are ranked, least first; infinite for what is not to be taken.

    The one that leaves first comes first, if it can still be had; of those with time enough the nearest.
    """
    known = (inputs.class_id >= 0) & (inputs.class_id < len(CLASS_NAMES))
    kind = np.where(known, inputs.class_id, 0)
    rows = np.arange(inputs.count)[:, None]
    x, y = inputs.track_position_m[..., 0], inputs.track_position_m[..., 1]
    wanted = known & (inputs.wanted[rows, kind] > 0) & (inputs.bin_index[rows, kind] >= 0)
    away = np.hypot(x - inputs.tool_position_m[:, None, 0], y - inputs.tool_position_m[:, None, 1])
    followed = (away < FOLLOWED_XY_M) & (inputs.tool_position_m[:, 2] < FOLLOWED_HEIGHT_M)[:, None]
    eligible = inputs.track_present & wanted & (inputs.track_age_s >= AGE_MIN_S)
    eligible &= inputs.track_unseen_s <= np.where(followed, UNSEEN_BELOW_HAND_S, UNSEEN_MAX_S)
    eligible &= (x > CELL.belt_x_m[0] + EDGE_M) & (x < CELL.belt_x_m[1] - EDGE_M) & (y > CELL.reach_y_m[0] - EDGE_M)
    lost = ~followed & (time_left - intercept < GRASP_TIME_S) & (time_left < TIME_MAX_S)
    cost = time_left + 0.5 * intercept + LOST_S * lost - FOLLOWED_BONUS_S * followed
    return np.where(eligible, cost, np.inf)


@dataclass(frozen=True)
class _Grip:
    """How to grip the chosen parts, [B, K]; see ``Targets``."""

    yaw_rad: np.ndarray
    width_m: np.ndarray
    obstruction: np.ndarray
    neighbour_m: np.ndarray


NEIGHBOUR_MAX_M = 0.15
_TURN = np.arange(OPTIONS) * (math.pi / OPTIONS)
_ALONG = np.array([1.0, math.sqrt(0.5), 0.0, math.sqrt(0.5)])  # of a part's length between the fingers at each turn


def _grip(inputs: ArmInputs, slot: np.ndarray, tool_yaw: np.ndarray) -> _Grip:
    rows = np.arange(inputs.count)[:, None]
    kind = np.clip(inputs.class_id[rows, slot], 0, len(CLASS_NAMES) - 1)
    length, width = inputs.track_size_m[rows, slot, 0], inputs.track_size_m[rows, slot, 1]
    is_round = ROUND[kind][..., None]
    across = np.stack([width, width, np.maximum(length, width), width], axis=2)
    across = np.where(is_round, width[..., None], across)
    allowed = is_round | ((np.arange(OPTIONS) % 2 == 0) & (across <= ACROSS_MAX_M))
    allowed[..., 0] = True
    yaw = np.where(is_round, 0.0, inputs.track_heading_rad[rows, slot][..., None]) + _TURN
    yaw = _representative(yaw, tool_yaw[:, None, None])
    offset = inputs.track_position_m[:, None] - inputs.track_position_m[rows, slot][:, :, None]  # [B, K, N, 2]
    other = inputs.track_present[:, None] & (np.arange(inputs.track_present.shape[1]) != slot[..., None])
    blocked = _obstruction(inputs, offset, other, yaw)
    cost = OBSTRUCTION_COST * blocked + WIDTH_COST_PM * (across - width[..., None])
    cost = cost + TURN_COST_PRAD * np.abs(yaw - tool_yaw[:, None, None]) + ALONG_BELT_COST * np.abs(np.cos(yaw))
    best = rows, np.arange(slot.shape[1]), np.where(allowed, cost, np.inf).argmin(axis=2)
    yaw = yaw[best]
    distance = np.where(other, np.hypot(offset[..., 0], offset[..., 1]), np.inf)
    nearest = rows, best[1], distance.argmin(axis=2)
    x, y = offset[nearest].transpose(2, 0, 1)
    cos, sin = np.cos(yaw), np.sin(yaw)
    neighbour = np.full((*slot.shape, 2), NEIGHBOUR_MAX_M)
    found = distance[nearest] < NEIGHBOUR_MAX_M
    neighbour[found, 0] = (y * cos - x * sin)[found]
    neighbour[found, 1] = (x * cos + y * sin)[found]
    return _Grip(yaw_rad=yaw, width_m=across[best], obstruction=blocked[best], neighbour_m=neighbour)


def _representative(yaw: np.ndarray, tool_yaw: np.ndarray) -> np.ndarray:
    """The yaw or its half turn that the last joint reaches; of two that it reaches the one nearer to the tool's."""
    inside = YAW_CENTRE_RAD + (yaw - YAW_CENTRE_RAD + math.pi / 2) % math.pi - math.pi / 2
    other = inside - np.copysign(math.pi, inside - YAW_CENTRE_RAD)
    reached = np.abs(other - YAW_CENTRE_RAD) < math.pi / 2 + YAW_HYSTERESIS_RAD
    return np.where(reached & (np.abs(other - tool_yaw) < np.abs(inside - tool_yaw)), other, inside)


def _obstruction(inputs: ArmInputs, offset: np.ndarray, other: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """How much each option's open fingers [B, K, J] meet other parts, 0 to 1; parts are rectangles, fingers discs."""
    closing = FINGER_OUT_M * np.stack([-np.sin(yaw), np.cos(yaw)], axis=-1)
    fingers = np.stack([closing, -closing], axis=3)  # [B, K, J, 2 fingers, 2]
    away = fingers[:, :, :, :, None] - offset[:, :, None, None]  # [B, K, J, 2, N, 2]
    heading = inputs.track_heading_rad[:, None, None, None]
    cos, sin = np.cos(heading), np.sin(heading)
    half = 0.5 * inputs.track_size_m[:, None, None, None]
    along = np.maximum(np.abs(away[..., 0] * cos + away[..., 1] * sin) - half[..., 0], 0.0)
    aside = np.maximum(np.abs(away[..., 1] * cos - away[..., 0] * sin) - half[..., 1], 0.0)
    gap = np.where(other[:, :, None, None], np.hypot(along, aside) - FINGER_HALF_M, np.inf).min(axis=(3, 4))
    return np.clip((CLEARANCE_M - gap) / (CLEARANCE_M - CONTACT_M), 0.0, 1.0)
