"""An arm beside a belt, from hand-made messages: its grasps, its metrics, its report and its standing still."""

import json
import re
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from visuomotor.launch.evaluate.arm import ArmMetrics
from visuomotor.launch.evaluate.metrics import make_metrics
from visuomotor.launch.evaluate.score import Score, load_score, paired_ratio
from visuomotor.launch.evaluate.statistics import paired_shares, pooled_share
from visuomotor.launch.report.capture import EpisodeCapture
from visuomotor.launch.report.page import write_report
from visuomotor.launch.report.parts import make_part
from visuomotor.launch.standstill import ARM, CAR, choose_gauge
from visuomotor.launch.tasks import PARTS
from visuomotor.messages.camera import load_camera
from visuomotor.messages.schema import (
    ArmState,
    CameraFrame,
    Command,
    Detections,
    Forecast,
    Header,
    Order,
    PolicyCommand,
    Tracks,
    Truth,
    VehicleState,
)

CAMERA = load_camera(Path(__file__).parents[2] / "launch" / "profiles" / "pick" / "camera_top.yaml")
BELT_MPS = 0.1
CUBE, BALL, DUCK = 0, 3, 4
BIN_M = np.array([0.2, 0.36])
# A cube is picked and binned, a ball is grasped at and not held, a duck is binned wrongly, a last cube passes by.
PARTS_ON_BELT = {
    1: (CUBE, 0.30, "plain"),
    2: (BALL, 0.55, "rolling"),
    3: (DUCK, 0.75, "plain"),
    4: (CUBE, 0.25, "turned"),
}
TRIPS = [(1, 10, 20, 22, 40, "binned"), (2, 50, 58, None, 62, ""), (3, 70, 80, 82, 100, "wrong")]  # ticks
TICKS = 120


def place(part_id: int, k: int) -> tuple[np.ndarray, float] | None:
    """Where a part is at a tick, and its height; None when it lies in a bin."""
    _, y0, _ = PARTS_ON_BELT[part_id]
    x = 0.45 + 0.03 * part_id
    for trip, _, _, held, released, _ in TRIPS:
        if trip == part_id and held is not None and k >= held:
            if k >= released + 2:
                return None
            share = min(1.0, (k - held) / (released - held))
            start = np.array([x, y0 - BELT_MPS * 0.1 * held])
            return start + share * (BIN_M - start), 0.02 + 0.12 * min(1.0, (k - held) / 3.0)
    return np.array([x, y0 - BELT_MPS * 0.1 * k]), 0.02


def tool(k: int) -> tuple[np.ndarray, float]:
    """Tool's place and the width that its fingers are told."""
    for part_id, approach, closed, held, released, _ in TRIPS:
        at = place(part_id, k)
        if approach <= k < released and at is not None:
            above = 0.2 * max(0.0, (closed - k) / (closed - approach))
            return np.array([*at[0], at[1] + above]), 0.0 if k >= closed else 0.08
        if held is not None and released <= k < released + 2:
            return np.array([*BIN_M, 0.14]), 0.08
    return np.array([0.3, 0.0, 0.3]), 0.08


