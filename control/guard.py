"""The guard's decisions, free of sockets: what of a policy's command reaches the wheels.

It depends on no network. Order of precedence: the operator, validity of the inputs, the threat ahead, the envelope.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from visuomotor.control.action import CONTROL_PERIOD_S, limit_command, steer_to
from visuomotor.control.collision import COLLISION, CollisionSettings, Threat, find_threat
from visuomotor.control.config import ENVELOPE, Envelope
from visuomotor.control.inputs import DriveInputs
from visuomotor.control.supervision import Heartbeat, OperatorLatch

EMERGENCY_STOP = "emergency_stop"
DISENGAGED = "disengaged"
STALE_VEHICLE_STATE = "stale_vehicle_state"
STALE_POLICY = "stale_policy"
HELD_COMMAND = "held_command"
NOT_FINITE = "not_finite"
TTC_BRAKE = "ttc_brake"
LIMIT_ACCELERATION = "limit_acceleration"
LIMIT_JERK = "limit_jerk"
LIMIT_LATERAL = "limit_lateral"
LIMIT_STEERING_RATE = "limit_steering_rate"
CAUSES = (
    EMERGENCY_STOP,
    DISENGAGED,
    STALE_VEHICLE_STATE,
    STALE_POLICY,
    HELD_COMMAND,
    NOT_FINITE,
    TTC_BRAKE,
    LIMIT_ACCELERATION,
    LIMIT_JERK,
    LIMIT_LATERAL,
    LIMIT_STEERING_RATE,
)


class GuardSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Thresholds of the guard.

    ``enabled`` False passes finite commands on unlimited (simulation only); the emergency stop still works.
    """

    enabled: bool = True
    start_latched: bool = False  # as after a restart on a vehicle: nothing moves before the operator's reset
    heartbeat_s: float = 0.5
    standstill_mps: float = 0.3
    brake_from_mps2: float = 4.0  # required deceleration at which the guard brakes; the policy has 3.5
    release_below_mps2: float = 2.5
    brake_gain: float = 1.2
    acceleration_noise_mps2: float = 0.05  # smaller cuts are rounding, not interventions
    steering_noise_rad: float = 0.002

    def __post_init__(self) -> None:
        """Raise ValueError that quotes the values when thresholds contradict each other."""
        if not 0.0 < self.release_below_mps2 <= self.brake_from_mps2:
            raise ValueError(
                "expected 0 < release_below_mps2 <= brake_from_mps2, "
                f"got {self.release_below_mps2} and {self.brake_from_mps2}"
            )
        if not self.heartbeat_s > 0.0:
            raise ValueError(f"expected heartbeat_s > 0, got {self.heartbeat_s}")


@dataclass(frozen=True, kw_only=True)
class GuardSituation:
    """What the guard knows in one step.

    ``command``: newest acceleration (m/s2) and front-wheel angle (rad) of the policy, None before the first;
    ``command_valid``: its publisher stands by it; ``command_age_s``: since capture. ``vehicle_ok``: there is a recent
    vehicle state. ``inputs``: vehicle state, route and tracks of one world (B = 1), None when state or route is missing
    or too old. ``track_age_s`` [N]: since birth. ``operator``: kinds of the operator's messages since the last step.
    """

    command: tuple[float, float] | None
    command_valid: bool
    command_age_s: float
    vehicle_ok: bool
    inputs: DriveInputs | None
    speed_mps: float
    track_age_s: np.ndarray | None = None
    operator: Sequence[str] = ()
    dt_s: float = CONTROL_PERIOD_S


@dataclass(frozen=True)
class GuardDecision:
    """The command for the actuators and why it differs from the policy's."""

    acceleration_mps2: float
    steering_angle_rad: float
    causes: tuple[str, ...]
    latched: bool
    threat: Threat


