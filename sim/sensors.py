"""Noisy proprioception and localisation of the ego cars: what a real vehicle would know, from the simulator's truth.

Model: wheel speed with a scale error and white noise; a gyro with a bias and white noise; dead reckoning from both, so
that ``odom_`` drifts from the map; localisation on the route whose lateral, longitudinal and heading errors wander as
Ornstein-Uhlenbeck processes. Every world has random streams of its own that start anew with each reset.
"""

from __future__ import annotations

import numpy as np

from visuomotor.sim.drive import DT_S, DriveWorlds

ROUTE_START_M = -40.0
ROUTE_SPACING_M = 2.0
ROUTE_POINTS = 81

SPEED_SCALE_SIGMA = 0.004  # per episode, tyre radius
SPEED_NOISE_MPS = 0.03
YAW_RATE_BIAS_RADPS = 0.0006  # per episode
YAW_RATE_NOISE_RADPS = 0.002
ACCELERATION_NOISE_MPS2 = 0.08
STEERING_NOISE_RAD = 0.0008
ATTITUDE_NOISE_RAD = 0.0008
LATERAL_SIGMA_M = 0.07
LONGITUDINAL_SIGMA_M = 0.3
HEADING_SIGMA_RAD = 0.003
WANDER_S = 8.0  # correlation time of the localisation errors
_NORMALS = 9  # drawn for each world and step
_BLOCK = 128  # steps drawn at a time

_KEEP = float(np.exp(-DT_S / WANDER_S))
_RENEW = float(np.sqrt(1.0 - _KEEP**2))


