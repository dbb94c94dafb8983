from __future__ import annotations

import math
import threading
from pathlib import Path

import numpy as np
import pytest

from visuomotor.control.arm import guard_node
from visuomotor.control.arm.config import CONTROL_PERIOD_S, REST_RAD
from visuomotor.control.arm.guard_node import ArmGuardNode
from visuomotor.messages.coordinator import Coordinator
from visuomotor.messages.graph import Graph
from visuomotor.messages.loop import run_node
from visuomotor.messages.node import Input, Inputs, Sample, Tick
from visuomotor.messages.run_directory import RunDirectory
from visuomotor.messages.schema import ArmState, Command, Episode, Header, Message, Operator, PolicyCommand, Tracks
from visuomotor.messages.wiring import RunPlace

SLOW = (0.1, 0.0, 0.0, 0.0, 0.0, 0.0, -0.1)
STILL = (0.0,) * 7
GOOD = PolicyCommand(header=Header(valid=True), joint_velocity_radps=SLOW, gripper_width_m=0.03)


def arm_state(valid: bool = True, **changes: object) -> ArmState:
    fields = {
        "joint_position_rad": np.array(REST_RAD, np.float32),
        "joint_velocity_radps": np.zeros(7, np.float32),
        "gripper_width_m": 0.08,
        "gripper_force_n": 0.0,
    }
    return ArmState(header=Header(valid=valid), **fields | changes)


