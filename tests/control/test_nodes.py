from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from visuomotor.control import guard_node, policy_node
from visuomotor.control.guard_node import GuardNode
from visuomotor.control.inputs import DriveInputs
from visuomotor.control.policy import IdmPolicy
from visuomotor.control.policy_node import PolicyNode
from visuomotor.messages.graph import Graph
from visuomotor.messages.node import Input, Inputs, Sample, Tick
from visuomotor.messages.schema import (
    Command,
    Episode,
    Forecast,
    Header,
    Message,
    Operator,
    PolicyCommand,
    Route,
    Tracks,
    VehicleState,
)

POINTS = np.stack([np.arange(81) * 2.0 - 40.0, np.zeros(81)], axis=1).astype(np.float32)


def make_tracks(x_m: tuple[float, ...], age_s: float = 5.0) -> Tracks:
    count = len(x_m)
    position = np.stack([np.array(x_m), np.zeros(count)], axis=1).astype(np.float32).reshape(count, 2)
    return Tracks(
        header=Header(valid=True),
        cameras=("camera_front", "camera_left", "camera_right"),
        track_id=np.arange(count, dtype=np.int32),
        class_id=np.zeros(count, np.int32),
        score=np.ones(count, np.float32),
        odom_position_m=position,
        odom_velocity_mps=np.zeros((count, 2), np.float32),
        odom_heading_rad=np.zeros(count, np.float32),
        size_m=np.tile(np.array([[4.5, 1.8]], np.float32), (count, 1)),
        covariance=np.zeros((count, 4, 4), np.float32),
        age_s=np.full(count, age_s, np.float32),
        unseen_s=np.zeros(count, np.float32),
    )


def make_forecast(count: int) -> Forecast:
    return Forecast(
        header=Header(valid=True),
        track_id=np.arange(count, dtype=np.int32),
        probability=np.zeros((count, 0), np.float32),
        odom_position_m=np.zeros((count, 0, 0, 2), np.float32),
        spread_m=np.zeros((count, 0, 0, 3), np.float32),
    )


class Source:
    """A car that sees what it is told to see; its state does not change."""

    name = "source"
    inputs: tuple[Input, ...] = ()
    outputs = ("vehicle_state", "route", "tracks", "forecast")
    period_s: float | None = 0.1

    def __init__(self, speed_mps: float = 8.0, x_m: tuple[float, ...] = ()) -> None:
        self.speed_mps, self.x_m, self.valid = speed_mps, x_m, True

    def warm_up(self) -> None: ...

    def reset(self, episode: Episode) -> None: ...

    def step(self, tick: Tick, inputs: Inputs) -> dict[str, Message]:
        header = Header(valid=True, t_capture_ns=tick.t_ns or 1)
        tracks = make_tracks(self.x_m)
        tracks.header.valid = self.valid
        return {
            "vehicle_state": VehicleState(header=header, speed_mps=self.speed_mps),
            "route": Route(header=Header(valid=True), odom_reference_m=POINTS),
            "tracks": tracks,
            "forecast": make_forecast(len(self.x_m)),
        }

    def close(self) -> None: ...


class FixedPolicy:
    name = "fixed"
    provider = "numpy"

    def __init__(self, action: tuple[float, float]) -> None:
        self.action = action
        self.seen: list[DriveInputs] = []

    def reset(self, episode: Episode) -> None: ...

    def act(self, inputs: DriveInputs) -> np.ndarray:
        self.seen.append(inputs)
        return np.array([self.action], np.float32)


def start(*nodes: object) -> Graph:
    graph = Graph(nodes)
    graph.warm_up()
    graph.reset(Episode(phase="reset", index=1, seed=3))
    return graph


