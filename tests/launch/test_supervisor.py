"""Real processes, really killed: the world is a toy so that this is fast, everything else is what drives the car."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from visuomotor.launch.process_table import NodeSpec, make_table
from visuomotor.launch.profile import Timeouts, load_profile
from visuomotor.launch.supervisor import Outcome, RunError, Supervisor
from visuomotor.messages.bus import Received
from visuomotor.messages.run_directory import RunDirectory
from visuomotor.messages.schema import Command, Episode, Truth

pytestmark = pytest.mark.slow
NODES = Path(__file__).parent / "nodes"
CLOCKS = ("lockstep", "realtime")


@pytest.fixture(autouse=True)
def toy_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(NODES))


@pytest.fixture(autouse=True)
def no_orphans() -> Iterator[None]:
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    yield
    left = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
    assert left == []


def make_toy_table(**world: object) -> list[NodeSpec]:
    profile = load_profile("drive").override(
        perception_mode="truth", forecaster="cv", policy="idm", detector=None, device="cpu"
    )
    table = make_table(profile)
    return [msgspec.structs.replace(table[0], module="toy_world:create", config=world), *table[1:]]


def run_toy(
    tmp_path: Path,
    clock: str,
    seeds: tuple[int, ...] = (0,),
    on_tick: object = None,
    restart: bool = False,
    **world: object,
) -> tuple[list[Outcome], list[Received]]:
    """Run episodes; ``on_tick(tick, supervisor)`` is called with the number of every truth."""
    seen: list[Received] = []
    outcomes = []
    with (
        RunDirectory(tmp_path / "run") as run_dir,
        Supervisor(make_toy_table(**world), run_dir, clock=clock, timeouts=Timeouts(step_s=3.0)) as supervisor,  # type: ignore[arg-type]
        supervisor.interruptible(),
    ):
        supervisor.start()

        def on_message(received: Received) -> None:
            seen.append(received)
            if on_tick is not None and isinstance(received.message, Truth):
                on_tick(received.tick, supervisor)  # type: ignore[operator]

        for index, seed in enumerate(seeds):
            outcomes.append(supervisor.run_episode(Episode(phase="reset", index=index, seed=seed), on_message))
            if restart and outcomes[-1].fault is not None:
                assert supervisor.restart_dead()
    return outcomes, seen


def last_truth(seen: list[Received]) -> Truth:
    return [r.message for r in seen if isinstance(r.message, Truth)][-1]


def test_lockstep_gives_the_same_digest_for_the_same_seed_wherever_it_stands(tmp_path: Path) -> None:
    together, seen = run_toy(tmp_path / "a", "lockstep", seeds=(5, 7, 8), length_m=60.0)
    alone, _ = run_toy(tmp_path / "b", "lockstep", seeds=(7,), length_m=60.0)
    assert [o.end for o in together] == ["goal"] * 3
    assert together[1].topic_digests == alone[0].topic_digests
    assert set(alone[0].topic_digests) == {
        "vehicle_state", "route", "truth", "tracks", "forecast", "policy_command", "command"
    }  # fmt: skip
    assert together[0].topic_digests["truth"] != together[1].topic_digests["truth"]
    assert any(isinstance(r.message, Command) and r.message.header.valid for r in seen)


def test_realtime_keeps_ten_hertz(tmp_path: Path) -> None:
    (outcome,), seen = run_toy(tmp_path, "realtime", length_m=20.0)
    assert outcome.end == "goal"
    times = [r.t_publish_ns * 1e-9 for r in seen if isinstance(r.message, Truth)]
    assert len(times) >= 10
    assert 0.095 < (times[-1] - times[0]) / (len(times) - 1) < 0.115


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("victim", ["perception", "policy", "guard"])
def test_a_killed_node_is_named_and_the_others_brake(tmp_path: Path, clock: str, victim: str) -> None:
    killed: list[int] = []

    def kill(tick: int, supervisor: Supervisor) -> None:
        if tick >= 5 and not killed:
            killed.append(tick)
            os.kill(supervisor.processes.pid(victim), signal.SIGKILL)

    (outcome,), seen = run_toy(tmp_path, clock, on_tick=kill, speed_mps=5.0, step_s=0.01)
    assert outcome.end == "fault"
    assert outcome.fault is not None
    assert outcome.fault.node == victim
    assert "SIGKILL" in outcome.fault.text
    assert "its last message was" in outcome.fault.text
    assert outcome.stopped
    assert last_truth(seen).speed_mps < 0.1
    assert not (tmp_path / "run" / "sockets").exists()


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_killed_world_ends_the_episode_and_the_next_run_starts(tmp_path: Path, clock: str) -> None:
    def kill(tick: int, supervisor: Supervisor) -> None:
        if tick == 5:
            os.kill(supervisor.processes.pid("world"), signal.SIGKILL)

    (outcome,), _ = run_toy(tmp_path, clock, on_tick=kill, step_s=0.01)
    assert outcome.fault is not None
    assert outcome.fault.node == "world"
    assert not outcome.stopped
    again, _ = run_toy(tmp_path, "lockstep", length_m=20.0)
    assert again[0].end == "goal"


@pytest.mark.parametrize("clock", CLOCKS)
def test_an_interrupt_brakes_to_a_stop(tmp_path: Path, clock: str) -> None:
    sent = threading.Event()

    def interrupt(tick: int, supervisor: Supervisor) -> None:
        if tick >= 5 and not sent.is_set():
            sent.set()
            os.kill(os.getpid(), signal.SIGINT)

    (outcome,), seen = run_toy(tmp_path, clock, on_tick=interrupt, speed_mps=5.0, step_s=0.01)
    assert outcome.fault is not None
    assert outcome.fault.node == "operator"
    assert outcome.stopped
    assert last_truth(seen).speed_mps < 0.1
    commands = [r.message for r in seen if isinstance(r.message, Command)]
    assert commands[-1].latched


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_frozen_node_is_found_killed_and_named(tmp_path: Path, clock: str) -> None:
    frozen = threading.Event()

    def freeze(tick: int, supervisor: Supervisor) -> None:
        if tick >= 3 and not frozen.is_set():
            frozen.set()
            os.kill(supervisor.processes.pid("policy"), signal.SIGSTOP)

    started = time.monotonic()
    (outcome,), seen = run_toy(tmp_path, clock, on_tick=freeze, speed_mps=3.0, step_s=0.01)
    assert outcome.fault is not None
    assert outcome.fault.node == "policy"
    assert "silent" in outcome.fault.text
    assert outcome.stopped
    assert last_truth(seen).speed_mps < 0.1
    assert time.monotonic() - started < 20.0


def test_a_dead_node_is_restarted_between_episodes(tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(tick: int, supervisor: Supervisor) -> None:
        if tick >= 3 and not killed:
            killed.append(tick)
            os.kill(supervisor.processes.pid("policy"), signal.SIGKILL)

    outcomes, _ = run_toy(tmp_path, "lockstep", seeds=(7, 7), on_tick=kill, restart=True, length_m=40.0, step_s=0.01)
    assert [o.end for o in outcomes] == ["fault", "goal"]
    alone, _ = run_toy(tmp_path, "lockstep", seeds=(7,), length_m=40.0)
    assert outcomes[1].topic_digests == alone[0].topic_digests


@pytest.mark.parametrize("on_vehicle", [False, True])
def test_a_restarted_guard_comes_up_latched_on_a_vehicle_until_a_person_resets_it(
    tmp_path: Path, on_vehicle: bool
) -> None:
    table = make_toy_table(speed_mps=0.0, length_m=1.0, step_s=0.01)
    if on_vehicle:
        guard = make_table(load_profile("sim-can"))[-1]
        assert guard.name == table[-1].name == "guard"
        table[-1] = guard
    seen: list[tuple[int, Command]] = []
    with (
        RunDirectory(tmp_path / "run") as run_dir,
        Supervisor(table, run_dir, clock="lockstep", timeouts=Timeouts(step_s=3.0)) as supervisor,
    ):
        supervisor.start()

        def on_message(received: Received) -> None:
            if isinstance(received.message, Command):
                seen.append((received.episode, received.message))
            if not isinstance(received.message, Truth):
                return
            if received.episode == 0 and received.tick == 3:
                os.kill(supervisor.processes.pid("guard"), signal.SIGKILL)
            if received.episode == 1 and received.tick == 20:
                supervisor.coordinator.operator("reset")

        first = supervisor.run_episode(Episode(phase="reset", index=0), on_message)
        assert (first.end, first.fault and first.fault.node) == ("fault", "guard")
        assert supervisor.restart_dead()
        second = supervisor.run_episode(Episode(phase="reset", index=1), on_message)
    assert second.end == "goal"
    assert not any(command.latched for episode, command in seen if episode == 0)
    latched = [command for episode, command in seen if episode == 1 and command.latched]
    assert all(command.causes == ("emergency_stop",) for command in latched)
    assert (len(latched) >= 10) is on_vehicle
    assert not seen[-1][1].latched, "it drove to the goal after the reset"


def test_a_node_that_raises_is_quoted(tmp_path: Path) -> None:
    (outcome,), _ = run_toy(tmp_path, "lockstep", fail_at=4)
    assert outcome.fault is not None
    assert outcome.fault.node == "world"
    assert "FloatingPointError in tick 4: the road has a hole" in outcome.fault.text


def test_a_node_that_refuses_its_configuration_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="world: no such road") as caught:
        run_toy(tmp_path, "lockstep", refuse="no such road")
    assert caught.value.exit_code == 2
