import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip("pybullet")

from visuomotor.messages.camera import CameraModel, load_camera
from visuomotor.messages.schema import CAR, CONE, CYCLIST, PEDESTRIAN, TRUCK
from visuomotor.sim.backdrop import frenet_grid, project_polygon
from visuomotor.sim.bystanders import Snapshot
from visuomotor.sim.clutter3d import CLUTTER_KINDS, clutter
from visuomotor.sim.looks import RANGES, agent_look, looks
from visuomotor.sim.mesh import Part
from visuomotor.sim.models3d import STYLES, agent_model
from visuomotor.sim.renderer import Renderer
from visuomotor.sim.road import Road, random_road

PROFILE = Path(__file__).parents[2] / "launch" / "profiles" / "drive"
CAMERAS = [load_camera(PROFILE / f"camera_{name}.yaml") for name in ("left", "right", "front")]
SIZES = {
    CAR: (4.4, 1.8, 1.5),
    TRUCK: (8.0, 2.4, 3.1),
    CYCLIST: (1.8, 0.6, 1.75),
    PEDESTRIAN: (0.5, 0.5, 1.75),
    CONE: (0.4, 0.4, 0.75),
}


def make_state(road, agents, *, s_m=120.0, d_m=0.0, roll=0.0, pitch=0.0, tick=0, yaw_error=0.0):
    """One world; ``agents``: (class, x, y, yaw) in ego."""
    count = 16
    x, y = road.cartesian(np.array([s_m]), np.array([d_m]))[0]
    yaw = float(road.heading(np.array([s_m]))[0]) + yaw_error
    state = Snapshot(
        tick=np.array([tick]),
        ego_pose=np.array([[x, y, yaw]]),
        ego_roll_rad=np.array([roll]),
        ego_pitch_rad=np.array([pitch]),
        agent_present=np.zeros((1, count), bool),
        agent_id=np.arange(count)[None] + 40,
        agent_class=np.zeros((1, count), np.int64),
        agent_position_m=np.zeros((1, count, 2)),
        agent_velocity_mps=np.zeros((1, count, 2)),
        agent_yaw_rad=np.zeros((1, count)),
        agent_size_m=np.ones((1, count, 3)),
    )
    c, s = np.cos(yaw), np.sin(yaw)
    for i, (class_id, ax, ay, agent_yaw) in enumerate(agents):
        state.agent_present[0, i] = True
        state.agent_class[0, i] = class_id
        state.agent_position_m[0, i] = (x + c * ax - s * ay, y + s * ax + c * ay)
        state.agent_yaw_rad[0, i] = yaw + agent_yaw
        state.agent_size_m[0, i] = SIZES[class_id]
    return state


@pytest.fixture(scope="module")
def road():
    return Road(random_road(np.random.default_rng(5)))


@pytest.fixture(scope="module")
def renderer():
    made = Renderer(CAMERAS)
    yield made
    made.close()


def scene(split="train", seed=3):
    return SimpleNamespace(split=split, looks_seed=seed)


def test_images_have_the_cameras_shapes_and_no_border_is_left_empty(renderer, road):
    renderer.reset(scene(), road)
    images = renderer.draw(make_state(road, [(CAR, 12.0, 0.0, 0.0)]), 0)
    assert list(images) == ["camera_left", "camera_right", "camera_front"]
    for camera in CAMERAS:
        image = images[camera.name]
        assert image.shape == (camera.height, camera.width, 3)
        assert image.dtype == np.uint8
        border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert np.median(border.max(axis=1)) > 20
        assert (border.max(axis=1) == 0).mean() < 0.02


def test_same_state_same_bytes_whatever_was_drawn_before(renderer, road):
    state = make_state(road, [(CAR, 12.0, 0.0, 0.0), (PEDESTRIAN, 8.0, 3.0, 1.0)], tick=4)
    renderer.reset(scene(seed=9), road)
    first = renderer.draw(state, 0)
    renderer.draw(make_state(road, [(TRUCK, 9.0, 1.0, 0.4)], s_m=200.0, tick=9), 0)
    again = renderer.draw(state, 0)
    renderer.reset(scene(seed=10), road)
    other = renderer.draw(state, 0)
    renderer.reset(scene(seed=9), road)
    later = renderer.draw(state, 0)
    for name in first:
        assert np.array_equal(first[name], again[name])
        assert np.array_equal(first[name], later[name])
        assert not np.array_equal(first[name], other[name])