def test_policy_and_guard_run_in_the_graph():
    graph = start(Source(), PolicyNode(IdmPolicy()), GuardNode())
    for _ in range(3):
        messages = graph.tick()
    wanted, command = messages["policy_command"], messages["command"]
    assert isinstance(wanted, PolicyCommand)
    assert isinstance(command, Command)
    assert wanted.header.valid
    assert command.header.valid
    assert wanted.acceleration_mps2 > 0.5
    assert command.acceleration_mps2 == wanted.acceleration_mps2
    assert command.causes == ()
    assert len(wanted.action_norm) == 2


def test_commands_of_the_policy_need_no_guard_even_when_it_jerks():
    source, policy = Source(speed_mps=12.0), FixedPolicy((1.0, 1.0))
    graph = start(source, PolicyNode(policy), GuardNode())
    for tick in range(12):
        policy.action = (1.0, 1.0) if tick % 2 else (-1.0, -1.0)
        messages = graph.tick()
        assert messages["command"].causes == ()


def test_policy_sees_its_last_action_and_forgets_it_at_reset():
    policy = FixedPolicy((0.25, -0.5))
    graph = start(Source(), PolicyNode(policy), GuardNode())
    for _ in range(2):
        graph.tick()
    assert policy.seen[-1].last_action_norm.tolist() == [[0.25, -0.5]]
    graph.reset(Episode(phase="reset", index=2))
    graph.tick()
    assert policy.seen[-1].last_action_norm.tolist() == [[0.0, 0.0]]


def test_invalid_tracks_make_the_command_invalid_and_the_guard_stops_the_car():
    source = Source()
    graph = start(source, PolicyNode(FixedPolicy((0.5, 0.0))), GuardNode())
    assert graph.tick()["command"].causes == ()
    source.valid = False
    causes = [graph.tick() for _ in range(8)]
    assert not causes[0]["policy_command"].header.valid
    assert [c["command"].causes for c in causes[:4]] == [("held_command",)] * 4
    assert causes[-1]["command"].causes == ("stale_policy",)
    assert causes[-1]["command"].acceleration_mps2 == -3.5


def test_policy_that_is_not_finite_sends_an_invalid_command():
    graph = start(Source(), PolicyNode(FixedPolicy((math.nan, 0.0))), GuardNode())
    messages = graph.tick()
    assert not messages["policy_command"].header.valid
    assert math.isfinite(messages["policy_command"].acceleration_mps2)
    assert messages["command"].causes == ("stale_policy",)


def test_guard_brakes_for_a_wall_that_the_policy_ignores():
    graph = start(Source(speed_mps=10.0, x_m=(14.0,)), PolicyNode(FixedPolicy((0.0, 0.0))), GuardNode())
    command = graph.tick()["command"]
    assert "ttc_brake" in command.causes
    assert command.acceleration_mps2 < -5.0


def test_operator_stops_and_resets_the_car():
    source = Source(speed_mps=5.0)
    graph = start(source, PolicyNode(FixedPolicy((0.5, 0.0))), GuardNode())
    graph.tick()
    graph.post("operator", Operator(kind="emergency_stop"))
    first = graph.tick()["command"]
    assert (first.latched, first.causes, first.acceleration_mps2) == (True, ("emergency_stop",), -8.0)
    graph.post("operator", Operator(kind="reset"))
    assert graph.tick()["command"].latched  # moving
    source.speed_mps = 0.0
    assert graph.tick()["command"].latched  # nobody asked again
    graph.post("operator", Operator(kind="reset"))
    assert not graph.tick()["command"].latched


def sample(message: Message, age_s: float = 0.02) -> Sample:
    return Sample(message=message, updated=True, alive=True, rate_ok=True, age_s=age_s)


def guard_step(node: GuardNode, t_ns: int, **messages: Sample) -> Command:
    inputs = Inputs({source.service: Sample() for source in node.inputs})
    inputs.update(messages)
    command = node.step(Tick(1, 0, t_ns, "realtime"), inputs)["command"]
    assert isinstance(command, Command)
    return command


GOOD = PolicyCommand(header=Header(valid=True), acceleration_mps2=1.0)
STATE = VehicleState(header=Header(valid=True), speed_mps=5.0)
ROUTE = Route(header=Header(valid=True), odom_reference_m=POINTS)


