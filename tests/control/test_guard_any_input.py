"""Whatever reaches the guard, it sends a finite command inside the envelope, and its latch opens by a reset alone."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from visuomotor.control.config import ENVELOPE, VEHICLE
from visuomotor.control.guard import CAUSES, GuardSettings
from visuomotor.control.guard_node import GuardNode
from visuomotor.messages.node import Inputs, Sample, Tick
from visuomotor.messages.schema import (
    Command,
    Episode,
    Header,
    Message,
    Operator,
    PolicyCommand,
    Route,
    Tracks,
    VehicleState,
)

ANY = st.one_of(st.floats(), st.floats(-60.0, 60.0), st.sampled_from([0.0, -0.0, 5e-324, 1e308, -1e308]))
WIDE = st.floats(width=32)
NEAR = st.floats(-50.0, 120.0, width=32)
COUNT = st.integers(-(2**31), 2**31 - 1)
HEADERS = st.builds(Header, valid=st.booleans(), t_capture_ns=st.integers(0, 2**63 - 1), tick=COUNT)
WORDS = st.sampled_from(("engage", "disengage", "emergency_stop", "reset", "order"))
AGES = st.one_of(st.floats(0.0, 1.0), st.floats(), st.just(math.inf))


def arrays(*shape: int) -> st.SearchStrategy[np.ndarray]:
    return st.one_of(
        hnp.arrays(np.float32, shape, elements=NEAR), hnp.arrays(np.float32, shape, elements=st.one_of(NEAR, WIDE))
    )


@st.composite
def any_tracks(draw: st.DrawFn) -> Tracks:
    n = draw(st.sampled_from((0, 1, 3, 33)))
    whole = st.integers(-(2**31), 2**31 - 1)
    return Tracks(
        header=draw(HEADERS),
        cameras=("camera_front",),
        track_id=draw(hnp.arrays(np.int32, n, elements=st.one_of(st.integers(0, 3), whole))),
        class_id=draw(hnp.arrays(np.int32, n, elements=st.one_of(st.integers(0, 4), whole))),
        score=draw(arrays(n)),
        odom_position_m=draw(arrays(n, 2)),
        odom_velocity_mps=draw(arrays(n, 2)),
        odom_heading_rad=draw(arrays(n)),
        size_m=draw(arrays(n, 2)),
        covariance=np.zeros((n, 4, 4), np.float32),
        age_s=draw(arrays(n)),
        unseen_s=draw(arrays(n)),
    )


@st.composite
def any_route(draw: st.DrawFn) -> Route:
    count = draw(st.sampled_from((0, 1, 2, 3, 81)))
    straight = np.zeros((count, 2), np.float32)
    straight[:, 0] = np.arange(count) * 2.0 - 40.0
    return Route(
        header=draw(HEADERS),
        odom_reference_m=draw(st.one_of(st.just(straight), arrays(count, 2))),
        start_m=draw(ANY),
        spacing_m=draw(st.one_of(st.just(2.0), ANY)),
        lane_count=draw(st.one_of(st.integers(-1, 5), COUNT)),
        lane_width_m=draw(st.one_of(st.just(3.5), ANY)),
        speed_limit_mps=draw(ANY),
        goal_distance_m=draw(ANY),
    )


VEHICLES = st.builds(
    VehicleState,
    header=HEADERS,
    speed_mps=st.one_of(st.floats(-5.0, 60.0), ANY),
    acceleration_mps2=ANY,
    yaw_rate_radps=ANY,
    steering_angle_rad=st.one_of(st.floats(-0.6, 0.6), ANY),
    roll_rad=ANY,
    pitch_rad=ANY,
    odom_x_m=ANY,
    odom_y_m=ANY,
    odom_yaw_rad=ANY,
)
COMMANDS = st.builds(PolicyCommand, header=HEADERS, acceleration_mps2=ANY, steering_angle_rad=ANY)


def samples(messages: st.SearchStrategy[Message]) -> st.SearchStrategy[Sample]:
    return st.one_of(st.just(Sample()), st.builds(Sample, message=messages, age_s=AGES, updated=st.booleans()))


def feed(words: tuple[str, ...] = (), **given: Sample) -> Inputs:
    inputs = Inputs({source.service: Sample() for source in GuardNode.inputs})
    inputs.update(given)
    spoken = tuple(Operator(header=Header(valid=True), kind=kind) for kind in words)
    inputs["operator"] = Sample(message=spoken[-1] if spoken else None, messages=spoken, updated=bool(spoken))
    return inputs


def check(command: Command) -> None:
    assert command.header.valid
    assert math.isfinite(command.acceleration_mps2)
    assert math.isfinite(command.steering_angle_rad)
    assert abs(command.steering_angle_rad) <= VEHICLE.max_steering_angle_rad
    assert set(command.causes) <= set(CAUSES)
    assert ENVELOPE.emergency_acceleration_mps2 <= command.acceleration_mps2 <= ENVELOPE.max_acceleration_mps2
    if command.acceleration_mps2 < ENVELOPE.min_acceleration_mps2:
        assert {"ttc_brake", "emergency_stop"} & set(command.causes)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            samples(COMMANDS),
            samples(VEHICLES),
            samples(any_route()),
            samples(any_tracks()),
            st.lists(WORDS, max_size=3),
            st.integers(-(10**9), 2**62),
        ),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
)
def test_any_messages_give_a_command_inside_the_envelope(
    steps: list[tuple[Sample, Sample, Sample, Sample, list[str], int]], latched: bool
):
    node = GuardNode(GuardSettings(start_latched=latched))
    for command, vehicle, route, tracks, words, t_ns in steps:
        inputs = feed(tuple(words), policy_command=command, vehicle_state=vehicle, route=route, tracks=tracks)
        sent = node.step(Tick(0, 0, t_ns, "realtime"), inputs)["command"]
        assert isinstance(sent, Command)
        check(sent)


@settings(max_examples=40, deadline=None)
@given(any_tracks(), st.sampled_from([0, 1, 77]))
def test_no_other_track_hides_a_wall(others: Tracks, wall_id: int):
    wall = {
        "track_id": wall_id,
        "class_id": 0,
        "score": 1.0,
        "odom_position_m": (14.0, 0.0),
        "odom_velocity_mps": (0.0, 0.0),
        "odom_heading_rad": 0.0,
        "size_m": (4.5, 1.8),
        "covariance": np.zeros((4, 4)),
        "age_s": 5.0,
        "unseen_s": 0.0,
    }
    keep = slice(0, 31)  # the nearest 32 count
    rows = {
        name: np.concatenate([getattr(others, name)[keep], np.array([value], getattr(others, name).dtype)])
        for name, value in wall.items()
    }
    route = np.zeros((81, 2), np.float32)
    route[:, 0] = np.arange(81) * 2.0 - 40.0
    sent = GuardNode().step(
        Tick(0, 0, 0, "realtime"),
        feed(
            policy_command=Sample(message=PolicyCommand(header=Header(valid=True)), age_s=0.0),
            vehicle_state=Sample(message=VehicleState(header=Header(valid=True), speed_mps=10.0), age_s=0.0),
            route=Sample(message=Route(header=Header(valid=True), odom_reference_m=route), age_s=0.0),
            tracks=Sample(message=Tracks(header=Header(valid=True), **rows), age_s=0.0),
        ),
    )["command"]
    assert isinstance(sent, Command)
    assert "ttc_brake" in sent.causes
    assert sent.acceleration_mps2 < -4.0


class LatchMachine(RuleBasedStateMachine):
    """The node beside a model of its latch: closed by an emergency stop, opened by a reset at a known standstill."""

    @initialize(start_latched=st.booleans())
    def begin(self, start_latched: bool) -> None:
        self.node = GuardNode(GuardSettings(start_latched=start_latched))
        self.start_latched = self.latched = start_latched
        self.engaged = True
        self.tick = 0
        self.command: Command | None = None

    @rule(
        words=st.lists(WORDS, max_size=4),
        speed=st.one_of(st.sampled_from([0.0, 0.29, 0.3, -0.29, -0.3, 8.0]), ANY),
        valid=st.booleans(),
        age=st.sampled_from([0.0, 0.5, 0.51]),
        wanted=st.tuples(ANY, ANY),
    )
    def step(self, words: list[str], speed: float, valid: bool, age: float, wanted: tuple[float, float]) -> None:
        known = valid and age <= 0.5 and math.isfinite(speed)
        for word in words:
            if word == "emergency_stop":
                self.latched = True
            elif word == "reset" and known and abs(speed) < 0.3:
                self.latched = False
            elif word in ("engage", "disengage"):
                self.engaged = word == "engage"
        self.tick += 1
        policy = PolicyCommand(header=Header(valid=True), acceleration_mps2=wanted[0], steering_angle_rad=wanted[1])
        inputs = feed(
            tuple(words),
            policy_command=Sample(message=policy, updated=True, age_s=0.05),
            vehicle_state=Sample(message=VehicleState(header=Header(valid=valid), speed_mps=speed), age_s=age),
        )
        sent = self.node.step(Tick(0, self.tick, self.tick * 10**8, "lockstep"), inputs)["command"]
        assert isinstance(sent, Command)
        self.command = sent
        if self.latched:
            assert sent.causes == ("emergency_stop",)
            assert sent.acceleration_mps2 == ENVELOPE.emergency_acceleration_mps2
        elif not self.engaged:
            assert sent.causes == ("disengaged",)
        elif not known:
            assert sent.causes == ("stale_vehicle_state",)
        elif not (math.isfinite(wanted[0]) and math.isfinite(wanted[1])):
            assert sent.causes == ("not_finite",)

    @rule()
    def begin_an_episode(self) -> None:
        self.node.reset(Episode(phase="reset"))
        self.latched, self.engaged, self.command = self.start_latched, True, None

    @invariant()
    def the_latch_is_that_of_the_model(self) -> None:
        assert self.node.guard.latched is self.latched
        if self.command is not None:
            check(self.command)
            assert self.command.latched is self.latched


LatchMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestLatch = LatchMachine.TestCase
