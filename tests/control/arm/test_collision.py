from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from visuomotor.control.arm.collision import (
    CAPSULES,
    TIP_HALF_WIDTHS_M,
    TIP_LENGTH_M,
    WRIST_MIN_RAD,
    Surroundings,
    bin_boxes,
)
from visuomotor.control.arm.config import CELL, LIMITS, REST_RAD
from visuomotor.control.arm.kinematics import FINGER_TIPS_M

pybullet = pytest.importorskip("pybullet")
import pybullet_data  # noqa: E402

LOW, HIGH = np.array(LIMITS.position_min_rad), np.array(LIMITS.position_max_rad)
LOW[5] = WRIST_MIN_RAD
MESHES = {name: f"{name}.obj" for name in CAPSULES if name != "fingers"}
HAND, FINGERS = 8, (9, 10)
MOVING = (4, 5, 6, HAND, *FINGERS)  # forearm to fingers: the others do not reach the bins


def read_vertices(file: str) -> np.ndarray:
    path = os.path.join(pybullet_data.getDataPath(), "franka_panda/meshes/collision", file)
    with open(path) as lines:
        return np.array([[float(value) for value in line.split()[1:4]] for line in lines if line.startswith("v ")])


def distance_to_capsule(points: np.ndarray, name: str) -> np.ndarray:
    capsule = CAPSULES[name]
    start, way = np.array(capsule.start_m), np.subtract(capsule.end_m, capsule.start_m)
    share = np.clip((points - start) @ way / (way @ way), 0.0, 1.0)
    return np.linalg.norm(points - start - share[:, None] * way, axis=1) - capsule.radius_m


@pytest.mark.parametrize("name", MESHES)
def test_each_capsule_holds_its_mesh_and_not_much_more(name: str):
    vertices = read_vertices(MESHES[name])
    if name == "hand":
        vertices = vertices - [0.0, 0.0, FINGER_TIPS_M]
    distances = distance_to_capsule(vertices, name)
    assert distances.max() <= 0.0
    assert distances.max() > -0.004


def test_the_fingers_capsule_and_tips_hold_both_fingers_at_any_width():
    finger = read_vertices("finger.obj") + [0.0, 0.0, 0.0584 - FINGER_TIPS_M]  # where the URDF has its joint
    lowest = -np.inf
    for width in (0.0, LIMITS.gripper_width_m):
        left = finger + [0.0, 0.5 * width, 0.0]
        both = np.concatenate([left, left * [-1.0, -1.0, 1.0]])
        assert distance_to_capsule(both, "fingers").max() <= 0.0
        assert (np.abs(both[:, :2]) <= TIP_HALF_WIDTHS_M).all()
        lowest = max(lowest, both[:, 2].max())
    assert TIP_LENGTH_M - 0.0002 < lowest <= TIP_LENGTH_M


def test_distances_at_rest_are_those_of_the_drawing():
    clear = Surroundings().measure(np.array([REST_RAD]))
    assert clear.tips_m[0] == pytest.approx(0.22 - TIP_LENGTH_M, abs=1e-3)
    np.testing.assert_allclose(clear.tool_m, [[0.573, 0.0, 0.22]], atol=1e-3)
    assert 0.15 < clear.plate_m[0] < 0.25  # under the hand
    assert 0.05 < clear.self_m[0] < 0.2
    assert 0.15 < clear.bins_m[0] < 0.35


def test_bins_have_their_inner_size_and_walls_around():
    middles, halves = bin_boxes()
    assert middles.shape == halves.shape == (2, 5, 3)
    length, width, height = CELL.bin_size_m
    for centre, middle, half in zip(CELL.bin_centre_m, middles, halves, strict=True):
        np.testing.assert_allclose(middle[0, :2], centre)
        assert (middle + half)[1:, 2] == pytest.approx(height)
        inner = np.array([(middle - half)[1, 0], (middle + half)[2, 0], (middle - half)[3, 1], (middle + half)[4, 1]])
        np.testing.assert_allclose(
            inner - np.repeat(centre, 2), [length / 2, -length / 2, width / 2, -width / 2], atol=1e-12
        )


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[int, int, list[int]]]:
    """A Panda, and the bins' boxes as bodies: client, arm, boxes."""
    client = pybullet.connect(pybullet.DIRECT)
    path = os.path.join(pybullet_data.getDataPath(), "franka_panda", "panda.urdf")
    panda = pybullet.loadURDF(path, useFixedBase=True, physicsClientId=client)
    middles, halves = (part.reshape(-1, 3) for part in bin_boxes())
    boxes = [
        pybullet.createMultiBody(
            0.0,
            pybullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=half.tolist(), physicsClientId=client),
            basePosition=middle.tolist(),
            physicsClientId=client,
        )
        for middle, half in zip(middles, halves, strict=True)
    ]
    yield client, panda, boxes
    pybullet.disconnect(client)


def pose(client: int, panda: int, q: np.ndarray, width: float) -> None:
    for joint, angle in enumerate(q):
        pybullet.resetJointState(panda, joint, angle, physicsClientId=client)
    for finger in FINGERS:
        pybullet.resetJointState(panda, finger, 0.5 * width, physicsClientId=client)


def test_where_the_capsules_are_clear_of_each_other_so_are_the_hulls(world: tuple[int, int, list[int]]):
    client, panda, _ = world
    rng = np.random.default_rng(3)
    postures = rng.uniform(LOW, HIGH, (400, 7))
    postures[:200, 3] = rng.uniform(LOW[3], -2.5, 200)  # folded
    clear = Surroundings().measure(postures).self_m
    assert 0.02 < np.mean(clear < 0.0) < 0.5  # some of them touch
    for q in postures[clear > 0.0]:
        pose(client, panda, q, rng.uniform(0.0, 0.08))
        for a in range(-1, 11):
            for b in range(a + 2, 11):
                if a == HAND or (a, b) in ((6, HAND), FINGERS):
                    continue  # bolted together
                near = pybullet.getClosestPoints(panda, panda, 0.0, a, b, physicsClientId=client)
                assert all(point[8] > -0.001 for point in near), (a, b, q)


def test_distances_from_plate_and_bins_are_never_too_long(world: tuple[int, int, list[int]]):
    client, panda, boxes = world
    rng = np.random.default_rng(4)
    spread = np.array([1.2, 0.4, 1.2, 0.6, 1.2, 1.2, 1.2])
    postures = np.array([0.0, 0.6, 0.0, -2.0, 0.0, 2.6, 0.8]) + rng.uniform(-spread, spread, (150, 7))
    clear = Surroundings().measure(postures)
    found = []
    for i, q in enumerate(postures):
        pose(client, panda, q, LIMITS.gripper_width_m)
        near = [
            point[8]
            for box in boxes
            for link in MOVING
            for point in pybullet.getClosestPoints(panda, box, 0.3, linkIndexA=link, physicsClientId=client)
        ]
        found.append(min(near, default=0.3))
        lowest = min(pybullet.getAABB(panda, link, physicsClientId=client)[0][2] for link in (*range(3, 7), HAND))
        assert clear.plate_m[i] <= lowest + 0.06  # boxes around hulls begin lower than these
    reported = np.minimum(clear.bins_m, 0.3)
    outside = np.array(found) > 0.0
    assert 20 < outside.sum() < 150
    assert (reported <= np.array(found) + 0.002)[outside].all()
    assert np.median((np.array(found) - reported)[outside]) < 0.05
