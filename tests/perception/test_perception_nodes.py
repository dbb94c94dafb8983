from pathlib import Path

import numpy as np
import pytest

from visuomotor.messages.camera import load_camera
from visuomotor.messages.graph import Chain
from visuomotor.messages.node import Inputs, Message, Node, Sample, Tick
from visuomotor.messages.schema import CAR, Detections, Episode, Forecast, Header, Tracks, Truth, VehicleState
from visuomotor.perception.empty import no_detections, no_tracks
from visuomotor.perception.node import create
from visuomotor.perception.tasks import get_perception
from visuomotor.perception.tracker_node import TrackerNode
from visuomotor.perception.truth_node import BlindPerceptionNode, TruthPerceptionNode, truth_tracks

ROAD = get_perception("drive")
PROFILE = Path(__file__).resolve().parents[2] / "launch" / "profiles" / "drive"
PATHS = [PROFILE / f"camera_{name}.yaml" for name in ("front", "left", "right")]
NAMES = ("camera_front", "camera_left", "camera_right")


def step(node: Node, tick: int, **messages: Message) -> dict[str, Message]:
    samples = {name: Sample(message=m, updated=True, alive=True, rate_ok=True) for name, m in messages.items()}
    return dict(node.step(Tick(0, tick, tick * 100_000_000, "lockstep"), Inputs(samples)))


def header(tick: int, valid: bool = True) -> Header:
    return Header(valid=valid, tick=tick, t_capture_ns=1 + tick * 100_000_000)


def truth(tick: int = 0, valid: bool = True) -> Truth:
    return Truth(
        header=header(tick, valid),
        map_ego_pose=(100.0, 50.0, np.pi / 2),
        odom_ego_pose=(10.0, 0.0, 0.0),
        agent_id=np.array([3, 8, 9], np.int32),
        class_id=np.array([CAR, 3, 4], np.int32),
        map_position_m=np.array([[100.0, 70.0], [96.0, 50.0], [100.0, 200.0]], np.float32),
        map_velocity_mps=np.array([[0.0, 5.0], [1.0, 0.0], [0.0, 0.0]], np.float32),
        map_yaw_rad=np.array([np.pi / 2, 0.0, 0.0], np.float32),
        size_m=np.array([[4.5, 1.8, 1.5], [0.5, 0.5, 1.7], [0.4, 0.4, 0.7]], np.float32),
        manoeuvre=("straight", "crossing", "static"),
    )


def test_truth_becomes_tracks_in_odom_within_range() -> None:
    tracks = truth_tracks(truth(), ROAD.truth_range_m)
    assert tracks.track_id.tolist() == [3, 8]  # the third is 150 m away
    assert tracks.odom_position_m == pytest.approx(np.array([[30.0, 0.0], [10.0, 4.0]]), abs=1e-4)
    assert tracks.odom_velocity_mps == pytest.approx(np.array([[5.0, 0.0], [0.0, -1.0]]), abs=1e-5)
    assert tracks.odom_heading_rad == pytest.approx([0.0, -np.pi / 2], abs=1e-6)
    assert tracks.size_m == pytest.approx(np.array([[4.5, 1.8], [0.5, 0.5]]))


def test_truth_perception_counts_ages_and_forgets() -> None:
    node = TruthPerceptionNode(ROAD, NAMES)
    for tick in range(4):
        tracks = step(node, tick, truth=truth(tick))["tracks"]
    assert isinstance(tracks, Tracks)
    assert tracks.age_s == pytest.approx([0.3, 0.3])
    assert tracks.cameras == NAMES
    assert tracks.header.valid
    node.reset(Episode(phase="reset"))
    tracks = step(node, 0, truth=truth(0, valid=False))["tracks"]
    assert isinstance(tracks, Tracks)
    assert tracks.age_s == pytest.approx([0.0, 0.0])
    assert not tracks.header.valid


