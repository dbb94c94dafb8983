"""The action space: the meaning of an action's two numbers, the limits of a command, and the last-resort watchdog."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from visuomotor.control.config import ENVELOPE, VEHICLE, Envelope
from visuomotor.control.inputs import DriveInputs
from visuomotor.control.kinematics import (
    LANE_KEEPING,
    LaneKeeping,
    bicycle_slip_rad,
    lane_keeping_curvature,
    max_curvature,
    max_steering,
    steering_for_curvature,
)
from visuomotor.control.supervision import HoldTimer

ACTION_SIZE = 2
CONTROL_PERIOD_S = 0.1
LATERAL_DEAD_BAND = 0.3  # |a1| below this keeps to the nearest lane's centre
SPEED_MARGIN_MPS = 0.5  # over the speed limit
SPEED_TIME_S = 1.0


def decode_acceleration(action_norm: np.ndarray, speed_mps: np.ndarray, speed_limit_mps: np.ndarray) -> np.ndarray:
    """First component [B] to m/s2: -1 -> -3.5, 0 -> 0, +1 -> +2.0, linear between, held back near the speed limit."""
    low, high = ENVELOPE.min_acceleration_mps2, ENVELOPE.max_acceleration_mps2
    wanted = np.where(action_norm < 0.0, -low * action_norm, high * action_norm)
    room = np.clip((speed_limit_mps + SPEED_MARGIN_MPS - speed_mps) / SPEED_TIME_S, -1.0, high)
    return np.minimum(wanted, room)


def decode_lateral(action_norm: np.ndarray) -> np.ndarray:
    """Second component [B] to lane widths left of the nearest lane's centre: 0 in the dead band, +-1 at +-1."""
    size = np.maximum(np.abs(action_norm) - LATERAL_DEAD_BAND, 0.0) / (1.0 - LATERAL_DEAD_BAND)
    return np.sign(action_norm) * size


def encode_acceleration(acceleration_mps2: np.ndarray) -> np.ndarray:
    """Inverse of ``decode_acceleration`` without the speed limit, clipped to [-1, 1]."""
    low, high = ENVELOPE.min_acceleration_mps2, ENVELOPE.max_acceleration_mps2
    a = np.asarray(acceleration_mps2)
    return np.clip(np.where(a < 0.0, a / -low, a / high), -1.0, 1.0)


def encode_lateral(lane_widths: np.ndarray) -> np.ndarray:
    """Inverse of ``decode_lateral``, clipped to [-1, 1]; 0 maps to the middle of the dead band."""
    size = np.abs(lane_widths) * (1.0 - LATERAL_DEAD_BAND) + LATERAL_DEAD_BAND
    return np.where(np.abs(lane_widths) < 1e-6, 0.0, np.sign(lane_widths) * np.minimum(size, 1.0))


def decode(
    action_norm: np.ndarray, inputs: DriveInputs, gains: LaneKeeping = LANE_KEEPING
) -> tuple[np.ndarray, np.ndarray]:
    """Action [B, 2] to acceleration [B] (m/s2) and front-wheel angle [B] (rad, left positive).

    Components outside [-1, 1] are clipped, NaN counts as 0. The lateral target stays between the outer lanes' centres.
    """
    action = np.clip(np.nan_to_num(np.asarray(action_norm, np.float64), nan=0.0), -1.0, 1.0)
    scene = inputs.scene
    width = np.asarray(inputs.lane_width_m)
    target = (scene.lane + decode_lateral(action[:, 1])) * width
    target = np.clip(target, 0.0, (np.asarray(inputs.lane_count) - 1) * width)
    steering = steer_to(inputs, target, gains)
    return decode_acceleration(action[:, 0], inputs.speed_mps, inputs.speed_limit_mps), steering


def steer_to(inputs: DriveInputs, target_d_m: np.ndarray, gains: LaneKeeping = LANE_KEEPING) -> np.ndarray:
    """Front-wheel angle [B] that brings the car to ``target_d_m`` [B] left of the rightmost lane's centre.

    State is first predicted over the delay until the command acts; the result respects the lateral limit.
    """
    scene = inputs.scene
    speed = np.maximum(inputs.speed_mps, 0.0)
    course = scene.heading_error_rad + bicycle_slip_rad(inputs.steering_angle_rad)
    way = speed * gains.delay_s
    offset = scene.ego_d_m
    stretch = np.maximum(1.0 - scene.curvature_pm * offset, 0.2)
    turned = (inputs.yaw_rate_radps - speed * scene.curvature_pm / stretch) * gains.delay_s
    offset = offset + way * np.sin(course + 0.5 * turned)
    course = course + turned
    ahead = scene.frame.curvature(scene.ego_s_m + way + 0.5 * speed * gains.course_time_s)
    ahead = ahead / np.maximum(1.0 - ahead * offset, 0.2)
    curvature = lane_keeping_curvature(speed, offset - target_d_m, course, ahead, gains)
    limit = max_curvature(speed)
    return np.clip(
        steering_for_curvature(np.clip(curvature, -limit, limit)),
        -VEHICLE.max_steering_angle_rad,
        VEHICLE.max_steering_angle_rad,
    )