def test_guard_in_realtime_uses_a_command_again_while_it_is_fresh():
    node = GuardNode()
    state, route = sample(STATE), sample(ROUTE)
    first = guard_step(node, 0, policy_command=sample(GOOD), vehicle_state=state, route=route)
    assert (first.causes, first.acceleration_mps2) == ((), 1.0)
    again = guard_step(node, 150_000_000, policy_command=sample(GOOD, 0.2), vehicle_state=state, route=route)
    assert (again.causes, again.acceleration_mps2) == ((), 1.0)
    stale = guard_step(node, 600_000_000, policy_command=sample(GOOD, 0.6), vehicle_state=state, route=route)
    assert stale.causes in (("stale_policy",), ("held_command",))
    stale = guard_step(node, 900_000_000, policy_command=sample(GOOD, 0.9), vehicle_state=state, route=route)
    assert stale.causes == ("stale_policy",)


def test_what_the_guard_reads_and_when_it_runs():
    assert [source.service for source in GuardNode.inputs if source.trigger] == ["policy_command"]
    assert [source.service for source in GuardNode.inputs if source.optional] == ["operator"]
    assert [source.service for source in GuardNode.inputs] == [
        "policy_command",
        "vehicle_state",
        "route",
        "tracks",
        "operator",
    ]
    assert (GuardNode.name, GuardNode.outputs) == ("guard", ("command",))
    assert GuardNode.period_s == pytest.approx(0.15)


@pytest.mark.parametrize(("elapsed_s", "braking"), [(0.05, -0.5), (0.15, -1.75), (0.3, -3.0)])
def test_the_guard_ramps_by_the_time_that_passed_within_one_to_two_periods(elapsed_s: float, braking: float):
    node = GuardNode()
    full = sample(PolicyCommand(header=Header(valid=True), acceleration_mps2=2.0))
    assert guard_step(node, 10**9, policy_command=full, vehicle_state=sample(STATE)).acceleration_mps2 == 2.0
    assert guard_step(node, 10**9 + round(elapsed_s * 1e9)).acceleration_mps2 == pytest.approx(braking)


def test_a_vehicle_state_of_exactly_a_heartbeat_still_counts():
    assert guard_step(GuardNode(), 0, policy_command=sample(GOOD), vehicle_state=sample(STATE, 0.5)).causes == ()


def test_the_guard_forgets_what_it_sent_and_when_at_a_reset():
    node = GuardNode()
    for t_ns in (0, 200_000_000):
        assert guard_step(node, t_ns).acceleration_mps2 == -2.5
        node.reset(Episode(phase="reset", index=1))


@pytest.mark.parametrize(
    "vehicle",
    [
        Sample(),
        sample(STATE, age_s=0.51),
        sample(VehicleState(header=Header(valid=False), speed_mps=5.0)),
        sample(VehicleState(header=Header(valid=True), speed_mps=math.nan)),
        sample(VehicleState(header=Header(valid=True), odom_yaw_rad=math.inf)),
    ],
)
def test_guard_stops_without_a_usable_vehicle_state(vehicle: Sample):
    command = guard_step(GuardNode(), 0, policy_command=sample(GOOD), vehicle_state=vehicle, route=sample(ROUTE))
    assert command.causes == ("stale_vehicle_state",)
    assert command.acceleration_mps2 < -2.0


def brakes(points: np.ndarray, tracks: Tracks) -> bool:
    route = sample(Route(header=Header(valid=True), odom_reference_m=points))
    state = sample(msgspec.structs.replace(STATE, speed_mps=10.0))
    command = guard_step(
        GuardNode(), 0, policy_command=sample(GOOD), vehicle_state=state, route=route, tracks=sample(tracks)
    )
    return "ttc_brake" in command.causes


def test_two_points_are_a_route_for_the_guard():
    assert brakes(POINTS[[0, -1]], make_tracks((10.0,)))
    assert not brakes(POINTS[[0]], make_tracks((10.0,)))