def tick(k: int) -> dict:
    header = Header(tick=k, valid=True)
    parts = {i: at for i in PARTS_ON_BELT if (at := place(i, k)) is not None}
    ids = np.array(list(parts), np.int32)
    classes = np.array([PARTS_ON_BELT[i][0] for i in parts], np.int32)
    position = np.array([at[0] for at in parts.values()], np.float32).reshape(-1, 2)
    height = np.array([at[1] for at in parts.values()], np.float32)
    n = len(ids)
    size = np.full((n, 3), 0.04, np.float32)
    tip, width = tool(k)
    links = np.array([[0, 0, 0], [0, 0, 0.33], tip / 2 + (0, 0, 0.4), [*tip[:2], tip[2] + 0.2], tip], np.float32)
    binned = sum(k >= released + 2 for *_, released, outcome in TRIPS if outcome == "binned")
    wrong = sum(k >= released + 2 for *_, released, outcome in TRIPS if outcome == "wrong")
    steps = 0.1 * np.arange(1, 21, dtype=np.float32)
    path = position[:, None, None, :] + np.array([0.0, -BELT_MPS], np.float32) * steps[None, None, :, None]
    px, _ = CAMERA.project(np.column_stack([position, np.zeros(n)]))
    picture = np.full((CAMERA.height, CAMERA.width, 3), 60, np.uint8)
    for x, y in px:
        cv2.circle(picture, (round(float(x)), round(float(y))), 8, (40, 60, 200), -1)
    heading = np.where(classes == BALL, np.nan, 0.4).astype(np.float32)
    joints = np.full(7, 0.01 if k > 110 else 0.5, np.float32)
    return {
        "camera_top": CameraFrame(header=header, image=picture),
        "arm_state": ArmState(
            header=header,
            joint_position_rad=np.zeros(7, np.float32),
            joint_velocity_radps=joints,
            gripper_width_m=max(width, 0.04 if 22 <= k < 40 else width),
            gripper_force_n=40.0 if 22 <= k < 40 else 0.0,
            base_link_points_m=links,
        ),
        "order": Order(
            header=header,
            wanted=np.array([2 - binned, 0, 0, 1, 0, 0], np.int32),
            bin_index=np.array([0, -1, -1, 1, -1, -1], np.int32),
            base_bin_m=np.array([[0.2, 0.36, 0.08], [0.2, -0.36, 0.08]], np.float32),
            bin_size_m=(0.2, 0.2),
            base_belt_m=(0.34, -0.9, 0.66, 1.3),
            base_reach_m=(0.34, -0.4, 0.66, 0.4),
        ),
        "detections": Detections(
            header=header,
            cameras=("camera_top",),
            camera_index=np.zeros(n, np.int32),
            class_id=classes,
            score=np.full(n, 0.9, np.float32),
            box_px=np.concatenate([px - 9, px + 9], axis=1).astype(np.float32),
            ground_px=px.astype(np.float32),
            ego_position_m=position,
            ego_covariance_m2=np.zeros((n, 2, 2), np.float32),
            heading_rad=heading,
            size_m=size[:, :2],
        ),
        "tracks": Tracks(
            header=header,
            cameras=("camera_top",),
            track_id=ids + 10,
            class_id=classes,
            score=np.full(n, 0.9, np.float32),
            odom_position_m=position,
            odom_velocity_mps=np.tile(np.array([[0.0, -BELT_MPS]], np.float32), (n, 1)),
            odom_heading_rad=heading,
            size_m=size[:, :2],
            covariance=np.zeros((n, 4, 4), np.float32),
            age_s=np.ones(n, np.float32),
            unseen_s=np.zeros(n, np.float32),
        ),
        "forecast": Forecast(
            header=header,
            step_s=0.1,
            track_id=ids + 10,
            probability=np.ones((n, 1), np.float32),
            odom_position_m=path.astype(np.float32),
            spread_m=np.ones((n, 1, 20, 3), np.float32),
        ),
        "policy_command": PolicyCommand(header=header, joint_velocity_radps=(0.6,) * 7, gripper_width_m=width),
        "command": Command(
            header=header,
            joint_velocity_radps=(0.5,) * 7,
            gripper_width_m=width,
            causes=("workspace",) if k == 30 else (),
        ),
        "truth": Truth(
            header=header,
            agent_id=ids,
            class_id=classes,
            map_position_m=position,
            map_velocity_mps=np.zeros((n, 2), np.float32),
            map_yaw_rad=np.full(n, 0.4, np.float32),
            size_m=size,
            height_m=height,
            kinds=tuple(PARTS_ON_BELT[i][2] for i in parts),
            parts_ordered=3,
            parts_binned=binned,
            wrong_parts=wrong,
            belt_speed_mps=BELT_MPS,
            events=("constant", "turned"),
            end="goal" if k == TICKS - 1 else "",
        ),
    }


@pytest.fixture(scope="module")
def shift() -> list[dict]:
    return [tick(k) for k in range(TICKS)]


