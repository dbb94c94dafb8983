"""Simulated cars that drive themselves on truth, to look at traffic from: episodes for tracker and forecaster."""

from __future__ import annotations

import numpy as np

from visuomotor.control.action import decode, limit_command
from visuomotor.control.baselines import IdmMobilDriver
from visuomotor.control.idm_driver import IdmMobilSettings
from visuomotor.control.inputs import DriveInputs
from visuomotor.sim.drive import DriveWorlds
from visuomotor.sim.error_model import true_tracks
from visuomotor.sim.inputs import inputs_from_worlds
from visuomotor.sim.scenario import drive_case
from visuomotor.sim.sensors import Sensors

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
