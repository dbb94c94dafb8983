"""A real detector of somebody else on a real video: what it sees is tracked, forecast and driven by."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx")

from visuomotor.deploy.export.foreign_detector import ForeignSettings, import_detector
from visuomotor.deploy.export.foreign_layouts import Layout
from visuomotor.deploy.runtime.bundle import Bundle
from visuomotor.deploy.vehicle.cameras import fit_image
from visuomotor.launch.profile import PROFILES
from visuomotor.messages.camera import load_camera
from visuomotor.messages.node import Inputs, Sample, Tick
from visuomotor.messages.schema import CameraFrame, Detections, Episode, Forecast, Header, Message, Tracks, VehicleState
from visuomotor.perception.node import create

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
NANO, COCO = DATA / "models_onnx" / "yolox_nano.onnx", DATA / "models_onnx" / "coco.names"
VIDEO = DATA / "driving_video" / "solidWhiteRight.mp4"
pytestmark = pytest.mark.skipif(not (NANO.is_file() and VIDEO.is_file()), reason=f"{DATA} has no detector and video")

CALIBRATION = PROFILES / "vehicle" / "camera_front.yaml"
FIRST, LAST = 100, 170  # two cars are near all the while, a third comes in from the left
RATE_HZ, SPEED_MPS = 25.0, 25.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    camera = load_camera(CALIBRATION)
    settings = ForeignSettings(layout=Layout.yolox, labels=COCO, width=camera.width, height=camera.height)
    return import_detector(NANO, tmp_path_factory.mktemp("bundles") / "my-detector", settings)


@pytest.fixture(scope="module")
def frames() -> list[tuple[float, np.ndarray]]:
    """Time (s) and image of the cut's frames."""
    capture = cv2.VideoCapture(str(VIDEO))
    images = [capture.read()[1] for _ in range(LAST)]
    capture.release()
    return [(index / RATE_HZ, image) for index, image in enumerate(images)][FIRST:]


def sample(message: Message) -> Sample:
    return Sample(message=message, updated=True, alive=True, rate_ok=True)


def test_the_vehicles_of_a_video_are_detected_tracked_and_forecast(
    bundle: Bundle, frames: list[tuple[float, np.ndarray]]
) -> None:
    camera = load_camera(CALIBRATION)
    config = {"cameras": [camera], "detector": {camera.name: bundle.path}, "forecaster": "drive-forecaster"}
    node = create({**config, "device": "cpu"})
    node.reset(Episode(phase="reset"))
    seen, alive = [], []
    for k, (t_s, image) in enumerate(frames[::5]):  # 5 Hz: harder than the graph's 10
        t_ns = round(t_s * 1e9)
        header = Header(valid=True, t_capture_ns=t_ns)
        state = VehicleState(header=header, speed_mps=SPEED_MPS, odom_x_m=SPEED_MPS * t_s)
        frame = CameraFrame(header=header, image=fit_image(image, camera))
        inputs = Inputs({camera.name: sample(frame), "vehicle_state": sample(state)})
        out = node.step(Tick(0, k, t_ns, "lockstep"), inputs)
        detections, tracks, forecast = out["detections"], out["tracks"], out["forecast"]
        assert isinstance(detections, Detections)
        assert isinstance(tracks, Tracks)
        assert isinstance(forecast, Forecast)
        near = detections.ego_position_m[:, 0] < 50.0
        seen.append(int(near.sum()))
        alive.append(dict(zip(tracks.track_id.tolist(), tracks.odom_position_m - [SPEED_MPS * t_s, 0.0], strict=True)))
        assert np.isfinite(tracks.odom_heading_rad).all()
        assert forecast.track_id.tolist() == tracks.track_id.tolist()
    node.close()
    assert len(seen) == 14
    assert sum(count >= 2 for count in seen) >= 13
    ages = {track: sum(track in tick for tick in alive) for tick in alive for track in tick}
    lasting = [track for track, age in ages.items() if age >= 12]
    assert len(lasting) == 2  # from their second frame to the end
    assert sorted(ages.values())[-3] >= 5  # the third car
    assert len(ages) <= 5
    for track in lasting:
        places = np.array([tick[track] for tick in alive if track in tick])
        assert np.ptp(places[:, 1]) < 2.5  # they keep their lanes
        index = tracks.track_id.tolist().index(track)
        assert 20.0 < tracks.odom_velocity_mps[index, 0] < 36.0  # the traffic's speed, with ours assumed
        assert abs(tracks.odom_heading_rad[index]) < 0.2
        best = forecast.probability[index].argmax()
        ahead = forecast.odom_position_m[index, best, -1] - tracks.odom_position_m[index]
        assert 50.0 < ahead[0] < 115.0  # in 3 s


@pytest.mark.slow
def test_launch_vehicle_runs_with_it_to_the_end_of_the_video(
    bundle: Bundle, frames: list[tuple[float, np.ndarray]], tmp_path: Path
) -> None:
    cut = tmp_path / "cut.mp4"
    writer = cv2.VideoWriter(str(cut), cv2.VideoWriter.fourcc(*"mp4v"), RATE_HZ, frames[0][1].shape[1::-1])
    for _, image in frames[:50]:
        writer.write(image)
    writer.release()
    command = [sys.executable, "-m", "visuomotor.launch.cli", "launch", "vehicle", "--camera", str(cut)]
    options = ["--detector", str(bundle.path), "--device", "cpu", "--run-dir", "run", "--report", "report"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path, timeout=200)
    assert done.returncode == 0, done.stderr
    score = json.loads((tmp_path / "run" / "score.json").read_text())
    assert score["episodes"][0]["end"] == "source ended"
    assert score["episodes"][0]["cameras"]["camera_front"]["frames_read"] == 50
    assert bundle.digest in score["provenance"]["bundles"].values()
    page = (tmp_path / "report" / "report.html").read_text()
    followed = re.findall(r'"tracks":\[\[(\d+),"car"', page)
    assert len(followed) >= 3  # ticks with a track, of some 20
    assert '"fans":[[' in page