class Guard:
    """Stateful over an episode: last command sent, latch, engagement, and whether it is braking."""

    def __init__(
        self,
        settings: GuardSettings | None = None,
        envelope: Envelope = ENVELOPE,
        collision: CollisionSettings = COLLISION,
    ) -> None:
        self.settings = settings or GuardSettings()
        self._envelope = envelope
        self._collision = collision
        self._operator = OperatorLatch(self.settings.start_latched)
        self._heartbeat: Heartbeat[tuple[float, float]] = Heartbeat(self.settings.heartbeat_s)
        self.reset()

    def reset(self) -> None:
        """Begin anew: latched if so configured, otherwise engaged."""
        self._operator.reset()
        self._heartbeat.reset()
        self._braking = False
        self._sent = (0.0, 0.0)

    @property
    def latched(self) -> bool:
        """Whether the emergency stop holds."""
        return self._operator.latched

    def step(self, now: GuardSituation) -> GuardDecision:
        """Decide one command. The result is finite and inside the envelope, but for braking in an emergency."""
        standing = now.vehicle_ok and abs(now.speed_mps) < self.settings.standstill_mps
        self._operator.obey(now.operator, standing)
        if self.latched:
            return self._stop(now, EMERGENCY_STOP)
        if not self._operator.engaged:
            return self._stop(now, DISENGAGED)
        if not now.vehicle_ok:
            return self._stop(now, STALE_VEHICLE_STATE)
        causes: list[str] = []
        command = self._pick(now, causes)
        if command is None:
            return self._stop(now, STALE_POLICY)
        if not _is_finite(command):
            return self._stop(now, NOT_FINITE)
        if not self.settings.enabled:
            return self._send(command, causes)
        return self._limit(now, command, causes)

    def _pick(self, now: GuardSituation, causes: list[str]) -> tuple[float, float] | None:
        """The policy's command; for a heartbeat after an invalid one, the last good one without accelerating."""
        command, held = self._heartbeat.pick(now.command, now.command_valid, now.command_age_s, now.dt_s)
        if command is None or not held:
            return command
        if not _is_finite(command):
            return None
        causes.append(HELD_COMMAND)
        return min(command[0], 0.0), command[1]

    def _limit(self, now: GuardSituation, command: tuple[float, float], causes: list[str]) -> GuardDecision:
        limited = limit_command(*command, *self._sent, now.speed_mps, dt_s=now.dt_s, envelope=self._envelope)
        noise_a, noise_angle = self.settings.acceleration_noise_mps2, self.settings.steering_noise_rad
        for cause, cut, noise in (
            (LIMIT_ACCELERATION, limited.acceleration_cut_mps2, noise_a),
            (LIMIT_JERK, limited.jerk_cut_mps2, noise_a),
            (LIMIT_LATERAL, limited.lateral_cut_rad, noise_angle),
            (LIMIT_STEERING_RATE, limited.rate_cut_rad, noise_angle),
        ):
            if cut > noise:
                causes.append(cause)
        return self._brake(now, (float(limited.acceleration_mps2), float(limited.steering_angle_rad)), causes)

    def _stop(self, now: GuardSituation, cause: str) -> GuardDecision:
        """Brake to standstill in the lane; with no route or state left, with the steering held."""
        held = angle = self._sent[1]
        if now.vehicle_ok and now.inputs is not None:
            angle = steer_to(now.inputs, now.inputs.scene.lane * now.inputs.lane_width_m).item()
        limited = limit_command(
            self._envelope.min_acceleration_mps2,
            angle,
            *self._sent,
            now.speed_mps,
            dt_s=now.dt_s,
            envelope=self._envelope,
        )
        braking = self._envelope.emergency_acceleration_mps2 if self.latched else float(limited.acceleration_mps2)
        # without a vehicle state the speed is unknown, and with it which angle is too much
        return self._brake(now, (braking, float(limited.steering_angle_rad) if now.vehicle_ok else held), [cause])

    def _brake(self, now: GuardSituation, command: tuple[float, float], causes: list[str]) -> GuardDecision:
        """Send a command, braked harder where a track requires it: also when the car is being stopped anyway."""
        acceleration, angle = command
        threat = Threat()
        if self.settings.enabled and now.inputs is not None and now.track_age_s is not None:
            threat = find_threat(now.inputs, angle, now.track_age_s, self._collision)
        bar = self.settings.release_below_mps2 if self._braking else self.settings.brake_from_mps2
        self._braking = threat.required_mps2 > bar
        if self._braking:
            needed = -self.settings.brake_gain * threat.required_mps2
            needed = max(needed, self._envelope.emergency_acceleration_mps2)
            if needed < acceleration - self.settings.acceleration_noise_mps2:
                causes.append(TTC_BRAKE)
                acceleration = needed
        return self._send((acceleration, angle), causes, threat)

    def _send(self, command: tuple[float, float], causes: list[str], threat: Threat | None = None) -> GuardDecision:
        self._sent = command
        return GuardDecision(command[0], command[1], tuple(causes), self.latched, threat or Threat())


def _is_finite(command: tuple[float, float]) -> bool:
    return all(math.isfinite(value) for value in command)
