from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from visuomotor.control.arm.config import CELL
from visuomotor.control.arm.inputs import ArmInputs
from visuomotor.control.arm.targets import FINGER_OUT_M, NEXT_S, WAIT_Y_M, Targets

CUBE, CYLINDER, BLOCK, BALL, DUCK, BRICK = range(6)
Make = Callable[..., ArmInputs]
Joints = Callable[..., np.ndarray]


def first(inputs: ArmInputs) -> int:
    """Slot of the best part, -1 when there is none."""
    targets = inputs.targets
    return int(targets.slot[0, 0]) if targets.found[0, 0] else -1


def test_the_part_that_leaves_first_comes_first_and_one_that_cannot_be_had_last(make_scene: Make):
    moving = {"vy": -0.2}
    assert first(make_scene([{"y": 0.2, **moving}, {"y": 0.05, **moving}])) == 1
    assert first(make_scene([{"y": 0.2, **moving}, {"y": -0.35, **moving}])) == 0
    assert first(make_scene([{"y": -0.35, **moving}])) == 0


def test_of_parts_that_stay_the_nearest_comes_first(make_scene: Make):
    assert first(make_scene([{"x": 0.42, "y": 0.3}, {"x": 0.55, "y": 0.05}])) == 1


def test_the_part_below_the_hand_is_kept(make_scene: Make, joints_at: Joints):
    parts = [{"x": 0.5, "y": 0.1, "vy": -0.1, "unseen": 1.0}, {"x": 0.5, "y": -0.1, "vy": -0.1}]
    assert first(make_scene(parts)) == 1
    assert first(make_scene(parts, joints=joints_at(0.5, 0.1, 0.06))) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"wanted": np.zeros((1, 6), int)},
        {"bin_index": np.full((1, 6), -1)},
        {"class_id": np.full((1, 16), -1)},
        {"class_id": np.full((1, 16), 6)},
        {"track_present": np.zeros((1, 16), bool)},
        {"track_age_s": np.full((1, 16), 0.1)},
        {"track_unseen_s": np.full((1, 16), 0.7)},
        {"track_position_m": np.full((1, 16, 2), CELL.bin_centre_m[0])},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_is_not_to_be_taken_is_not_found(make_scene: Make, changes: dict):
    inputs = make_scene([{}])
    assert first(inputs) == 0
    changed = dataclasses.replace(inputs, **changes)
    assert not changed.targets.found.any()
    assert all(np.isfinite(getattr(changed.targets, f.name)).all() for f in dataclasses.fields(Targets))


def test_places_are_those_of_the_forecast_alone(make_scene: Make):
    part = {"x": 0.5, "y": 0.1, "vx": 0.05, "vy": -0.2}
    targets = make_scene([part]).targets
    np.testing.assert_allclose(targets.at(0.5)[0, 0], [0.525, 0.0], atol=1e-6)
    np.testing.assert_allclose(targets.next_m[0, 0], [0.5 + 0.05 * NEXT_S, 0.1 - 0.2 * NEXT_S], atol=1e-6)
    np.testing.assert_allclose(targets.velocity_mps[0, 0], [0.05, -0.2], atol=1e-5)
    for futures in ("none", "standing"):
        targets = make_scene([part], futures=futures).targets
        np.testing.assert_allclose(targets.at(0.5)[0, 0], [0.5, 0.1], atol=1e-6)
        np.testing.assert_allclose(targets.velocity_mps[0, 0], 0.0, atol=1e-6)


def test_futures_count_by_their_probability(make_scene: Make):
    inputs = make_scene([{"x": 0.5, "y": 0.1}])
    stays, runs = inputs.forecast_m, inputs.forecast_m.copy()
    runs[..., 1] -= 0.3 * 0.1 * np.arange(1, 21)
    both = dataclasses.replace(
        inputs,
        forecast_m=np.concatenate([stays, runs], axis=2),
        forecast_probability=np.tile(np.float32([0.75, 0.25]), (1, 16, 1)),
    )
    assert both.targets.at(1.2)[0, 0, 1] == pytest.approx(0.1 - 0.25 * 0.36, abs=1e-5)
    assert both.targets.spread_m[0, 0, 1] == pytest.approx(math.sqrt(0.75 * 0.25) * 0.36, abs=1e-5)
    unknown = dataclasses.replace(both, forecast_probability=np.zeros((1, 16, 2), np.float32))
    np.testing.assert_allclose(unknown.targets.at(1.2)[0, 0], [0.5, 0.1], atol=1e-6)


