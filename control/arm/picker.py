"""The scripted picker: intercept by the forecast, go down, close, lift, carry, let go; and random actions.

It keeps no state: each rule reads what the hand does off the measured state and the last action (``control.arm.hand``).
"""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np

from visuomotor.control.arm.action import decode, encode
from visuomotor.control.arm.config import ACTION_SIZE, CELL, CONTROL_PERIOD_S, LIMITS
from visuomotor.control.arm.hand import OPEN, close_for
from visuomotor.control.arm.inputs import ArmInputs
from visuomotor.control.arm.targets import FOLLOWED_XY_M, STEPS, Targets
from visuomotor.control.deciding import RandomActions


class PickerGains(msgspec.Struct, frozen=True, kw_only=True):
    """The picker's numbers, tuned on tuning cases."""

    gain: float = 0.65  # share of an error taken away per period
    speed_mps: float = 0.75
    braking_mps2: float = 2.5  # towards a place
    lost_s: float = 0.4  # farther from the part than that it goes straight to where they meet
    yaw_rate_radps: float = 1.9
    hover_m: float = 0.085  # above the grasp, on the way to a part
    funnel: float = 4.0  # height per horizontal error beyond ...
    funnel_free_m: float = 0.011  # ... this,
    funnel_yaw_mprad: float = 0.15  # and per error of the yaw beyond ...
    funnel_free_rad: float = 0.18  # less than that the fingers set right as they close
    committed_m: float = 0.05  # as low as this above the grasp the tool goes on although the part has moved a little:
    committed_xy_m: float = 0.022  # by then the hand may hide it, and a late doubt costs more than a poor grip
    committed_yaw_rad: float = 0.45
    down_mps: float = 0.40
    close_z_m: float = 0.008
    open_m: float = 0.070  # before the fingers are as wide as this the tool does not go down
    up_mps: float = 0.45
    clear_m: float = 0.085  # above this a held part passes over the others
    carry_mps2: float = 3.0  # change of velocity with a part in the hand
    carry_mps: float = 0.75
    carry_yaw_rad: tuple[float, float] = (-0.6, 1.9)  # which the last joint reaches over every bin
    release_xy_m: float = 0.045
    release_height_m: float = 0.155
    bin_zone_m: float = 0.18  # as near as that to a bin's middle the tool stays as high
    released_m: float = 0.065  # as wide as this the fingers have let go
    wait_m: tuple[float, float, float] = (0.50, 0.12, 0.14)


GAINS = PickerGains()


class ScriptedPicker:
    """The rules as a driver of B cells; without a forecast it expects constant velocity."""

    def __init__(self, gains: PickerGains = GAINS) -> None:
        self.gains = gains

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Nothing to forget."""

    def act(self, inputs: ArmInputs) -> np.ndarray:
        """Action [B, 5] in [-1, 1]."""
        return decide(with_constant_velocity(inputs), self.gains)


class RandomPicker(RandomActions[ArmInputs]):
    """Uniform actions, one random stream per cell."""

    def __init__(self, count: int = 1, seed: int = 0) -> None:
        super().__init__(ACTION_SIZE, count, seed)


def with_constant_velocity(inputs: ArmInputs) -> ArmInputs:
    """The inputs, with each track moving on at its velocity where there is no forecast."""
    if inputs.forecast_m.shape[2] > 0:
        return inputs
    ahead_s = inputs.forecast_step_s * (1.0 + np.arange(STEPS))[:, None]
    future = inputs.track_position_m[:, :, None] + ahead_s * inputs.track_velocity_mps[:, :, None]
    return dataclasses.replace(
        inputs,
        forecast_m=future[:, :, None].astype(np.float32),
        forecast_probability=inputs.track_present[..., None].astype(np.float32),
    )


def decide(inputs: ArmInputs, gains: PickerGains = GAINS) -> np.ndarray:
    """Action [B, 5] by the rules, for whatever ``inputs`` say about the future."""
    hand, targets = inputs.hand, inputs.targets
    height = inputs.tool_position_m[:, 2]
    low = height < CELL.grasp_height_m + 0.5 * gains.hover_m
    over_bin = np.abs(inputs.bin_m[:, :, :2] - inputs.tool_position_m[:, None, :2]).max(axis=2).min(axis=1) < 0.1
    held = hand.holding
    closing = hand.closing & ~held & ~hand.empty & low
    releasing = ~held & ~closing & over_bin & (inputs.gripper_width_m < gains.released_m)

    reach = _reach(inputs, targets, closing, gains)
    twist = np.where(held[:, None], _carry(inputs, gains), reach.twist)
    blind = closing & ~targets.found[:, 0]  # the track is lost below the hand: go on as before
    twist[blind] = 0.0
    twist[blind, :2] = decode(inputs.last_action_norm[blind])[0][:, :2]
    twist[releasing] = 0.0
    opened = np.where(held, _arrived(inputs, gains), ~closing & ~reach.close)
    bins = inputs.bin_m.shape[1]
    away = np.hypot(*(targets.position_m[:, 0] - inputs.tool_position_m[:, :2]).T)
    seen = targets.found[:, 0] & (away < FOLLOWED_XY_M)  # until it is held, the part itself says where to
    index = np.where(held | (closing & ~seen), hand.bin_index, targets.bin_index[:, 0])
    action = encode(twist, opened)
    action[:, 4] = np.where(opened, OPEN, close_for(index, bins))
    return action


@dataclasses.dataclass(frozen=True)
class _Reach:
    """How to go on towards the best part: the tool's twist [B, 4], and whether the fingers are round it [B]."""

    twist: np.ndarray
    close: np.ndarray


