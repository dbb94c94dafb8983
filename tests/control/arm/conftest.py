"""Arms without a simulator, for the tests of this folder."""

from __future__ import annotations

import numpy as np
import pytest

from visuomotor.control.arm.config import CONTROL_PERIOD_S, REST_RAD
from visuomotor.control.arm.inputs import AGENTS_MAX, ArmInputs
from visuomotor.control.arm.kinematics import forward, jacobian


class Arms:
    """B arms that follow their commands exactly: over a period the joint velocities go linearly to the new ones."""

    FINE = 4  # points of a period at which limits are checked

    def __init__(self, count: int = 1, joint_position_rad: np.ndarray | None = None) -> None:
        start = np.tile(REST_RAD, (count, 1)) if joint_position_rad is None else joint_position_rad
        self.position, self.velocity = start.copy(), np.zeros_like(start)
        self.sent = np.zeros_like(start)  # acts in the next period
        self.path: list[np.ndarray] = []

    @property
    def inputs(self) -> ArmInputs:
        """The arms' state with an empty belt and no order."""
        count, n, classes = len(self.position), AGENTS_MAX, 6
        tool = forward(self.position)
        return ArmInputs(
            joint_position_rad=self.position,
            joint_velocity_radps=self.velocity,
            gripper_width_m=np.full(count, 0.08),
            gripper_force_n=np.zeros(count),
            tool_position_m=tool.position_m,
            tool_yaw_rad=tool.yaw_rad,
            tool_velocity_mps=(jacobian(self.position)[:, :3] @ self.velocity[:, :, None])[:, :, 0],
            wanted=np.zeros((count, classes), int),
            bin_index=np.full((count, classes), -1),
            bin_m=np.zeros((count, 2, 3)),
            track_present=np.zeros((count, n), bool),
            track_id=np.zeros((count, n), int),
            class_id=np.zeros((count, n), int),
            track_position_m=np.zeros((count, n, 2)),
            track_velocity_mps=np.zeros((count, n, 2)),
            track_heading_rad=np.zeros((count, n)),
            track_size_m=np.zeros((count, n, 2)),
            track_age_s=np.zeros((count, n)),
            track_unseen_s=np.zeros((count, n)),
            forecast_m=np.zeros((count, n, 0, 20, 2)),
            forecast_probability=np.zeros((count, n, 0)),
            last_action_norm=np.zeros((count, 5)),
            camera_present=np.ones((count, 1)),
        )

    def step(self, new: np.ndarray) -> None:
        """One tick: the command of the last tick acts for a period, ``new`` waits for the next."""
        time = np.linspace(0.0, CONTROL_PERIOD_S, self.FINE + 1)[1:, None, None]
        change = (self.sent - self.velocity) / CONTROL_PERIOD_S
        points = self.position + self.velocity * time + 0.5 * change * time * time
        self.path.extend(points)
        self.position, self.velocity, self.sent = points[-1], self.sent.copy(), new.copy()


@pytest.fixture(scope="session")
def make_arms() -> type[Arms]:
    return Arms
