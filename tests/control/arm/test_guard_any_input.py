"""Whatever reaches the arm's guard, what it sends is finite, inside the limits, and leaves room to stop."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from visuomotor.control.arm.action import ACCELERATION_RADPS2, POSITION_MAX_RAD, POSITION_MIN_RAD, VELOCITY_RADPS
from visuomotor.control.arm.config import CELL, CONTROL_PERIOD_S, LIMITS, REST_RAD
from visuomotor.control.arm.guard import CAUSES, ArmGuard, ArmGuardSettings, ArmReading, ArmSituation
from visuomotor.control.arm.guard_node import ArmGuardNode
from visuomotor.control.arm.kinematics import forward
from visuomotor.control.arm.stopping import OBSTACLES, StopMargins, StopPaths
from visuomotor.messages.node import Inputs, Sample, Tick
from visuomotor.messages.schema import (
    ArmState,
    Command,
    Episode,
    Header,
    Message,
    Operator,
    PolicyCommand,
    Tracks,
)

STEP = ACCELERATION_RADPS2 * CONTROL_PERIOD_S
ANY = st.one_of(st.floats(), st.floats(-3.0, 3.0), st.sampled_from([0.0, -0.0, 5e-324, 1e308, -1e308]))
SEVEN = st.one_of(
    st.tuples(*[st.floats(-3.0, 3.0)] * 7),
    st.tuples(*[st.sampled_from([-30.0, -2.0, -0.5, 0.0, 0.5, 2.0, 30.0])] * 7),
    st.tuples(*[ANY] * 7),
)
WORDS = st.sampled_from(("engage", "disengage", "emergency_stop", "reset", "order"))
AGES = st.one_of(st.floats(0.0, 1.0), st.floats(), st.just(math.inf))
HEADERS = st.builds(Header, valid=st.booleans(), t_capture_ns=st.integers(0, 2**63 - 1))
REAL = st.floats(width=32)
PATHS = StopPaths(StopMargins(), CELL, 10.0)


@st.composite
def any_arm_state(draw: st.DrawFn) -> ArmState:
    near = st.floats(-3.0, 3.0, width=32)
    return ArmState(
        header=draw(HEADERS),
        joint_position_rad=draw(hnp.arrays(np.float32, 7, elements=st.one_of(near, REAL))),
        joint_velocity_radps=draw(hnp.arrays(np.float32, 7, elements=st.one_of(near, REAL))),
        gripper_width_m=draw(ANY),
        gripper_force_n=draw(ANY),
    )


def empty_tracks(header: Header) -> Tracks:
    return Tracks(
        header=header,
        cameras=("camera_top",),
        track_id=np.zeros(0, np.int32),
        class_id=np.zeros(0, np.int32),
        score=np.zeros(0, np.float32),
        odom_position_m=np.zeros((0, 2), np.float32),
        odom_velocity_mps=np.zeros((0, 2), np.float32),
        odom_heading_rad=np.zeros(0, np.float32),
        size_m=np.zeros((0, 2), np.float32),
        covariance=np.zeros((0, 4, 4), np.float32),
        age_s=np.zeros(0, np.float32),
        unseen_s=np.zeros(0, np.float32),
    )


def samples(messages: st.SearchStrategy[Message]) -> st.SearchStrategy[Sample]:
    return st.one_of(st.just(Sample()), st.builds(Sample, message=messages, age_s=AGES, updated=st.booleans()))


COMMANDS = st.builds(
    PolicyCommand,
    header=HEADERS,
    joint_velocity_radps=st.one_of(SEVEN, st.lists(ANY, max_size=9).map(tuple)),
    gripper_width_m=ANY,
)


def feed(words: tuple[str, ...] = (), **given: Sample) -> Inputs:
    inputs = Inputs({source.service: Sample() for source in ArmGuardNode.inputs})
    inputs.update(given)
    spoken = tuple(Operator(header=Header(valid=True), kind=kind) for kind in words)
    inputs["operator"] = Sample(message=spoken[-1] if spoken else None, messages=spoken, updated=bool(spoken))
    return inputs


def check(command: Command, before: np.ndarray) -> np.ndarray:
    """What holds for every command whatever came in; the joint velocities."""
    assert command.header.valid
    velocity = np.array(command.joint_velocity_radps)
    assert velocity.shape == (7,)
    assert np.isfinite(velocity).all()
    assert (np.abs(velocity) <= VELOCITY_RADPS + 1e-9).all()
    assert (np.abs(velocity - before) <= 2.0 * STEP + 1e-9).all()  # a step may take two periods
    assert 0.0 <= command.gripper_width_m <= LIMITS.gripper_width_m
    assert set(command.causes) <= set(CAUSES)
    assert (command.acceleration_mps2, command.steering_angle_rad) == (0.0, 0.0)
    return velocity


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            samples(COMMANDS),
            samples(any_arm_state()),
            samples(st.builds(empty_tracks, HEADERS)),
            st.lists(WORDS, max_size=3),
            st.integers(-(10**9), 2**62),
        ),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
def test_any_messages_give_a_command_inside_the_limits(
    steps: list[tuple[Sample, Sample, Sample, list[str], int]], latched: bool
):
    node = ArmGuardNode(ArmGuardSettings(start_latched=latched))
    before = np.zeros(7)
    for command, state, tracks, words, t_ns in steps:
        inputs = feed(tuple(words), policy_command=command, arm_state=state, tracks=tracks)
        sent = node.step(Tick(0, 0, t_ns, "realtime"), inputs)["command"]
        assert isinstance(sent, Command)
        before = check(sent, before)


class Follower:
    """One arm under the guard that follows its commands exactly, with what it did."""

    def __init__(self, make_arms: type, position: np.ndarray) -> None:
        self.arms, self.guard = make_arms(joint_position_rad=position[None]), ArmGuard()
        self.causes: list[tuple[str, ...]] = []
        self.commands = [np.zeros(7)]

    def step(self, command: tuple[tuple[float, ...], float] | None, valid: bool = True, **changes: object) -> None:
        state = ArmReading(
            joint_position_rad=self.arms.position[0],
            joint_velocity_radps=self.arms.velocity[0],
            gripper_width_m=0.05,
        )
        now = ArmSituation(command=command, command_valid=valid, command_age_s=0.0, **{"state": state} | changes)
        decision = self.guard.step(now)
        self.causes.append(decision.causes)
        self.commands.append(np.array(decision.joint_velocity_radps))
        self.arms.step(self.commands[-1][None])

    def check(self) -> None:
        """No limit, border or clearance is passed anywhere on the way, nor any obstacle approached fast."""
        self.arms.step(np.zeros((1, 7)))  # the last command acts
        path, commands = np.array(self.arms.path)[:, 0], np.array(self.commands)
        assert (np.abs(commands) <= VELOCITY_RADPS + 1e-9).all()
        assert (np.abs(np.diff(commands, axis=0)) <= STEP + 1e-9).all()
        assert (path >= POSITION_MIN_RAD).all()
        assert (path <= POSITION_MAX_RAD).all()
        tool = forward(path).position_m
        assert (tool >= np.array(CELL.workspace_min_m) - 2e-4).all()
        assert (tool <= np.array(CELL.workspace_max_m) + 2e-4).all()
        rooms = PATHS.measure(path)[:, OBSTACLES]
        assert rooms.min() >= -0.002  # between the samples, of clearances of 10 mm, and 2 mm under the finger tips
        step_s = CONTROL_PERIOD_S / self.arms.FINE
        speed = np.linalg.norm(np.diff(tool, axis=0), axis=1) / step_s
        assert speed.max(initial=0.0) <= 1.2 * LIMITS.tool_speed_mps
        margins = StopMargins()
        closing = -np.diff(rooms, axis=0) / step_s
        near = rooms[1:] < 0.5 * margins.near_m
        assert (closing[near] <= margins.contact_speed_mps + 0.02).all()


def safe_posture(shares: tuple[float, ...]) -> np.ndarray:
    """A posture inside all limits, on the way from rest to one drawn from all postures."""
    low, high = POSITION_MIN_RAD, POSITION_MAX_RAD
    drawn = low + np.array(shares) * (high - low)
    ways = np.linspace(0.0, 1.0, 21)[:, None]
    line = np.array(REST_RAD) + ways * (drawn - np.array(REST_RAD))
    inside = (PATHS.measure(line) >= 0.0).all(axis=1)
    return line[max(np.flatnonzero(~inside)[0] - 1, 0) if not inside.all() else -1]


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.floats(0.0, 1.0)] * 7),
    st.lists(st.tuples(SEVEN, ANY, st.booleans(), st.integers(1, 6)), min_size=1, max_size=5),
)
def test_no_command_takes_the_arm_beyond_a_limit(
    make_arms: type, shares: tuple[float, ...], runs: list[tuple[tuple[float, ...], float, bool, int]]
):
    arm = Follower(make_arms, safe_posture(shares))
    for velocity, width, valid, ticks in runs:
        for _ in range(ticks):
            arm.step((velocity, width), valid)
    arm.check()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from(["state", "perception", "policy", "none"]), max_size=8))
def test_nor_does_a_loss_on_the_way(make_arms: type, seed: int, losses: list[str]):
    rng = np.random.default_rng(seed)
    arm = Follower(make_arms, safe_posture(tuple(rng.uniform(0.2, 0.8, 7).tolist())))
    for loss in losses:
        velocity = tuple((rng.choice([-2.0, 0.0, 2.0], 7) * rng.uniform(0.2, 1.0)).tolist())
        for _ in range(3):
            arm.step((velocity, 0.04))
        changes = {"state": {"state": None}, "perception": {"perception_ok": False}}.get(loss, {})
        arm.step((velocity, 0.04), valid=loss != "policy", **changes)
    arm.check()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-0.15, 0.15)] * 7), min_size=1, max_size=4))
def test_the_guard_does_not_act_on_slow_commands_well_inside(make_arms: type, runs: list[tuple[float, ...]]):
    arm = Follower(make_arms, np.array(REST_RAD))
    for velocity in runs:
        arm.step((velocity, 0.05))
        np.testing.assert_allclose(arm.commands[-1], velocity, atol=1e-12)
    assert set(arm.causes) == {()}


class LatchMachine(RuleBasedStateMachine):
    """The node beside a model of its latch: closed by an emergency stop, opened by a reset at a known standstill."""

    @initialize(start_latched=st.booleans())
    def begin(self, start_latched: bool) -> None:
        self.node = ArmGuardNode(ArmGuardSettings(start_latched=start_latched))
        self.start_latched = self.latched = start_latched
        self.engaged = True
        self.tick = 0
        self.sent = np.zeros(7)
        self.command: Command | None = None

    @rule(
        words=st.lists(WORDS, max_size=4),
        speed=st.one_of(st.sampled_from([0.0, 0.019, 0.021, -0.019, -0.021, 1.0]), REAL),
        valid=st.booleans(),
        age=st.sampled_from([0.0, 0.5, 0.51]),
        wanted=SEVEN,
        width=ANY,
        sees=st.booleans(),
    )
    def step(
        self,
        words: list[str],
        speed: float,
        valid: bool,
        age: float,
        wanted: tuple[float, ...],
        width: float,
        sees: bool,
    ) -> None:
        known = valid and age <= 0.5 and math.isfinite(speed)
        for word in words:
            if word == "emergency_stop":
                self.latched = True
            elif word == "reset" and known and abs(speed) < 0.02:
                self.latched = False
            elif word in ("engage", "disengage"):
                self.engaged = word == "engage"
        self.tick += 1
        state = ArmState(
            header=Header(valid=valid),
            joint_position_rad=np.array(REST_RAD, np.float32),
            joint_velocity_radps=np.array([0, 0, speed, 0, 0, 0, 0], np.float32),
        )
        policy = PolicyCommand(header=Header(valid=True), joint_velocity_radps=wanted, gripper_width_m=width)
        inputs = feed(
            tuple(words),
            policy_command=Sample(message=policy, updated=True, age_s=0.05),
            arm_state=Sample(message=state, age_s=age),
            tracks=Sample(message=empty_tracks(Header(valid=sees)), age_s=0.0),
        )
        sent = self.node.step(Tick(0, self.tick, self.tick * 10**8, "lockstep"), inputs)["command"]
        assert isinstance(sent, Command)
        self.sent, self.command = check(sent, self.sent), sent
        if self.latched:
            assert sent.causes == ("emergency_stop",)
        elif not self.engaged:
            assert sent.causes == ("disengaged",)
        elif not known:
            assert sent.causes == ("stale_arm_state",)
        elif not all(math.isfinite(value) for value in (*wanted, width)):
            assert sent.causes == ("not_finite",)
        elif not sees:
            assert sent.causes == ("stale_perception",)

    @rule()
    def begin_an_episode(self) -> None:
        self.node.reset(Episode(phase="reset"))
        self.latched, self.engaged, self.command, self.sent = self.start_latched, True, None, np.zeros(7)

    @invariant()
    def the_latch_is_that_of_the_model(self) -> None:
        assert self.node.guard.latched is self.latched
        if self.command is not None:
            assert self.command.latched is self.latched


LatchMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)
TestLatch = LatchMachine.TestCase
