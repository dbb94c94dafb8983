from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visuomotor.control.arm.hand import OPEN, bin_of, close_for, plain_grip
from visuomotor.control.arm.inputs import ArmInputs
from visuomotor.control.arm.observation import LAYOUT, observe

Make = Callable[..., ArmInputs]
Joints = Callable[..., np.ndarray]


def get(observation: np.ndarray, name: str) -> float:
    return float(observation[0, LAYOUT.index(name)])


def test_layout_names_are_unique_and_ranges_ordered():
    assert len(set(LAYOUT.names)) == LAYOUT.size
    assert (LAYOUT.low < LAYOUT.high).all()
    assert len(LAYOUT.hash) == 64


def test_an_empty_belt_has_no_part(make_scene: Make):
    observation = observe(make_scene([]))
    assert observation.shape == (1, LAYOUT.size)
    assert observation.dtype == np.float32
    for name, value in zip(LAYOUT.names, observation[0], strict=True):
        if name.startswith("part"):
            assert value == 0.0, name
    assert get(observation, "tool_x") == pytest.approx(0.573, abs=1e-3)
    assert get(observation, "hand_width") == pytest.approx(0.08)
    assert get(observation, "camera_top_present") == 1.0


def test_parts_are_seen_from_the_tool_where_they_are_going_to_be(make_scene: Make, joints_at: Joints):
    part = {"kind": 5, "x": 0.52, "y": 0.13, "vy": -0.2, "yaw": 0.3, "width": 0.035, "unseen": 0.2}
    observation = observe(make_scene([part], joints=joints_at(0.5, 0.1, 0.1, 0.1)))
    assert get(observation, "part0_present") == 1.0
    assert get(observation, "part1_present") == 0.0
    assert get(observation, "part0_x_0.1s") == pytest.approx(0.02, abs=1e-4)
    assert get(observation, "part0_y_0.1s") == pytest.approx(0.01, abs=1e-4)
    assert get(observation, "part0_y_1.2s") == pytest.approx(0.03 - 0.24, abs=1e-4)
    assert get(observation, "part0_next_y") == pytest.approx(0.0, abs=1e-4)
    assert get(observation, "part0_velocity_y") == pytest.approx(-0.2, abs=1e-4)
    assert get(observation, "part0_turn") == pytest.approx(0.2, abs=1e-3)
    assert get(observation, "part0_above") == pytest.approx(0.1 - 0.018, abs=1e-3)
    assert get(observation, "part0_grip_width") == pytest.approx(0.035)
    assert get(observation, "part0_unseen") == pytest.approx(0.2)
    assert get(observation, "part0_bin") == 1.0
    assert get(observation, "part0_is_round") == get(observation, "part0_is_ball") == 0.0


def test_motion_of_the_last_command_is_ahead_of_the_tool(make_scene: Make):
    inputs = make_scene([{"x": 0.5, "y": 0.2}])
    moving = dataclasses.replace(
        inputs,
        tool_velocity_mps=np.array([[0.0, 0.2, 0.0]]),
        last_action_norm=np.array([[0.0, 0.5, 0.0, 0.5, 1.0]]),
    )
    ahead = 0.05 * 0.2 + 0.1 * 0.4
    still, observation = observe(inputs), observe(moving)
    assert get(still, "part0_y_0.1s") - get(observation, "part0_y_0.1s") == pytest.approx(ahead, abs=1e-5)
    assert get(observation, "tool_next_yaw") == pytest.approx(0.15, abs=1e-5)


def test_without_a_forecast_everything_stays_and_the_tracker_s_velocity_tells_nothing(make_scene: Make):
    part = {"x": 0.52, "y": 0.13, "vx": 0.03, "vy": -0.2}
    none, standing, told = (observe(make_scene([part], futures=f)) for f in ("none", "standing", "velocity"))
    np.testing.assert_allclose(none, standing, rtol=0, atol=1e-6)
    assert get(told, "part0_y_1.2s") < get(none, "part0_y_1.2s") - 0.2
    inputs = make_scene([part])
    other = dataclasses.replace(inputs, track_velocity_mps=-3.0 * inputs.track_velocity_mps)
    np.testing.assert_array_equal(observe(inputs), observe(other))


