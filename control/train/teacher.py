"""The rule-based driver as a teacher: its memory is read off the learner's last action, so labels fit what is seen."""

from __future__ import annotations

import numpy as np

from visuomotor.control.baselines import IdmMobilDriver
from visuomotor.control.inputs import DriveInputs

ACTIVE_NORM = 0.5  # a lateral action beyond this is a lane change under way
CROSSED_M = 0.6  # this far before the nearest centre, as seen in the direction of travel sideways: the border is behind


class Teacher:
    """``IdmMobilDriver`` without hidden state: a lane change is under way when the last action says so.

    The rule-based driver remembers its target lane. On another driver's path that memory goes wrong, and its actions
    are then no function of the observation; here they are one, up to what the observation leaves out.
    """

    def __init__(self, count: int) -> None:
        self._driver = IdmMobilDriver(count)

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Nothing to forget."""

    def act(self, inputs: DriveInputs) -> np.ndarray:
        """Action [B, 2] in [-1, 1]."""
        scene, driver = inputs.scene, self._driver
        last = inputs.last_action_norm[:, 1]
        side = np.where(np.abs(last) > ACTIVE_NORM, np.sign(last), 0.0).astype(np.int64)
        crossed = scene.lane_offset_m * side < -CROSSED_M
        target = np.where(crossed, scene.lane, scene.lane + side)
        valid = (side != 0) & (target >= 0) & (target < inputs.lane_count)
        driver._target = np.where(valid, target, -1)
        driver._since_s = np.full(inputs.count, 1e3)
        return driver.act(inputs)