@pytest.fixture(scope="module")
def row(shift) -> dict:
    metrics = make_metrics("pick")
    for messages in shift:
        metrics.add(messages)
    assert isinstance(metrics, ArmMetrics)
    assert metrics.end == "goal"
    return metrics.result(5)


def test_grasps_are_told_apart_by_what_became_of_their_parts(row):
    found = [(g["part_id"], g["close_tick"], g["held_tick"], g["released_tick"], g["outcome"]) for g in row["grasps"]]
    assert found == [(1, 20, 23, 40, "binned"), (2, 58, None, None, "missed"), (3, 80, 83, 100, "wrong")]
    approach = row["grasps"][0]["approach_tick"]
    assert 10 < approach < 20
    assert row["cycles_s"] == [pytest.approx(0.1 * (40 - approach))]


def test_a_shift_with_a_wrong_part_is_no_success(row):
    assert (row["end"], row["success"]) == ("goal", False)
    assert (row["parts_ordered"], row["parts_binned"], row["wrong_parts"]) == (3, 1, 1)
    assert row["picks_per_minute"] == pytest.approx(60.0 / 11.9)
    assert (row["guard_ticks"], row["ticks"], row["guard_interventions"]) == (1, TICKS, {"workspace": 1})
    assert row["max_gripper_force_n"] == 40.0
    # cubes 1 and 4 and the ball were ordered; 4 leaves the reach
    assert row["binned_by"] == {
        "kind plain": [1, 1],
        "kind rolling": [0, 1],
        "kind turned": [0, 1],
        "speed 0.1": [1, 3],
    }


@pytest.mark.parametrize(("cubes", "of_4"), [(2, [0, 1]), (1, None)])
def test_a_part_that_nobody_needed_any_more_was_not_missed(shift, cubes, of_4):
    metrics = ArmMetrics()
    for k, messages in enumerate(shift[:112]):  # cube 4 leaves at 66 ticks, long after cube 1 lies in its bin
        wanted = np.array([cubes - (k >= 42), 0, 0, 1, 0, 0], np.int32)
        order = msgspec.structs.replace(messages["order"], wanted=wanted)
        metrics.add(messages | {"order": order})
    assert metrics.result(5)["binned_by"].get("kind turned") == of_4


def test_a_part_still_in_the_hand_at_the_end_was_needed(shift):
    metrics = ArmMetrics()
    for messages in shift[:35]:
        order = msgspec.structs.replace(messages["order"], wanted=np.array([1, 0, 0, 0, 0, 0], np.int32))
        metrics.add(messages | {"order": order})
    assert metrics.result(5)["binned_by"]["kind plain"] == [0, 1]


def test_shares_of_parts_are_pooled_over_episodes(row, tmp_path):
    other = row | {"seed": 6, "parts_ordered": 7, "parts_binned": 7, "wrong_parts": 0, "cycle_s": None}
    score = Score(task="pick", suite="pick-v1", episodes=[row, other]).finish()
    share = score.summary["parts_binned_share"]
    assert (share.mean, share.n) == (pytest.approx(8 / 10), 2)
    assert share.low == pytest.approx(1 / 3)
    assert share.high == 1.0
    assert score.summary["wrong_parts_share"].mean == pytest.approx(1 / 9)
    assert score.summary["parts_binned_share, speed 0.1"].mean == pytest.approx(1 / 3)
    assert score.summary["cycle_s"].n == 1
    assert "collision_at_fault" not in score.summary
    idle = row | {"parts_binned": 0, "wrong_parts": 0, "grasps_held": 0, "grasp_attempts": 0, "cycle_s": None}
    nothing = Score(task="pick", suite="pick-v1", episodes=[idle]).finish()
    assert nothing.summary["parts_binned_share"].mean == 0.0
    assert not {"wrong_parts_share", "grasps_held_share", "cycle_s"} & set(nothing.summary)
    nothing.save(tmp_path / "score.json")
    assert load_score(tmp_path / "score.json").summary == nothing.summary
    better = Score(task="pick", suite="pick-v1", episodes=[row | {"parts_binned": 3}, other])
    assert paired_ratio(better, score, "parts_binned_share").mean == pytest.approx(0.2)