def _reach(inputs: ArmInputs, targets: Targets, closing: np.ndarray, gains: PickerGains) -> _Reach:
    found = targets.found[:, 0]
    tool = targets.tool_next_m
    velocity = targets.velocity_mps[:, 0]
    error = targets.next_m[:, 0] - tool[:, :2]
    away = np.hypot(*error.T)
    # near the part: follow it; farther: straight to where they meet
    ahead = np.maximum(targets.intercept_s[:, 0] - 0.15, 0.05)[:, None]
    meet = targets.intercept_m[:, 0] - tool[:, :2]
    outside = targets.outside_m[:, 0] > 0.0
    far = (targets.intercept_s[:, 0] > gains.lost_s) | outside
    follow = velocity + _approach(error, gains)
    wait = np.array(gains.wait_m)
    level = np.where(far[:, None], np.where(outside[:, None], _approach(meet, gains), meet / ahead), follow)
    level = np.where(found[:, None], level, _approach(wait[:2] - tool[:, :2], gains))
    level = _limit(level, gains.speed_mps)

    yaw_error = np.where(found, targets.grip_yaw_rad[:, 0] - targets.yaw_next_rad, 0.0)
    turn = np.clip(gains.gain * yaw_error / CONTROL_PERIOD_S, -gains.yaw_rate_radps, gains.yaw_rate_radps)
    turn[closing] = 0.0

    goal = targets.grip_height_m[:, 0]
    committed = inputs.tool_position_m[:, 2] < goal + gains.committed_m
    free_m = np.where(committed, gains.committed_xy_m, gains.funnel_free_m)
    free_rad = np.where(committed, gains.committed_yaw_rad, gains.funnel_free_rad)
    off = np.maximum(away - free_m, 0.0) * gains.funnel
    off += np.maximum(np.abs(yaw_error) - free_rad, 0.0) * gains.funnel_yaw_mprad
    wide = inputs.gripper_width_m > gains.open_m
    near_bin = np.abs(inputs.bin_m[:, :, :2] - inputs.tool_position_m[:, None, :2]).max(axis=2).min(axis=1)
    height = np.where(found, goal + np.minimum(np.where(far | ~wide, np.inf, off), gains.hover_m), wait[2])
    height = np.where(closing, goal, height)
    height = np.where(near_bin < gains.bin_zone_m, np.maximum(height, gains.release_height_m), height)
    lift = np.clip(gains.gain * (height - tool[:, 2]) / CONTROL_PERIOD_S, -gains.down_mps, gains.up_mps)
    down = np.abs(goal - tool[:, 2]) < gains.close_z_m
    close = found & wide & ~far & down & (away < gains.committed_xy_m)
    close &= np.abs(yaw_error) < gains.committed_yaw_rad
    return _Reach(np.column_stack([level, lift, turn]), close)


def _approach(way: np.ndarray, gains: PickerGains) -> np.ndarray:
    """Velocity [B, 2] with which to take away a distance [B, 2] and stop there."""
    distance = np.hypot(*way.T)
    speed = np.minimum(np.sqrt(2.0 * gains.braking_mps2 * distance), gains.gain * distance / CONTROL_PERIOD_S)
    return way * (speed / np.maximum(distance, 1e-6))[:, None]


def _limit(velocity: np.ndarray, speed_mps: float) -> np.ndarray:
    return velocity / np.maximum(np.linalg.norm(velocity, axis=1, keepdims=True) / speed_mps, 1.0)


def _carry(inputs: ArmInputs, gains: PickerGains) -> np.ndarray:
    """Lift what is held, then over its bin; twist [B, 4] with changes that the grip stands."""
    targets, bin_m = inputs.targets, inputs.hand.bin_m
    tool = targets.tool_next_m
    away = bin_m[:, :2] - tool[:, :2]
    distance = np.hypot(*away.T)
    clear = inputs.tool_position_m[:, 2] > gains.clear_m
    level = _limit(_approach(away, gains), gains.carry_mps)
    last = inputs.last_action_norm[:, :3] * LIMITS.tool_speed_mps
    level = np.where(clear[:, None], level, 0.8 * last[:, :2])
    near = distance < 0.18
    goal = np.where(near, gains.release_height_m, CELL.travel_height_m)
    lift = np.clip(gains.gain * (goal - tool[:, 2]) / CONTROL_PERIOD_S, -gains.down_mps, gains.up_mps)
    change = np.column_stack([level, lift]) - last
    change = _limit(change, gains.carry_mps2 * CONTROL_PERIOD_S)
    yaw = targets.yaw_next_rad
    turn = np.clip(2.0 * (np.clip(yaw, *gains.carry_yaw_rad) - yaw), -1.5, 1.5) * clear
    return np.column_stack([last + change, turn])


def _arrived(inputs: ArmInputs, gains: PickerGains) -> np.ndarray:
    """Whether what is held would fall into its bin [B]."""
    away = np.abs(inputs.hand.bin_m[:, :2] - inputs.targets.tool_next_m[:, :2]).max(axis=1)
    return (away < gains.release_xy_m) & (inputs.tool_position_m[:, 2] > CELL.bin_size_m[2] + 0.035)
