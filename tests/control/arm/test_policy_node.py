from __future__ import annotations

import numpy as np
import pytest

from visuomotor.control.arm import policy_node
from visuomotor.control.arm.config import CELL, CLASS_NAMES, JOINTS, LIMITS, REST_RAD
from visuomotor.control.arm.inputs import AGENTS_MAX, ArmInputs
from visuomotor.control.arm.messages import inputs_from_messages
from visuomotor.control.arm.policy import ScriptedPolicy
from visuomotor.control.arm.policy_node import PolicyNode
from visuomotor.messages.graph import Graph
from visuomotor.messages.node import Input, Inputs, Tick
from visuomotor.messages.schema import (
    ArmState,
    Episode,
    Forecast,
    Header,
    Message,
    Order,
    PolicyCommand,
    Tracks,
)

BINS_M = np.array([[*centre, CELL.bin_size_m[2]] for centre in CELL.bin_centre_m], np.float32)


def make_state(header: Header | None = None, speed_radps: float = 0.0) -> ArmState:
    return ArmState(
        header=header or Header(valid=True),
        joint_position_rad=np.array(REST_RAD, np.float32),
        joint_velocity_radps=np.full(JOINTS, speed_radps, np.float32),
        gripper_width_m=0.08,
    )


def make_order() -> Order:
    return Order(
        header=Header(valid=True),
        wanted=np.array([2, 0, 0, 0, 0, 0], np.int32),
        bin_index=np.array([0, -1, -1, -1, -1, -1], np.int32),
        base_bin_m=BINS_M,
    )


def make_tracks(places_m: list[tuple[float, float]], **changes: object) -> Tracks:
    count = len(places_m)
    values = {
        "header": Header(valid=True),
        "cameras": ("camera_top",),
        "track_id": np.arange(count, dtype=np.int32) + 7,
        "class_id": np.zeros(count, np.int32),
        "score": np.ones(count, np.float32),
        "odom_position_m": np.array(places_m, np.float32).reshape(count, 2),
        "odom_velocity_mps": np.tile(np.float32([0.0, -0.1]), (count, 1)),
        "odom_heading_rad": np.zeros(count, np.float32),
        "size_m": np.full((count, 2), 0.04, np.float32),
        "covariance": np.zeros((count, 4, 4), np.float32),
        "age_s": np.ones(count, np.float32),
        "unseen_s": np.zeros(count, np.float32),
    }
    return Tracks(**{**values, **changes})


def make_forecast(ids: list[int], futures: int = 2) -> Forecast:
    count = len(ids)
    place = np.arange(count * futures * 20 * 2, dtype=np.float32).reshape(count, futures, 20, 2)
    return Forecast(
        header=Header(valid=True),
        step_s=0.1,
        track_id=np.array(ids, np.int32),
        probability=np.full((count, futures), 1.0 / max(futures, 1), np.float32),
        odom_position_m=place,
        spread_m=np.zeros((count, futures, 20, 3), np.float32),
    )


class Source:
    """A cell that does not change."""

    name = "source"
    inputs: tuple[Input, ...] = ()
    outputs = ("arm_state", "order", "tracks", "forecast")
    period_s: float | None = 0.1

    def __init__(self) -> None:
        self.valid = True

    def warm_up(self) -> None: ...

    def reset(self, episode: Episode) -> None: ...

    def step(self, tick: Tick, inputs: Inputs) -> dict[str, Message]:
        tracks = make_tracks([(0.5, 0.2)])
        tracks.header.valid = self.valid
        state = make_state(Header(valid=True, t_capture_ns=tick.t_ns or 1))
        return {"arm_state": state, "order": make_order(), "tracks": tracks, "forecast": make_forecast([7], 0)}

    def close(self) -> None: ...


class FixedPolicy:
    name = "fixed"
    provider = "numpy"

    def __init__(self, action: tuple[float, ...]) -> None:
        self.action = action
        self.seen: list[ArmInputs] = []

    def reset(self, episode: Episode) -> None: ...

    def act(self, inputs: ArmInputs) -> np.ndarray:
        self.seen.append(inputs)
        return np.array([self.action], np.float32)


def start(*nodes: object) -> Graph:
    graph = Graph(nodes)
    graph.warm_up()
    graph.reset(Episode(phase="reset", index=1, seed=3))
    return graph


