from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visuomotor.control.arm.action import (
    ACCELERATION_RADPS2,
    POSITION_MAX_RAD,
    POSITION_MIN_RAD,
    VELOCITY_RADPS,
    ArmWatchdog,
    brake,
    command,
    decode,
    encode,
    fastest_stop,
    stopping_time,
)
from visuomotor.control.arm.config import CELL, CONTROL_PERIOD_S, LIMITS, REST_RAD
from visuomotor.control.arm.kinematics import REACH_M, forward, reach

ANY = st.floats(width=32)
STEP = ACCELERATION_RADPS2 * CONTROL_PERIOD_S


@given(st.lists(st.tuples(ANY, ANY, ANY, ANY, ANY), min_size=1, max_size=4))
def test_any_action_is_a_twist_within_the_tools_limits(actions: list[tuple[float, ...]]):
    twist, width = decode(np.array(actions, np.float32))
    assert twist.shape == (len(actions), 4)
    assert (np.linalg.norm(twist[:, :3], axis=1) <= LIMITS.tool_speed_mps + 1e-12).all()
    assert (np.abs(twist[:, 3]) <= LIMITS.yaw_rate_radps).all()
    np.testing.assert_array_equal(width, np.where(np.array(actions)[:, 4] > 0.0, LIMITS.gripper_width_m, 0.0))


def test_decoding_scales_and_keeps_the_direction():
    twist, width = decode(
        np.array([[0.5, 0.0, 0.0, -1.0, 0.1], [1.0, 1.0, 0.0, 0.0, 0.0], [math.nan, 0, 0, 0, math.nan]])
    )
    np.testing.assert_allclose(twist[0], [0.4, 0.0, 0.0, -2.0])
    np.testing.assert_allclose(twist[1, :2], LIMITS.tool_speed_mps / math.sqrt(2.0))
    np.testing.assert_array_equal(twist[2], 0.0)
    np.testing.assert_array_equal(width, [0.08, 0.0, 0.0])


@given(st.lists(st.floats(-0.5, 0.5), min_size=4, max_size=4), st.booleans())
def test_encode_inverts_decode(values: list[float], opens: bool):
    action = np.array([[*values, 1.0 if opens else -1.0]])
    twist, width = decode(action)
    np.testing.assert_allclose(encode(twist, width > 0.0), action, atol=1e-12)
    assert (np.abs(encode(100.0 * np.ones((1, 4)), np.array([False]))) == 1.0).all()


def drive(make_arms: type, actions: np.ndarray) -> tuple:
    """Arms that have obeyed actions [T, B, 5], and their commands [T + 1, B, 7], beginning with that of standing."""
    arms = make_arms(actions.shape[1])
    commands = [arms.sent]
    for action in actions:
        sent = command(action, arms.inputs, arms.sent).joint_velocity_radps
        commands.append(sent)
        arms.step(sent)
    return arms, np.array(commands)


def check(arms: Any, commands: np.ndarray) -> None:
    """Every limit, at every point of every arm's path."""
    path = np.array(arms.path)
    assert (path >= POSITION_MIN_RAD).all()
    assert (path <= POSITION_MAX_RAD).all()
    assert (np.abs(commands) <= VELOCITY_RADPS + 1e-9).all()
    assert (np.abs(np.diff(commands, axis=0)) <= STEP + 1e-9).all()
    tool = forward(path.reshape(-1, 7))
    assert (tool.position_m >= CELL.workspace_min_m).all()
    assert (tool.position_m <= CELL.workspace_max_m).all()
    assert (reach(tool.position_m)[0] <= np.array(REACH_M)[:, 1] + 0.01).all()
    assert (reach(tool.position_m)[0] >= np.array(REACH_M)[:, 0] - 0.01).all()
    assert tool.tilt_rad.max() < 0.1
    step = np.diff(tool.position_m.reshape(len(path), -1, 3), axis=0)
    speed = np.linalg.norm(step, axis=2) / (CONTROL_PERIOD_S / arms.FINE)
    assert speed.max() < 1.2 * LIMITS.tool_speed_mps  # while its course changes


