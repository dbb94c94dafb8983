from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from visuomotor.deploy.runtime.bundle import BundleMeta, TensorSpec, write_bundle
from visuomotor.deploy.vehicle.cameras import fit_image
from visuomotor.deploy.vehicle.capture import CameraError, SourceSettings, check_source
from visuomotor.deploy.vehicle.node import CameraNode, create
from visuomotor.deploy.vehicle.source import VideoSource
from visuomotor.launch.profile import PROFILES
from visuomotor.messages.camera import load_camera
from visuomotor.messages.node import Inputs, Sample, Tick
from visuomotor.messages.schema import CLASS_NAMES, CameraFrame, Command, Episode, Route, VehicleState

CALIBRATION = PROFILES / "vehicle" / "camera_front.yaml"
VEHICLE = {"speed_mps": 20.0, "lane_count": 2, "lane_width_m": 3.7, "speed_limit_mps": 29.0}


def play(name: str | Path) -> VideoSource:
    return VideoSource(SourceSettings(device=str(name)))


def make_video(path: Path, frames: int, rate_hz: float = 25.0, size: tuple[int, int] = (320, 180)) -> Path:
    """Grey frames that get brighter by 4 from one to the next."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate_hz, size)
    assert writer.isOpened()
    for index in range(frames):
        writer.write(np.full((size[1], size[0], 3), 20 + 4 * index, np.uint8))
    writer.release()
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video") / "grey.mp4", 20)


def test_a_file_plays_at_its_own_rate_and_every_frame_is_counted(video: Path) -> None:
    source = play(video)
    assert source.rate_hz == 25.0
    assert source.frames_declared == 20
    source.start()
    frames = []
    while not source.exhausted:
        frame = source.take(wait_s=1.0)
        if frame is not None:
            frames.append(frame)
    source.close()
    assert source.counts.read == 20
    assert source.counts.taken + source.counts.between == 20
    assert len(frames) == source.counts.taken
    indices = [f.index for f in frames]
    assert indices == sorted(set(indices))
    assert indices[-1] == 19
    played_s = (frames[-1].t_capture_ns - frames[0].t_capture_ns) * 1e-9
    assert played_s == pytest.approx((indices[-1] - indices[0]) / 25.0, abs=0.15)
    for frame in frames:  # the image is the one of that index
        assert abs(float(frame.image.mean()) - (20 + 4 * frame.index)) < 4


def test_a_reader_that_asks_late_gets_the_newest_and_the_rest_is_counted(video: Path) -> None:
    source = play(video)
    source.start()
    deadline = time.monotonic() + 10.0
    while not source.ended:
        assert time.monotonic() < deadline
        os.sched_yield()
    frame = source.take()
    assert frame is not None
    assert frame.index == 19
    assert (source.counts.read, source.counts.taken, source.counts.between) == (20, 1, 19)
    assert source.take() is None
    source.close()


@pytest.mark.parametrize("name", ["nowhere.mp4", "77", "/dev/video77", "http://127.0.0.1:9/x.mjpg"])
def test_a_source_that_does_not_open_is_named(name: str) -> None:
    with pytest.raises(CameraError, match=f"camera {name}: "):
        check_source(SourceSettings(device=name))


def test_a_file_that_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("not a video")
    with pytest.raises(CameraError, match=r"notes.mp4: does not open"):
        check_source(SourceSettings(device=str(path)))


@pytest.mark.parametrize("size", [(960, 540), (640, 480), (384, 224), (224, 384)])
def test_images_are_cropped_in_the_middle_and_keep_their_aspect(size: tuple[int, int]) -> None:
    camera = load_camera(CALIBRATION)
    image = np.zeros((size[1], size[0], 3), np.uint8)
    side = min(size) // 4
    cv2.rectangle(
        image, (size[0] // 2 - side, size[1] // 2 - side), (size[0] // 2 + side, size[1] // 2 + side), (255,) * 3, -1
    )
    fitted = fit_image(image, camera)
    assert fitted.shape == (224, 384, 3)
    assert fitted.flags.c_contiguous
    ys, xs = np.nonzero(fitted[:, :, 0] > 127)
    assert np.ptp(xs) == pytest.approx(np.ptp(ys), abs=2)  # still a square
    assert xs.mean() == pytest.approx(191.5, abs=1.5)
    assert ys.mean() == pytest.approx(111.5, abs=1.5)


def test_a_grey_camera_becomes_colour() -> None:
    assert fit_image(np.zeros((100, 200), np.uint8), load_camera(CALIBRATION)).shape == (224, 384, 3)


def make_node(video: Path, **more: str) -> CameraNode:
    sources = {"camera_front": {"device": str(video)}}
    return create({"calibrations": [str(CALIBRATION)], "sources": sources, "vehicle": VEHICLE, **more})


def step(node: CameraNode, tick: int, command: Command | None) -> dict[str, object]:
    sample = Sample() if command is None else Sample(message=command, updated=True, alive=True, rate_ok=True)
    return dict(node.step(Tick(0, tick, time.monotonic_ns(), "realtime"), Inputs({"command": sample})))


def test_the_node_publishes_frame_state_and_route_of_one_instant_and_logs_every_command(
    video: Path, tmp_path: Path
) -> None:
    log = tmp_path / "commands.csv"
    node = make_node(video, commands=str(log), summary=str(tmp_path / "vehicle.json"))
    node.reset(Episode(phase="reset"))
    sent = []
    tick = 0
    while not node.finished:
        command = Command(acceleration_mps2=0.5, steering_angle_rad=0.01, causes=("limit_jerk",)) if tick < 2 else None
        messages = step(node, tick, command)
        sent += [messages] if messages else []
        tick += 1
    node.close()
    frames = [m["camera_front"] for m in sent]
    states = [m["vehicle_state"] for m in sent]
    routes = [m["route"] for m in sent]
    for frame, state, route in zip(frames, states, routes, strict=True):
        assert isinstance(frame, CameraFrame)
        assert isinstance(state, VehicleState)
        assert isinstance(route, Route)
        assert frame.image.shape == (224, 384, 3)
        assert frame.header.t_capture_ns == state.header.t_capture_ns == route.header.t_capture_ns
        assert frame.header.valid
        assert state.speed_mps == 20.0
        assert route.odom_reference_m[20] == pytest.approx([state.odom_x_m, 0.0], abs=0.01)  # the point at 0 m
    span_s = (frames[-1].header.t_capture_ns - frames[0].header.t_capture_ns) * 1e-9
    assert states[-1].odom_x_m - states[0].odom_x_m == pytest.approx(20.0 * span_s, abs=0.01)
    rows = list(csv.DictReader(log.open()))
    assert len(rows) == tick
    assert [r["origin"] for r in rows[:3]] == ["command", "command", "hold"]
    assert rows[0]["causes"] == "limit_jerk"
    assert rows[-1]["origin"] == "watchdog"
    assert float(rows[-1]["acceleration_mps2"]) < -1.0
    summary = json.loads((tmp_path / "vehicle.json").read_text())
    counts = summary["cameras"]["camera_front"]
    assert counts["frames_read"] == counts["frames_declared"] == 20
    assert counts["frames_published"] + counts["frames_between_ticks"] == 20
    assert summary["commands"] == 2
    assert (summary["end"], node.note) == ("source ended", "")
    assert len(summary["assumed"]) == 4


def test_a_file_that_ends_before_its_declared_frames_is_said_to(tmp_path: Path) -> None:
    path = tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (320, 180))
    for _ in range(20):
        writer.write(np.full((180, 320, 3), 99, np.uint8))
    writer.release()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    node = make_node(path, summary=str(tmp_path / "vehicle.json"))
    node.reset(Episode(phase="reset"))
    tick = 0
    while not node.finished:
        step(node, tick, None)
        tick += 1
    note = node.note
    node.close()
    summary = json.loads((tmp_path / "vehicle.json").read_text())
    read = summary["cameras"]["camera_front"]["frames_read"]
    assert 0 < read < 19
    assert summary["end"] == "source ended early"
    assert note == f"camera_front: {path} ended after {read} of the 20 frames it declares; was it cut?"


def test_a_camera_has_one_episode_only(video: Path) -> None:
    node = make_node(video)
    node.reset(Episode(phase="reset"))
    step(node, 0, None)
    with pytest.raises(RuntimeError, match="a second episode"):
        node.reset(Episode(phase="reset", index=1))
    node.close()


def make_detector(folder: Path) -> Path:
    """A detector bundle that sees one car ahead in every frame."""
    onnx = pytest.importorskip("onnx")
    helper, kind, array = onnx.helper, onnx.TensorProto, onnx.numpy_helper.from_array
    values = {
        "box_px": np.array([[180, 100, 205, 120]], np.float32),
        "score": np.array([0.9], np.float32),
        "class_id": np.array([0], np.int64),
        "ground_px": np.array([[192, 128]], np.float32),
        "heading": np.array([[0.0, 1.0]], np.float32),
        "size_m": np.array([[4.2, 1.8]], np.float32),
        "count": np.array(1, np.int64),
    }
    nodes = [
        helper.make_node("Shape", ["frame"], ["shape"]),
        helper.make_node("ReduceMin", ["shape"], ["one"], keepdims=0),  # the batch: 1
    ]
    outputs = []
    for name, value in values.items():
        of = kind.INT64 if value.dtype == np.int64 else kind.FLOAT
        nodes.append(helper.make_node("Cast", ["one"], [f"{name}_one"], to=of))
        nodes.append(helper.make_node("Mul", [f"{name}_value", f"{name}_one"], [name]))
        outputs.append(helper.make_tensor_value_info(name, of, value.shape))
    frame = helper.make_tensor_value_info("frame", kind.UINT8, (1, 224, 384, 3))
    graph = helper.make_graph(nodes, "one_car", [frame], outputs, [array(v, f"{k}_value") for k, v in values.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    meta = BundleMeta(
        kind="detector",
        task="drive",
        inputs=(TensorSpec(name="frame", dtype="uint8", shape=(1, 224, 384, 3)),),
        outputs=tuple(TensorSpec(name=k, dtype=v.dtype.name, shape=v.shape) for k, v in values.items()),
        class_names=CLASS_NAMES,
        extra={
            "score_threshold": dict.fromkeys(CLASS_NAMES, 0.3),
            "position_sigma": {"range_m": [5.0, 20.0], "along_m": [0.2, 0.8], "across_m": [0.1, 0.2]},
        },
    )
    write_bundle(folder, model=model.SerializeToString(), meta=meta, report="hand-made")
    return folder


BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "stable_baselines3", "gymnasium", "pybullet"):
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)
sys.meta_path.insert(0, Block())
"""