def test_blind_perception_sees_nothing_and_stands_by_it() -> None:
    tracks = step(BlindPerceptionNode(ROAD, NAMES), 0, vehicle_state=VehicleState(header=header(0)))["tracks"]
    assert isinstance(tracks, Tracks)
    assert len(tracks.track_id) == 0
    assert tracks.header.valid


def car_at(x: float, valid: bool = True, tick: int = 0) -> Detections:
    detections = no_detections(NAMES)
    f32, i32 = np.float32, np.int32
    detections.camera_index, detections.class_id = np.zeros(1, i32), np.zeros(1, i32)
    detections.score, detections.heading_rad = np.full(1, 0.9, f32), np.zeros(1, f32)
    detections.box_px, detections.ground_px = np.zeros((1, 4), f32), np.zeros((1, 2), f32)
    detections.ego_position_m = np.array([[x, 0.0]], f32)
    detections.ego_covariance_m2 = np.eye(2, dtype=f32)[None] * f32(0.04)
    detections.size_m = np.array([[4.5, 1.8]], f32)
    detections.header = header(tick, valid)
    return detections


def test_the_tracker_node_goes_by_capture_time_and_odometry() -> None:
    node = TrackerNode([load_camera(path) for path in PATHS], ROAD)
    node.warm_up()
    node.reset(Episode(phase="reset"))
    for tick in range(20):
        vehicle = VehicleState(header=header(tick), speed_mps=5.0, odom_x_m=0.5 * tick)
        tracks = step(node, tick, detections=car_at(12.0, tick=tick), vehicle_state=vehicle)["tracks"]
    assert isinstance(tracks, Tracks)
    assert tracks.odom_position_m[0] == pytest.approx([12.0 + 9.5, 0.0], abs=0.3)
    assert tracks.odom_velocity_mps[0] == pytest.approx([5.0, 0.0], abs=0.6)


def test_invalid_detections_coast_and_are_passed_on_as_invalid() -> None:
    node = TrackerNode([load_camera(path) for path in PATHS], ROAD)
    for tick in range(15):
        broken = tick >= 5
        tracks = step(
            node,
            tick,
            detections=car_at(40.0 if broken else 12.0, valid=not broken, tick=tick),
            vehicle_state=VehicleState(header=header(tick)),
        )["tracks"]
    assert isinstance(tracks, Tracks)
    assert not tracks.header.valid
    assert tracks.cameras == ()
    assert tracks.odom_position_m[:, 0] == pytest.approx([12.0], abs=0.5)
    assert tracks.unseen_s[0] == pytest.approx(1.0, abs=1e-3)


def test_truth_mode_chains_tracks_and_forecast() -> None:
    node = create({"mode": "truth", "forecaster": "cv", "cameras": PATHS, "device": "cpu"})
    assert isinstance(node, Chain)
    assert {i.service for i in node.inputs} == {"truth"}
    assert set(node.outputs) == {"tracks", "forecast"}
    node.warm_up()
    node.reset(Episode(phase="reset"))
    for tick in range(3):
        sent = step(node, tick, truth=truth(tick))
    assert isinstance(sent["forecast"], Forecast)
    assert sent["forecast"].track_id.tolist() == [3, 8]
    assert sent["forecast"].odom_position_m.shape == (2, 6, 15, 2)


def test_blind_mode_reads_no_camera() -> None:
    node = create({"mode": "blind", "forecaster": "none", "cameras": PATHS})
    assert {i.service for i in node.inputs} == {"vehicle_state"}
    node.reset(Episode(phase="reset"))
    sent = step(node, 0, vehicle_state=VehicleState(header=header(0)))
    assert isinstance(sent["forecast"], Forecast)
    assert len(sent["forecast"].track_id) == 0


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"perception\.mode: expected one of real, truth, blind, got 'magic'"):
        create({"mode": "magic"})
    with pytest.raises(ValueError, match=r"perception\.cameras"):
        create({"mode": "real", "forecaster": "none"})


def test_empty_messages_are_empty() -> None:
    assert len(no_detections(NAMES).score) == len(no_tracks(NAMES).track_id) == 0
    assert no_detections(NAMES).cameras == NAMES
