from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

pytest.importorskip("pybullet")

from visuomotor.messages.camera import load_camera
from visuomotor.messages.schema import CAR, CLASS_NAMES, CYCLIST, PEDESTRIAN, TRUCK
from visuomotor.sim.bystanders import CROWDS, Snapshot, with_bystanders
from visuomotor.sim.labels import CATEGORIES, annotate, silhouette_px
from visuomotor.sim.models3d import agent_model
from visuomotor.sim.renderer import Renderer
from visuomotor.sim.road import Road, random_road

PROFILE = Path(__file__).parents[2] / "launch" / "profiles" / "drive"
FRONT = load_camera(PROFILE / "camera_front.yaml")
WIDE = msgspec.structs.replace(FRONT, name="camera_wide", width=1000, height=500, cx=500.0, cy=250.0)
SIZES = {CAR: (4.4, 1.8, 1.5), TRUCK: (8.0, 2.4, 3.1), CYCLIST: (1.8, 0.6, 1.75), PEDESTRIAN: (0.5, 0.5, 1.75)}


@pytest.fixture(scope="module")
def road():
    return Road(random_road(np.random.default_rng(5)))


@pytest.fixture(scope="module")
def renderer(road):
    made = Renderer([FRONT, WIDE])
    made.reset(SimpleNamespace(split="train", looks_seed=3), road)
    yield made
    made.close()


def make_state(agents, roll=0.0, pitch=0.0):
    count = 32
    state = Snapshot(
        tick=np.array([0]),
        ego_pose=np.array([[3.0, -2.0, 0.7]]),
        ego_roll_rad=np.array([roll]),
        ego_pitch_rad=np.array([pitch]),
        agent_present=np.zeros((1, count), bool),
        agent_id=np.arange(count)[None] + 7,
        agent_class=np.zeros((1, count), np.int64),
        agent_position_m=np.zeros((1, count, 2)),
        agent_velocity_mps=np.zeros((1, count, 2)),
        agent_yaw_rad=np.zeros((1, count)),
        agent_size_m=np.ones((1, count, 3)),
    )
    c, s = np.cos(0.7), np.sin(0.7)
    for i, (class_id, x, y, yaw) in enumerate(agents):
        state.agent_present[0, i] = True
        state.agent_class[0, i] = class_id
        state.agent_position_m[0, i] = (3.0 + c * x - s * y, -2.0 + s * x + c * y)
        state.agent_yaw_rad[0, i] = 0.7 + yaw
        state.agent_size_m[0, i] = SIZES[class_id]
        state.agent_velocity_mps[0, i] = 1.0 if class_id == PEDESTRIAN else 0.0
    return state


def label(renderer, state, camera=FRONT):
    _, masks = renderer.draw_labelled(state, 0)
    return {a["agent_id"]: a for a in annotate(renderer, state, 0, camera, masks[camera.name])}, masks[camera.name]


def test_a_free_standing_car_has_the_right_numbers(renderer):
    state = make_state([(CAR, 12.0, 1.0, 0.3)], roll=0.01, pitch=-0.02)
    labels, mask = label(renderer, state)
    car = labels[7]
    assert car["category_id"] == CAR + 1
    assert car["ego_position_m"] == pytest.approx([12.0, 1.0], abs=1e-3)
    assert car["distance_m"] == pytest.approx(np.hypot(12.0, 1.0), abs=1e-3)
    assert car["heading_rad"] == pytest.approx(0.3, abs=1e-4)
    assert car["size_m"] == pytest.approx(SIZES[CAR])
    assert car["visible_share"] > 0.95
    rows, columns = np.nonzero(mask == 7)
    x, y, w, h = car["bbox"]
    assert (x, y) == (columns.min(), rows.min())
    assert (x + w, y + h) == (columns.max() + 1, rows.max() + 1)
    assert car["area"] == len(rows)
    ground = FRONT.ground(np.array([car["ground_px"]]), 0.01, -0.02)[0]
    assert ground == pytest.approx([12.0, 1.0], abs=0.02)  # rounded to a thousandth of a pixel
    assert x < car["ground_px"][0] < x + w
    assert y < car["ground_px"][1] < y + h


