import time
from pathlib import Path

import numpy as np
import pytest

from visuomotor.messages.camera import CameraModel, load_camera
from visuomotor.messages.schema import CAR, CONE, PEDESTRIAN, TRUCK, Detections, Tracks
from visuomotor.perception.empty import no_detections
from visuomotor.perception.motion import TrackerConfig
from visuomotor.perception.robot_pose import RobotPose
from visuomotor.perception.tasks import get_perception
from visuomotor.perception.tracker import Tracker

PROFILE = Path(__file__).resolve().parents[2] / "launch" / "profiles" / "drive"
ROAD = get_perception("drive")
NAMES = ("camera_front", "camera_left", "camera_right")
SIZES = {CAR: (4.5, 1.8), TRUCK: (8.0, 2.4), PEDESTRIAN: (0.5, 0.5), CONE: (0.4, 0.4)}


@pytest.fixture(scope="module")
def cameras() -> list[CameraModel]:
    return [load_camera(PROFILE / f"{name}.yaml") for name in NAMES]


def found(
    positions: list[tuple[float, float]],
    classes: list[int] | int = CAR,
    *,
    score: float = 0.9,
    camera: list[int] | int = 0,
    sigma: float = 0.2,
    heading: float = 0.0,
) -> Detections:
    count = len(positions)
    class_id = np.broadcast_to(np.array(classes, np.int32), count)
    return Detections(
        cameras=NAMES,
        camera_index=np.broadcast_to(np.array(camera, np.int32), count).copy(),
        class_id=class_id.copy(),
        score=np.full(count, score, np.float32),
        box_px=np.zeros((count, 4), np.float32),
        ground_px=np.zeros((count, 2), np.float32),
        ego_position_m=np.array(positions, np.float32).reshape(-1, 2),
        ego_covariance_m2=np.tile(np.eye(2, dtype=np.float32) * sigma**2, (count, 1, 1)),
        heading_rad=np.full(count, heading, np.float32),
        size_m=np.array([SIZES[int(c)] for c in class_id], np.float32).reshape(-1, 2),
    )


def state(x: float = 0.0, y: float = 0.0, yaw: float = 0.0, speed: float = 0.0) -> RobotPose:
    return RobotPose(speed_mps=speed, x_m=x, y_m=y, yaw_rad=yaw)


def test_two_hits_make_a_track_and_one_does_not(cameras: list[CameraModel]) -> None:
    tracker = Tracker(cameras, ROAD)
    assert len(tracker.update(found([(10, 0)]), state(), 0.0).track_id) == 0
    tracks = tracker.update(found([(10, 0)]), state(), 0.1)
    assert tracks.track_id.tolist() == [1]
    assert tracks.class_id.tolist() == [CAR]
    assert tracks.age_s[0] == pytest.approx(0.1)
    assert tracks.unseen_s[0] == 0.0
    assert tracks.odom_position_m[0] == pytest.approx([10, 0], abs=0.05)


def test_a_single_false_alarm_never_becomes_a_track(cameras: list[CameraModel]) -> None:
    tracker = Tracker(cameras, ROAD)
    tracker.update(found([(10, 0)]), state(), 0.0)
    for k in range(1, 10):
        assert len(tracker.update(no_detections(NAMES), state(), 0.1 * k).track_id) == 0


def test_a_weak_detection_prolongs_but_never_begins_a_track(cameras: list[CameraModel]) -> None:
    tracker = Tracker(cameras, ROAD)
    for k in range(5):
        assert len(tracker.update(found([(10, 0)], score=0.25), state(), 0.1 * k).track_id) == 0
    for k in range(5, 8):
        tracker.update(found([(10, 0)]), state(), 0.1 * k)
    for k in range(8, 30):
        tracks = tracker.update(found([(10, 0)], score=0.25), state(), 0.1 * k)
        assert len(tracks.track_id) == 1
    assert tracks.unseen_s[0] == 0.0


def follow(tracker: Tracker, ticks: int, noise: float = 0.0, speed: float = 6.0) -> tuple[Tracks, np.ndarray]:
    rng = np.random.default_rng(0)
    for k in range(ticks):
        place = np.array([10 + speed * 0.1 * k, 2.0])
        tracks = tracker.update(
            found([tuple(place + noise * rng.normal(size=2))], sigma=max(noise, 0.1)), state(), 0.1 * k
        )
    return tracks, place


