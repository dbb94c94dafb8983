"""Noisy proprioception of the simulated arms: encoders of the joints and of the gripper, from the simulator's truth.

Every cell has a random stream of its own that starts anew with each reset.
"""

from __future__ import annotations

import numpy as np

from visuomotor.control.arm.config import JOINTS
from visuomotor.sim.cell.cell import CellWorlds

POSITION_NOISE_RAD = 1e-4
VELOCITY_NOISE_RADPS = 2e-3
WIDTH_NOISE_M = 2e-4
FORCE_NOISE_N = 0.5  # only where there is a force: an idle motor reads zero
_NORMALS = 2 * JOINTS + 2  # drawn for each cell and step
_BLOCK = 64  # steps drawn at a time


class ArmSensors:
    """Sensors of all arms of a ``CellWorlds``: ``reset(index)`` after its reset, ``update()`` after a reset or a step.

    Arrays: ``joint_position_rad``, ``joint_velocity_radps`` [B, 7], ``gripper_width_m``, ``gripper_force_n`` [B].
    """

    def __init__(self, worlds: CellWorlds) -> None:
        count = worlds.count
        self._worlds = worlds
        self._stream = [np.random.default_rng(0) for _ in range(count)]
        self._block = np.zeros((count, _BLOCK, _NORMALS))
        self._last_tick = np.full(count, -1)
        self.joint_position_rad = worlds.joint_position_rad.copy()
        self.joint_velocity_radps = worlds.joint_velocity_radps.copy()
        self.gripper_width_m = worlds.gripper_width_m.copy()
        self.gripper_force_n = worlds.gripper_force_n.copy()

    def reset(self, index: int) -> None:
        """Start the sensors of cell ``index`` anew, from the stream of its present case."""
        if not self._worlds.cases:
            raise ValueError(f"cell {index}: reset the cell before its sensors")
        self._stream[index] = np.random.default_rng([self._worlds.cases[index].stream_seed, 2])
        self._last_tick[index] = -1

    def update(self) -> ArmSensors:
        """Measure the present state of the cells that moved (or were reset) since the last call."""
        w = self._worlds
        new = w.tick != self._last_tick
        if not new.any():
            return self
        self._last_tick = np.where(new, w.tick, self._last_tick)
        for b in np.flatnonzero(new & (w.tick % _BLOCK == 0)).tolist():
            self._block[b] = self._stream[b].standard_normal((_BLOCK, _NORMALS))
        noise = self._block[np.arange(w.count), w.tick % _BLOCK]
        joints = w.joint_position_rad + POSITION_NOISE_RAD * noise[:, :JOINTS]
        speeds = w.joint_velocity_radps + VELOCITY_NOISE_RADPS * noise[:, JOINTS : 2 * JOINTS]
        width = np.maximum(w.gripper_width_m + WIDTH_NOISE_M * noise[:, -2], 0.0)
        force = w.gripper_force_n + FORCE_NOISE_N * noise[:, -1] * (w.gripper_force_n > 0.0)
        self.joint_position_rad = np.where(new[:, None], joints, self.joint_position_rad)
        self.joint_velocity_radps = np.where(new[:, None], speeds, self.joint_velocity_radps)
        self.gripper_width_m = np.where(new, width, self.gripper_width_m)
        self.gripper_force_n = np.where(new, np.maximum(force, 0.0), self.gripper_force_n)
        return self