@pytest.mark.parametrize(
    ("class_id", "x", "y", "yaw"),
    [
        (CAR, 10.0, 6.5, 0.2),
        (TRUCK, 7.0, 3.4, 0.0),
        (CYCLIST, 4.5, 3.3, 1.2),
        (PEDESTRIAN, 3.0, 1.9, 0.5),
        (CAR, 5.0, -3.0, 2.0),
    ],
)
def test_visible_share_of_objects_cut_by_the_border(renderer, class_id, x, y, yaw):
    """What a much wider sensor of the same lens counts is what the share is relative to."""
    state = make_state([(class_id, x, y, yaw)])
    seen, mask = label(renderer, state)
    whole, wide_mask = label(renderer, state, WIDE)
    assert whole[7]["visible_share"] > 0.93
    expected = np.count_nonzero(mask == 7) / np.count_nonzero(wide_mask == 7)
    assert expected < 0.97  # it is cut
    assert seen[7]["visible_share"] == pytest.approx(expected, abs=0.05)


def test_visible_share_of_an_object_behind_another(renderer):
    pair = make_state([(CAR, 9.0, 0.0, 0.0), (TRUCK, 20.0, 1.0, 0.0)])
    alone = make_state([(CAR, 9.0, 0.0, 0.0), (TRUCK, 20.0, 1.0, 0.0)])
    alone.agent_present[0, 0] = False
    both, mask = label(renderer, pair)
    _, free_mask = label(renderer, alone)
    expected = np.count_nonzero(mask == 8) / np.count_nonzero(free_mask == 8)
    assert 0.2 < expected < 0.9
    assert both[8]["visible_share"] == pytest.approx(expected, abs=0.05)
    assert both[7]["visible_share"] > 0.95


def test_no_annotation_for_what_cannot_be_seen(renderer):
    labels, _ = label(renderer, make_state([(TRUCK, 8.0, 0.0, 0.0), (CAR, 30.0, 0.0, 0.0), (CAR, -10.0, 0.0, 0.0)]))
    assert set(labels) == {7}
    assert label(renderer, make_state([]))[0] == {}


def test_the_ground_point_may_lie_outside_the_image(renderer):
    labels, _ = label(renderer, make_state([(TRUCK, 4.0, 4.2, 0.0)]))
    assert labels[7]["ground_px"][0] < 0 or labels[7]["ground_px"][1] > FRONT.height
    assert labels[7]["visible_share"] < 0.7


def test_a_silhouette_behind_the_camera_is_empty():
    limbs = agent_model(CAR, SIZES[CAR], "sedan")
    assert silhouette_px(FRONT, limbs, np.array([-20.0, 0.0]), 0.0, 0.0, 0.0) == 0.0
    near = silhouette_px(FRONT, limbs, np.array([10.0, 0.0]), 0.0, 0.0, 0.0)
    far = silhouette_px(FRONT, limbs, np.array([20.0, 0.0]), 0.0, 0.0, 0.0)
    assert 3.3 < near / far < 6.5


def test_categories_follow_the_schema():
    assert [c["name"] for c in CATEGORIES] == list(CLASS_NAMES)
    assert [c["id"] for c in CATEGORIES] == [1, 2, 3, 4, 5]


def test_bystanders_touch_nobody_and_leave_the_world_alone(road):
    state = make_state([(CAR, 12.0, 0.0, 0.0)])
    x, y = road.cartesian(np.array([150.0]), np.array([0.0]))[0]
    state.ego_pose[0] = (x, y, float(road.heading(np.array([150.0]))[0]))
    before = state.agent_present.copy()
    added = 0
    for seed in range(20):
        crowd = with_bystanders(
            state, 0, road, np.random.default_rng(seed), CROWDS["people-afar"], [0.0, 2.356, -2.356]
        )
        new = np.flatnonzero(crowd.agent_present[0] & ~before[0])
        added += len(new)
        assert len(set(crowd.agent_id[0][crowd.agent_present[0]])) == crowd.agent_present.sum()
        for i in new:
            gap = np.hypot(*(crowd.agent_position_m[0, i] - state.ego_pose[0, :2]))
            assert gap > 1.2
    assert added > 40
    assert np.array_equal(state.agent_present, before)