def no_tracks(valid: bool = True) -> Tracks:
    return Tracks(
        header=Header(valid=valid),
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


class Arm:
    """An arm that stands where it is, and a policy that asks for the same again and again."""

    name = "arm"
    inputs: tuple[Input, ...] = ()
    outputs = ("arm_state", "tracks", "policy_command")
    period_s: float | None = CONTROL_PERIOD_S
    sees = True

    def warm_up(self) -> None: ...

    def reset(self, episode: Episode) -> None: ...

    def step(self, tick: Tick, inputs: Inputs) -> dict[str, Message]:
        return {
            "arm_state": arm_state(),
            "tracks": no_tracks(self.sees),
            "policy_command": PolicyCommand(
                header=Header(valid=True, t_capture_ns=tick.t_ns or 1), joint_velocity_radps=SLOW, gripper_width_m=0.03
            ),
        }

    def close(self) -> None: ...


def test_the_guard_runs_in_the_graph_and_stops_an_arm_that_sees_nothing():
    arm = Arm()
    graph = Graph([arm, ArmGuardNode()])
    graph.warm_up()
    graph.reset(Episode(phase="reset", index=1, seed=3))
    command = graph.tick()["command"]
    assert isinstance(command, Command)
    assert command.header.valid
    assert (command.joint_velocity_radps, command.gripper_width_m, command.causes) == (SLOW, 0.03, ())
    arm.sees = False
    command = graph.tick()["command"]
    assert isinstance(command, Command)
    assert (command.joint_velocity_radps, command.gripper_width_m) == (STILL, 0.03)
    assert command.causes == ("stale_perception",)


def guard_step(node: ArmGuardNode, t_ns: int = 0, words: tuple[str, ...] = (), **given: Sample) -> Command:
    inputs = Inputs({source.service: Sample() for source in node.inputs})
    inputs.update(given)
    spoken = tuple(Operator(header=Header(valid=True), kind=kind) for kind in words)
    inputs["operator"] = Sample(message=spoken[-1] if spoken else None, messages=spoken, updated=bool(spoken))
    sent = node.step(Tick(0, 0, t_ns, "realtime"), inputs)["command"]
    assert isinstance(sent, Command)
    return sent


def sample(message: Message, age_s: float = 0.0) -> Sample:
    return Sample(message=message, updated=True, age_s=age_s)


def all_good(**changes: Sample) -> dict[str, Sample]:
    return {"policy_command": sample(GOOD), "arm_state": sample(arm_state()), "tracks": sample(no_tracks())} | changes


@pytest.mark.parametrize(
    "state",
    [
        Sample(),
        sample(arm_state(), age_s=0.51),
        sample(arm_state(valid=False)),
        sample(arm_state(joint_position_rad=np.array([math.nan, *REST_RAD[1:]], np.float32))),
        sample(arm_state(joint_velocity_radps=np.full(7, math.inf, np.float32))),
        sample(arm_state(gripper_width_m=math.nan)),
        sample(arm_state(gripper_force_n=-math.inf)),
    ],
)
def test_the_guard_stops_without_a_usable_arm_state(state: Sample):
    assert guard_step(ArmGuardNode(), **all_good(arm_state=state)).causes == ("stale_arm_state",)


@pytest.mark.parametrize("tracks", [Sample(), sample(no_tracks(), age_s=0.51), sample(no_tracks(valid=False))])
def test_the_guard_stops_on_stale_perception(tracks: Sample):
    assert guard_step(ArmGuardNode(), **all_good(tracks=tracks)).causes == ("stale_perception",)


@pytest.mark.parametrize(
    ("wanted", "cause"),
    [
        (Sample(), "stale_policy"),
        (sample(GOOD, age_s=0.51), "stale_policy"),
        (sample(PolicyCommand(header=Header(valid=False), joint_velocity_radps=SLOW)), "stale_policy"),
        (sample(PolicyCommand(header=Header(valid=True))), "not_finite"),  # a car's
    ],
)
def test_the_guard_stops_without_a_usable_command(wanted: Sample, cause: str):
    assert guard_step(ArmGuardNode(), **all_good(policy_command=wanted)).causes == (cause,)


def test_inputs_of_exactly_a_heartbeat_still_count():
    aged = {name: sample(one.message, age_s=0.5) for name, one in all_good().items() if one.message is not None}
    assert guard_step(ArmGuardNode(), **aged).causes == ()


def test_what_the_guard_reads_and_when_it_runs():
    assert [source.service for source in ArmGuardNode.inputs if source.trigger] == ["policy_command"]
    assert [source.service for source in ArmGuardNode.inputs if source.optional] == ["operator"]
    assert [source.service for source in ArmGuardNode.inputs] == ["policy_command", "arm_state", "tracks", "operator"]
    assert (ArmGuardNode.name, ArmGuardNode.outputs) == ("guard", ("command",))
    assert ArmGuardNode.period_s == pytest.approx(0.15)


def test_the_operator_stops_and_resets_the_arm():
    node = ArmGuardNode()
    assert guard_step(node, **all_good()).causes == ()
    stopped = guard_step(node, words=("emergency_stop",), **all_good())
    assert (stopped.latched, stopped.causes, stopped.joint_velocity_radps) == (True, ("emergency_stop",), STILL)
    assert guard_step(node, words=("engage",), **all_good()).latched
    moving = sample(arm_state(joint_velocity_radps=np.full(7, 0.1, np.float32)))
    assert guard_step(node, words=("reset",), **all_good(arm_state=moving)).latched
    assert guard_step(node, words=("reset",), **all_good()).causes == ()
    assert guard_step(node, words=("disengage",), **all_good()).causes == ("disengaged",)


def test_the_guard_forgets_what_it_sent_and_when_at_a_reset():
    node = ArmGuardNode()
    fast = PolicyCommand(header=Header(valid=True), joint_velocity_radps=(0.0,) * 6 + (2.6,), gripper_width_m=0.0)
    for t_ns in (0, 200_000_000):
        command = guard_step(node, t_ns, **all_good(policy_command=sample(fast)))
        assert command.joint_velocity_radps[6] == pytest.approx(2.0)
        node.reset(Episode(phase="reset", index=1))
    guard_step(node, 0, **all_good(policy_command=sample(fast)))
    later = guard_step(node, 200_000_000, **all_good(policy_command=sample(fast)))
    assert later.joint_velocity_radps[6] == pytest.approx(2.6)


class Deaf:
    """Whoever else belongs to the graph: says nothing, and counts the commands that it hears."""

    name = "rest"
    inputs: tuple[Input, ...] = (Input("command"),)
    outputs = ("policy_command", "arm_state", "tracks")
    period_s: float | None = CONTROL_PERIOD_S

    def __init__(self) -> None:
        self.heard: list[Command] = []
        self.enough = threading.Event()

    def warm_up(self) -> None: ...

    def reset(self, episode: Episode) -> None: ...

    def step(self, tick: Tick, inputs: Inputs) -> dict[str, Message]:
        message = inputs["command"].message
        if isinstance(message, Command) and inputs["command"].updated:
            self.heard.append(message)
        if len(self.heard) >= 3:
            self.enough.set()
        return {}

    def close(self) -> None: ...


def test_the_node_stops_the_arm_over_sockets_when_nobody_says_anything(tmp_path: Path):
    with RunDirectory(tmp_path / "run") as directory:
        place = RunPlace(str(directory.sockets), "run", "realtime")
        rest, stopping = Deaf(), threading.Event()
        nodes = (rest, ArmGuardNode())
        coordinator = Coordinator(place, [node.name for node in nodes], observe=())
        threads = [threading.Thread(target=run_node, args=(node, place), kwargs={"stop": stopping}) for node in nodes]
        for thread in threads:
            thread.start()
        try:
            coordinator.wait_ready(60.0, lambda: None)
            coordinator.reset(Episode(phase="reset", index=0), 60.0, lambda: None)
            coordinator.start()
            coordinator.close()  # the supervisor is gone from here on
            assert rest.enough.wait(60.0)
        finally:
            stopping.set()
            for thread in threads:
                thread.join(60.0)
    for command in rest.heard:
        assert command.header.valid
        assert (command.joint_velocity_radps, command.causes) == (STILL, ("stale_arm_state",))
        assert command.gripper_width_m == 0.08


def test_guard_config():
    node = guard_node.create({"enabled": False, "start_latched": True, "heartbeat_s": 0.4})
    assert node.guard.settings.enabled is False
    assert node.guard.latched
    assert node.guard.settings.heartbeat_s == 0.4
    with pytest.raises(ValueError, match=r"guard: unknown key 'enable'; expected enabled, start_latched"):
        guard_node.create({"enable": True})
    with pytest.raises(ValueError, match=r"guard: .*bool"):
        guard_node.create({"enabled": "true"})
    with pytest.raises(ValueError, match=r"guard: .*heartbeat_s > 0, got 0.0"):
        guard_node.create({"heartbeat_s": 0.0})
    settings = guard_node.create({}).guard.settings
    assert (settings.enabled, settings.start_latched) == (True, False)