def test_speed_is_learnt_from_positions(cameras: list[CameraModel]) -> None:
    tracks, place = follow(Tracker(cameras, ROAD), 25, noise=0.15)
    assert tracks.odom_velocity_mps[0] == pytest.approx([6, 0], abs=0.7)
    assert tracks.odom_position_m[0] == pytest.approx(place, abs=0.35)
    assert np.linalg.eigvalsh(tracks.covariance[0]).min() > 0


@pytest.mark.parametrize("kind", [CAR, TRUCK])
def test_who_cuts_in_keeps_his_name_and_is_followed(cameras: list[CameraModel], kind: int) -> None:
    """Along the lane for 2 s, then sideways at 1.5 m/s2 up to 2.5 m/s, as the rudest of the suite's drivers do."""
    tracker = Tracker(cameras, ROAD)
    y, sideways_mps, lags = 3.5, 0.0, []
    for k in range(45):
        if k >= 20:
            sideways_mps = min(sideways_mps + 0.15, 2.5)
        y -= 0.1 * sideways_mps
        tracks = tracker.update(
            found([(12.0 + 0.2 * k, y)], kind, sigma=0.05, heading=-np.arctan2(sideways_mps, 6.0)), state(), 0.1 * k
        )
        if k >= 20:
            assert tracks.track_id.tolist() == [1], k
            lags.append((abs(tracks.odom_position_m[0, 1] - y), abs(tracks.odom_velocity_mps[0, 1] + sideways_mps)))
    assert sideways_mps == pytest.approx(2.5)
    position_m, velocity_mps = np.max(lags, axis=0)
    assert position_m < 0.15
    assert velocity_mps < 0.6


def test_the_motion_of_the_car_is_no_motion_of_objects(cameras: list[CameraModel]) -> None:
    tracker = Tracker(cameras, ROAD)
    for k in range(20):
        yaw, x = 0.03 * k, 0.8 * k
        c, s = np.cos(yaw), np.sin(yaw)
        delta = np.array([30.0 - x, 1.0])
        ego = (c * delta[0] + s * delta[1], -s * delta[0] + c * delta[1])
        tracks = tracker.update(found([ego], CONE, heading=-yaw), state(x, 0.0, yaw, 8.0), 0.1 * k)
    assert tracks.odom_position_m[0] == pytest.approx([30, 1], abs=0.1)
    assert np.abs(tracks.odom_velocity_mps[0]).max() < 0.05
    assert tracks.odom_heading_rad[0] == pytest.approx(0.0, abs=1e-3)


def test_reports_of_two_cameras_are_one_object(cameras: list[CameraModel]) -> None:
    tracker = Tracker(cameras, ROAD)
    for k in range(4):
        tracks = tracker.update(found([(-12.0, 0.3), (-12.6, -0.2)], camera=[1, 2], sigma=0.5), state(), 0.1 * k)
    assert tracks.track_id.tolist() == [1]
    assert tracks.odom_position_m[0] == pytest.approx([-12.3, 0.05], abs=0.1)


def test_two_objects_of_one_camera_stay_two(cameras: list[CameraModel]) -> None:
    tracker = Tracker(cameras, ROAD)
    for k in range(4):
        tracks = tracker.update(found([(12.0, 0.4), (12.5, -0.4)], PEDESTRIAN), state(), 0.1 * k)
    assert len(tracks.track_id) == 2


def test_an_object_in_view_that_is_gone_is_dropped_soon(cameras: list[CameraModel]) -> None:
    tracker = Tracker(cameras, ROAD)
    for k in range(10):
        tracker.update(found([(15, 0)]), state(), 0.1 * k)
    kept = [len(tracker.update(no_detections(NAMES), state(), 1.0 + 0.1 * k).track_id) for k in range(12)]
    assert kept[:4] == [1, 1, 1, 1]
    assert kept[9:] == [0, 0, 0]