def test_hostile_actions_stay_inside_every_limit(make_arms: type):
    rng = np.random.default_rng(1)
    actions = np.repeat(rng.uniform(-1.5, 1.5, (12, 48, 5)), rng.integers(1, 20, 12), axis=0)
    check(*drive(make_arms, actions))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.lists(ANY, min_size=5, max_size=5), st.integers(1, 15)), min_size=1, max_size=5))
def test_any_actions_stay_inside_every_limit(make_arms: type, runs: list[tuple[list[float], int]]):
    check(*drive(make_arms, np.concatenate([np.tile(values, (ticks, 1, 1)) for values, ticks in runs])))


CORNERS = [(x, y, z, w) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1) for w in (-1, 1)]


def test_pushed_into_every_corner_the_tool_comes_to_rest_before_it(make_arms: type):
    actions = np.tile(np.column_stack([CORNERS, np.ones(len(CORNERS))]), (60, 1, 1))
    arms, commands = drive(make_arms, actions)
    check(arms, commands)
    assert np.abs(commands[-1]).max() < 0.3
    assert (forward(arms.position).position_m[np.array(CORNERS)[:, 2] < 0, 2] < CELL.workspace_min_m[2] + 0.01).all()


@pytest.mark.parametrize("speed", [0.05, 0.3, 0.6])
def test_the_tool_gets_to_the_wanted_velocity_and_keeps_it(make_arms: type, speed: float):
    ticks = 8
    twist = np.array([[0.0, -speed, 0.0, 0.0]])
    arms, _ = drive(make_arms, np.tile(encode(twist, np.array([True])), (ticks, 1, 1)))
    found = arms.inputs
    np.testing.assert_allclose(found.tool_velocity_mps[0], twist[0, :3], atol=0.02)
    assert found.tool_position_m[0, 0] == pytest.approx(forward(np.array([REST_RAD])).position_m[0, 0], abs=0.01)
    assert forward(arms.position).tilt_rad[0] < 0.01


def test_the_tools_acceleration_is_limited_on_a_straight_start(make_arms: type):
    arms, _ = drive(make_arms, np.tile([[[0.0, 1.0, 0.0, 0.0, 1.0]]], (3, 1, 1)))
    limit = LIMITS.tool_acceleration_mps2 * CONTROL_PERIOD_S
    assert arms.inputs.tool_velocity_mps[0, 1] == pytest.approx(0.8, abs=0.02)
    first, _ = drive(make_arms, np.tile([[[0.0, 1.0, 0.0, 0.0, 1.0]]], (2, 1, 1)))
    assert first.inputs.tool_velocity_mps[0, 1] == pytest.approx(limit, abs=0.01)


def test_a_yaw_beyond_the_wrist_is_given_up_for_the_tools_way(make_arms: type):
    arms, commands = drive(make_arms, np.tile([[[0.0, 0.0, 0.0, 1.0, 1.0]]], (40, 1, 1)))
    check(arms, commands)
    assert arms.position[0, 6] < POSITION_MIN_RAD[6] + 0.06
    arms, commands = drive(
        make_arms,
        np.concatenate([np.tile([[[0, 0, 0, 1, 1]]], (40, 1, 1)), np.tile([[[0, -0.5, 0, 1, 1]]], (10, 1, 1))]),
    )
    np.testing.assert_allclose(arms.inputs.tool_velocity_mps[0], [0.0, -0.4, 0.0], atol=0.02)


def test_from_outside_the_workspace_the_tool_comes_back_slowly(make_arms: type):
    low = np.array([[0.0, 0.75, 0.0, -1.95, 0.0, 2.7, math.pi / 4]])
    assert forward(low).position_m[0, 2] < 0.0
    arms = make_arms(joint_position_rad=low)
    for _ in range(25):
        arms.step(command(np.zeros((1, 5)), arms.inputs, arms.sent).joint_velocity_radps)
        assert arms.inputs.tool_velocity_mps[0, 2] < 0.12
    assert forward(arms.position).position_m[0, 2] > CELL.workspace_min_m[2] - 0.001


