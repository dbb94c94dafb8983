from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from visuomotor.control.arm.config import CELL
from visuomotor.control.arm.hand import OPEN, close_for, settle
from visuomotor.control.arm.inputs import ArmInputs
from visuomotor.control.arm.picker import RandomPicker, ScriptedPicker, with_constant_velocity

Make = Callable[..., ArmInputs]
Joints = Callable[..., np.ndarray]
BLOCK = 2
GRASP = CELL.grasp_height_m
ACROSS = math.pi / 2  # fingers that close across the belt


def act(inputs: ArmInputs) -> np.ndarray:
    action = ScriptedPicker().act(inputs)
    assert action.shape == (inputs.count, 5)
    assert (np.abs(action) <= 1.0).all()
    return action[0]


def with_hand(inputs: ArmInputs, width: float, force: float, grip: float) -> ArmInputs:
    return dataclasses.replace(
        inputs,
        gripper_width_m=np.array([width]),
        gripper_force_n=np.array([force]),
        last_action_norm=np.array([[0.0, 0.0, 0.0, 0.0, grip]]),
    )


def test_it_goes_to_the_part_with_open_fingers_and_stays_high_until_it_is_there(make_scene: Make, joints_at: Joints):
    x, y, _, turn, grip = act(make_scene([{"kind": BLOCK, "x": 0.5, "y": 0.2, "yaw": 0.6, "length": 0.09}]))
    assert x < 0.0 < y
    assert turn > 0.0
    assert grip == OPEN
    low = make_scene([{"x": 0.5, "y": 0.2}], joints=joints_at(0.5, 0.1, 0.05, ACROSS))
    assert act(low)[2] > 0.0


def test_it_follows_with_the_velocity_that_the_forecast_says(make_scene: Make, joints_at: Joints):
    joints = joints_at(0.5, 0.1, 0.06, ACROSS)
    ahead = 0.15 * 0.2
    action = act(make_scene([{"x": 0.5, "y": 0.1 + ahead, "vy": -0.2}], joints=joints))
    assert action[1] == pytest.approx(-0.2 / 0.8, abs=0.01)
    assert action[0] == pytest.approx(0.0, abs=0.01)
    assert action[2] < 0.0


def test_without_a_forecast_it_expects_constant_velocity(make_scene: Make):
    parts = [{"x": 0.5, "y": 0.3, "vx": 0.02, "vy": -0.25}, {"x": 0.45, "y": -0.1, "vy": -0.25}]
    told, none = make_scene(parts), make_scene(parts, futures="none")
    np.testing.assert_allclose(act(none), act(told), atol=1e-6)
    assert with_constant_velocity(told) is told
    assert not np.allclose(act(make_scene(parts, futures="standing")), act(told), atol=1e-2)


@pytest.mark.parametrize(("kind", "bin_index"), [(0, 0), (1, 1)])
def test_it_closes_round_the_part_and_names_its_bin(make_scene: Make, joints_at: Joints, kind: int, bin_index: int):
    joints = joints_at(0.5, 0.1, GRASP, ACROSS)
    assert act(make_scene([{"kind": kind, "x": 0.5, "y": 0.1}], joints=joints))[4] == close_for(bin_index, 2)
    assert act(make_scene([{"kind": kind, "x": 0.53, "y": 0.1}], joints=joints))[4] == OPEN
    assert act(make_scene([{"kind": kind, "x": 0.5, "y": 0.1}], joints=joints_at(0.5, 0.1, 0.05, ACROSS)))[4] == OPEN


def test_it_goes_on_closing_and_lifts_when_the_fingers_hold_something(make_scene: Make, joints_at: Joints):
    at_part = make_scene([{"kind": 1, "x": 0.5, "y": 0.1}], joints=joints_at(0.5, 0.1, GRASP, ACROSS))
    closing = act(with_hand(at_part, 0.06, 0.0, close_for(1, 2)))
    assert closing[4] == close_for(1, 2)
    assert abs(closing[2]) < 0.05
    lifting = act(with_hand(at_part, 0.04, 40.0, close_for(1, 2)))
    assert lifting[4] == close_for(1, 2)
    assert lifting[2] > 0.2
    np.testing.assert_allclose(lifting[:2], 0.0, atol=0.02)


