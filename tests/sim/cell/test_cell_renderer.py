from pathlib import Path
from types import SimpleNamespace

import cv2
import msgspec
import numpy as np
import pytest

pytest.importorskip("pybullet")

import pybullet

from visuomotor.control.arm.config import CELL, LIMITS, REST_RAD
from visuomotor.control.arm.kinematics import forward
from visuomotor.messages.camera import load_camera
from visuomotor.sim.cell.ground import BELT_TILE_M, paint_belt
from visuomotor.sim.cell.looks import cell_looks
from visuomotor.sim.cell.parts import CATALOGUE, DISTRACTOR, draw_part
from visuomotor.sim.cell.renderer import BACKGROUND, CellRenderer, arm_frames, mount
from visuomotor.sim.cell.shapes import PANDA, arm_meshes, clutter_mesh, part_mesh
from visuomotor.sim.cell.stills import Placed, Still, reach

PROFILE = Path(__file__).parents[3] / "launch" / "profiles" / "pick"
TOP = load_camera(PROFILE / "camera_top.yaml")
WRIST = load_camera(PROFILE / "camera_wrist.yaml")
ASIDE = (1.2, -0.6, 0.0, -2.3, 0.0, 1.8, 0.8)  # the arm turned away from the belt


def lay(kind, x, y, *, yaw=0.0, z=None, seed=0):
    spec = draw_part(kind, "train", np.random.default_rng(seed))
    height = spec.size_m[2] / 2 if z is None else z
    turned = np.array([0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2)])
    return Placed(spec, np.array([x, y, height]), turned, np.zeros((0, 2)))


def make_cell(parts=(), *, joints=ASIDE, travel=0.0, tick=0, width=0.08):
    return Still(
        tick=np.array([tick]),
        joint_position_rad=np.array([joints]),
        gripper_width_m=np.array([width]),
        belt_travel_m=np.array([travel]),
        parts=list(parts),
    )


@pytest.fixture(scope="module")
def renderer():
    made = CellRenderer([TOP, WRIST])
    made.reset(SimpleNamespace(split="train", look_seed=4))
    yield made
    made.close()


def test_images_of_every_camera_in_order_and_the_same_twice(renderer):
    cell = make_cell([lay(0, 0.5, 0.1)], joints=REST_RAD)
    first, second = renderer.draw(cell), renderer.draw(cell)
    assert [image.shape for image in first] == [(224, 384, 3), (224, 384, 3)]
    for a, b in zip(first, second, strict=True):
        assert a.dtype == np.uint8
        assert a.std() > 5
        assert np.array_equal(a, b)
    cell.tick = np.array([1])
    assert not np.array_equal(renderer.draw(cell)[0], first[0])  # another noise


@pytest.mark.parametrize("kind", range(len(CATALOGUE)))
def test_parts_are_drawn_where_the_camera_sees_them_in_their_colour(renderer, kind):
    part = lay(kind, 0.47, 0.35, yaw=0.4)
    if CATALOGUE[kind].class_id == DISTRACTOR:
        part.spec = msgspec.structs.replace(part.spec, colour_bgr=(250.0, 250.0, 250.0))
    cell = make_cell([part])
    images, masks = renderer.draw_labelled(cell)
    if CATALOGUE[kind].class_id == DISTRACTOR:
        assert (masks[0] == BACKGROUND).all()
        empty = renderer.draw(make_cell())[0]
        (seen,), _ = TOP.project(part.position_m[None])
        u, v = np.round(seen).astype(int)
        difference = cv2.absdiff(images[0], empty)[v - 3 : v + 4, u - 3 : u + 4]
        assert difference.mean() > 8  # it is there, but nobody asks for it
        return
    rows, columns = np.nonzero(masks[0] == 0)
    corners = part_mesh(part.spec).arrays()[0]
    c, s = np.cos(0.4), np.sin(0.4)
    px, _ = TOP.project(corners @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + part.position_m)
    assert columns.min() == pytest.approx(px[:, 0].min(), abs=1.6)
    assert columns.max() == pytest.approx(px[:, 0].max(), abs=1.6)
    assert rows.min() == pytest.approx(px[:, 1].min(), abs=1.6)
    assert rows.max() == pytest.approx(px[:, 1].max(), abs=1.6)
    mean = images[0][masks[0] == 0].mean(axis=0)
    hue = cv2.cvtColor(np.uint8([[mean, part.spec.colour_bgr]]), cv2.COLOR_BGR2HSV)[0, :, 0].astype(int)
    assert abs((hue[0] - hue[1] + 90) % 180 - 90) < 14


def test_the_belt_runs_towards_minus_y_and_repeats():
    strip = paint_belt(cell_looks("train", 4), np.random.default_rng(0))
    assert np.array_equal(strip[:, 0], strip[:, -2])
    assert np.array_equal(strip[:, 1], strip[:, -1])
    plain = CellRenderer([TOP])
    plain.reset(SimpleNamespace(split="train", look_seed=4))
    x, y = sum(CELL.belt_x_m) / 2, TOP.ego_position_m[1]
    (start, end), _ = TOP.project(np.array([[x, y, 0.0], [x, y - 0.025, 0.0]]))
    rows, columns = (slice(round(v) - n, round(v) + n) for v, n in ((start[1], 12), (start[0], 90)))
    still, moved, round_trip = (
        cv2.GaussianBlur(plain.draw(make_cell(travel=travel))[0], (5, 5), 1)[rows, columns].astype(np.float32)
        for travel in (0.0, 0.025, BELT_TILE_M)
    )
    plain.close()
    assert np.array_equal(still, round_trip)
    (shift, _), _ = cv2.phaseCorrelate(still.mean(axis=2), moved.mean(axis=2))
    assert shift == pytest.approx(end[0] - start[0], abs=1.0)


