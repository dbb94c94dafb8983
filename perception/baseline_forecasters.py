"""Forecasters without learning: constant velocity and a Kalman filter, each with a fan of six futures.

The fans, spreads and filter constants of a task were tuned on its tuning split as the learned forecaster was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from visuomotor.perception.forecaster import FUTURES, Futures, checked_history
from visuomotor.perception.tasks import PerceptionTask, get_perception

FAN_PROBABILITY = np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])


class FanTable(NamedTuple):
    """The six futures of every class of a task: change of heading and factor of speed."""

    heading_rad: np.ndarray  # [classes, K]
    speed_factor: np.ndarray  # [classes, K]


def make_fan(rows: Sequence[tuple[float, float, float, float]]) -> FanTable:
    """Rows of one class each: the heading of the two turning futures and the factors of the three straight ones."""
    heading = [[0.0, turn, -turn, 0.0, 0.0, 0.0] for turn, *_ in rows]
    factor = [[1.0, 1.0, 1.0, *factors] for _, *factors in rows]
    return FanTable(np.array(heading), np.array(factor))


def line_velocity(history_m: np.ndarray, present: np.ndarray, samples: int, step_s: float) -> np.ndarray:
    """Velocity [A, 2] m/s of the least-squares line through the observed ones of the last ``samples`` positions."""
    weight = present[:, -samples:].astype(np.float64)
    t_s = (np.arange(weight.shape[1]) - (weight.shape[1] - 1)) * step_s
    position = np.asarray(history_m[:, -samples:], np.float64)
    total = np.maximum(weight.sum(1), 1.0)
    t_mean = (weight @ t_s) / total
    mean = (weight[..., None] * position).sum(1) / total[:, None]
    lag = (t_s - t_mean[:, None]) * weight
    square = (lag * (t_s - t_mean[:, None])).sum(1)
    slope = (lag[..., None] * (position - mean[:, None])).sum(1)
    return slope / np.where(square > 0, square, np.inf)[:, None]


class _Fan:
    """Fan of futures around a straight line, shared by both baselines."""

    def __init__(
        self,
        task: PerceptionTask,
        fan: Sequence[tuple[float, float, float, float]],
        futures: int,
        history_samples: int | None,
        horizon_steps: int | None,
        step_s: float | None,
    ) -> None:
        if not 1 <= futures <= FUTURES:
            raise ValueError(f"futures: expected 1 to {FUTURES}, got {futures}")
        self.futures = futures
        self.history_samples = history_samples or task.task.history_samples
        self.horizon_steps = horizon_steps or task.task.horizon_steps
        self.step_s = step_s or task.task.forecast_step_s
        self.observed_within_s = task.task.observed_within_s
        self.fan = make_fan(fan)

    def _spread_out(
        self, position_m: np.ndarray, velocity_mps: np.ndarray, class_id: np.ndarray, sigma_m: np.ndarray
    ) -> Futures:
        """Futures from position [A, 2], velocity [A, 2] and sigma [A, T, 2]."""
        heading = self.fan.heading_rad[class_id, : self.futures]
        factor = self.fan.speed_factor[class_id, : self.futures]
        cos, sin = factor * np.cos(heading), factor * np.sin(heading)
        vx, vy = velocity_mps[:, None, 0], velocity_mps[:, None, 1]
        velocity = np.stack([cos * vx - sin * vy, sin * vx + cos * vy], axis=-1)  # [A, K, 2]
        t_s = np.arange(1, self.horizon_steps + 1) * self.step_s
        position = position_m[:, None, None] + velocity[:, :, None] * t_s[:, None]
        spread = np.zeros((*position.shape[:3], 3), np.float32)
        spread[..., :2] = sigma_m[:, None]
        share = FAN_PROBABILITY[: self.futures] / FAN_PROBABILITY[: self.futures].sum()
        probability = np.repeat(share[None], len(position), axis=0)
        return Futures(position.astype(np.float32), spread, probability.astype(np.float32))


class ConstantVelocity(_Fan):
    """Everything goes on as over the last samples; ``task`` is by default the first one there was."""

    def __init__(
        self,
        task: PerceptionTask | None = None,
        futures: int = FUTURES,
        *,
        history_samples: int | None = None,
        horizon_steps: int | None = None,
        step_s: float | None = None,
        velocity_samples: int | None = None,
    ) -> None:
        task = task or get_perception()
        row = task.extrapolation
        super().__init__(task, row.cv_fan, futures, history_samples, horizon_steps, step_s)
        self.velocity_samples = velocity_samples or row.cv_samples
        self.spread_start_m, self.spread_growth_mps = row.cv_spread_start_m, row.cv_spread_growth_mps

    def predict(self, history_m: np.ndarray, present: np.ndarray, class_id: np.ndarray, scene: np.ndarray) -> Futures:
        """See ``Forecaster.predict``; ``scene`` is ignored."""
        history, seen, classes, _ = checked_history(history_m, present, class_id, scene, self.history_samples)
        velocity = line_velocity(history, seen, self.velocity_samples, self.step_s)
        t_s = np.arange(1, self.horizon_steps + 1) * self.step_s
        sigma = np.broadcast_to(
            (self.spread_start_m + self.spread_growth_mps * t_s)[:, None], (len(history), self.horizon_steps, 2)
        )
        return self._spread_out(history[:, -1].astype(np.float64), velocity, classes, sigma)


class Kalman(_Fan):
    """Constant-velocity Kalman filter with white acceleration over the history (Bar-Shalom et al. 2001, section 6.2).

    x and y share one covariance, so one 2 x 2 filter per agent serves both axes.
    """

    def __init__(
        self,
        task: PerceptionTask | None = None,
        futures: int = FUTURES,
        *,
        history_samples: int | None = None,
        horizon_steps: int | None = None,
        step_s: float | None = None,
    ) -> None:
        task = task or get_perception()
        row = task.extrapolation
        super().__init__(task, row.kalman_fan, futures, history_samples, horizon_steps, step_s)
        self.measurement_m = np.array(row.kalman_measurement_m)
        self.acceleration_mps2 = np.array(row.kalman_acceleration_mps2)
        self.speed_prior_mps = np.array(row.kalman_speed_prior_mps)

    def predict(self, history_m: np.ndarray, present: np.ndarray, class_id: np.ndarray, scene: np.ndarray) -> Futures:
        """See ``Forecaster.predict``; ``scene`` is ignored."""
        history, seen, classes, _ = checked_history(history_m, present, class_id, scene, self.history_samples)
        count, dt = len(history), self.step_s
        noise = self.measurement_m[classes] ** 2
        q = self.acceleration_mps2[classes] ** 2
        q_pp, q_pv, q_vv = q * dt**4 / 4, q * dt**3 / 2, q * dt**2
        position, velocity = np.zeros((count, 2)), np.zeros((count, 2))
        p_pp, p_pv = np.zeros(count), np.zeros(count)
        p_vv = self.speed_prior_mps[classes] ** 2
        started = np.zeros(count, bool)
        for sample in range(self.history_samples):
            position = position + velocity * dt
            p_pp, p_pv, p_vv = (
                p_pp + 2 * dt * p_pv + dt * dt * p_vv + q_pp,
                p_pv + dt * p_vv + q_pv,
                p_vv + q_vv,
            )
            now = seen[:, sample]
            first = now & ~started
            gain = np.where(now & started, 1.0 / (p_pp + noise), 0.0)
            k_p, k_v = p_pp * gain, p_pv * gain
            innovation = history[:, sample] - position
            position = position + k_p[:, None] * innovation
            velocity = velocity + k_v[:, None] * innovation
            p_vv, p_pv, p_pp = p_vv - k_v * p_pv, (1 - k_p) * p_pv, (1 - k_p) * p_pp
            started |= now
            fresh = first | ~started  # before the first sample there is only the prior
            position[first] = history[first, sample]
            velocity[fresh] = 0.0
            p_pp[fresh], p_pv[fresh] = noise[fresh], 0.0
            p_vv[fresh] = self.speed_prior_mps[classes[fresh]] ** 2
        t_s = np.arange(1, self.horizon_steps + 1) * dt
        variance = p_pp[:, None] + 2 * t_s * p_pv[:, None] + t_s**2 * p_vv[:, None] + q[:, None] * t_s**3 * dt / 3
        sigma = np.repeat(np.sqrt(variance)[:, :, None], 2, axis=2)
        return self._spread_out(position, velocity, classes, sigma)