class Sensors:
    """Sensors of all cars of a `DriveWorlds`: ``reset(index)`` after its reset, ``update()`` after every reset or step.

    Arrays [B]: ``speed_mps``, ``acceleration_mps2``, ``yaw_rate_radps``, ``steering_angle_rad``, ``roll_rad``,
    ``pitch_rad``, ``lane_count``, ``lane_width_m``, ``speed_limit_mps``, ``goal_distance_m``; ``odom_pose`` [B, 3], 0
    at the start; ``route_m`` float32 [B, 81, 2]: the centre of the rightmost lane every 2 m from -40 m, in odom.
    """

    def __init__(self, worlds: DriveWorlds) -> None:
        count = worlds.count
        self._worlds = worlds
        self._stream = [np.random.default_rng(0) for _ in range(count)]
        self._block = np.zeros((count, _BLOCK, _NORMALS))
        self._used = np.full(count, _BLOCK)
        self._speed_scale = np.ones(count)
        self._yaw_bias = np.zeros(count)
        self._wander = np.zeros((count, 3))  # longitudinal, lateral, heading; unit variance
        self._last_tick = np.full(count, -1)
        self._previous = np.zeros((count, 2))  # measured speed and yaw rate
        for name in _SCALARS:
            setattr(self, name, np.zeros(count))
        self.lane_count = np.ones(count, np.int64)
        self.odom_pose = np.zeros((count, 3))
        self.route_m = np.zeros((count, ROUTE_POINTS, 2), np.float32)
        self._ahead = ROUTE_START_M + ROUTE_SPACING_M * np.arange(ROUTE_POINTS)

    speed_mps: np.ndarray
    acceleration_mps2: np.ndarray
    yaw_rate_radps: np.ndarray
    steering_angle_rad: np.ndarray
    roll_rad: np.ndarray
    pitch_rad: np.ndarray
    lane_width_m: np.ndarray
    speed_limit_mps: np.ndarray
    goal_distance_m: np.ndarray

    def reset(self, index: int) -> None:
        """Start the sensors of world ``index`` anew, from the streams of its present case."""
        if not self._worlds.ready(index):
            raise ValueError(f"world {index}: reset the world before its sensors")
        case, road = self._worlds.cases[index], self._worlds.roads[index]
        stream = np.random.default_rng([case.stream_seed, 2])
        self._stream[index] = stream
        self._used[index] = _BLOCK
        self._speed_scale[index] = 1.0 + SPEED_SCALE_SIGMA * stream.standard_normal()
        self._yaw_bias[index] = YAW_RATE_BIAS_RADPS * stream.standard_normal()
        self._wander[index] = stream.standard_normal(3)
        self._last_tick[index] = -1
        self.odom_pose[index] = 0.0
        self.lane_count[index] = road.lane_count
        self.lane_width_m[index] = road.lane_width_m
        self.speed_limit_mps[index] = road.speed_limit_mps

    def update(self) -> Sensors:
        """Measure the present state of the worlds that moved (or were reset) since the last call."""
        w = self._worlds
        new = w.tick != self._last_tick
        if not new.any():
            return self
        noise = self._draw(new)
        first = new & (self._last_tick < 0)
        self._last_tick = np.where(new, w.tick, self._last_tick)
        speed = w.ego_speed_mps * self._speed_scale + SPEED_NOISE_MPS * noise[:, 0] * (w.ego_speed_mps > 0.05)
        yaw_rate = w.ego_yaw_rate_radps + self._yaw_bias + YAW_RATE_NOISE_RADPS * noise[:, 1]
        self._dead_reckon(new & ~first, speed, yaw_rate)
        self.speed_mps = np.where(new, speed, self.speed_mps)
        self.yaw_rate_radps = np.where(new, yaw_rate, self.yaw_rate_radps)
        for name, truth, sigma, column in (
            ("acceleration_mps2", w.ego_acceleration_mps2, ACCELERATION_NOISE_MPS2, 2),
            ("steering_angle_rad", w.ego_steering_angle_rad, STEERING_NOISE_RAD, 3),
            ("roll_rad", w.ego_roll_rad, ATTITUDE_NOISE_RAD, 4),
            ("pitch_rad", w.ego_pitch_rad, ATTITUDE_NOISE_RAD, 5),
        ):
            setattr(self, name, np.where(new, truth + sigma * noise[:, column], getattr(self, name)))
        wander = np.where(first[:, None], self._wander, _KEEP * self._wander + _RENEW * noise[:, 6:9])
        self._wander = np.where(new[:, None], wander, self._wander)
        self._localise(new)
        return self

    def _draw(self, new: np.ndarray) -> np.ndarray:
        for b in np.flatnonzero(new & (self._used >= _BLOCK)).tolist():
            self._block[b] = self._stream[b].standard_normal((_BLOCK, _NORMALS))
            self._used[b] = 0
        noise = self._block[np.arange(len(new)), np.minimum(self._used, _BLOCK - 1)]
        self._used = self._used + new
        return noise

    def _dead_reckon(self, moved: np.ndarray, speed: np.ndarray, yaw_rate: np.ndarray) -> None:
        """Integrate measured speed and yaw rate by the trapezoid rule along an arc."""
        mean_speed = 0.5 * (speed + self.speed_mps)
        turn = 0.5 * (yaw_rate + self.yaw_rate_radps) * DT_S
        # The origin is half a wheelbase ahead of the rear axle: it slips sideways in a turn, as the kinematics say.
        slip = np.arctan(0.5 * np.tan(self._worlds.ego_steering_angle_rad))
        middle = self.odom_pose[:, 2] + 0.5 * turn + slip
        step = np.stack([mean_speed * DT_S * np.cos(middle), mean_speed * DT_S * np.sin(middle), turn], axis=1)
        self.odom_pose = np.where(moved[:, None], self.odom_pose + step, self.odom_pose)

    def _localise(self, new: np.ndarray) -> None:
        """Lay the map's route into odom through the noisy localised pose."""
        w = self._worlds
        s = w.ego_s_m + LONGITUDINAL_SIGMA_M * self._wander[:, 0]
        x, y, _, _ = w.road_batch.line(s[:, None] + self._ahead)
        error = self.odom_pose[:, 2] - w.ego_pose[:, 2] + HEADING_SIGMA_RAD * self._wander[:, 2]
        cos, sin = np.cos(error)[:, None], np.sin(error)[:, None]
        yaw = w.ego_pose[:, 2]
        # what the localisation believes to be the ego's place: off to the side by the lateral error, along by the other
        lateral, along = LATERAL_SIGMA_M * self._wander[:, 1], LONGITUDINAL_SIGMA_M * self._wander[:, 0]
        ego_x = w.ego_pose[:, 0] - lateral * np.sin(yaw) + along * np.cos(yaw)
        ego_y = w.ego_pose[:, 1] + lateral * np.cos(yaw) + along * np.sin(yaw)
        dx, dy = x - ego_x[:, None], y - ego_y[:, None]
        route = np.stack(
            [self.odom_pose[:, :1] + dx * cos - dy * sin, self.odom_pose[:, 1:2] + dx * sin + dy * cos], axis=-1
        )
        self.route_m = np.where(new[:, None, None], route, self.route_m).astype(np.float32)
        self.goal_distance_m = np.where(new, np.maximum(w.route_length_m - s, 0.0), self.goal_distance_m)

    def localised_pose(self, index: int) -> tuple[float, float, float]:
        """Pose in the map (x m, y m, yaw rad) as positioning has it: the truth with the errors of localisation."""
        x, y, yaw = self._worlds.ego_pose[index]
        along, lateral, turn = self._wander[index] * (LONGITUDINAL_SIGMA_M, LATERAL_SIGMA_M, HEADING_SIGMA_RAD)
        cos, sin = np.cos(yaw), np.sin(yaw)
        return float(x + along * cos - lateral * sin), float(y + along * sin + lateral * cos), float(yaw - turn)

    def map_to_odom(self, index: int, xy_m: np.ndarray) -> np.ndarray:
        """Map points [..., 2] in odom, through the true ego pose; for truth and its evaluation only."""
        return _transform(xy_m, self._worlds.ego_pose[index], self.odom_pose[index])

    def odom_to_map(self, index: int, xy_m: np.ndarray) -> np.ndarray:
        """Odom points [..., 2] in the map, through the true ego pose; for truth and its evaluation only."""
        return _transform(xy_m, self.odom_pose[index], self._worlds.ego_pose[index])


def _transform(xy_m: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    turn = target[2] - source[2]
    cos, sin = np.cos(turn), np.sin(turn)
    delta = np.asarray(xy_m, np.float64) - source[:2]
    return target[:2] + np.stack(
        [delta[..., 0] * cos - delta[..., 1] * sin, delta[..., 0] * sin + delta[..., 1] * cos], axis=-1
    )


_SCALARS = (
    "speed_mps",
    "acceleration_mps2",
    "yaw_rate_radps",
    "steering_angle_rad",
    "roll_rad",
    "pitch_rad",
    "lane_width_m",
    "speed_limit_mps",
    "goal_distance_m",
)
