"""Simulated cars that steer themselves on truth, to look at traffic from: episodes for tracker and forecaster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from visuomotor.control.action import decode, limit_command
from visuomotor.control.baselines import IdmMobilDriver
from visuomotor.control.idm_driver import IdmMobilSettings
from visuomotor.control.inputs import DriveInputs
from visuomotor.messages.camera import CameraModel, load_camera
from visuomotor.perception.robot_pose import RobotPose
from visuomotor.perception.tasks import get_perception
from visuomotor.perception.tracker import Tracker
from visuomotor.perception.train.detection_noise import NoisyDetector, get_noise
from visuomotor.perception.train.tracks_data import TICK_S, EpisodeLog, TickLog
from visuomotor.sim.drive import DriveWorlds
from visuomotor.sim.error_model import true_tracks
from visuomotor.sim.inputs import inputs_from_worlds
from visuomotor.sim.scenario import drive_case
from visuomotor.sim.sensors import Sensors
from visuomotor.sim.visibility import CameraArrays, visible

TASK = get_perception("drive")
PROFILE = Path(__file__).resolve().parents[2] / "launch" / "profiles" / TASK.name
SUITE = f"{TASK.name}-v1"
CAMERAS = ("camera_front", "camera_left", "camera_right")

SLEEPY_SHARE = 0.3  # of the cars: now and then they do something else than the driver says
DISTURBANCE_SHARE = 0.1  # of a sleepy car's ticks


class Fleet:
    """B worlds under IDM + MOBIL drivers of one temper, some of them disturbed."""

    def __init__(self, suite: str, split: str, count: int, rng: np.random.Generator) -> None:
        self.count, self.suite, self.split, self._rng = count, suite, split, rng
        self.worlds = DriveWorlds(count)
        self.sensors = Sensors(self.worlds)
        self._driver = IdmMobilDriver(
            count,
            IdmMobilSettings(time_headway_s=rng.uniform(0.8, 1.8), comfortable_deceleration_mps2=rng.uniform(1.6, 3.0)),
        )
        self._command = np.zeros((count, 2))  # acts during the next step
        self._action = np.zeros((count, 2), np.float32)
        self._sleepy = np.zeros(count, bool)

    def start(self, index: int, seed: int) -> None:
        """Put the case of a seed into one world."""
        self.worlds.reset(index, drive_case(self.suite, self.split, seed))
        self.sensors.reset(index)
        self._driver.reset(np.arange(self.count) == index)
        self._command[index] = self._action[index] = 0.0
        self._sleepy[index] = self._rng.random() < SLEEPY_SHARE

    def step(self) -> None:
        """One tick with the delay of the running graph: what is decided now acts from the next tick on."""
        inputs = self._inputs()
        action = self._driver.act(inputs)
        disturbed = self._sleepy & (self._rng.random(self.count) < DISTURBANCE_SHARE)
        action[disturbed, 0] += self._rng.uniform(-1.0, 0.6, int(disturbed.sum()))
        action = np.clip(action, -1.0, 1.0)
        wanted = decode(action, inputs)
        following = limit_command(*wanted, self._command[:, 0], self._command[:, 1], inputs.speed_mps)
        self.worlds.step(self._command[:, 0], self._command[:, 1])
        self._command = np.stack([following.acceleration_mps2, following.steering_angle_rad], axis=1)
        self._action = action.astype(np.float32)

    def _inputs(self) -> DriveInputs:
        return inputs_from_worlds(self.sensors, true_tracks(self.worlds, self.sensors.odom_pose), self._action)


class Follower:
    """Detector noise and tracker of one world."""

    def __init__(self, cameras: Sequence[CameraModel], seed: Sequence[int]) -> None:
        self.detector = NoisyDetector(cameras, np.random.default_rng(list(seed)), get_noise(TASK.name))
        self.tracker = Tracker(cameras, TASK)


def profile_cameras() -> list[CameraModel]:
    """The cameras of the task's profile."""
    return [load_camera(PROFILE / f"{name}.yaml") for name in CAMERAS]


def rollouts(
    split: str, seeds: Sequence[int], *, suite: str = SUITE, worlds: int = 8, limit_s: float = 40.0
) -> Iterator[EpisodeLog]:
    """Episodes of the split, driven by IDM + MOBIL on truth with disturbances, one by one as they end.

    All worlds of one call share a driver's temper; an episode is cut off after ``limit_s``.
    """
    cameras = profile_cameras()
    fleet = Fleet(suite, split, min(worlds, len(seeds)), np.random.default_rng([int(seeds[0]), len(seeds), 77]))
    arrays = CameraArrays.from_models(cameras)
    waiting = iter(seeds)
    running: list[tuple[EpisodeLog, Follower] | None] = [None] * fleet.count
    for i in range(fleet.count):
        running[i] = _begin(fleet, i, next(waiting), cameras)
    while any(running):
        fleet.sensors.update()
        shares = visible(fleet.worlds, arrays)
        for i, pair in enumerate(running):
            if pair is not None:
                pair[0].ticks.append(_observe(fleet, i, pair[1], shares[i], len(pair[0].ticks)))
        fleet.step()
        for i, pair in enumerate(running):
            if pair is not None and (fleet.worlds.end[i] or len(pair[0].ticks) >= limit_s / TICK_S):
                yield pair[0]
                seed = next(waiting, None)
                running[i] = None if seed is None else _begin(fleet, i, seed, cameras)
    fleet.worlds.close()


def _begin(fleet: Fleet, i: int, seed: int, cameras: Sequence[CameraModel]) -> tuple[EpisodeLog, Follower]:
    fleet.start(i, int(seed))
    return EpisodeLog(fleet.split, int(seed)), Follower(cameras, (int(seed), 5))


def _observe(fleet: Fleet, i: int, follower: Follower, share: np.ndarray, tick: int) -> TickLog:
    worlds, sensors = fleet.worlds, fleet.sensors
    here = worlds.agent_present[i]
    ego, odom = worlds.ego_pose[i].copy(), sensors.odom_pose[i].copy()
    position = worlds.agent_position_m[i][here].copy()
    c, s = np.cos(ego[2]), np.sin(ego[2])
    delta = position - ego[:2]
    local = np.stack([c * delta[:, 0] + s * delta[:, 1], -s * delta[:, 0] + c * delta[:, 1]], 1)
    ids, classes = worlds.agent_id[i][here].copy(), worlds.agent_class[i][here].copy()
    detections = follower.detector.detect(
        ids, classes, local, worlds.agent_yaw_rad[i][here] - ego[2], worlds.agent_size_m[i][here], share[here]
    )
    robot = RobotPose(
        speed_mps=float(sensors.speed_mps[i]), x_m=float(odom[0]), y_m=float(odom[1]), yaw_rad=float(odom[2])
    )
    tracks = follower.tracker.update(detections, robot, tick * TICK_S)
    manoeuvre = worlds.agent_manoeuvre[i][here].copy()
    return TickLog(ego, odom, ids, classes, position, manoeuvre, share[here], detections, tracks)