@pytest.mark.parametrize("where", ["blind angle", "dead camera"])
def test_what_cannot_be_seen_is_coasted(cameras: list[CameraModel], where: str) -> None:
    tracker = Tracker(cameras, ROAD)
    start = (3.0, 4.0) if where == "blind angle" else (20.0, 0.0)
    for k in range(10):
        tracker.update(found([start]), state(), 0.1 * k)
    alive = NAMES if where == "blind angle" else NAMES[1:]
    for k in range(10, 30):
        tracks = tracker.update(no_detections(alive), state(), 0.1 * k)
        assert tracks.track_id.tolist() == [1]
    assert tracks.unseen_s[0] == pytest.approx(2.0, abs=1e-3)
    assert tracks.cameras == alive


def test_a_vehicle_in_the_blind_angle_stays_and_a_pedestrian_does_not(cameras: list[CameraModel]) -> None:
    present = {}
    for class_id in (CAR, PEDESTRIAN):
        tracker = Tracker(cameras, ROAD)
        for k in range(10):
            tracker.update(found([(3.0, 4.0)], class_id), state(), 0.1 * k)
        present[class_id] = [
            len(tracker.update(no_detections(NAMES), state(), 0.1 * k).track_id) for k in range(10, 100)
        ]
    assert present[CAR][60] == 1
    assert present[CAR][-1] == 0
    assert present[PEDESTRIAN][60] == 0


def test_an_id_lasts_through_occlusion(cameras: list[CameraModel]) -> None:
    tracker = Tracker(cameras, ROAD)
    for k in range(40):
        hidden = 15 <= k < 30
        behind = (30.0, 0.0)
        seen = [(10.0, 0.0)] if hidden else [(10.0, 0.0), behind]
        tracks = tracker.update(found(seen, TRUCK), state(), 0.1 * k)
        if k > 5:
            assert sorted(tracks.track_id.tolist()) == [1, 2], k


def test_crossing_paths_keep_their_names(cameras: list[CameraModel]) -> None:
    tracker = Tracker(cameras, ROAD)
    rng = np.random.default_rng(3)
    for k in range(40):
        t = 0.1 * k
        places = np.array([[15.0, -3 + 1.5 * t], [15.8, 3 - 1.5 * t]])
        order = rng.permutation(2)
        tracks = tracker.update(
            found([tuple(p) for p in (places + 0.08 * rng.normal(size=(2, 2)))[order]], PEDESTRIAN, sigma=0.1),
            state(),
            t,
        )
        if k == 10:
            named = {int(i): np.sign(v[1]) for i, v in zip(tracks.track_id, tracks.odom_velocity_mps, strict=True)}
    end = {int(i): np.sign(v[1]) for i, v in zip(tracks.track_id, tracks.odom_velocity_mps, strict=True)}
    assert end == named


def test_the_class_is_voted_on(cameras: list[CameraModel]) -> None:
    tracker = Tracker(cameras, ROAD)
    for k in range(12):
        tracks = tracker.update(found([(12, 0)], TRUCK if k in (0, 4, 7) else CAR), state(), 0.1 * k)
    assert tracks.class_id.tolist() == [CAR]
    assert tracks.track_id.tolist() == [1]


def test_a_cone_is_never_matched_with_a_truck(cameras: list[CameraModel]) -> None:
    tracker = Tracker(cameras, ROAD)
    for k in range(5):
        tracker.update(found([(12, 0)], CONE), state(), 0.1 * k)
    for k in range(5, 8):
        tracks = tracker.update(found([(12, 0)], TRUCK), state(), 0.1 * k)
    assert TRUCK in tracks.class_id.tolist()
    assert len(set(tracks.track_id.tolist())) == len(tracks.track_id) == 2


def test_flipped_headings_of_a_settled_vehicle_are_turned_back(cameras: list[CameraModel]) -> None:
    tracker = Tracker(cameras, ROAD)
    for k in range(20):
        tracks = tracker.update(found([(12, 0)], heading=np.pi if k in (8, 12, 13) else 0.0), state(), 0.1 * k)
    assert tracks.odom_heading_rad[0] == pytest.approx(0.0, abs=0.05)


def test_reset_forgets_everything_and_runs_are_equal(cameras: list[CameraModel]) -> None:
    tracker = Tracker(cameras, ROAD)
    first, _ = follow(tracker, 20, noise=0.2)
    tracker.reset()
    second, _ = follow(tracker, 20, noise=0.2)
    assert first.track_id.tolist() == second.track_id.tolist() == [1]
    assert np.array_equal(first.odom_position_m, second.odom_position_m)
    assert np.array_equal(first.covariance, second.covariance)