@pytest.mark.parametrize("camera", CAMERAS, ids=lambda c: c.name)
def test_bodies_appear_where_the_camera_model_projects_them(renderer, road, camera):
    """The silhouette of a far cone is centred on the projection of its axis, in roll and pitch, to 1/3 px."""
    renderer.reset(scene(seed=1), road)
    errors = []
    rng = np.random.default_rng(2)
    for i in range(12):
        azimuth = camera.ego_yaw_rad + rng.uniform(-0.5, 0.5)
        x, y = 7.0 * np.cos(azimuth), 7.0 * np.sin(azimuth)
        roll, pitch = rng.normal(0.0, 0.02, 2)
        state = make_state(road, [(CONE, x, y, 0.0)], roll=roll, pitch=pitch, tick=i)
        _, masks = renderer.draw_labelled(state, 0)
        rows, columns = np.nonzero(masks[camera.name] == 40)
        axis, _ = camera.project(np.array([[x, y, 0.0], [x, y, 0.75]]), roll, pitch)
        if len(rows) < 10 or rows.max() == camera.height - 1:
            continue
        errors.append((columns.mean() - axis[:, 0].mean(), rows.min() - axis[1, 1], rows.max() - axis[0, 1]))
    assert len(errors) > 6
    mean = np.mean(errors, axis=0)
    assert abs(mean[0]) < 0.35
    assert abs(mean[1]) < 0.8  # the tip is half a pixel thick
    assert -0.5 < mean[2] < 3.0  # the near edge of the foot lies below the axis


def test_markings_lie_where_the_road_is(road):
    """The painted edge line runs through the projection of the road's edge in every camera."""
    made = Renderer(CAMERAS)
    made.reset(scene(seed=21), road)
    state = make_state(road, [], s_m=150.0, pitch=0.01)
    ego = state.ego_pose[0]
    c, s = np.cos(ego[2]), np.sin(ego[2])
    step = np.arange(152.0, 170.0, 0.5)
    edge = road.cartesian(step, np.full_like(step, road.right_edge_m))
    verge = road.cartesian(step, np.full_like(step, road.right_edge_m + 0.45))
    image = made.draw(state, 0)["camera_front"].astype(float)
    camera = CAMERAS[2]
    values = []
    for line in (edge, verge):
        delta = line - ego[:2]
        local = np.column_stack([c * delta[:, 0] + s * delta[:, 1], -s * delta[:, 0] + c * delta[:, 1], 0 * step])
        px, depth = camera.project(local, 0.0, 0.01)
        inside = (depth > 1) & (px >= 1).all(axis=1) & (px[:, 0] < 382) & (px[:, 1] < 222)
        u, v = np.round(px[inside]).astype(int).T
        values.append(image[v, u].mean(axis=1))
    made.close()
    assert len(values[0]) > 10
    assert np.median(values[0]) > np.median(values[1]) + 25


def test_frenet_grid_agrees_with_the_road(road):
    grid, origin = frenet_grid(road)
    rng = np.random.default_rng(0)
    s, d = rng.uniform(0, road.length_m, 300), rng.uniform(-12, 20, 300)
    cell = (road.cartesian(s, d) - origin) / 0.5
    found = np.array(
        [cv2.getRectSubPix(grid[..., k], (1, 1), tuple(p)) for p in cell.astype(np.float32) for k in (0, 1)]
    )
    found = found.reshape(-1, 2)
    assert np.abs(found[:, 1] - d).max() < 0.06
    assert np.abs(found[:, 0] - s).max() < 0.15


def test_masks_know_which_agent_hides_which(renderer, road):
    renderer.reset(scene(), road)
    state = make_state(road, [(TRUCK, 9.0, 0.0, 0.0), (CAR, 25.0, 0.0, 0.0), (PEDESTRIAN, 6.0, 2.5, 0.0)])
    _, masks = renderer.draw_labelled(state, 0)
    assert set(np.unique(masks["camera_front"])) == {-1, 40, 42}  # the car is behind the truck
    state.agent_present[0, 0] = False
    _, masks = renderer.draw_labelled(state, 0)
    assert set(np.unique(masks["camera_front"])) == {-1, 41, 42}


def test_an_id_given_to_somebody_else_is_drawn_anew(renderer, road):
    renderer.reset(scene(), road)
    renderer.draw(make_state(road, [(CAR, 10.0, 0.0, 0.0)]), 0)
    _, masks = renderer.draw_labelled(make_state(road, [(CONE, 10.0, 0.0, 0.0)]), 0)
    reused = np.count_nonzero(masks["camera_front"] == 40)
    renderer.reset(scene(), road)
    _, masks = renderer.draw_labelled(make_state(road, [(CONE, 10.0, 0.0, 0.0)]), 0)
    assert reused == np.count_nonzero(masks["camera_front"] == 40) > 20


def test_drawing_many_scenes_does_not_grow_the_memory(renderer, road):
    """PyBullet keeps references to mesh rows; without the shared rows twelve scenes took some 100 MB."""
    psutil = pytest.importorskip("psutil")
    state = make_state(road, [(CAR, 8.0 + 7 * i, 3.5 * (i % 2), 0.0) for i in range(14)])
    sizes = []
    for seed in range(16):
        renderer.reset(scene(seed=seed), road)
        for _ in range(2):
            state.agent_id += 100
            renderer.pose(state, 0)
        sizes.append(psutil.Process().memory_info().rss / 2**20)
    assert sizes[-1] - sizes[3] < 60


