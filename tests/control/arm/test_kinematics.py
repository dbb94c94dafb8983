from __future__ import annotations

import os

import numpy as np
import pytest

from visuomotor.control.arm.config import CELL, LIMITS, REST_RAD
from visuomotor.control.arm.kinematics import (
    GAINS,
    forward,
    jacobian,
    limit_speed,
    link_frames,
    solve_velocity,
)

LOW, HIGH = np.array(LIMITS.position_min_rad), np.array(LIMITS.position_max_rad)
GRASP_TARGET = 11  # link of the URDF between the finger tips


@pytest.fixture(scope="module")
def postures() -> np.ndarray:
    return np.random.default_rng(4).uniform(LOW, HIGH, (60, 7))


@pytest.fixture(scope="module")
def near_rest() -> np.ndarray:
    return np.array(REST_RAD) + np.random.default_rng(5).uniform(-0.3, 0.3, (60, 7))


def test_poses_are_those_of_the_urdf(postures: np.ndarray):
    pybullet = pytest.importorskip("pybullet")
    import pybullet_data

    client = pybullet.connect(pybullet.DIRECT)
    try:
        path = os.path.join(pybullet_data.getDataPath(), "franka_panda", "panda.urdf")
        panda = pybullet.loadURDF(path, useFixedBase=True, physicsClientId=client)
        frames, tool = link_frames(postures), forward(postures)
        for i, q in enumerate(postures):
            for joint, angle in enumerate(q):
                pybullet.resetJointState(panda, joint, angle, physicsClientId=client)
            states = pybullet.getLinkStates(
                panda, [*range(7), GRASP_TARGET], computeForwardKinematics=True, physicsClientId=client
            )
            for joint, state in enumerate(states[:7]):
                np.testing.assert_allclose(frames[i, joint, :3, 3], state[4], atol=1e-6)
            rotation = np.reshape(pybullet.getMatrixFromQuaternion(states[7][5]), (3, 3))
            np.testing.assert_allclose(tool.position_m[i], states[7][4], atol=1e-6)
            np.testing.assert_allclose(tool.rotation[i], rotation, atol=1e-6)
    finally:
        pybullet.disconnect(client)


def test_at_rest_the_tool_points_down_above_the_belt():
    tool = forward(np.array([REST_RAD]))
    np.testing.assert_allclose(tool.position_m, [[0.573, 0.0, 0.22]], atol=1e-3)
    assert tool.tilt_rad == pytest.approx(0.0, abs=1e-9)
    assert tool.yaw_rad == pytest.approx(0.0, abs=1e-9)
    assert CELL.belt_x_m[0] < tool.position_m[0, 0] < CELL.belt_x_m[1]


def test_yaw_and_tilt_are_those_of_the_tool(near_rest: np.ndarray):
    tool = forward(near_rest)
    down = tool.rotation[:, :, 2] @ [0.0, 0.0, -1.0]
    np.testing.assert_allclose(np.cos(tool.tilt_rad), down, atol=1e-12)
    turned = near_rest.copy()
    turned[:, 0] += 0.3  # the foot's joint turns all of it about the vertical
    change = forward(turned).yaw_rad - tool.yaw_rad
    np.testing.assert_allclose((change + np.pi) % (2 * np.pi) - np.pi, 0.3, atol=1e-12)


def test_jacobian_is_the_derivative_of_the_pose(postures: np.ndarray):
    step = 1e-6
    found = jacobian(postures)
    base = forward(postures)
    for joint in range(7):
        moved = postures.copy()
        moved[:, joint] += step
        tool = forward(moved)
        np.testing.assert_allclose(found[:, :3, joint], (tool.position_m - base.position_m) / step, atol=1e-5)
        spin = (tool.rotation - base.rotation) @ base.rotation.transpose(0, 2, 1) / step
        turn = np.stack([spin[:, 2, 1], spin[:, 0, 2], spin[:, 1, 0]], axis=1)
        np.testing.assert_allclose(found[:, 3:, joint], turn, atol=1e-5)


def test_a_batch_is_its_rows(postures: np.ndarray):
    twist = np.random.default_rng(6).normal(0.0, 0.3, (len(postures), 4))
    together = solve_velocity(postures, twist)
    alone = np.concatenate([solve_velocity(postures[i : i + 1], twist[i : i + 1]) for i in range(len(postures))])
    np.testing.assert_allclose(together, alone, atol=1e-9)
    np.testing.assert_allclose(
        forward(postures).position_m[3], forward(postures[3:4]).position_m[0], rtol=0, atol=1e-12
    )
    assert solve_velocity(np.zeros((0, 7)), np.zeros((0, 4))).shape == (0, 7)


def test_the_tool_moves_as_asked(near_rest: np.ndarray):
    upright = settle(near_rest)
    twist = np.random.default_rng(7).uniform(-0.2, 0.2, (len(upright), 4))
    velocity = np.einsum("bij,bj->bi", jacobian(upright), solve_velocity(upright, twist))
    np.testing.assert_allclose(velocity[:, [0, 1, 2, 5]], twist, atol=0.01)
    np.testing.assert_allclose(velocity[:, 3:5], 0.0, atol=0.01)


def settle(q: np.ndarray, seconds: float = 3.0) -> np.ndarray:
    """Joints after the solver has been asked for no motion."""
    for _ in range(int(seconds / 0.02)):
        q = q + 0.02 * solve_velocity(q, np.zeros((len(q), 4)))
    return q


def test_asked_for_nothing_the_tool_stays_and_turns_upright_with_the_elbow_in_its_plane(near_rest: np.ndarray):
    before, after = forward(near_rest), forward(settled := settle(near_rest))
    assert before.tilt_rad.max() > 0.2
    assert after.tilt_rad.max() < 1e-3
    assert np.abs(settled[:, 2]).max() < 0.03 < np.abs(near_rest[:, 2]).max()
    assert np.linalg.norm(after.position_m - before.position_m, axis=1).max() < 0.02


def test_too_fast_a_twist_keeps_its_direction():
    q = np.array([REST_RAD])
    slow, fast = solve_velocity(q, np.array([[0.1, 0.05, 0.02, 0.0]])), solve_velocity(q, np.array([[20.0, 10, 4, 0]]))
    assert (np.abs(fast) <= np.array(LIMITS.velocity_radps) + 1e-12).all()
    assert (np.abs(fast) / LIMITS.velocity_radps).max() == pytest.approx(1.0)
    np.testing.assert_allclose(fast / np.linalg.norm(fast), slow / np.linalg.norm(slow), atol=1e-9)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 1.5, 1e6])
def test_limit_speed_slows_all_joints_alike(scale: float):
    limit = np.array(LIMITS.velocity_radps)
    wanted = np.stack([limit * scale, -0.1 * limit * scale])
    found = limit_speed(wanted)
    np.testing.assert_allclose(found, wanted * np.minimum(1.0, np.array([1.0, 10.0]) / max(scale, 1e-9))[:, None])


def test_damping_bounds_the_velocity_where_the_arm_is_stretched():
    stretched = np.array([[0.0, 0.0, 0.0, -0.0698, 0.0, 1.6, 0.785]])
    assert np.linalg.svd(jacobian(stretched)[0])[1].min() < 0.1
    assert np.isfinite(solve_velocity(stretched, np.array([[0.5, 0.0, 0.0, 0.0]]))).all()
    assert GAINS.damping > 0.0