def test_at_most_the_nearest_few_are_reported(cameras: list[CameraModel]) -> None:
    tracker = Tracker(cameras, ROAD, TrackerConfig(tracks_max=3))
    for k in range(3):
        tracks = tracker.update(found([(10.0 + 6 * i, 0.0) for i in range(6)]), state(), 0.1 * k)
    assert sorted(tracks.odom_position_m[:, 0].round().tolist()) == [10, 16, 22]


def test_bad_input_is_named(cameras: list[CameraModel]) -> None:
    tracker = Tracker(cameras, ROAD)
    tracker.update(no_detections(NAMES), state(), 1.0)
    with pytest.raises(ValueError, match="t_s"):
        tracker.update(no_detections(NAMES), state(), 0.5)
    with pytest.raises(ValueError, match="camera_rear"):
        tracker.update(no_detections(("camera_rear",)), state(), 1.1)


def test_detections_that_are_not_finite_are_left_out(cameras: list[CameraModel]) -> None:
    tracker = Tracker(cameras, ROAD)
    for k in range(3):
        tracks = tracker.update(found([(10, 0), (np.nan, np.nan)]), state(), 0.1 * k)
    assert len(tracks.track_id) == 1
    assert np.isfinite(tracks.odom_position_m).all()


def test_twenty_objects_take_little_time(cameras: list[CameraModel]) -> None:
    tracker = Tracker(cameras, ROAD)
    rng = np.random.default_rng(0)
    base = np.stack([np.repeat(np.arange(5) * 8.0 + 8, 4), np.tile([-7.0, -3.5, 0.0, 3.5], 5)], 1)
    taken = []
    for k in range(60):
        detections = found([tuple(p) for p in base + 0.1 * rng.normal(size=base.shape)])
        started = time.process_time()
        tracks = tracker.update(detections, state(), 0.1 * k)
        taken.append(time.process_time() - started)
    assert len(tracks.track_id) == 20
    assert np.median(taken) < 4e-3  # 1.5 ms when the machine is idle


@pytest.mark.parametrize(
    ("speed", "lateral", "ego_speed"), [(25.0, 0.0, 25.0), (-20.0, 0.0, 20.0), (0.0, 6.0, 0.0), (0.0, 0.0, 20.0)]
)
def test_without_headings_motion_tells_where_objects_go(
    cameras: list[CameraModel], speed: float, lateral: float, ego_speed: float
) -> None:
    """With the traffic, against it, across, and standing: each track lives on and learns its velocity."""
    tracker = Tracker(cameras, ROAD)
    rng = np.random.default_rng(1)
    start = np.array([60.0 if speed < 5 and not lateral else 20.0, -8.0 if lateral else 3.0])
    seen = set()
    for k in range(14):
        t = 0.1 * k
        place = start + np.array([speed, lateral]) * t
        ego = place - [ego_speed * t, 0.0] + 0.1 * rng.normal(size=2)
        tracks = tracker.update(found([tuple(ego)], heading=np.nan), state(ego_speed * t, speed=ego_speed), t)
        seen |= set(tracks.track_id.tolist())
    assert seen == {1}
    assert np.isfinite(tracks.odom_heading_rad).all()
    assert tracks.odom_velocity_mps[0] == pytest.approx([speed, lateral], abs=1.5)
    if abs(speed) + lateral > 0:
        error = tracks.odom_heading_rad[0] - np.arctan2(lateral, speed)
        assert np.abs(np.arctan2(np.sin(error), np.cos(error))) < 0.35
    else:
        assert abs(tracks.odom_heading_rad[0]) < 0.2  # along the road, as nothing else is known


def test_a_heading_that_is_told_once_stays(cameras: list[CameraModel]) -> None:
    tracker = Tracker(cameras, ROAD)
    tracker.update(found([(15.0, 2.0)], heading=1.2), state(), 0.0)
    for k in range(1, 6):
        tracks = tracker.update(found([(15.0, 2.0)], heading=np.nan), state(), 0.1 * k)
    assert tracks.odom_heading_rad[0] == pytest.approx(1.2, abs=0.05)