def test_front_and_rear_of_a_car_look_different(renderer, road):
    paints = {seed: agent_look("train", seed, 40, CAR)[1][Part.PAINT].astype(int) for seed in range(20)}
    blue = next(seed for seed, (b, _, r) in paints.items() if b > r + 60)
    renderer.reset(scene(seed=blue), road)
    away = renderer.draw(make_state(road, [(CAR, 8.0, 0.0, 0.0)]), 0)["camera_front"].astype(int)
    toward = renderer.draw(make_state(road, [(CAR, 8.0, 0.0, np.pi)]), 0)["camera_front"].astype(int)
    red_away = ((away[..., 2] > 110) & (away[..., 1] < 60)).sum()
    red_toward = ((toward[..., 2] > 110) & (toward[..., 1] < 60)).sum()
    assert red_away > red_toward + 20


@pytest.mark.parametrize("class_id", list(STYLES))
def test_models_fill_exactly_their_size(class_id):
    for style in STYLES[class_id]:
        points = np.concatenate([limb.mesh.arrays()[0] for limb in agent_model(class_id, SIZES[class_id], style)])
        low, high = points.min(axis=0), points.max(axis=0)
        assert low[2] == pytest.approx(0.0, abs=0.02)
        assert high[2] == pytest.approx(SIZES[class_id][2], abs=0.03)
        slack = 0.16 if class_id == PEDESTRIAN else 0.06  # the feet of a walker fill the length only in stride
        assert high[1] - low[1] <= SIZES[class_id][1] + 0.08
        assert high[0] - low[0] <= SIZES[class_id][0] + 0.06
        assert high[0] - low[0] >= SIZES[class_id][0] - (0.3 if class_id == PEDESTRIAN else slack)
        assert high[1] - low[1] >= SIZES[class_id][1] - slack


def test_clutter_stands_on_the_ground_and_unknown_kinds_are_refused():
    for kind in CLUTTER_KINDS:
        vertices, normals, parts, triangles = clutter(kind).arrays()
        assert vertices[:, 2].min() == pytest.approx(0.0, abs=0.11)
        assert np.allclose(np.linalg.norm(normals, axis=1), 1.0)
        assert triangles.max() == len(vertices) - 1
        assert parts.max() < 16
    with pytest.raises(ValueError, match="kind: expected one of"):
        clutter("ufo")
    with pytest.raises(ValueError, match="style: expected one of"):
        agent_model(CAR, (4.0, 1.8, 1.5), "tank")


def test_training_and_evaluation_never_share_hues_sun_or_sky():
    train, evaluation = RANGES["train"], RANGES["evaluation"]
    for low, high in evaluation.hues:
        assert all(high <= a or low >= b for a, b in train.hues)
    for field in ("sun_azimuth_rad", "sky_hue", "asphalt_tint"):
        (a, b), (c, d) = getattr(train, field), getattr(evaluation, field)
        assert b <= c or d <= a
    assert set(evaluation.clutter) - set(train.clutter) == {"poplar", "rock", "gantry_sign", "kiosk"}


def test_looks_depend_on_split_and_seed_only():
    assert looks("train", 5) == looks("train", 5)
    assert looks("train", 5) != looks("train", 6)
    assert looks("train", 5).grass_bgr != looks("tune", 5).grass_bgr
    style, colours = agent_look("train", 5, 3, CONE)
    assert style in STYLES[CONE]
    assert colours.shape == (16, 3)
    with pytest.raises(ValueError, match=r"split: expected one of .*, got 'test'"):
        looks("test", 0)


def test_ground_polygons_are_clipped_in_front_of_the_camera():
    camera = CameraModel(name="c", width=100, height=80, fx=50.0, fy=50.0, cx=50.0, cy=40.0)
    square = np.array([[-2.0, -1.0], [6.0, -1.0], [6.0, 1.0], [-2.0, 1.0]])
    px = project_polygon(camera, square, 0.0, 0.0)
    assert px is not None
    assert np.isfinite(px).all()
    assert px[:, 1].min() == pytest.approx(40.0 + 50.0 * 1.4 / 6.0, abs=1e-6)
    assert project_polygon(camera, square - (10.0, 0.0), 0.0, 0.0) is None


def test_cameras_need_different_names():
    with pytest.raises(ValueError, match="cameras: expected different names"):
        Renderer([CAMERAS[0], CAMERAS[0]])


def test_three_cameras_are_drawn_well_within_the_tick(renderer, road):
    agents = [(CAR, 8.0 + 9 * i, 3.5 * (i % 2), 0.1) for i in range(6)] + [
        (CAR, -8.0 - 9 * i, 3.5, 0.0) for i in range(4)
    ]
    renderer.reset(scene(), road)
    state = make_state(road, [*agents, (PEDESTRIAN, 10.0, -3.0, 1.5), (CYCLIST, 14.0, -1.0, 0.0)])
    renderer.draw(state, 0)
    times = []
    for _ in range(10):
        start = time.process_time()
        renderer.draw(state, 0)
        times.append(time.process_time() - start)
    assert min(times) < 0.080  # about 0.02 on an idle core
