"""The demonstrator of picking: the scripted picker on the simulator's true state, which knows how the belt will run."""

from __future__ import annotations

import dataclasses

import numpy as np

from visuomotor.control.arm.inputs import ArmInputs
from visuomotor.control.arm.picker import GAINS, PickerGains, decide
from visuomotor.control.arm.targets import STEPS
from visuomotor.sim.cell.cell import MANOEUVRES, CellWorlds

VIEW_Y_M = (-0.45, 0.85)  # parts elsewhere no camera sees
ROLLING = MANOEUVRES.index("rolling")


class PickTeacher:
    """The picker's rules without errors of perception: exact places and headings, futures from the belt's programme.

    What the hand does it reads off the same measured state and last action as the learner, so that its labels are a
    function of what the learner sees, up to those errors.
    """

    def __init__(self, worlds: CellWorlds, gains: PickerGains = GAINS) -> None:
        self._worlds = worlds
        self._gains = gains

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Nothing to forget."""

    def act(self, inputs: ArmInputs) -> np.ndarray:
        """Action [B, 5] in [-1, 1]."""
        return decide(true_inputs(self._worlds, inputs), self._gains)


def true_inputs(worlds: CellWorlds, inputs: ArmInputs) -> ArmInputs:
    """The inputs with every part in view where it is, and one future each: where the belt and its roll take it."""
    y = worlds.part_position_m[..., 1]
    place = worlds.part_position_m[..., :2]
    shape = worlds.part_present.shape
    return dataclasses.replace(
        inputs,
        track_present=worlds.part_present & (worlds.part_class >= 0) & (y > VIEW_Y_M[0]) & (y < VIEW_Y_M[1]),
        track_id=worlds.part_id,
        class_id=worlds.part_class,
        track_position_m=place,
        track_velocity_mps=worlds.part_velocity_mps[..., :2],
        track_heading_rad=worlds.part_yaw_rad,
        track_size_m=worlds.part_size_m[..., :2],
        track_age_s=np.full(shape, 10.0),
        track_unseen_s=np.zeros(shape),
        forecast_m=true_futures(worlds, inputs.forecast_step_s)[:, :, None].astype(np.float32),
        forecast_probability=np.ones((*shape, 1), np.float32),
    )


def true_futures(worlds: CellWorlds, step_s: float) -> np.ndarray:
    """Where the parts will be if nobody touches them, [B, P, T, 2] in steps of ``step_s``."""
    ahead_s = step_s * np.arange(1, STEPS + 1)
    runs = [
        case.belt.travel(now + ahead_s) - case.belt.travel(now)
        for case, now in zip(worlds.cases, worlds.time_s, strict=True)
    ]
    still = np.zeros(worlds.count)
    roll = worlds.part_velocity_mps[..., :2] + np.stack([still, worlds.belt_speed_mps], axis=1)[:, None]
    roll = np.where((worlds.part_manoeuvre == ROLLING)[..., None], roll, 0.0)
    futures = worlds.part_position_m[:, :, None, :2] + roll[:, :, None] * ahead_s[:, None]
    futures[..., 1] -= np.array(runs)[:, None]
    return futures