@dataclass
class LimitedCommand:
    """A command inside the limits, and by how much each limit changed it (0 where it did not), each [B] or scalar."""

    acceleration_mps2: np.ndarray
    steering_angle_rad: np.ndarray
    acceleration_cut_mps2: np.ndarray
    jerk_cut_mps2: np.ndarray
    lateral_cut_rad: np.ndarray
    rate_cut_rad: np.ndarray


def limit_command(
    acceleration_mps2: np.ndarray | float,
    steering_angle_rad: np.ndarray | float,
    previous_acceleration_mps2: np.ndarray | float,
    previous_steering_angle_rad: np.ndarray | float,
    speed_mps: np.ndarray | float,
    *,
    dt_s: float = CONTROL_PERIOD_S,
    envelope: Envelope = ENVELOPE,
) -> LimitedCommand:
    """Keep a command inside the envelope and the rates; all arguments broadcast.

    Not-a-number becomes full service braking and the previous angle. The rate limits relate to the previous
    command; the envelope has the last word, so that the result is inside it whatever came before.
    """
    previous_a = np.nan_to_num(np.asarray(previous_acceleration_mps2, np.float64), nan=0.0)
    previous_angle = np.nan_to_num(np.asarray(previous_steering_angle_rad, np.float64), nan=0.0)
    speed = np.nan_to_num(np.asarray(speed_mps, np.float64), nan=60.0, posinf=60.0, neginf=60.0)
    raw_a = np.asarray(acceleration_mps2, np.float64)
    raw_angle = np.asarray(steering_angle_rad, np.float64)
    wanted_a = np.where(np.isnan(raw_a), envelope.min_acceleration_mps2, raw_a)
    wanted_angle = np.where(np.isnan(raw_angle), previous_angle, raw_angle)

    inside_a = np.clip(wanted_a, envelope.min_acceleration_mps2, envelope.max_acceleration_mps2)
    step = envelope.max_jerk_mps3 * dt_s
    limited_a = np.clip(inside_a, previous_a - step, previous_a + step)
    limited_a = np.clip(limited_a, envelope.min_acceleration_mps2, envelope.max_acceleration_mps2)

    bound = max_steering(speed, envelope.max_lateral_acceleration_mps2)
    inside_angle = np.clip(wanted_angle, -bound, bound)
    step = envelope.max_steering_rate_radps * dt_s
    limited_angle = np.clip(inside_angle, previous_angle - step, previous_angle + step)
    limited_angle = np.clip(limited_angle, -bound, bound)
    return LimitedCommand(
        acceleration_mps2=limited_a,
        steering_angle_rad=limited_angle,
        acceleration_cut_mps2=_distance(wanted_a, inside_a),
        jerk_cut_mps2=np.abs(limited_a - inside_a),
        lateral_cut_rad=_distance(wanted_angle, inside_angle),
        rate_cut_rad=np.abs(limited_angle - inside_angle),
    )


def _distance(wanted: np.ndarray, inside: np.ndarray) -> np.ndarray:
    return np.abs(np.nan_to_num(wanted, posinf=1e9, neginf=-1e9) - inside)


class CommandWatchdog:
    """The last resort between command and actuators: hold for a declared time, then brake to standstill.

    World and vehicle I/O both apply it, so that a dead guard means a stop. Time is the caller's (simulation or
    monotonic), in seconds. After a reset the car rolls (0 m/s2, wheels straight) for at most ``hold_s``.
    """

    def __init__(self, hold_s: float = 0.3, braking_mps2: float = ENVELOPE.min_acceleration_mps2) -> None:
        if not braking_mps2 < 0.0:
            raise ValueError(f"expected braking_mps2 < 0, got {braking_mps2}")
        self._timer = HoldTimer(hold_s)
        self.hold_s = hold_s
        self.braking_mps2 = braking_mps2
        self.reset()

    @property
    def tripped(self) -> bool:
        """Whether the watchdog is braking."""
        return self._timer.tripped

    def reset(self, now_s: float = 0.0) -> None:
        """Forget the last command; the hold time starts now."""
        self._timer.reset(now_s)
        self._acceleration_mps2 = 0.0
        self._steering_angle_rad = 0.0

    def step(self, now_s: float, command: tuple[float, float] | None) -> tuple[float, float]:
        """What the actuators do now, (m/s2, rad), given a new command (acceleration, angle) or None when none arrived.

        A command that is not finite counts as none.
        """
        fresh = command is not None and all(math.isfinite(value) for value in command)
        if command is not None and fresh:
            self._acceleration_mps2, self._steering_angle_rad = command
        if self._timer.step(now_s, fresh):
            return self.braking_mps2, self._steering_angle_rad
        return self._acceleration_mps2, self._steering_angle_rad
