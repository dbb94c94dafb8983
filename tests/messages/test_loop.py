"""Whole runs of the toy graph over sockets, each node in a process of its own: both clocks, deaths, refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import psutil
import pytest

from visuomotor.messages.bus import Received
from visuomotor.messages.coordinator import Coordinator
from visuomotor.messages.digest import episode_digest
from visuomotor.messages.graph import Graph
from visuomotor.messages.loop import run_node
from visuomotor.messages.node import Inputs, Sample, Tick
from visuomotor.messages.rendezvous import HandshakeError
from visuomotor.messages.run_directory import RunDirectory
from visuomotor.messages.schema import Command, Episode, Operator, Trace, Truth
from visuomotor.messages.wiring import ClockName, NodeWiring, RunPlace, Wiring, WiringError, wire_node

NAMES = ("world", "eye", "driver", "guard")
TIMEOUT_S = 60.0  # for a machine that is busy with other things
TOYS = Path(__file__).parent / "toys.py"
Start = Callable[..., "subprocess.Popen[str]"]


def toy_starter(started: list[subprocess.Popen[str]]) -> Start:
    """A function that starts a toy node in a process of its own."""

    def start(name: str, place: RunPlace, **options: float) -> subprocess.Popen[str]:
        given = [f"{key}={value}" for key, value in options.items()]
        command = [sys.executable, str(TOYS), name, str(os.getpid()), msgspec.json.encode(place).decode(), *given]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return started[-1]

    return start


@pytest.fixture
def start_toy() -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []
    yield toy_starter(started)
    for process in started:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


class Run:
    """The toy graph with its supervisor."""

    def __init__(self, sockets: str, clock: ClockName, start_toy: Start, options: dict[str, dict[str, float]]) -> None:
        self.place = RunPlace(sockets, "run", clock)
        self.coordinator = Coordinator(self.place, NAMES, observe=("truth", "command", "policy_command"))
        self.processes = {name: start_toy(name, self.place, **options.get(name, {})) for name in NAMES}
        self.index = -1
        self.seen: list[Received] = []

    def check(self) -> None:
        for name, process in self.processes.items():
            if process.poll() is not None and name not in self.coordinator.dead:
                raise ChildProcessError(name)

    def begin(self, seed: int) -> None:
        self.index += 1
        self.seen.clear()
        self.coordinator.reset(Episode(phase="reset", index=self.index, seed=seed), TIMEOUT_S, self.check)
        self.coordinator.operator("engage")
        self.coordinator.start()

    def until(self, done: Callable[[Received], bool]) -> None:
        """Watch until something is seen, announcing who dies."""
        deadline = time.monotonic() + TIMEOUT_S
        count = len(self.seen)
        while not any(done(received) for received in self.seen[count:]):
            assert time.monotonic() < deadline, self.coordinator.last_message
            self.seen.extend(self.coordinator.poll(0.05))
            for name, process in self.processes.items():
                if process.poll() is not None and name not in self.coordinator.dead:
                    self.coordinator.announce_dead(name, f"exit code {process.returncode}")

    def until_tick(self, tick: int) -> None:
        self.until(lambda r: r.service == "truth" and r.tick >= tick)

    def until_end(self) -> tuple[list[Received], dict[str, str]]:
        """Everything observed in the episode, and the topic digests."""
        self.until(lambda r: isinstance(r.message, Truth) and r.message.end != "")
        last = truths(self.seen)[-1]
        digests = self.coordinator.end(last.end, last.header.tick, TIMEOUT_S, self.check)
        self.seen.extend(self.coordinator.poll(0.0))
        return [r for r in self.seen if r.episode == self.index], digests


@pytest.fixture(scope="module")
def lockstep() -> Iterator[Run]:
    """One run in lockstep that several tests use for an episode each."""
    started: list[subprocess.Popen[str]] = []
    with RunDirectory() as directory:
        run = Run(str(directory.sockets), "lockstep", toy_starter(started), {})
        try:
            run.coordinator.wait_ready(TIMEOUT_S, run.check)
            yield run
        finally:
            run.coordinator.close()
            for process in started:
                process.kill()
                process.communicate()


@pytest.fixture
def start_run(start_toy: Start) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []
    with RunDirectory() as directory:

        def start(clock: ClockName, **options: dict[str, float]) -> Run:
            run = Run(str(directory.sockets), clock, start_toy, options)
            runs.append(run)
            run.coordinator.wait_ready(TIMEOUT_S, run.check)
            return run

        yield start
        for run in runs:
            run.coordinator.close()


def truths(seen: list[Received]) -> list[Truth]:
    return [r.message for r in seen if isinstance(r.message, Truth)]


def test_lockstep_loses_nothing_and_equals_the_graph(lockstep: Run, toys: ModuleType) -> None:
    graph = Graph([toys.make(name) for name in NAMES], digest=True)
    alone = {}
    for seed in (7, 8):
        graph.reset(Episode(phase="reset", index=0, seed=seed))
        operator = Operator(kind="engage")
        operator.header.valid = True
        graph.post("operator", operator)
        while graph.tick():
            pass
        alone[seed] = graph.topic_digests()
    run = lockstep
    steps = max((health.steps for health in run.coordinator.health.values()), default=0)
    for seed in (8, 7, 8, 7):
        run.begin(seed)
        seen, digests = run.until_end()
        assert digests == alone[seed]
        assert [r.tick for r in seen if r.service == "truth"] == list(range(20))
        assert [r.tick for r in seen if r.service == "command"] == list(range(20))
        assert {r.message.header.episode for r in seen if r.service == "command" and r.message} == {run.index}
    assert episode_digest(alone[7]) != episode_digest(alone[8])
    health = run.coordinator.health
    assert {name: health[name].state for name in NAMES} == dict.fromkeys(NAMES, "stopped")
    assert {name: (health[name].last_tick, health[name].steps) for name in NAMES} == dict.fromkeys(
        NAMES, (19, steps + 80)
    )
    assert {name: health[name].dropped for name in NAMES} == {name: {} for name in NAMES}
    assert health["eye"].provider == "ToyProvider"


def test_trace_of_every_step(lockstep: Run) -> None:
    lockstep.begin(7)
    seen, _ = lockstep.until_end()
    traces = [r.message for r in seen if isinstance(r.message, Trace) and r.node == "eye"]
    assert [t.header.tick for t in traces] == list(range(20))
    for trace in traces:
        stages = {name: (start, end) for name, start, end in trace.stages}
        assert set(stages) == {"wait", "transport", "look", "step", "publish"}
        assert stages["wait"][1] == stages["step"][0] <= stages["step"][1] == stages["publish"][0]
        assert stages["transport"][0] <= stages["transport"][1] <= stages["step"][0]


def test_realtime_keeps_its_rate(start_run: Callable[..., Run]) -> None:
    run = start_run("realtime", world={"ticks": 12, "period_s": 0.1, "brakes": 0})
    run.begin(7)
    started = time.monotonic()
    seen, _ = run.until_end()
    assert time.monotonic() - started > 1.05
    assert [t.header.tick for t in truths(seen)] == list(range(12))
    commands = [r.message for r in seen if isinstance(r.message, Command)]
    assert commands
    capture = {t.header.tick: t.header.t_capture_ns for t in truths(seen)}
    assert all(command.header.t_capture_ns == capture[command.header.tick] for command in commands)
    health = run.coordinator.health["world"]
    assert health.steps == 12


def test_realtime_counts_what_it_misses(start_run: Callable[..., Run]) -> None:
    run = start_run("realtime", world={"ticks": 0, "period_s": 0.02})
    run.begin(7)
    run.until_tick(5)
    os.kill(run.processes["eye"].pid, signal.SIGSTOP)
    run.until_tick(15)
    os.kill(run.processes["eye"].pid, signal.SIGCONT)
    run.until(lambda r: r.service == "trace" and r.node == "eye" and r.tick >= 15)
    run.coordinator.end("goal", -1, TIMEOUT_S, run.check)
    eye = run.coordinator.health["eye"]
    assert eye.missed_deadlines >= 8, "ticks that a stopped node skipped"


def test_guard_goes_on_without_its_trigger(start_run: Callable[..., Run]) -> None:
    run = start_run("realtime", world={"ticks": 0, "period_s": 0.05}, guard={"period_s": 0.1})
    run.begin(7)
    os.kill(run.processes["driver"].pid, signal.SIGKILL)
    seen, _ = run.until_end()
    causes = [r.message.causes for r in seen if isinstance(r.message, Command)]
    assert ("no_policy",) in causes
    assert truths(seen)[-1].end == "fault"


def test_a_node_whose_clock_is_set_back_keeps_its_rate(tmp_path: Path, toys: ModuleType) -> None:
    """By a minute: nothing that the node waits for may come a minute late."""
    set_back_ns = 0

    def now_ns() -> int:
        return time.monotonic_ns() - set_back_ns

    class Alone(toys.World):  # type: ignore[name-defined, misc]
        inputs = ()

        def step(self, tick: Tick, inputs: Inputs) -> Any:
            return super().step(tick, Inputs({"command": Sample()}))

    world = Alone(ticks=0, period_s=0.02, brakes=0)
    with RunDirectory(tmp_path / "run") as directory:
        place = RunPlace(str(directory.sockets), "run", "realtime")
        coordinator = Coordinator(place, ["world"], observe=("truth",))
        stop = threading.Event()
        thread = threading.Thread(target=run_node, args=(world, place), kwargs={"stop": stop, "now_ns": now_ns})
        thread.start()
        try:
            coordinator.wait_ready(TIMEOUT_S)
            coordinator.reset(Episode(phase="reset", index=0, seed=7), TIMEOUT_S)
            coordinator.start()
            heard: set[str] = set()
            wanted = {"truth", "node_health"}
            deadline = time.monotonic() + TIMEOUT_S / 2
            steps_before = 0
            while time.monotonic() < deadline and not heard >= wanted:
                for received in coordinator.poll(0.05):
                    if set_back_ns and received.tick > steps_before + 5:
                        heard.add(received.service)
                    elif received.service == "truth" and received.tick == 5:
                        steps_before, set_back_ns = received.tick, 60_000_000_000
        finally:
            stop.set()
            thread.join()
            coordinator.close()
    assert heard >= wanted


@pytest.mark.parametrize("victim", ["eye", "driver", "guard"])
def test_survivors_brake_to_a_stop_in_lockstep(start_run: Callable[..., Run], victim: str) -> None:
    run = start_run("lockstep", world={"ticks": 0})
    run.begin(7)
    run.until_tick(5)
    os.kill(run.processes[victim].pid, signal.SIGKILL)
    run.processes[victim].wait()
    seen, _ = run.until_end()
    assert truths(seen)[-1].end == "fault"
    assert truths(seen)[-1].speed_mps < 0.05
    ticks = [t.header.tick for t in truths(seen)]
    assert ticks == list(range(ticks[0], ticks[-1] + 1))


def test_death_of_the_world_does_not_hang_the_others(start_run: Callable[..., Run]) -> None:
    run = start_run("lockstep", world={"ticks": 0})
    run.begin(7)
    run.processes["world"].kill()
    run.processes["world"].wait()
    with pytest.raises(ChildProcessError, match="world"):
        run.coordinator.end("fault", -1, TIMEOUT_S, run.check)
    run.coordinator.announce_dead("world", "killed by signal 9")
    run.coordinator.end("fault", -1, TIMEOUT_S, run.check)
    assert {n: run.coordinator.health[n].state for n in NAMES[1:]} == dict.fromkeys(NAMES[1:], "stopped")


def test_a_node_that_raises_says_so_and_exits(start_run: Callable[..., Run]) -> None:
    run = start_run("lockstep", eye={"fail_at": 3})
    run.begin(7)
    assert run.processes["eye"].wait(TIMEOUT_S) == 1
    texts: list[str] = []
    deadline = time.monotonic() + TIMEOUT_S
    while not texts:
        assert time.monotonic() < deadline
        faults = [r.message for r in run.coordinator.poll(0.05) if r.service == "node_health"]
        texts += [h.text for h in faults if h is not None and h.state == "fault"]  # type: ignore[attr-defined]
    assert texts == ["RuntimeError in tick 3: lens cap on"]
    _, errors = run.processes["eye"].communicate()
    assert "lens cap on" in errors


def test_sigterm_stops_nodes_in_order(start_run: Callable[..., Run]) -> None:
    run = start_run("lockstep", world={"ticks": 0})
    run.begin(7)
    for process in run.processes.values():
        process.terminate()
    assert [process.wait(TIMEOUT_S) for process in run.processes.values()] == [0, 0, 0, 0]


def test_wait_names_who_is_missing(start_toy: Start) -> None:
    with RunDirectory() as directory:
        place = RunPlace(str(directory.sockets), "run", "lockstep")
        coordinator = Coordinator(place, NAMES)
        start_toy("eye", place)
        with pytest.raises(HandshakeError, match=r"world \(starting\).*guard \(starting\)"):
            coordinator.wait_ready(0.3)
        coordinator.close()


def test_a_restarted_node_is_let_in_again(start_run: Callable[..., Run], start_toy: Start) -> None:
    # The guard finds the new driver only seconds after that is there: nobody may begin before.
    run = start_run("lockstep", guard={"reconnect_ms": 3000})
    run.begin(7)
    run.processes["driver"].kill()
    run.processes["driver"].wait()
    run.coordinator.announce_dead("driver", "killed")
    run.until_end()
    run.coordinator.expect("driver")
    run.processes["driver"] = start_toy("driver", run.place)
    deadline = time.monotonic() + TIMEOUT_S
    while run.coordinator.dead:
        assert time.monotonic() < deadline
        run.coordinator.admit()
    run.begin(7)
    seen, _ = run.until_end()
    assert truths(seen)[-1].end == "goal"


ORPHAN = """
import os, subprocess, sys
toys, place, names = sys.argv[1], sys.argv[2], sys.argv[3:]
for name in names:
    command = [sys.executable, toys, name, str(os.getpid()), place]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(process.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_no_orphan_when_the_supervisor_is_killed(
    stopped: bool, outlast: Callable[[Sequence[psutil.Process]], list[psutil.Process]]
) -> None:
    with RunDirectory() as directory:
        place = msgspec.json.encode(RunPlace(str(directory.sockets), "run", "lockstep")).decode()
        parent = subprocess.Popen(
            [sys.executable, "-c", ORPHAN, str(TOYS), place, "world", "guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert parent.stdout is not None
        children = [psutil.Process(int(parent.stdout.readline())) for _ in range(2)]
        coordinator = Coordinator(RunPlace(str(directory.sockets), "run", "lockstep"), ("world", "guard"))
        deadline = time.monotonic() + TIMEOUT_S
        while len(coordinator._rendezvous._hello) < 2:  # both are past ``live_with_parent``
            assert time.monotonic() < deadline
            try:
                coordinator._rendezvous.poll(0.05)
            except WiringError:
                break
        if stopped:
            children[0].suspend()
        parent.kill()
        parent.communicate()
        assert outlast(children[1:] if stopped else children) == []
        if stopped:
            children[0].resume()
            assert outlast(children) == []
        coordinator.close()


def join_in_threads(nodes: list[Any], names: tuple[str, ...]) -> tuple[Exception | None, list[str]]:
    """What the supervisor and the nodes raise while getting together."""
    errors: list[str] = []

    def body(node: Any, place: RunPlace) -> None:
        try:
            run_node(node, place, stop=stop)
        except WiringError as error:
            errors.append(str(error))

    stop = threading.Event()
    with RunDirectory() as directory:
        place = RunPlace(str(directory.sockets), "run", "lockstep")
        coordinator = Coordinator(place, names)
        threads = [threading.Thread(target=body, args=(node, place)) for node in nodes]
        for thread in threads:
            thread.start()
        raised: Exception | None = None
        try:
            coordinator.wait_ready(TIMEOUT_S)
            stop.set()
        except WiringError as error:
            raised = error
        for thread in threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()
        coordinator.close()
    return raised, errors


def test_schema_mismatch_is_refused_with_both_names(toys: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def older(node: Any) -> NodeWiring:
        wired = wire_node(node)
        if node.name == "driver":
            wired.schemas["detections"] = "0" * 16
        return wired

    monkeypatch.setattr("visuomotor.messages.rendezvous.wire_node", older)
    nodes = [toys.make(name) for name in NAMES]
    raised, errors = join_in_threads(nodes, NAMES)
    assert isinstance(raised, WiringError)
    assert "detections: eye publishes schema" in str(raised)
    assert "driver reads 0000000000000000; both must run the same version" in str(raised)
    assert sorted(e.split(":")[0] for e in errors) == sorted(NAMES)
    assert all(node.closed for node in nodes)


def test_input_that_nobody_publishes_is_refused(toys: ModuleType) -> None:
    raised, errors = join_in_threads([toys.make("driver")], ("driver",))
    assert "detections: read by driver, published by nobody" in str(raised)
    assert len(errors) == 1


def test_stranger_is_refused(toys: ModuleType) -> None:
    class Stranger(toys.Guard):  # type: ignore[name-defined,misc]
        name = "stranger"

    with RunDirectory() as directory:
        place = RunPlace(str(directory.sockets), "run", "lockstep")
        coordinator = Coordinator(place, NAMES)
        errors: list[str] = []

        def body() -> None:
            try:
                run_node(Stranger(), place)
            except WiringError as error:
                errors.append(str(error))

        thread = threading.Thread(target=body)
        thread.start()
        with pytest.raises(HandshakeError):
            coordinator.wait_ready(0.5)
        thread.join(TIMEOUT_S)
        coordinator.close()
    assert errors == ["stranger: stranger: not a node of this run; expected world, eye, driver, guard"]


def test_episode_index_must_grow(lockstep: Run) -> None:
    lockstep.begin(7)
    lockstep.until_end()
    with pytest.raises(ValueError, match=f"episode.index: expected more than {lockstep.index}, got 0"):
        lockstep.coordinator.reset(Episode(phase="reset", index=0), 1.0)


def test_reset_in_the_middle_of_an_episode(lockstep: Run) -> None:
    lockstep.begin(8)
    lockstep.until_tick(2)
    lockstep.begin(7)
    digests = lockstep.until_end()[1]
    lockstep.begin(7)
    assert lockstep.until_end()[1] == digests


def test_silent_services_follow_the_dead(toys: ModuleType) -> None:
    wiring = Wiring({name: wire_node(toys.make(name)) for name in NAMES})
    assert wiring.stalled(["eye"]) == {"eye"}, "the driver still has its vehicle_state"
    assert wiring.silent(["eye"]) == {"detections"}
    assert wiring.stalled(["world"]) == set(NAMES), "nothing comes any more"
    assert wiring.stalled(["guard"]) == {"guard"}, "the world needs nothing of its own tick"
    assert wiring.stalled([]) == frozenset()
