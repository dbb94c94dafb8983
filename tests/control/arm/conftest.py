"""Arms without a simulator, for the tests of this folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from visuomotor.control.arm.config import CELL, CLASS_NAMES, CONTROL_PERIOD_S, REST_RAD
from visuomotor.control.arm.inputs import AGENTS_MAX, ArmInputs
from visuomotor.control.arm.kinematics import forward, jacobian, solve_velocity


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


TIMES_S = 0.1 * np.arange(1, 21)
BINS_M = np.array([[*centre, CELL.bin_size_m[2]] for centre in CELL.bin_centre_m])


def place_parts(inputs: ArmInputs, parts: list[dict], *, futures: str = "velocity", **changes: object) -> ArmInputs:
    """The inputs with an order for two parts of every class and these parts on the belt, the same in every cell.

    A part is {kind, x, y, vx, vy, yaw, length, width, unseen, age}; ``futures``: "velocity", "standing" or "none".
    """
    count = inputs.count

    def slots(name: str, default: float) -> np.ndarray:
        out = np.zeros((count, AGENTS_MAX))
        out[:, : len(parts)] = [part.get(name, default) for part in parts]
        return out

    position = np.stack([slots("x", 0.5), slots("y", 0.0)], axis=2)
    velocity = np.stack([slots("vx", 0.0), slots("vy", 0.0)], axis=2)
    moved = velocity if futures == "velocity" else np.zeros_like(velocity)
    future = (position[:, :, None] + moved[:, :, None] * TIMES_S[:, None])[:, :, None].astype(np.float32)
    classes = len(CLASS_NAMES)
    values = {
        "gripper_width_m": np.full(count, 0.08),
        "wanted": np.full((count, classes), 2),
        "bin_index": np.tile(np.arange(classes) % 2, (count, 1)),
        "bin_m": np.tile(BINS_M, (count, 1, 1)),
        "track_present": np.tile(np.arange(AGENTS_MAX) < len(parts), (count, 1)),
        "track_id": np.tile(np.arange(AGENTS_MAX), (count, 1)),
        "class_id": slots("kind", 0.0).astype(np.int64),
        "track_position_m": position,
        "track_velocity_mps": velocity,
        "track_heading_rad": slots("yaw", 0.0),
        "track_size_m": np.stack([slots("length", 0.04), slots("width", 0.04)], axis=2),
        "track_age_s": slots("age", 2.0),
        "track_unseen_s": slots("unseen", 0.0),
        "forecast_m": future if futures != "none" else future[:, :, :0, :0],
        "forecast_probability": np.ones((count, AGENTS_MAX, int(futures != "none")), np.float32),
        "last_action_norm": np.tile([0.0, 0.0, 0.0, 0.0, 1.0], (count, 1)),
    }
    return dataclasses.replace(inputs, **{**values, **changes})


@pytest.fixture(scope="session")
def make_scene() -> Callable[..., ArmInputs]:
    """``place_parts`` under an arm in its rest posture, or in ``joints`` [B, 7]."""

    def make(parts: list[dict], *, joints: np.ndarray | None = None, count: int = 1, **changes: object) -> ArmInputs:
        return place_parts(Arms(count, joints).inputs, parts, **changes)

    return make


@pytest.fixture(scope="session")
def joints_at() -> Callable[..., np.ndarray]:
    """Joints [1, 7] that bring the tool to a place (m), found by following it there."""

    def find(x: float, y: float, z: float, yaw: float = 0.0) -> np.ndarray:
        joints = np.array([REST_RAD])
        for _ in range(400):
            tool = forward(joints)
            away = np.array([[x, y, z]]) - tool.position_m
            twist = np.column_stack([3.0 * away, 3.0 * (yaw - tool.yaw_rad)])
            joints = joints + 0.05 * solve_velocity(joints, twist)
        return joints

    return find