def test_pooled_shares_of_nothing_are_no_number_and_pairs_are_pairs():
    none = np.zeros(3)
    assert np.isnan(pooled_share(none, none).mean)
    ours, theirs, parts = np.array([4.0, 0.0, 2.0]), np.array([3.0, 0.0, 1.0]), np.array([4.0, 0.0, 2.0])
    difference = paired_shares(ours, parts, theirs, parts)
    assert difference.mean == pytest.approx(1.0 - 4 / 6)
    assert 0.0 < difference.low <= difference.mean <= difference.high  # each pair with parts is the better for it
    with pytest.raises(ValueError, match="got 3 and 2"):
        paired_shares(ours, parts, theirs[:2], parts[:2])


def test_report_shows_the_shift(shift, row, tmp_path):
    capture = EpisodeCapture(seed=5)
    for k, messages in enumerate(shift):
        capture.add(k, messages)
    score = Score(task="pick", suite="pick-v1", policy="scripted", episodes=[row]).finish()
    text = write_report(tmp_path, score, [capture], {"camera_top": CAMERA}, video=False).read_text()
    assert "https://" not in text
    assert "http://" not in text
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S).group(1))
    ticks = data["episodes"][0]["ticks"]
    assert len(ticks) == TICKS
    assert ticks[30]["guard"] == ["workspace"]
    assert ticks[50]["count"] == [1, 3, 0]
    assert ticks[50]["wanted"] == [["red cube", 1, 0], ["yellow ball", 1, 1]]
    assert ticks[0]["tracks"][1][6] is None  # a ball has no heading
    assert data["classes"] == list(PARTS["pick"].task.class_names)


def test_pictures_have_the_arm_its_parts_and_what_is_told_beside(shift):
    part = make_part("pick")
    empty = part.draw_top({}, 480, 576)
    drawn = part.draw_top(shift[30], 480, 576)
    assert drawn.shape == (576, 480, 3)
    assert (drawn != empty).any(axis=2).mean() > 0.2
    bare = part.draw_top({s: m for s, m in shift[30].items() if s != "arm_state"}, 480, 576)
    assert 500 < (drawn != bare).any(axis=2).sum() < 20_000
    frame = shift[30]["camera_top"].image
    assert (part.draw_camera(frame, CAMERA, shift[30], 2.0) != part.draw_camera(frame, CAMERA, {}, 2.0)).any()
    on_hand = msgspec.structs.replace(CAMERA, on_hand=True)  # where it looks is in no message
    assert (part.draw_camera(frame, on_hand, shift[30], 2.0) == part.draw_camera(frame, on_hand, {}, 2.0)).all()
    assert part.instruments(shift[50])[0] == "1 of 3 binned, 0 wrong"
    assert part.instruments(shift[50])[-1] == "wanted: red cube, yellow ball"


def test_an_arm_stands_when_its_joints_do_whatever_its_truth_says_of_speed(shift):
    gauge = choose_gauge(("camera_top", "arm_state", "order", "truth"))
    assert gauge is ARM
    assert not gauge.stands(gauge.read_first(shift[30]))
    assert gauge.stands(gauge.read_first(shift[115]))
    assert not gauge.stands(gauge.read_first({"truth": shift[30]["truth"]}))
    assert not gauge.stands(float("nan"))
    assert choose_gauge(("vehicle_state", "route")) is CAR
    assert CAR.read_first({"vehicle_state": VehicleState(speed_mps=3.0)}) == 3.0


def test_live_view_writes_the_shift(shift, tmp_path):
    rr = pytest.importorskip("rerun")
    from visuomotor.launch.report.view import LiveView

    path = tmp_path / "run.rrd"
    view = LiveView(make_part("pick"), ["camera_top"], save=path)
    for k in (0, 30, 50):
        view.add(0, k, shift[k])
    rr.disconnect()
    assert path.stat().st_size > 20_000