@pytest.mark.slow
def test_launch_vehicle_plays_a_video_through_the_whole_graph_without_torch_and_simulator(
    video: Path, tmp_path: Path
) -> None:
    bundle = make_detector(tmp_path / "detector")
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "sitecustomize.py").write_text(BLOCK)  # for the command and every node it starts
    command = [sys.executable, "-m", "visuomotor.launch.cli", "launch", "vehicle", "--camera", str(video)]
    options = ["--detector", str(bundle), "--policy", "idm", "--forecaster", "cv", "--device", "cpu"]
    done = subprocess.run(
        [*command, *options, "--run-dir", "run", "--report", "report"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=150,
        env=dict(os.environ, PYTHONPATH=str(tmp_path / "block")),
    )
    assert done.returncode == 0, done.stderr
    score = json.loads((tmp_path / "run" / "score.json").read_text())
    (row,) = score["episodes"]
    assert row["end"] == "source ended"
    counts = row["cameras"]["camera_front"]
    assert counts["frames_read"] == 20
    assert counts["frames_published"] + counts["frames_between_ticks"] == 20
    assert row["commands"] >= 3
    assert "success" in row
    assert "min_ttc_s" not in row  # nothing measured tells it
    assert any(text.startswith("speed: constant 25.0 m/s") for text in score["assumed"])
    page = (tmp_path / "report" / "report.html").read_text()
    assert "speed: constant 25.0 m/s" in page
    assert "assumed: calibration" in done.stdout
