"""The report from hand-made messages: page is offline, small and complete; the video decodes; the live view logs."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from visuomotor.launch.evaluate.car import TTC_HORIZON_S, CarMetrics, time_to_collision
from visuomotor.launch.evaluate.latency import Latency
from visuomotor.launch.evaluate.score import Score, load_score, provenance
from visuomotor.launch.report.capture import EpisodeCapture
from visuomotor.launch.report.page import MAX_BYTES, write_report
from visuomotor.launch.report.parts import make_part
from visuomotor.messages.camera import load_camera
from visuomotor.messages.schema import (
    CameraFrame,
    Command,
    Detections,
    Forecast,
    Header,
    PolicyCommand,
    Route,
    Trace,
    Tracks,
    Truth,
    VehicleState,
)

PROFILE = Path(__file__).parents[2] / "launch" / "profiles" / "drive"
CAMERAS = {name: load_camera(PROFILE / f"{name}.yaml") for name in ("camera_front", "camera_left", "camera_right")}


def truth(x: float, *, agent_x: float = 60.0, agent_speed: float = 5.0, end: str = "") -> Truth:
    return Truth(
        map_ego_pose=(x, 0.0, 0.0),
        odom_ego_pose=(x, 0.0, 0.0),
        speed_mps=10.0,
        acceleration_mps2=0.1 * x,
        progress_m=x,
        route_length_m=100.0,
        end=end,
        events=("cut_in",),
        agent_id=np.array([4], np.int32),
        class_id=np.array([0], np.int32),
        map_position_m=np.array([[agent_x, 0.0]], np.float32),
        map_velocity_mps=np.array([[agent_speed, 0.0]], np.float32),
        map_yaw_rad=np.zeros(1, np.float32),
        size_m=np.array([[4.5, 1.8, 1.5]], np.float32),
    )


def tick(k: int) -> dict:
    rng = np.random.default_rng(k)
    x = float(k)
    steps = 0.2 * np.arange(1, 16, dtype=np.float32)
    future = np.stack([x + 30.0 + 5.0 * steps, np.zeros(15, np.float32)], axis=-1)[None, None].astype(np.float32)
    frames = {
        name: CameraFrame(image=rng.integers(0, 255, (camera.height, camera.width, 3), np.uint8))
        for name, camera in CAMERAS.items()
    }
    reference = np.stack([x - 40 + 2.0 * np.arange(81), np.full(81, -1.0)], axis=-1).astype(np.float32)
    return frames | {
        "vehicle_state": VehicleState(speed_mps=10.0, odom_x_m=x),
        "route": Route(odom_reference_m=reference),
        "detections": Detections(
            cameras=("camera_front",),
            camera_index=np.zeros(1, np.int32),
            class_id=np.zeros(1, np.int32),
            score=np.ones(1, np.float32),
            box_px=np.array([[100, 60, 140, 90]], np.float32),
            ground_px=np.array([[120, 89]], np.float32),
            ego_position_m=np.array([[30, 0]], np.float32),
            ego_covariance_m2=np.eye(2, dtype=np.float32)[None],
            heading_rad=np.zeros(1, np.float32),
            size_m=np.array([[4.5, 1.8]], np.float32),
        ),
        "tracks": Tracks(
            cameras=tuple(CAMERAS),
            track_id=np.array([4], np.int32),
            class_id=np.zeros(1, np.int32),
            score=np.ones(1, np.float32),
            odom_position_m=np.array([[x + 30, 0]], np.float32),
            odom_velocity_mps=np.array([[5, 0]], np.float32),
            odom_heading_rad=np.zeros(1, np.float32),
            size_m=np.array([[4.5, 1.8]], np.float32),
            covariance=np.eye(4, dtype=np.float32)[None],
            age_s=np.ones(1, np.float32),
            unseen_s=np.zeros(1, np.float32),
        ),
        "forecast": Forecast(
            track_id=np.array([4], np.int32),
            probability=np.ones((1, 1), np.float32),
            odom_position_m=future,
            spread_m=np.ones((1, 1, 15, 3), np.float32),
        ),
        "policy_command": PolicyCommand(acceleration_mps2=0.5, action_norm=(0.25, 0.0)),
        "command": Command(acceleration_mps2=0.5, causes=("ttc_brake",) if k == 3 else ()),
        "truth": truth(x, agent_x=x + 30, end="goal" if k == 9 else ""),
    }


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Score]:
    folder = tmp_path_factory.mktemp("report")
    capture, metrics = EpisodeCapture(seed=7), CarMetrics()
    for k in range(10):
        messages = tick(k)
        metrics.add(messages)
        t0 = k * 100_000_000
        header = Header(tick=k)
        traces = (
            Trace(header=header, node="world", stages=(("step", t0, t0 + 30_000_000),)),
            Trace(header=header, node="guard", stages=(("step", t0 + 50_000_000, t0 + 51_000_000),)),
        )
        capture.add(k, messages, traces)
    score = Score(policy="idm", episodes=[metrics.result(7)]).finish()
    write_report(folder, score, [capture], CAMERAS, command="visuomotor launch drive --seed 7")
    return folder, score


def test_page_is_self_contained_and_small(report):
    page = (report[0] / "report.html").read_text()
    assert len(page.encode()) < MAX_BYTES
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page)
    assert "http://" not in page
    assert "https://" not in page


def test_page_carries_the_replay(report):
    page = (report[0] / "report.html").read_text()
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.S).group(1))
    assert len(data["episodes"][0]["ticks"]) == 10
    assert data["episodes"][0]["ticks"][3]["guard"] == ["ttc_brake"]
    assert set(data["episodes"][0]["images"][0]) == set(CAMERAS)
    assert data["waterfall"][0]["node"] == "world"
    assert data["waterfall"][1]["start_ms"] == pytest.approx(50.0)


def test_what_a_camera_waited_before_the_light_is_no_latency():
    ms, latency = 1_000_000, Latency()
    world = (
        ("wait", 0, 20 * ms),
        ("capture", 60 * ms, 63 * ms),
        ("step", 20 * ms, 64 * ms),
        ("warm", 20 * ms, 30 * ms),
    )
    for node, stages in (("world", world), ("guard", (("step", 80 * ms, 81 * ms),))):
        latency.add([Trace(header=Header(), node=node, stages=stages)])
    found = {(stage.node, stage.name): (stage.start_ms, stage.duration_ms) for stage in latency.waterfall()}
    assert found == {("world", "capture"): (0.0, 3.0), ("world", "step"): (0.0, 4.0), ("guard", "step"): (20.0, 1.0)}
    assert latency.camera_to_command_ms() == [21.0]


def test_only_who_draws_names_a_renderer():
    assert "renderer" not in provenance()


def test_score_file_round_trip(report):
    folder, score = report
    loaded = load_score(folder / "score.json")
    assert loaded.episodes[0]["success"] is True
    assert loaded.guard_tick_share == pytest.approx(0.1)
    assert loaded.guard_interventions == {"ttc_brake": 1}
    assert loaded.summary["success"].n == 1
    assert score.summary["mean_speed_mps"].mean == pytest.approx(10.0)


def test_video_decodes_with_every_second_tick(report):
    video = cv2.VideoCapture(str(report[0] / "drive.mp4"))
    count = 0
    while True:
        more, frame = video.read()
        if not more:
            break
        count += 1
        assert frame.shape == (480, 960, 3)
        assert frame.std() > 10
    assert count == 5


def test_score_of_a_truncated_file_names_it(tmp_path):
    path = tmp_path / "score.json"
    path.write_text('{"task": "drive"')
    with pytest.raises(ValueError, match=r"score\.json"):
        load_score(path)


def test_time_to_collision_of_a_slower_leader():
    # 30 m centre to centre, 4.5 m of bumpers, closing at 5 m/s
    assert time_to_collision(truth(0.0, agent_x=30.0)) == pytest.approx(25.5 / 5.0)
    assert time_to_collision(truth(0.0, agent_x=30.0, agent_speed=12.0)) == TTC_HORIZON_S
    assert time_to_collision(truth(0.0, agent_x=3.0)) == 0.0


def test_live_view_writes_a_recording(tmp_path):
    pytest.importorskip("rerun")
    from visuomotor.launch.report.view import LiveView

    path = tmp_path / "run.rrd"
    view = LiveView(make_part("drive"), list(CAMERAS), save=path)
    for k in range(3):
        view.add(0, k, tick(k))
    import rerun as rr

    rr.disconnect()
    assert path.stat().st_size > 50_000