def test_it_opens_when_the_fingers_have_met(make_scene: Make, joints_at: Joints):
    at_part = make_scene([{"x": 0.5, "y": 0.1}], joints=joints_at(0.5, 0.1, GRASP, ACROSS))
    assert act(with_hand(at_part, 0.002, 40.0, -0.25))[4] == OPEN


@pytest.mark.parametrize("bin_index", [0, 1])
def test_it_carries_to_the_bin_it_remembers_and_lets_go_above_it(make_scene: Make, joints_at: Joints, bin_index: int):
    x, y = CELL.bin_centre_m[bin_index]
    grip = float(close_for(bin_index, 2))
    away = act(with_hand(make_scene([], joints=joints_at(0.5, 0.0, 0.16)), 0.04, 40.0, grip))
    assert away[0] < 0.0
    assert np.sign(away[1]) == np.sign(y)
    assert away[4] == grip
    above = make_scene([{"x": 0.5}], joints=joints_at(x, y, 0.14))
    assert act(with_hand(above, 0.04, 40.0, grip))[4] == OPEN
    letting_go = act(with_hand(above, 0.045, 0.0, 1.0))
    np.testing.assert_array_equal(letting_go, [0.0, 0.0, 0.0, 0.0, OPEN])
    assert act(with_hand(above, 0.08, 0.0, 1.0))[0] > 0.0


def test_random_actions_depend_on_the_seed_alone(make_scene: Make):
    inputs = make_scene([{}], count=2)
    one, other = RandomPicker(2, seed=5), RandomPicker(2, seed=6)
    first = one.act(inputs)
    assert first.shape == (2, 5)
    assert not np.allclose(first[0], first[1])
    one.reset(seed=5)
    np.testing.assert_array_equal(one.act(inputs), first)
    assert not np.allclose(other.act(inputs), first)
    one.reset(np.array([True, False]), seed=5)
    np.testing.assert_array_equal(one.act(inputs)[0], first[0])


def test_a_hand_that_holds_a_part_keeps_to_its_bin(make_scene: Make):
    """A network on its way from 'close for bin 1' (-0.75) to 'open' (0.5) says 'close for bin 0' (-0.25) for a tick."""
    scene = make_scene([])
    way = np.array([[0.1, 0.0, 0.0, 0.0, -0.25]], np.float32)
    held, closing = with_hand(scene, 0.04, 40.0, -0.75), with_hand(scene, 0.07, 0.0, -0.75)
    np.testing.assert_allclose(settle(way, held), [[0.1, 0.0, 0.0, 0.0, -0.75]])
    np.testing.assert_array_equal(settle(way, closing), way)  # until it is held, the part itself says where to
    let_go = np.array([[0.0, 0.0, 0.0, 0.0, 0.4]], np.float32)
    np.testing.assert_array_equal(settle(let_go, held), let_go)
    assert way[0, 4] == np.float32(-0.25)


def test_a_hand_that_jams_over_a_part_lets_go_and_rises(make_scene: Make):
    scene = make_scene([])
    closing = np.array([[0.1, 0.0, -0.2, 0.0, -0.75]], np.float32)
    jammed = with_hand(scene, 0.082, 20.0, -0.75)
    assert jammed.hand.jammed.all()
    assert not jammed.hand.holding.any()
    (action,) = settle(closing, jammed)
    assert action[2] > 0.3
    assert action[4] == OPEN
    np.testing.assert_array_equal(action[[0, 1, 3]], 0.0)
    for width, force, grip in ((0.08, 0.0, -0.75), (0.08, 20.0, OPEN), (0.06, 20.0, -0.75)):
        other = with_hand(scene, width, force, grip)  # about to close, open and touching, holding
        assert not other.hand.jammed.any()
        np.testing.assert_array_equal(settle(closing, other)[:, :4], closing[:, :4])