def test_the_scripted_picker_sets_off_for_the_part():
    graph = start(Source(), PolicyNode(ScriptedPolicy()))
    command = graph.tick()["policy_command"]
    assert isinstance(command, PolicyCommand)
    assert command.header.valid
    assert len(command.joint_velocity_radps) == JOINTS
    assert command.joint_velocity_radps[0] > 0.2  # the first joint turns to the left
    assert command.gripper_width_m == LIMITS.gripper_width_m
    assert len(command.action_norm) == 5


def test_policy_sees_its_last_action_and_forgets_it_at_reset():
    policy = FixedPolicy((0.25, -0.5, 0.0, 0.0, -0.75))
    graph = start(Source(), PolicyNode(policy))
    for _ in range(2):
        command = graph.tick()["policy_command"]
    assert command.gripper_width_m == 0.0
    assert policy.seen[-1].last_action_norm.tolist() == [[0.25, -0.5, 0.0, 0.0, -0.75]]
    graph.reset(Episode(phase="reset", index=2))
    graph.tick()
    assert policy.seen[-1].last_action_norm.tolist() == [[0.0] * 5]


def test_invalid_tracks_and_actions_that_are_not_finite_make_the_command_invalid():
    source, policy = Source(), FixedPolicy((0.5, 0.0, 0.0, 0.0, 1.0))
    graph = start(source, PolicyNode(policy))
    assert graph.tick()["policy_command"].header.valid
    source.valid = False
    assert not graph.tick()["policy_command"].header.valid
    source.valid = True
    policy.action = (np.nan, 0.0, np.inf, 0.0, 1.0)
    command = graph.tick()["policy_command"]
    assert not command.header.valid
    assert np.isfinite(command.joint_velocity_radps).all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "key 'policy' is missing"),
        ({"policy": "scripted", "speed": 1}, "unknown key 'speed'; expected device, policy, runtime, threads"),
    ],
)
def test_wrong_configuration_names_the_key(config: dict, message: str):
    with pytest.raises(ValueError, match=message):
        policy_node.create(config)


def test_configured_node_has_the_policy():
    assert policy_node.create({"policy": "random", "threads": 1}).policy.name == "random"


def test_messages_become_inputs_with_forecasts_matched_by_id():
    forecast = make_forecast([9, 7])
    tracks = make_tracks([(0.5, 0.1), (0.5, 0.2), (0.5, 0.3)])
    inputs = inputs_from_messages(make_state(speed_radps=0.1), make_order(), tracks, forecast, (0.1,) * 5)
    assert inputs.count == 1
    assert inputs.track_present[0].sum() == 3
    np.testing.assert_array_equal(inputs.forecast_m[0, 0], forecast.odom_position_m[1])
    np.testing.assert_array_equal(inputs.forecast_m[0, 2], forecast.odom_position_m[0])
    np.testing.assert_allclose(inputs.forecast_m[0, 1], np.broadcast_to([0.5, 0.2], (2, 20, 2)), atol=1e-6)
    np.testing.assert_array_equal(inputs.forecast_probability[0, :3, 0], [0.5, 0.0, 0.5])
    np.testing.assert_allclose(inputs.tool_position_m[0], [0.573, 0.0, 0.22], atol=1e-3)
    assert np.linalg.norm(inputs.tool_velocity_mps) > 0.01
    np.testing.assert_array_equal(inputs.wanted, [[2, 0, 0, 0, 0, 0]])
    assert inputs.camera_present.tolist() == [[True]]


def test_more_tracks_than_slots_keep_those_nearest_to_the_tool_and_none_is_an_empty_belt():
    far = [(0.5, 0.9 - 0.05 * i) for i in range(25)]
    inputs = inputs_from_messages(make_state(), make_order(), make_tracks(far), None)
    assert inputs.track_present.sum() == AGENTS_MAX
    assert inputs.track_position_m[0, :, 1].max() == pytest.approx(0.9 - 0.05 * 9 - 0.0, abs=0.06)
    empty = inputs_from_messages(make_state(), make_order(), None, None)
    assert empty.track_present.sum() == 0
    assert empty.camera_present.sum() == 0
    assert len(CLASS_NAMES) == empty.wanted.shape[1]