@pytest.mark.parametrize("bins", [1, 2, 3])
def test_the_gripper_s_number_names_the_bin(bins: int):
    index = np.arange(bins)
    closing = close_for(index, bins)
    assert ((closing < 0.0) & (closing > -1.0)).all()
    margin = 0.49 / bins
    for wrong in (-margin, 0.0, margin):
        np.testing.assert_array_equal(bin_of(closing + wrong, bins), index)
        np.testing.assert_array_equal(plain_grip(closing + wrong, bins), closing)
    np.testing.assert_array_equal(bin_of(np.array([-1.0, 0.0, 1.0]), bins), [bins - 1, 0, 0])
    np.testing.assert_array_equal(plain_grip(np.array([0.01, 0.4, 1.0]), bins), OPEN)


@pytest.mark.parametrize(
    ("grip", "width", "force", "state"),
    [
        (1.0, 0.08, 0.0, ""),
        (1.0, 0.04, 40.0, ""),
        (-0.25, 0.06, 0.0, "closing"),
        (-0.25, 0.04, 40.0, "closing holding"),
        (-0.75, 0.04, 40.0, "closing holding"),
        (-0.75, 0.001, 40.0, "closing empty"),
        (-0.25, 0.078, 40.0, "closing"),
    ],
)
def test_what_the_hand_does_follows_from_width_force_and_last_action(
    make_scene: Make, grip: float, width: float, force: float, state: str
):
    inputs = make_scene(
        [{}],
        gripper_width_m=np.array([width]),
        gripper_force_n=np.array([force]),
        last_action_norm=np.array([[0.0, 0.0, 0.0, 0.0, grip]]),
    )
    observation = observe(inputs)
    for name in ("closing", "holding", "empty"):
        assert get(observation, f"hand_{name}") == float(name in state.split()), name
    assert get(observation, "hand_bin") == float(grip < -0.5)
    side = -1.0 if grip < -0.5 else 1.0
    assert get(observation, "hand_bin_y") == pytest.approx(side * 0.36, abs=1e-3)


def test_one_cell_equals_its_row_in_a_batch(make_scene: Make):
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(12):
        parts = [
            {
                "kind": int(rng.integers(6)),
                "x": rng.uniform(0.35, 0.65),
                "y": rng.uniform(-0.4, 0.8),
                "vy": -rng.uniform(0.0, 0.3),
                "yaw": rng.uniform(-3.0, 3.0),
                "length": rng.uniform(0.04, 0.1),
                "unseen": rng.uniform(0.0, 1.0),
            }
            for _ in range(int(rng.integers(0, 12)))
        ]
        rows.append(make_scene(parts, last_action_norm=rng.uniform(-1.0, 1.0, (1, 5))))
    names = [f.name for f in dataclasses.fields(ArmInputs)]
    batch = ArmInputs(
        **{
            name: np.concatenate([getattr(row, name) for row in rows])
            for name in names
            if isinstance(getattr(rows[0], name), np.ndarray)
        }
    )
    together = observe(batch)
    for index, row in enumerate(rows):
        np.testing.assert_allclose(observe(row)[0], together[index], rtol=0, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_scene_stays_inside_the_ranges(make_scene: Make, data: st.DataObject):
    real = st.floats(-1e4, 1e4)
    size = st.floats(0.0, 10.0)
    names = {"x": real, "y": real, "vx": real, "vy": real, "yaw": real, "length": size, "width": size, "age": real}
    parts = data.draw(st.lists(st.fixed_dictionaries({**names, "kind": st.integers(-1, 7)}), max_size=6))
    numbers = st.floats(width=32)
    inputs = make_scene(
        parts,
        last_action_norm=np.array([[data.draw(numbers) for _ in range(5)]]),
        gripper_width_m=np.array([data.draw(numbers)]),
        gripper_force_n=np.array([data.draw(numbers)]),
    )
    observation = observe(inputs)
    assert np.isfinite(observation).all()
    assert (observation >= LAYOUT.low).all()
    assert (observation <= LAYOUT.high).all()