def test_a_batch_is_its_rows(make_arms: type):
    rng = np.random.default_rng(2)
    arms = make_arms(joint_position_rad=np.array(REST_RAD) + rng.uniform(-0.2, 0.2, (5, 7)))
    arms.sent = rng.uniform(-0.3, 0.3, (5, 7))
    actions = rng.uniform(-1, 1, (5, 5))
    together = command(actions, arms.inputs, arms.sent).joint_velocity_radps
    for row in range(5):
        one = make_arms(joint_position_rad=arms.position[row : row + 1])
        alone = command(actions[row : row + 1], one.inputs, arms.sent[row : row + 1]).joint_velocity_radps
        np.testing.assert_allclose(alone[0], together[row], atol=1e-9)


@given(st.floats(-0.5, 2.0), st.floats(0.1, 20.0))
def test_the_fastest_stop_uses_the_room_up(room: float, braking: float):
    speed = float(fastest_stop(np.array(room), braking))
    if room >= 0.0:
        way = speed * CONTROL_PERIOD_S / 2 + speed * speed / (2 * braking)
        assert way == pytest.approx(room, abs=1e-9)
    else:
        assert speed == pytest.approx(room / CONTROL_PERIOD_S)


@given(st.lists(st.floats(-2.0, 2.0), min_size=7, max_size=7))
def test_braking_is_in_proportion_and_within_the_accelerations(values: list[float]):
    speed = np.array(values)
    left = brake(speed)
    assert (np.abs(left - speed) <= STEP + 1e-9).all()
    np.testing.assert_allclose(left * np.linalg.norm(speed), speed * np.linalg.norm(left), atol=1e-9)
    ticks = math.ceil(float(stopping_time(speed)[0]) / CONTROL_PERIOD_S - 1e-9)
    for _ in range(ticks):
        speed = brake(speed)
    np.testing.assert_allclose(speed, 0.0, atol=1e-9)


def test_the_watchdog_holds_then_comes_to_rest_with_the_gripper_held():
    watchdog = ArmWatchdog(hold_s=0.3)
    watchdog.reset(10.0, 0.03)
    speed, width = watchdog.step(10.0, None)
    assert (speed == 0.0).all()
    assert width == 0.03
    wanted = (1.5, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    for now in (10.1, 10.2, 10.3, 10.4):
        speed, width = watchdog.step(now, (wanted, 0.0) if now == 10.1 else None)
        assert tuple(speed) == wanted
        assert width == 0.0
        assert not watchdog.tripped
    speeds = [watchdog.step(10.5 + 0.1 * i, None)[0] for i in range(3)]
    assert watchdog.tripped
    np.testing.assert_allclose(speeds[0], np.array(wanted) * (1.0 - 0.1 / (1.0 / 10.0 * 1.0)), atol=1e-9)
    assert (speeds[-1] == 0.0).all()
    assert watchdog.step(11.0, (wanted, 0.08))[1] == 0.08
    assert not watchdog.tripped


@pytest.mark.parametrize(
    "bad",
    [
        ((math.nan,) + (0.0,) * 6, 0.0),
        ((0.0,) * 6 + (math.inf,), 0.0),
        ((0.0,) * 7, math.nan),
        ((0.0,) * 6, 0.0),
        ((), 0.0),
    ],
)
def test_the_watchdog_takes_a_broken_command_for_none(bad: tuple[tuple[float, ...], float]):
    watchdog = ArmWatchdog(hold_s=0.0)
    watchdog.step(0.0, ((0.5,) * 7, 0.04))
    speed, width = watchdog.step(0.1, bad)
    assert watchdog.tripped
    np.testing.assert_allclose(speed, brake(np.full(7, 0.5)))
    assert width == 0.04


def test_the_watchdog_refuses_a_wrong_hold_time():
    for bad in (-0.1, math.nan):
        with pytest.raises(ValueError, match=f"hold_s >= 0, got {bad}"):
            ArmWatchdog(hold_s=bad)