def test_the_meeting_place_is_where_tool_and_part_are_at_the_same_time(make_scene: Make):
    inputs = make_scene([{"x": 0.5, "y": 0.35, "vy": -0.3}])
    targets = inputs.targets
    time, place = targets.intercept_s[0, 0], targets.intercept_m[0, 0]
    assert place[1] == pytest.approx(0.35 - 0.3 * time, abs=1e-5)
    assert 0.2 < time < 1.0
    assert np.hypot(*(place - targets.tool_next_m[0, :2])) <= 0.65 * time
    waiting = make_scene([{"x": 0.5, "y": 0.8, "vy": -0.1}]).targets
    assert waiting.intercept_m[0, 0, 1] == WAIT_Y_M
    assert waiting.outside_m[0, 0] > 0.4
    assert waiting.intercept_s[0, 0] == pytest.approx(5.0, abs=0.15)  # it is taken a second after it comes into reach


@pytest.mark.parametrize("yaw", np.linspace(-3.1, 3.1, 13))
@pytest.mark.parametrize(("kind", "turn"), [(BLOCK, math.pi), (DUCK, math.pi), (CUBE, math.pi / 2)])
def test_the_tool_turns_with_the_part_up_to_its_symmetry_within_reach(
    make_scene: Make, kind: int, turn: float, yaw: float
):
    width = {"length": 0.04, "width": 0.04} if kind == CUBE else {"length": 0.08, "width": 0.035}
    targets = make_scene([{"kind": kind, "yaw": yaw, **width}]).targets
    found = float(targets.grip_yaw_rad[0, 0])
    assert math.remainder(found - yaw, turn) == pytest.approx(0.0, abs=1e-6)
    assert math.radians(-75.1) < found < math.radians(125.1)
    assert targets.grip_width_m[0, 0] == width["width"]


def test_round_parts_are_gripped_across_the_belt_whatever_their_heading(make_scene: Make):
    for kind in (CYLINDER, BALL):
        assert make_scene([{"kind": kind, "yaw": 1.0}]).targets.grip_yaw_rad[0, 0] == pytest.approx(math.pi / 2)


def test_fingers_go_where_no_other_part_is(make_scene: Make):
    beside = {"x": 0.542, "y": 0.0, "kind": BLOCK, "length": 0.04}  # touches the side that the fingers would close on
    cube = {"x": 0.5, "y": 0.0, "kind": CUBE}
    cubes = np.array([[2, 0, 0, 0, 0, 0]])
    free, blocked = make_scene([cube]).targets, make_scene([cube, beside], wanted=cubes).targets
    assert free.grip_yaw_rad[0, 0] == pytest.approx(math.pi / 2)
    assert blocked.grip_yaw_rad[0, 0] == pytest.approx(0.0)
    assert blocked.obstruction[0, 0] == 0.0
    np.testing.assert_allclose(np.abs(blocked.neighbour_m[0, 0]), [0.0, 0.042], atol=1e-6)
    long = make_scene(
        [{**cube, "kind": BLOCK, "length": 0.09, "yaw": math.pi / 2}, beside], wanted=np.array([[0, 0, 1, 0, 0, 0]])
    ).targets
    assert long.obstruction[0, list(long.slot[0]).index(0)] == 1.0
    far = make_scene([cube, {**beside, "x": 0.5 + FINGER_OUT_M + 0.06}], wanted=cubes).targets
    assert far.grip_yaw_rad[0, 0] == pytest.approx(math.pi / 2)
    assert far.obstruction[0, 0] == 0.0


def test_a_free_part_comes_before_one_between_others(make_scene: Make):
    parts = [
        {"kind": BLOCK, "y": 0.0, "length": 0.09},
        {"kind": BLOCK, "y": 0.042, "length": 0.09},
        {"kind": BLOCK, "y": -0.1, "length": 0.09},
    ]
    assert first(make_scene(parts)) == 2
