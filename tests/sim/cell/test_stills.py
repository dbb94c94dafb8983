import cv2
import numpy as np
import pytest

pytest.importorskip("pybullet")

from visuomotor.control.arm.config import CELL, LIMITS
from visuomotor.control.arm.kinematics import forward
from visuomotor.sim.cell.parts import CATALOGUE, draw_part
from visuomotor.sim.cell.posture import plan_view, quaternion_from_turn, turn_from_quaternion
from visuomotor.sim.cell.shapes import part_mesh
from visuomotor.sim.cell.stills import Still, draw_still, reach

COUNT = 60


@pytest.fixture(scope="module")
def stills() -> list[Still]:
    rng = np.random.default_rng(7)
    return [draw_still("train", rng) for _ in range(COUNT)]


def undersides(still):
    lowest = []
    for part in still.parts:
        corners = part_mesh(part.spec).arrays()[0] @ turn_from_quaternion(part.quaternion).T + part.position_m
        lowest.append(corners[:, 2].min())
    return np.array(lowest)


def test_parts_lie_on_something_or_are_held(stills):
    held = 0
    for still in stills:
        lowest = undersides(still)
        assert (lowest > -1e-6).all()
        tool = forward(still.joint_position_rad).position_m[0]
        for i in np.flatnonzero(lowest > 0.0061):  # higher than the bottom of a bin
            assert np.linalg.norm(still.part_position_m[0, i] - tool) < 0.04
            assert still.gripper_width_m[0] == pytest.approx(still.parts[i].spec.size_m[1])
            held += 1
    assert 0.1 * COUNT < held < 0.5 * COUNT


def test_every_class_and_every_kind_of_place_comes(stills):
    classes = np.concatenate([still.part_class[0] for still in stills])
    assert set(classes.tolist()) == {-1, *range(6)}
    counts = np.bincount(classes[classes >= 0])
    assert counts.min() > 0.5 * counts.max()
    x = np.concatenate([still.part_position_m[0, :, 0] for still in stills])
    low, high = CELL.belt_x_m
    on_belt = (x > low) & (x < high)
    assert on_belt.mean() > 0.8
    assert (x < low).sum() > 10  # in the bins
    turns = np.concatenate([turn_from_quaternion(still.part_quaternion[0])[:, 2, 2] for still in stills])
    assert 0.03 < (np.abs(turns) < 0.5).mean() < 0.2  # tumbled


def test_parts_do_not_lie_in_each_other_but_often_touch(stills):
    """Footprints painted at a millimetre: no pixel twice, but close neighbours."""
    touching = 0
    kernel = np.ones((9, 9), np.uint8)
    for still in stills:
        taken = np.zeros((1600, 400), np.uint8)
        for part in still.parts:
            if not CELL.belt_x_m[0] < part.position_m[0] < CELL.belt_x_m[1] or part.position_m[2] > 0.06:
                continue
            corners = part_mesh(part.spec).arrays()[0] @ turn_from_quaternion(part.quaternion).T + part.position_m
            hull = cv2.convexHull((1000 * (corners[:, :2] - (0.3, -0.55))).round().astype(np.int32))
            canvas = cv2.erode(cv2.fillConvexPoly(np.zeros_like(taken), hull, 1), np.ones((3, 3), np.uint8))
            assert not (canvas & taken).any()
            touching += bool((cv2.dilate(canvas, kernel) & taken).any())
            taken |= canvas
    assert touching > COUNT / 2


def test_the_same_seed_gives_the_same_cell_and_evaluation_has_its_own_colours():
    one, two = (draw_still("train", np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one.joint_position_rad, two.joint_position_rad)
    assert one.part_spec == two.part_spec
    other = draw_still("evaluation", np.random.default_rng(3))
    assert other.part_spec[0][0].colour_bgr != one.part_spec[0][0].colour_bgr


def test_the_arm_gets_to_where_it_should_reach():
    rng = np.random.default_rng(1)
    low, high = np.array(LIMITS.position_min_rad), np.array(LIMITS.position_max_rad)
    misses = []
    for _ in range(25):
        goal = rng.uniform((0.35, -0.40, 0.02), (0.62, 0.40, 0.30))
        yaw = float(rng.uniform(-np.pi, np.pi))
        joints = reach(goal, yaw, rng)
        assert (joints >= low).all()
        assert (joints <= high).all()
        tool = forward(joints[None])
        turned = (tool.yaw_rad[0] - yaw + np.pi / 2) % np.pi - np.pi / 2
        misses.append((np.linalg.norm(tool.position_m[0] - goal), abs(turned), tool.tilt_rad[0]))
    assert np.median(misses, axis=0) == pytest.approx([0.0, 0.0, 0.0], abs=0.005)
    assert np.max(misses, axis=0)[0] < 0.05


def test_quaternions_and_rotations_are_inverse():
    rng = np.random.default_rng(2)
    for _ in range(50):
        quaternion = rng.normal(size=4)
        quaternion /= np.linalg.norm(quaternion)
        turn = turn_from_quaternion(quaternion)
        assert np.allclose(turn @ turn.T, np.eye(3))
        assert abs(np.dot(quaternion_from_turn(turn), quaternion)) == pytest.approx(1.0)
    for quarter in (np.diag([1.0, -1.0, -1.0]), np.diag([-1.0, 1.0, -1.0]), np.diag([-1.0, -1.0, 1.0])):
        assert np.allclose(turn_from_quaternion(np.array(quaternion_from_turn(quarter))), quarter)


def test_plan_view_of_parts_that_stand_lie_and_roll():
    names = [kind.name for kind in CATALOGUE]
    block, cylinder, ball = (names.index(name) for name in ("green block", "blue cylinder", "yellow ball"))
    rng = np.random.default_rng(0)
    specs = [draw_part(kind, "train", rng) for kind in (block, block, cylinder, cylinder, ball)]
    half = np.sqrt(0.5)
    upright = np.array([0.0, 0.0, np.sin(0.15), np.cos(0.15)])  # yaw 0.3
    fallen = np.array([half, 0.0, 0.0, half])  # a quarter about x: z goes to -y
    on_end = np.array([0.0, half, 0.0, half])  # a quarter about y
    quaternions = np.array([upright, on_end, upright, fallen, fallen])
    sizes = np.array([spec.size_m for spec in specs])
    yaw, lying = plan_view(quaternions, sizes, np.array([spec.kind for spec in specs]))
    assert yaw[[0, 2, 4]] == pytest.approx([0.3, 0.0, 0.0])
    assert lying[0] == pytest.approx(sizes[0])
    assert lying[1, 2] == pytest.approx(sizes[1, 0])  # as high as it was long
    assert lying[1, 0] >= lying[1, 1]
    longer = sizes[3, 2] > sizes[3, 0]
    assert np.sin(yaw[3]) ** 2 == pytest.approx(1.0 if longer else 0.0, abs=1e-9)
    assert lying[3, 2] == pytest.approx(sizes[3, 1])
