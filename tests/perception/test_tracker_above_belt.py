"""The same tracker over a belt: from above, under an arm, out of the picture, with parts that look alike turned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from visuomotor.control.arm.config import CELL
from visuomotor.messages.camera import CameraModel, load_camera
from visuomotor.messages.schema import ArmState, Detections, Header, Tracks, Truth
from visuomotor.perception.empty import no_detections
from visuomotor.perception.node import create
from visuomotor.perception.robot_pose import RobotPose, fill_line, find_hidden, hidden_share, read_pose
from visuomotor.perception.tasks import get_perception
from visuomotor.perception.tracker import Tracker
from visuomotor.perception.truth_node import truth_tracks
from visuomotor.sim.cell.error_model import LIMB_RADIUS_M

BELT = get_perception("pick")
CUBE, CYLINDER, BLOCK = 0, 1, 2
PROFILE = Path(__file__).resolve().parents[2] / "launch" / "profiles" / "pick"
CAMERA = ("camera_top",)
AWAY = RobotPose()
SPEED_MPS = -0.2


@pytest.fixture(scope="module")
def top() -> CameraModel:
    return load_camera(PROFILE / "camera_top.yaml")


def seen(*parts: tuple[float, float, float], class_id: int = BLOCK) -> Detections:
    """Detections of parts (x, y, yaw)."""
    count = len(parts)
    given = np.array(parts, np.float32).reshape(-1, 3)
    return Detections(
        cameras=CAMERA,
        camera_index=np.zeros(count, np.int32),
        class_id=np.full(count, class_id, np.int32),
        score=np.full(count, 0.9, np.float32),
        box_px=np.zeros((count, 4), np.float32),
        ground_px=np.zeros((count, 2), np.float32),
        ego_position_m=np.ascontiguousarray(given[:, :2]),
        ego_covariance_m2=np.tile(np.eye(2, dtype=np.float32) * 0.003**2, (count, 1, 1)),
        heading_rad=np.ascontiguousarray(given[:, 2]),
        size_m=np.tile(np.array([[0.08, 0.04]], np.float32), (count, 1)),
    )


def hand_over(x: float, y: float) -> RobotPose:
    return RobotPose(limbs_m=fill_line(np.array([[0.0, 0.0, 0.3], [x, y, 0.35], [x, y, 0.02]])))


def ride(tracker: Tracker, ticks: int, y: float = 0.6) -> float:
    """Let a part ride by in view for so many ticks; returns where it is then."""
    for k in range(ticks):
        tracks = tracker.update(seen((0.5, y + 0.1 * SPEED_MPS * k, 0.3)), AWAY, 0.1 * k)
    assert tracks.track_id.tolist() == [1]
    return y + 0.1 * SPEED_MPS * (ticks - 1)


def coast(tracker: Tracker, start: int, robot: RobotPose, ticks: int = 45) -> tuple[float, Tracks]:
    """How long a track lives without detections, s, and its last report."""
    last = None
    for k in range(start, start + ticks):
        tracks = tracker.update(no_detections(CAMERA), robot, 0.1 * k)
        if not len(tracks.track_id):
            break
        last = tracks
    assert last is not None
    return 0.1 * (k - start), last


def test_speed_of_the_belt_is_learnt_within_a_second(top: CameraModel) -> None:
    tracker = Tracker([top], BELT)
    y = ride(tracker, 10)
    tracks = tracker.update(seen((0.5, y + 0.1 * SPEED_MPS, 0.3)), AWAY, 1.0)
    assert tracks.odom_velocity_mps[0] == pytest.approx([0.0, SPEED_MPS], abs=0.02)
    assert tracks.odom_position_m[0] == pytest.approx([0.5, y + 0.1 * SPEED_MPS], abs=0.003)


def test_what_should_be_seen_and_is_not_is_gone_soon(top: CameraModel) -> None:
    tracker = Tracker([top], BELT)
    ride(tracker, 12)
    lived_s, _ = coast(tracker, 12, AWAY)
    assert 0.4 <= lived_s <= 0.7


def test_a_part_under_the_arm_goes_on_with_the_belt(top: CameraModel) -> None:
    tracker = Tracker([top], BELT)
    y = ride(tracker, 12)
    lived_s, last = coast(tracker, 12, hand_over(0.5, y - 0.03), ticks=4)  # the hand stays above where it went under
    assert lived_s == pytest.approx(0.3)
    assert last.odom_position_m[0] == pytest.approx([0.5, y + 0.4 * SPEED_MPS], abs=0.01)
    tracker = Tracker([top], BELT)
    for k in range(12):
        tracker.update(seen((0.5, 0.2, 0.3)), AWAY, 0.1 * k)
    lived_s, _ = coast(tracker, 12, hand_over(0.5, 0.2))  # one that stands, for as long as it may
    assert lived_s == pytest.approx(BELT.tracker.unseen_max_s, abs=0.11)


def test_half_a_part_beside_the_hand_moves_its_track_little(top: CameraModel) -> None:
    off = {}
    for name, robot in (("hand", hand_over(0.47, 0.19)), ("nothing", AWAY)):
        tracker = Tracker([top], BELT)
        for k in range(12):
            tracker.update(seen((0.5, 0.2, 0.3)), AWAY, 0.1 * k)
        for k in range(12, 18):  # what is left to see of it leans away from the hand
            tracks = tracker.update(seen((0.512, 0.2, 0.9)), robot, 0.1 * k)
        assert tracks.track_id.tolist() == [1]
        off[name] = tracks.odom_position_m[0, 0] - 0.5, tracks.odom_heading_rad[0] - 0.3
    assert np.all(np.array(off["hand"]) < (0.006, 0.3))
    assert np.all(np.array(off["nothing"]) > (0.010, 0.4))


def test_a_belt_that_stops_is_followed_and_one_that_runs_is_known_well(top: CameraModel) -> None:
    rng = np.random.default_rng(2)
    tracker = Tracker([top], BELT)
    y, speed = 0.6, -0.25
    for k in range(45):
        speed = min(speed + 0.05 * (k > 20), 0.0)
        y += 0.1 * speed
        measured = np.array([0.5, y]) + 0.002 * rng.normal(size=2)
        tracks = tracker.update(seen((*measured, 0.3)), AWAY, 0.1 * k)
        if k >= 2:
            assert tracks.track_id.tolist() == [1]
            assert np.hypot(*(tracks.odom_position_m[0] - (0.5, y))) < 0.02
        if 15 <= k <= 20 or k > 35:  # at one speed
            assert np.hypot(*(tracks.odom_velocity_mps[0] - (0.0, speed))) < 0.012


@pytest.mark.parametrize(
    ("other", "class_id", "follows"),
    [
        ((0.4, 0.8), BLOCK, True),
        ((0.4, 0.8), CYLINDER, True),  # it may roll, but all that it tells is a change
        (None, BLOCK, False),
        ((0.2, 0.4), BLOCK, False),  # in a bin beside the belt
    ],
)
def test_a_part_under_the_hand_stops_with_those_that_are_seen_to(top: CameraModel, other, class_id, follows) -> None:
    tracker = Tracker([top], BELT)
    y, speed, hand = 0.55, SPEED_MPS, AWAY
    for k in range(30):
        speed = min(speed + 0.05 * (k > 16), 0.0)
        y += 0.1 * speed
        if k == 14:  # from now on the hand hides it
            hand = hand_over(0.5, y - 0.03)
        found = [(0.5, y, 0.3)] if k < 14 else []
        classes = [BLOCK] * len(found)
        if other is not None:
            away = y - 0.55 if other[0] > 0.34 else 0.0
            found, classes = [*found, (other[0], other[1] + away, 0.0)], [*classes, class_id]
        detections = seen(*found)
        detections.class_id = np.array(classes, np.int32)
        tracks = tracker.update(detections, hand, 0.1 * k)
    off = np.abs(tracks.odom_position_m[tracks.track_id == 1][:, 1] - y)
    assert [bool(o < 0.01) for o in off] == ([True] if follows else [False] * len(off))  # False: it may be gone


def test_the_row_of_the_task_and_the_cell_mean_the_same_belt_and_arm() -> None:
    low, high = zip(CELL.belt_x_m, CELL.belt_y_m, strict=True)
    assert BELT.motion.belt_m == (*low, *high)
    assert BELT.tracker.limb_radius_m == LIMB_RADIUS_M


def test_a_part_that_left_the_picture_is_kept_for_a_second(top: CameraModel) -> None:
    tracker = Tracker([top], BELT)
    y = ride(tracker, 20, y=0.05)
    assert y < -0.32
    lived_s, last = coast(tracker, 20, AWAY)
    assert lived_s == pytest.approx(BELT.tracker.outside_max_s, abs=0.25)
    assert last.odom_position_m[0, 1] < -0.45


@pytest.mark.parametrize(("class_id", "part_rad"), [(CUBE, np.pi / 2), (BLOCK, np.pi)])
def test_a_yaw_told_from_the_other_side_is_the_same_yaw(top: CameraModel, class_id: int, part_rad: float) -> None:
    tracker = Tracker([top], BELT)
    rng = np.random.default_rng(0)
    for k in range(30):
        yaw = 0.75 + part_rad * rng.integers(-2, 3) + 0.05 * rng.normal()
        tracks = tracker.update(seen((0.5, 0.2, yaw), class_id=class_id), AWAY, 0.1 * k)
        if k >= 2:
            off = (tracks.odom_heading_rad[0] - 0.75 + part_rad / 2) % part_rad - part_rad / 2
            assert abs(off) < 0.2


def test_a_belt_that_moves_says_nothing_of_a_yaw(top: CameraModel) -> None:
    tracker = Tracker([top], BELT)
    for k in range(20):
        tracks = tracker.update(seen((0.5, 0.7 - 0.03 * k, 0.4)), AWAY, 0.1 * k)
    assert tracks.odom_heading_rad[0] == pytest.approx(0.4, abs=0.02)


def test_touching_parts_stay_two_and_a_colour_misread_stays_one(top: CameraModel) -> None:
    tracker = Tracker([top], BELT)
    for k in range(25):
        y = 0.6 - 0.02 * k
        found = seen((0.5, y, 0.0), (0.5, y + 0.045, 0.0))
        found.class_id[0] = CYLINDER if k % 7 == 6 else BLOCK
        tracks = tracker.update(found, AWAY, 0.1 * k)
    assert tracks.track_id.tolist() == [1, 2]
    assert tracks.class_id.tolist() == [BLOCK, BLOCK]


def test_hundreds_of_updates_leave_covariances_sound(top: CameraModel) -> None:
    tracker = Tracker([top], BELT)
    rng = np.random.default_rng(1)
    for k in range(600):
        x, y = np.array([0.5, 0.2]) + 0.003 * rng.normal(size=2)
        tracks = tracker.update(seen((x, y, 0.0)), AWAY, 0.1 * k)
        if k:
            assert np.linalg.eigvalsh(tracks.covariance[0].astype(float)).min() > 0


def test_limbs_hide_what_is_behind_them_in_the_picture(top: CameraModel) -> None:
    ground = np.array([[0.5, 0.2], [0.5, 0.45], [0.7, 0.2]])
    hidden = find_hidden(top, ground, hand_over(0.5, 0.2).limbs_m, 0.08)
    assert hidden.tolist() == [True, False, False]
    assert not find_hidden(top, ground, np.zeros((0, 3)), 0.08).any()
    assert find_hidden(top, np.zeros((0, 2)), hand_over(0.5, 0.2).limbs_m, 0.08).shape == (0,)


def test_what_limbs_hide_of_a_footprint_is_a_share(top: CameraModel) -> None:
    place = np.array([[0.5, 0.2], [0.5, 0.255], [0.5, 0.5]])
    share = hidden_share(top, place, np.full((3, 2), 0.06), hand_over(0.5, 0.2).limbs_m, 0.07)
    assert share[[0, 2]].tolist() == [1.0, 0.0]
    assert 0.1 < share[1] < 0.9
    assert hidden_share(top, place, np.full((3, 2), 0.06), np.zeros((0, 3)), 0.07).tolist() == [0.0, 0.0, 0.0]
    assert hidden_share(top, place[:0], np.zeros((0, 2)), hand_over(0.5, 0.2).limbs_m, 0.07).shape == (0,)


def turn_of(tracks: Tracks) -> float:
    return float((tracks.odom_heading_rad[0] + np.pi / 2) % np.pi - np.pi / 2)  # a block is the same after half a turn


def test_of_readings_that_the_arm_hides_alike_the_first_weighs_no_more_than_the_others(top: CameraModel) -> None:
    """The hand stands above a part from the start, and the first look at it is 1.2 rad off."""
    tracker = Tracker([top], BELT)
    over = hand_over(0.5, 0.2)
    for k in range(12):
        tracks = tracker.update(seen((0.5, 0.2, 1.0 if k == 0 else -0.2)), over, 0.1 * k)
    assert turn_of(tracks) == pytest.approx(-0.2, abs=0.15)


def test_a_few_readings_that_the_arm_hides_do_not_turn_what_was_in_plain_view(top: CameraModel) -> None:
    tracker = Tracker([top], BELT)
    for k in range(10):
        tracker.update(seen((0.5, 0.2, 0.3)), AWAY, 0.1 * k)
    for k in range(10, 13):
        tracks = tracker.update(seen((0.5, 0.2, -0.6)), hand_over(0.5, 0.2), 0.1 * k)
    assert turn_of(tracks) == pytest.approx(0.3, abs=0.12)
    for k in range(13, 22):  # and in plain view again it is followed
        tracks = tracker.update(seen((0.5, 0.2, -0.6)), AWAY, 0.1 * k)
    assert turn_of(tracks) == pytest.approx(-0.6, abs=0.12)


def test_an_arm_stands_where_it_is_and_says_what_of_it_is_in_the_way() -> None:
    points = np.array([[0.0, 0.0, 0.3], [0.4, 0.0, 0.6], [0.5, 0.0, 0.2]], np.float32)
    state = ArmState(
        joint_position_rad=np.zeros(7, np.float32),
        joint_velocity_radps=np.array([-1.2, 0, 0, 0.1, 2.0, 2.0, 2.0], np.float32),
        base_link_points_m=points,
    )
    pose = read_pose(state)
    assert (pose.x_m, pose.y_m, pose.yaw_rad, pose.speed_mps) == (0.0, 0.0, 0.0, 0.0)
    assert pose.sweep_mps == pytest.approx(1.2)
    assert np.diff(pose.limbs_m, axis=0).max() <= 0.05
    assert pose.limbs_m[-1] == pytest.approx(points[-1])
    with pytest.raises(TypeError, match="expected the state of a vehicle or of an arm, got Truth"):
        read_pose(no_parts())


def no_parts(classes: tuple[int, ...] = ()) -> Truth:
    count = len(classes)
    return Truth(
        header=Header(valid=True),
        agent_id=np.arange(count, dtype=np.int32),
        class_id=np.array(classes, np.int32),
        map_position_m=np.full((count, 2), 0.4, np.float32),
        map_velocity_mps=np.zeros((count, 2), np.float32),
        map_yaw_rad=np.zeros(count, np.float32),
        size_m=np.full((count, 3), 0.04, np.float32),
    )


def test_what_is_of_no_class_is_no_track() -> None:
    tracks = truth_tracks(no_parts((CUBE, -1, BLOCK)), BELT.truth_range_m)
    assert tracks.class_id.tolist() == [CUBE, BLOCK]


def test_the_nodes_of_a_profile_take_its_task(top: CameraModel) -> None:
    node = create({"mode": "blind", "task": "pick", "forecaster": "cv", "cameras": [top]})
    assert {i.service for i in node.inputs} == {"arm_state"}
    with pytest.raises(ValueError, match=r"drive-forecaster: made for the task 'drive': class_names"):
        create({"mode": "truth", "task": "pick", "forecaster": "drive-forecaster", "cameras": [top], "device": "cpu"})
    with pytest.raises(ValueError, match="task: expected one of drive, pick, got 'sort'"):
        create({"mode": "truth", "task": "sort", "cameras": [top]})
