"""What the camera above the belt sees of parts."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("pybullet")

from visuomotor.control.arm.config import CELL, REST_RAD
from visuomotor.control.arm.kinematics import link_frames, solve_velocity
from visuomotor.messages.camera import load_camera
from visuomotor.sim.cell.visibility import OverheadView, Rods, arm_rods

CAMERA = load_camera(Path(__file__).parents[3] / "launch" / "profiles" / "pick" / "camera_top.yaml")
VIEW = OverheadView(CAMERA)
NO_RODS = Rods(start_m=np.zeros((1, 0, 3)), end_m=np.zeros((1, 0, 3)), radius_m=np.zeros((1, 0)))
CUBE = (0.04, 0.04, 0.04)


def shares(*places, sizes=CUBE, rods=NO_RODS, present=True):
    size = np.broadcast_to(np.array(sizes, float), (len(places), 3))[None]
    position = np.concatenate([np.array(places)[None], 0.5 * size[..., 2:]], axis=2)
    return VIEW.shares(position, size, np.full(position.shape[:2], present), rods)[0]


def test_the_picture_covers_what_the_profile_says():
    assert VIEW.low_m[0] < 0.2
    assert VIEW.high_m[0] > 0.8
    assert VIEW.low_m[1] < -0.3
    assert VIEW.high_m[1] > 0.8


def test_parts_in_the_picture_are_seen_and_those_outside_are_not():
    seen = shares((0.5, 0.25), (0.6, 0.7), (0.5, 1.1), (0.5, -0.6))
    np.testing.assert_allclose(seen[:2], 1.0)
    np.testing.assert_allclose(seen[2:], 0.0)


def test_an_edge_cuts_a_part_by_degrees():
    edge = VIEW.high_m[1]
    seen = shares(*((0.5, edge + off) for off in (-0.05, -0.02, 0.0, 0.02, 0.05)))
    assert (np.diff(seen) <= 0.0).all()
    assert 0.0 < seen[2] < 1.0


def test_an_absent_part_is_not_seen():
    assert shares((0.5, 0.25), present=False)[0] == 0.0


def test_the_hand_hides_what_it_is_about_to_grip():
    joints = np.array(REST_RAD)[None]
    for _ in range(100):  # down to the grasp over a part at (0.55, 0.1)
        tool = link_frames(joints)[0, 7, :3, 3]
        off = np.array([0.55, 0.1, CELL.grasp_height_m]) - tool
        joints = joints + 0.1 * solve_velocity(joints, np.array([[*(2.0 * off), 0.0]]))
    rods = arm_rods(link_frames(joints))
    under, beside, far = shares((0.55, 0.1), (0.55, 0.35), (0.5, 0.7), rods=rods)
    assert under < 0.2
    assert beside == 1.0
    assert far == 1.0


def test_a_tall_part_hides_what_is_behind_it_and_is_itself_seen():
    sizes = np.array([CUBE, (0.04, 0.04, 0.09)])
    hidden, post = shares((0.5, 0.80), (0.5, 0.745), sizes=sizes)
    assert hidden < 0.8
    assert post == 1.0
    front, post = shares((0.5, 0.69), (0.5, 0.745), sizes=sizes)
    assert front > 0.95


def test_touching_parts_of_one_height_hide_nothing_of_each_other():
    np.testing.assert_allclose(shares((0.5, 0.25), (0.541, 0.25)), 1.0)


def test_a_camera_that_looks_ahead_is_refused():
    level = msgspec.structs.replace(CAMERA, ego_pitch_rad=0.1)
    with pytest.raises(ValueError, match=r"camera_top: expected a camera that looks down, got pitch 0\.1"):
        OverheadView(level)
