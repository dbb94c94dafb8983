"""Run time and node of the detector on a hand-made graph whose output is known, in the real ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from visuomotor.deploy.runtime.bundle import Bundle, BundleError, BundleMeta, TensorSpec, write_bundle
from visuomotor.messages.camera import CameraModel
from visuomotor.messages.node import Inputs, Sample, Tick
from visuomotor.messages.schema import CLASS_NAMES, ArmState, CameraFrame, Detections, Episode, Header, VehicleState
from visuomotor.messages.tasks import get_task
from visuomotor.messages.wire import encode
from visuomotor.perception.detector import (
    Detector,
    PositionSigma,
    heading_reference,
    make_detectors,
    merge_detections,
)
from visuomotor.perception.detector_node import DetectorNode, create
from visuomotor.perception.tasks import get_perception

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FRONT = CameraModel(name="camera_front", width=64, height=48, fx=40.0, fy=40.0, cx=32.0, cy=24.0)
LEFT = msgspec.structs.replace(FRONT, name="camera_left", ego_yaw_rad=2.356, ego_position_m=(0.9, 0.95, 1.05))
RIGHT = msgspec.structs.replace(FRONT, name="camera_right", ego_yaw_rad=-2.356)
SIGMA = {"range_m": [5.0, 20.0], "along_m": [0.2, 0.8], "across_m": [0.1, 0.2]}
SLOTS = 4
PLACEMENT = get_perception("drive").placement


def make_graph(rows: dict[str, np.ndarray], count: int, width: int = 64, height: int = 48) -> bytes:
    """An ONNX graph that answers with ``rows`` to a frame that does not begin with 0, else with zero objects."""
    types = {"class_id": TensorProto.INT64, "count": TensorProto.INT64}
    values = {**rows, "count": np.array(count, np.int64)}
    nodes = [
        helper.make_node("Slice", ["frame", "zero", "one", "axes"], ["pixel"]),
        helper.make_node("Cast", ["pixel"], ["number"], to=TensorProto.INT64),
        helper.make_node("ReduceMin", ["number"], ["least"], keepdims=0),
        helper.make_node("Sign", ["least"], ["seen"]),
    ]
    initial = [
        numpy_helper.from_array(np.zeros(3, np.int64), "zero"),
        numpy_helper.from_array(np.ones(3, np.int64), "one"),
        numpy_helper.from_array(np.arange(1, 4), "axes"),
    ]
    outputs = []
    for name, value in values.items():
        initial.append(numpy_helper.from_array(value, f"{name}_value"))
        kind = types.get(name, TensorProto.FLOAT)
        nodes.append(helper.make_node("Cast", ["seen"], [f"{name}_seen"], to=kind))
        nodes.append(helper.make_node("Mul", [f"{name}_value", f"{name}_seen"], [name]))
        outputs.append(helper.make_tensor_value_info(name, kind, value.shape))
    frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, (1, height, width, 3))
    graph = helper.make_graph(nodes, "constant", [frame], outputs, initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def make_bundle(folder: Path, ground_px: np.ndarray, *, name: str = "detector", **changes: Any) -> Bundle:
    n = len(ground_px)
    rows = {
        "box_px": np.zeros((SLOTS, 4), np.float32),
        "score": np.zeros(SLOTS, np.float32),
        "class_id": np.zeros(SLOTS, np.int64),
        "ground_px": np.zeros((SLOTS, 2), np.float32),
        "heading": np.zeros((SLOTS, 2), np.float32),
        "size_m": np.zeros((SLOTS, 2), np.float32),
    }
    task = get_task(changes.pop("task", "drive"))
    heading, box_px = changes.pop("heading", (0.0, 1.0)), changes.pop("box_px", (20.0, 10.0, 40.0, 40.0))
    rows["score"][:n] = np.linspace(0.9, 0.4, n)
    rows["class_id"][:n] = changes.pop("classes", np.arange(n) % len(task.class_names))
    rows["ground_px"][:n] = ground_px
    rows["box_px"][:n] = box_px
    rows["heading"][:n] = heading
    rows["size_m"][:n] = (4.0, 1.8)
    shapes = {**{k: v.shape for k, v in rows.items()}, "count": ()}
    extra = {"score_threshold": dict.fromkeys(task.class_names, 0.3), "position_sigma": SIGMA}
    meta = BundleMeta(
        kind="detector",
        task=task.name,
        inputs=(TensorSpec(name="frame", dtype="uint8", shape=(1, 48, 64, 3)),),
        outputs=tuple(TensorSpec(name=k, dtype="float32", shape=s) for k, s in shapes.items()),
        class_names=changes.pop("class_names", task.class_names),
        extra={**extra, **changes},
    )
    return write_bundle(folder / name, model=make_graph(rows, n), meta=meta, report="hand-made")


BRIGHT = np.full((48, 64, 3), 200, np.uint8)
DARK = np.zeros((48, 64, 3), np.uint8)


@pytest.mark.parametrize(("roll", "pitch"), [(0.0, 0.0), (0.02, -0.03)])
@pytest.mark.parametrize("camera", [FRONT, LEFT, RIGHT])
def test_positions_and_headings_are_in_ego(tmp_path: Path, camera: CameraModel, roll: float, pitch: float) -> None:
    bearing = camera.ego_yaw_rad + np.array([0.0, 0.3])
    position = np.array(camera.ego_position_m[:2]) + np.array([8.0, 12.0])[:, None] * np.stack(
        [np.cos(bearing), np.sin(bearing)], 1
    )
    px, _ = camera.project(np.c_[position, np.zeros(2)], roll, pitch)
    found = Detector(make_bundle(tmp_path, px), camera, "cpu").detect(BRIGHT, roll, pitch)
    assert len(found) == 2
    assert found.ego_position_m == pytest.approx(position, abs=1e-2)
    # A heading of zero as seen from the camera points along the ray.
    assert np.abs(np.angle(np.exp(1j * (found.heading_rad - bearing)))).max() < 0.02
    assert found.class_id.tolist() == [0, 1]


def test_nothing_found_is_a_valid_answer(tmp_path: Path) -> None:
    detector = Detector(make_bundle(tmp_path, np.array([[32.0, 40.0]])), FRONT, "cpu")
    found = detector.detect(DARK)
    assert len(found) == 0
    assert found.box_px.shape == (0, 4)
    assert found.ego_covariance_m2.shape == (0, 2, 2)
    message = merge_detections({"camera_front": found})
    assert message.cameras == ("camera_front",)
    assert message.ego_position_m.shape == (0, 2)
    assert merge_detections({}).box_px.shape == (0, 4)


@pytest.mark.parametrize("box_px", [(0.0, 10.0, 30.0, 40.0), (30.0, 10.0, 64.0, 40.0)])
def test_box_cut_by_the_edge_is_less_certain(tmp_path: Path, box_px: tuple[float, ...]) -> None:
    detector = Detector(make_bundle(tmp_path, np.array([[32.0, 40.0]])), FRONT, "cpu")
    found = detector.infer(BRIGHT)
    whole = detector.place(found, 0.0, 0.0)
    cut = detector.place({**found, "box_px": np.array([box_px], np.float32)}, 0.0, 0.0)
    assert cut.ego_position_m == pytest.approx(whole.ego_position_m)
    least, most = np.linalg.eigvalsh(whole.ego_covariance_m2[0]) ** 0.5
    found_least, found_most = np.linalg.eigvalsh(cut.ego_covariance_m2[0]) ** 0.5
    assert found_least == pytest.approx(max(PLACEMENT.cut_sigma * least, PLACEMENT.cut_floor_m), rel=1e-3)
    assert found_most == pytest.approx(max(PLACEMENT.cut_sigma * most, PLACEMENT.cut_floor_m), rel=1e-3)


def test_below_threshold_above_horizon_and_too_far_are_left_out(tmp_path: Path) -> None:
    far = FRONT.project(np.array([[PLACEMENT.range_max_m + 20.0, 0.0, 0.0]]))[0][0]
    px = np.array([[32.0, 40.0], [32.0, 10.0], far, [32.0, 40.0]])
    limits = dict.fromkeys(CLASS_NAMES, 0.3) | {"pedestrian": 0.45}
    detector = Detector(make_bundle(tmp_path, px, score_threshold=limits), FRONT, "cpu")
    assert detector.detect(BRIGHT).class_id.tolist() == [0]
    assert len(detector.infer(BRIGHT)["score"]) == 4


def test_covariance_is_long_along_the_ray_and_grows_with_range(tmp_path: Path) -> None:
    points = np.array([[6.0, 6.0, 0.0], [15.0, 15.0, 0.0]])
    px, _ = FRONT.project(points)
    found = Detector(make_bundle(tmp_path, px), FRONT, "cpu", attitude_sigma_rad=0.0).detect(BRIGHT)
    value, vector = np.linalg.eigh(found.ego_covariance_m2.astype(np.float64))
    assert np.abs(vector[:, :, 1] @ np.array([1.0, 1.0]) / np.sqrt(2.0)) == pytest.approx([1.0, 1.0], abs=1e-3)
    range_m = np.hypot(points[:, 0], points[:, 1])
    along = np.interp(range_m, SIGMA["range_m"], SIGMA["along_m"]) * np.maximum(range_m / 20.0, 1.0) ** 2
    assert np.sqrt(value[:, 1]) == pytest.approx(along, rel=1e-3)
    assert (value[1] > value[0]).all()


def test_attitude_error_adds_what_geometry_says() -> None:
    """A pitch wrong by 1 mrad moves the ground point of a camera 1.4 m up by 0.29 m at 20 m."""
    table = {"range_m": [0.0, 100.0], "along_m": [0.0, 0.0], "across_m": [0.1, 0.1]}
    along, _ = PositionSigma(table, 1.4, 0.001).along_across(np.array([20.0]))
    moved = FRONT.ground(FRONT.project(np.array([[20.0, 0.0, 0.0]]))[0], 0.0, 0.001)[0, 0] - 20.0
    assert along[0] == pytest.approx(abs(moved), rel=0.05)
    with pytest.raises(ValueError, match="equal length"):
        PositionSigma({"range_m": [1.0], "along_m": [], "across_m": [0.1]}, 1.4, 0.0)


def test_a_wrong_bundle_is_refused_by_file_and_key(tmp_path: Path) -> None:
    px = np.array([[32.0, 40.0]])
    wide = msgspec.structs.replace(FRONT, width=80)
    with pytest.raises(BundleError, match=r"bundle\.json: inputs\.frame\.shape: expected \(1, 48, 80, 3\)"):
        Detector(make_bundle(tmp_path, px), wide, "cpu")
    with pytest.raises(BundleError, match="class_names: expected"):
        Detector(make_bundle(tmp_path, px, class_names=("car",)), FRONT, "cpu")
    with pytest.raises(BundleError, match=r"extra\.score_threshold: expected one per class"):
        Detector(make_bundle(tmp_path, px, score_threshold={"car": 0.3}), FRONT, "cpu")
    with pytest.raises(BundleError, match=r"extra\.position_sigma"):
        Detector(make_bundle(tmp_path, px, position_sigma={"range_m": [1.0]}), FRONT, "cpu")


def test_a_wrong_frame_is_refused(tmp_path: Path) -> None:
    detector = Detector(make_bundle(tmp_path, np.array([[32.0, 40.0]])), FRONT, "cpu")
    with pytest.raises(ValueError, match="camera_front: expected uint8 48x64x3, got float32"):
        detector.detect(BRIGHT.astype(np.float32))
    with pytest.raises(ValueError, match=r"got uint8 \(40, 64, 3\)"):
        detector.detect(BRIGHT[:40])


def test_cameras_of_one_bundle_share_a_session(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, np.array([[32.0, 40.0]]))
    cameras = {c.name: c for c in (LEFT, RIGHT)}
    detectors = make_detectors(dict.fromkeys(cameras, bundle.path), cameras, "cpu")
    assert detectors["camera_left"].session is detectors["camera_right"].session
    with pytest.raises(ValueError, match="no camera named camera_top; expected some of camera_left, camera_right"):
        make_detectors({"camera_top": bundle}, cameras, "cpu")


def make_node(folder: Path, **runtime: bool) -> DetectorNode:
    cameras = []
    for camera in (FRONT, LEFT, RIGHT):
        camera.save(folder / f"{camera.name}.yaml")
        cameras.append(str(folder / f"{camera.name}.yaml"))
    bundle = make_bundle(folder, np.array([[32.0, 40.0], [30.0, 44.0]]))
    config = {"cameras": cameras, "detector": dict.fromkeys((c.name for c in (FRONT, LEFT, RIGHT)), str(bundle.path))}
    return create({**config, "device": "cpu", "runtime": runtime})


def sample(message: CameraFrame | VehicleState | ArmState, t_ns: int = 0, **state: bool) -> Sample:
    message.header = Header(valid=state.pop("valid", True), t_capture_ns=t_ns)
    return Sample(message=message, updated=True, **({"alive": True, "rate_ok": True} | state), age_s=0.0)


def step(node: DetectorNode, **samples: Sample) -> Detections:
    inputs = Inputs({source.service: samples.get(source.service, Sample()) for source in node.inputs})
    (message,) = node.step(Tick(0, 0, 0, "lockstep"), inputs).values()
    assert isinstance(message, Detections)
    return message


def test_node_merges_cameras_of_one_tick(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    node.warm_up()
    node.reset(Episode(phase="reset"))
    assert [i.service for i in node.inputs] == ["camera_front", "camera_left", "camera_right", "vehicle_state"]
    assert node.provider == "CPUExecutionProvider (12 nodes)"
    message = step(
        node,
        camera_front=sample(CameraFrame(image=BRIGHT)),
        camera_left=sample(CameraFrame(image=DARK)),
        camera_right=sample(CameraFrame(image=BRIGHT)),
        vehicle_state=sample(VehicleState(pitch_rad=0.01)),
    )
    assert message.header.valid
    assert message.cameras == ("camera_front", "camera_left", "camera_right")
    assert message.camera_index.tolist() == [0, 0, 2, 2]
    assert message.ego_position_m[0, 0] > 0.0 > message.ego_position_m[2, 0]
    assert [stage[0] for stage in node.stages][:2] == ["infer_camera_front", "place_camera_front"]
    assert all(end >= start for _, start, end in node.stages)


def test_cameras_looked_at_at_once_say_the_same_from_sessions_of_their_own(tmp_path: Path) -> None:
    frames = {c.name: sample(CameraFrame(image=image)) for c, image in ((FRONT, BRIGHT), (LEFT, DARK), (RIGHT, BRIGHT))}
    found = []
    for at_once in (False, True):
        node = make_node(tmp_path, at_once=at_once)
        assert len({id(detector.session) for detector in node.detectors.values()}) == (3 if at_once else 1)
        for _ in range(2):
            found.append(encode("detections", step(node, **frames, vehicle_state=sample(VehicleState()))))
            assert [stage[0] for stage in node.stages[::2]] == [f"infer_{name}" for name in frames]
        node.close()
    assert len(set(found)) == 1


def test_node_without_a_side_camera_stays_valid_and_says_so(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    state = sample(VehicleState())
    front = sample(CameraFrame(image=BRIGHT))
    old = sample(CameraFrame(image=BRIGHT), t_ns=-100_000_000)
    message = step(node, camera_front=front, camera_left=old, vehicle_state=state)
    assert message.header.valid
    assert message.cameras == ("camera_front",)


def test_node_without_its_front_camera_or_attitude_is_invalid(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    state = sample(VehicleState())
    stale = sample(CameraFrame(image=BRIGHT), alive=False)
    left = sample(CameraFrame(image=BRIGHT))
    message = step(node, camera_front=stale, camera_left=left, vehicle_state=state)
    assert not message.header.valid
    assert message.cameras == ("camera_left",)
    assert not step(node, camera_front=sample(CameraFrame(image=BRIGHT))).header.valid
    inputs = Inputs({source.service: Sample() for source in node.inputs})
    assert node.step(Tick(0, 0, 0, "lockstep"), inputs) == {}


def test_node_config_errors_name_the_key() -> None:
    with pytest.raises(ValueError, match=r"perception\.detector: expected camera name -> bundle, got None"):
        create({"cameras": [FRONT]})


FOOT = {"ground_point": "foot", "position_sigma": {"foot_px": 1.5}, "heading": (0.0, 0.0)}


@pytest.mark.parametrize(("camera", "depth_m"), [(FRONT, 4.0), (LEFT, 4.0 * 0.70696 + 1.8 * 0.70725)])
def test_the_foot_of_a_box_is_half_a_footprint_in_front_of_its_object(
    tmp_path: Path, camera: CameraModel, depth_m: float
) -> None:
    axis = np.array([np.cos(camera.ego_yaw_rad), np.sin(camera.ego_yaw_rad)])
    side = np.array([-axis[1], axis[0]])
    feet = np.array(camera.ego_position_m[:2]) + np.array([8.0 * axis, 12.0 * axis + 3.0 * side])
    px, _ = camera.project(np.c_[feet, np.zeros(2)])
    found = Detector(make_bundle(tmp_path, px, **FOOT), camera, "cpu").detect(BRIGHT)
    pushed = np.array([8.0 * axis, 12.0 * axis + 3.0 * side]) * (1 + 0.5 * depth_m / np.array([[8.0], [12.0]]))
    assert found.ego_position_m == pytest.approx(np.array(camera.ego_position_m[:2]) + pushed, abs=2e-2)
    assert np.isnan(found.heading_rad).all()


def test_an_error_given_in_pixels_grows_with_the_square_of_the_range(tmp_path: Path) -> None:
    px, _ = FRONT.project(np.array([[8.0, 0.0, 0.0], [28.0, 0.0, 0.0]]))
    found = Detector(make_bundle(tmp_path, px, **FOOT), FRONT, "cpu", attitude_sigma_rad=0.0).detect(BRIGHT)
    along, across = np.sqrt(found.ego_covariance_m2[:, [0, 1], [0, 1]]).T
    h, r = FRONT.ego_position_m[2], found.ego_position_m[:, 0]
    one_px = np.abs(FRONT.ground(px + [0.0, 1.5]) - FRONT.ground(px))[:, 0]
    assert along[0] == pytest.approx(np.hypot(0.3, 1.5 * (h**2 + r[0] ** 2) / (h * 40.0)), rel=0.08)
    assert along[1] > 8 * along[0]
    assert along[0] > one_px[0]  # of the foot itself, which is nearer
    assert across == pytest.approx(np.hypot(0.1, 1.5 * r / 40.0), rel=0.05)


def test_a_foot_below_the_picture_is_uncertain(tmp_path: Path) -> None:
    px = np.array([[30.0, 47.0]])
    whole, cut = (
        Detector(make_bundle(tmp_path, px, name=name, box_px=box, **FOOT), FRONT, "cpu").detect(BRIGHT)
        for name, box in (("whole", (20, 10, 40, 40)), ("cut", (20, 10, 40, 48)))
    )
    assert np.sqrt(whole.ego_covariance_m2[0, 0, 0]) < PLACEMENT.cut_floor_m
    assert np.sqrt(cut.ego_covariance_m2[0, 0, 0]) >= PLACEMENT.cut_floor_m * 0.99


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ground_point": "roof"}, "extra.ground_point: expected 'centre' or 'foot', got 'roof'"),
        ({"position_sigma": {"foot_px": "wide"}}, "extra.position_sigma: could not convert"),
    ],
)
def test_what_an_imported_bundle_says_is_checked(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Detector(make_bundle(tmp_path, np.array([[30.0, 40.0]]), **changes), FRONT, "cpu")


TOP = CameraModel(
    name="camera_top", width=64, height=48, fx=56.0, fy=56.0, cx=32.0, cy=24.0, ego_position_m=(0.5, 0.25, 1.05),
    ego_pitch_rad=np.pi / 2,
)  # fmt: skip
NEAR = {"range_m": [0.1, 0.5], "along_m": [0.002, 0.004], "across_m": [0.002, 0.003]}


def look_down(folder: Path, ground_px: np.ndarray, **changes: Any) -> Detector:
    return Detector(make_bundle(folder, ground_px, task="pick", position_sigma=NEAR, **changes), TOP, "cpu")


def test_a_camera_that_looks_down_counts_yaws_from_its_own(tmp_path: Path) -> None:
    """Everywhere in its picture, also right below it, where no ray has a direction; and by the symmetry of a class."""
    places = np.array([[0.5, 0.25, 0.0], [0.7, 0.0, 0.0], [0.3, 0.45, 0.0], [0.6, 0.4, 0.0]])
    px, _ = TOP.project(places)
    detector = look_down(tmp_path, px, heading=(np.sin(1.0), np.cos(1.0)), classes=[0, 2, 1, 4])
    found = detector.detect(BRIGHT)
    assert found.ego_position_m == pytest.approx(places[:, :2], abs=1e-4)
    # a cube's yaw is told modulo a quarter of a circle, a block's and a duck's modulo half, a cylinder has none
    assert found.heading_rad == pytest.approx([0.25, 0.5, np.nan, 0.5], abs=1e-5, nan_ok=True)
    assert np.linalg.eigvalsh(found.ego_covariance_m2).min() > 1e-6
    assert np.linalg.eigvalsh(found.ego_covariance_m2).max() < 1e-4


@pytest.mark.parametrize("pitch_deg", [50.0, 60.0, 75.0, 90.0])
@pytest.mark.parametrize("yaw_rad", [0.0, 2.5])
def test_yaws_are_counted_from_the_upright_of_the_picture(pitch_deg: float, yaw_rad: float) -> None:
    camera = msgspec.structs.replace(TOP, ego_pitch_rad=np.radians(pitch_deg), ego_yaw_rad=yaw_rad)
    assert camera.looks_down
    px = np.array([[x, y] for x in (4.0, 20.0, 32.0, 60.0) for y in (6.0, 24.0, 44.0)])
    upright = camera.ground(px - [0.0, 0.01]) - camera.ground(px + [0.0, 0.01])
    reference = heading_reference(camera, camera.ground(px) - np.array(camera.ego_position_m[:2]))
    away = np.angle(np.exp(1j * (np.arctan2(upright[:, 1], upright[:, 0]) - reference)))
    assert np.abs(away).max() < 1e-4


@pytest.mark.parametrize(
    "box_px", [(0.0, 10.0, 9.0, 20.0), (55.0, 10.0, 64.0, 20.0), (30.0, 0.0, 40.0, 8.0), (30.0, 40.0, 40.0, 48.0)]
)
def test_from_above_every_edge_cuts(tmp_path: Path, box_px: tuple[float, ...]) -> None:
    detector = look_down(tmp_path, np.array([[32.0, 20.0]]))
    found = detector.infer(BRIGHT)
    cut = detector.place({**found, "box_px": np.array([box_px], np.float32)}, 0.0, 0.0)
    assert np.sqrt(np.linalg.eigvalsh(cut.ego_covariance_m2[0]).min()) >= detector.task.placement.cut_floor_m * 0.99


def test_a_bundle_of_another_task_is_refused_by_name(tmp_path: Path) -> None:
    road = make_bundle(tmp_path, np.array([[32.0, 40.0]]), name="road")
    with pytest.raises(BundleError, match=r"task: expected 'pick', got 'drive': road was made for it"):
        create({"cameras": [TOP], "detector": {"camera_top": road.path}, "task": "pick", "device": "cpu"})
    belt = make_bundle(tmp_path, np.array([[32.0, 40.0]]), name="belt", task="pick", position_sigma=NEAR)
    with pytest.raises(BundleError, match=r"task: expected 'pick', got 'drive'"):
        make_detectors({"camera_top": belt, "camera_front": road}, {"camera_top": TOP, "camera_front": FRONT}, "cpu")


def test_the_node_of_an_arm_reads_its_joints(tmp_path: Path) -> None:
    belt = make_bundle(tmp_path, np.array([[32.0, 20.0]]), task="pick", position_sigma=NEAR)
    node = create({"cameras": [TOP], "detector": {"camera_top": belt.path}, "task": "pick", "device": "cpu"})
    assert [i.service for i in node.inputs] == ["camera_top", "arm_state"]
    state = ArmState(joint_position_rad=np.zeros(7, np.float32), joint_velocity_radps=np.zeros(7, np.float32))
    message = step(node, camera_top=sample(CameraFrame(image=BRIGHT)), arm_state=sample(state))
    assert message.header.valid
    assert message.ego_position_m[0] == pytest.approx(TOP.ground(np.array([[32.0, 20.0]]))[0], abs=1e-5)
    assert not step(node, camera_top=sample(CameraFrame(image=BRIGHT))).header.valid