def test_one_point_that_is_not_finite_spoils_a_route():
    broken = Route(odom_reference_m=np.array([[0.0, 0.0], [2.0, math.nan]], np.float32))
    assert not guard_node._is_line(broken)


LARGEST = np.float32(1e9)  # exact in float32


@pytest.mark.parametrize(
    ("value", "fits"),
    [(LARGEST, True), (-LARGEST, True), (np.nextafter(LARGEST, np.inf), False), (-np.float32(2e9), False)],
)
def test_numbers_past_which_a_metre_is_lost_are_not_taken(value: np.float32, fits: bool):
    route = Route(odom_reference_m=np.array([[0.0, 0.0], [2.0, value]], np.float32))
    assert guard_node._is_line(route) is fits
    assert guard_node._is_finite(msgspec.structs.replace(STATE, odom_x_m=float(value))) is fits
    assert not guard_node._is_finite(msgspec.structs.replace(STATE, odom_x_m=1e9 + 0.5))
    tracks = make_tracks((9.0, 10.0))
    tracks.odom_position_m = np.array([[9.0, value], [10.0, 0.0]], np.float32)
    assert len(guard_node._sane(tracks).track_id) == 1 + fits


@pytest.mark.parametrize("ages_s", [(5.0, 0.0), (0.0, 5.0)])
def test_a_second_track_of_an_id_does_not_make_the_first_a_ghost(ages_s: tuple[float, float]):
    tracks = make_tracks((10.0, 60.0))
    tracks.track_id, tracks.age_s = np.zeros(2, np.int32), np.array(ages_s, np.float32)
    assert brakes(POINTS, tracks)


@pytest.mark.parametrize("points", [POINTS[:1], np.full((81, 2), np.nan, np.float32)])
def test_guard_works_without_a_usable_route(points: np.ndarray):
    route = sample(Route(header=Header(valid=True), odom_reference_m=points))
    command = guard_step(GuardNode(), 0, policy_command=sample(GOOD), vehicle_state=sample(STATE), route=route)
    assert (command.causes, command.acceleration_mps2) == ((), 1.0)


def test_tracks_that_are_not_finite_are_left_out_one_by_one():
    tracks = make_tracks((9.0, 10.0))
    tracks.odom_position_m = np.array([[np.nan, 0.0], [10.0, 0.0]], np.float32)
    inputs = {"policy_command": sample(GOOD), "vehicle_state": sample(STATE), "route": sample(ROUTE)}
    state = sample(msgspec.structs.replace(STATE, speed_mps=10.0))
    command = guard_step(GuardNode(), 0, **{**inputs, "vehicle_state": state}, tracks=sample(tracks))
    assert "ttc_brake" in command.causes
    young = make_tracks((10.0,), age_s=0.1)
    command = guard_step(GuardNode(), 0, **{**inputs, "vehicle_state": state}, tracks=sample(young))
    assert "ttc_brake" not in command.causes


def test_guard_config():
    node = guard_node.create({"enabled": False, "heartbeat_s": 0.4})
    assert node.guard.settings.enabled is False
    assert node.guard.settings.heartbeat_s == 0.4
    with pytest.raises(ValueError, match="unknown key 'enable'"):
        guard_node.create({"enable": True})
    with pytest.raises(ValueError, match=r"guard: .*bool"):
        guard_node.create({"enabled": "true"})
    assert guard_node.create({}).guard.settings.enabled is True


def test_policy_config():
    assert policy_node.create({"policy": "idm"}).provider == "numpy"
    assert policy_node.create({"policy": "random", "device": "cpu", "threads": 1}).name == "policy"
    with pytest.raises(ValueError, match="key 'policy' is missing"):
        policy_node.create({})
    with pytest.raises(ValueError, match="unknown key 'speed'"):
        policy_node.create({"policy": "idm", "speed": 3})
    with pytest.raises(ValueError, match="no such bundle"):
        policy_node.create({"policy": "/nowhere/at/all"})