def test_the_arm_hides_what_is_under_it_and_throws_a_shadow(renderer):
    eye = np.array(TOP.ego_position_m)
    hand = (arm_frames(np.array(REST_RAD), 0.08)["panda_hand"] @ (0.0, 0.0, 0.03, 1.0))[:3]
    hidden = eye + (hand - eye) * eye[2] / (eye[2] - hand[2])
    part = lay(0, float(hidden[0]), float(hidden[1]))
    _, masks = renderer.draw_labelled(make_cell([part]))
    assert (masks[0] == 0).sum() > 80
    _, masks = renderer.draw_labelled(make_cell([part], joints=REST_RAD))
    assert (masks[0] == 0).sum() < 20
    assert len(renderer._shadows) > len(renderer._standing) + 10


def test_the_arm_stands_where_pybullet_puts_it():
    client = pybullet.connect(pybullet.DIRECT)
    flags = pybullet.URDF_IGNORE_VISUAL_SHAPES | pybullet.URDF_IGNORE_COLLISION_SHAPES
    body = pybullet.loadURDF(str(PANDA / "panda.urdf"), useFixedBase=True, flags=flags, physicsClientId=client)
    joints = np.random.default_rng(3).uniform(LIMITS.position_min_rad, LIMITS.position_max_rad)
    for joint, value in [*enumerate(joints), (9, 0.03), (10, 0.03)]:
        pybullet.resetJointState(body, joint, value, physicsClientId=client)
    frames = arm_frames(joints, 0.06)
    assert set(frames) == set(arm_meshes())
    for joint in range(pybullet.getNumJoints(body, physicsClientId=client)):
        name = pybullet.getJointInfo(body, joint, physicsClientId=client)[12].decode()
        if name not in frames:
            continue
        state = pybullet.getLinkState(body, joint, computeForwardKinematics=True, physicsClientId=client)
        turn = np.array(pybullet.getMatrixFromQuaternion(state[5])).reshape(3, 3)
        assert frames[name][:3, 3] == pytest.approx(state[4], abs=1e-5), name
        assert np.allclose(frames[name][:3, :3], turn, atol=1e-5), name
    pybullet.disconnect(client)


def test_a_camera_on_the_hand_sees_from_there(renderer):
    joints = reach(np.array([0.5, 0.0, 0.25]), 0.3, np.random.default_rng(0))
    below = forward(joints[None]).position_m[0]
    part = lay(3, float(below[0]), float(below[1]))
    _, masks = renderer.draw_labelled(make_cell([part], joints=joints))
    placed = renderer.placed(WRIST)
    (seen,), depth = placed.project(part.position_m[None])
    rows, columns = np.nonzero(masks[1] == 0)
    assert (columns.mean(), rows.mean()) == pytest.approx(tuple(seen), abs=1.5)
    assert depth[0] > 0.1
    assert renderer.placed(TOP) is TOP
    frame = np.eye(4)
    frame[:3, :3] = [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    frame[:3, 3] = (0.1, 0.2, 0.3)
    point = np.array([[0.05, 0.01, 0.4]])
    outside = mount(WRIST, frame).project(point @ frame[:3, :3].T + frame[:3, 3])
    assert np.allclose(outside[0], WRIST.project(point)[0])


def test_a_level_camera_sees_the_hall_above_the_plate():
    level = msgspec.structs.replace(TOP, name="level", ego_position_m=(1.5, 0.3, 0.5), ego_pitch_rad=0.0)
    side = CellRenderer([level])
    side.reset(SimpleNamespace(split="train", look_seed=4))
    image = cv2.GaussianBlur(side.draw(make_cell())[0], (5, 5), 2).astype(int)
    side.close()
    (edge,), _ = level.project(np.array([[-2.5, 0.3, 0.0]]))  # the plate ends farther away than this
    corners = image[4, 4], image[4, -4]
    assert np.abs(corners[0] - corners[1]).max() < 12  # one wall
    assert np.abs(image[round(edge[1]) + 25, 20] - corners[0]).max() > 15


def test_bodies_come_and_go_with_the_parts(renderer):
    renderer.draw(make_cell([lay(0, 0.5, 0.1), lay(1, 0.5, 0.3)]))
    assert renderer.part_mesh(1) is not None
    cell = make_cell([lay(2, 0.5, 0.3)])  # the id 0 is another part now
    _, masks = renderer.draw_labelled(cell)
    rows, columns = np.nonzero(masks[0] == 0)
    (seen,), _ = TOP.project(cell.part_position_m[0, :1])
    assert (columns.mean(), rows.mean()) == pytest.approx(tuple(seen), abs=3.0)
    assert renderer.part_mesh(1) is None


def test_bins_and_belt_are_where_the_cell_has_them(renderer):
    """Pictures with and without a bin's place in view differ from the plate there; the belt ends at its edges."""
    x, y = CELL.bin_centre_m[0]
    (inside, above, below), _ = TOP.project(
        np.array([[x - 0.03, y, 0.0], [CELL.belt_x_m[1] - 0.1, y, 0.0], [CELL.belt_x_m[1] + 0.05, y, 0.0]])
    )
    image = cv2.GaussianBlur(renderer.draw(make_cell())[0], (5, 5), 2).astype(int)
    colours = [image[round(v), round(u)] for u, v in (inside, above, below)]
    for i in range(3):
        assert np.abs(colours[i] - colours[i - 1]).max() > 8


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="cameras: expected different names"):
        CellRenderer([TOP, TOP])
    with pytest.raises(ValueError, match="kind: expected one of"):
        clutter_mesh("ufo", 1.0)
    unset = CellRenderer([TOP])
    with pytest.raises(RuntimeError, match="reset has not been called"):
        _ = unset.look
    unset.close()
