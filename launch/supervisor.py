"""Starts the nodes of a run, runs its episodes, and brings the robot to a stop when a part of the run dies."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import msgspec

from visuomotor.launch.hosts import HostedProcesses, HostPlan
from visuomotor.launch.inject import SUPERVISOR, Injection
from visuomotor.launch.job import Job
from visuomotor.launch.notify import ServiceManager
from visuomotor.launch.process_table import SOURCE, NodeSpec
from visuomotor.launch.processes import Processes
from visuomotor.launch.profile import Timeouts
from visuomotor.launch.signals import TO_END, handling
from visuomotor.launch.standstill import choose_gauge
from visuomotor.messages.bus import Received
from visuomotor.messages.coordinator import Coordinator
from visuomotor.messages.node import ClockName
from visuomotor.messages.rendezvous import HandshakeError
from visuomotor.messages.run_directory import RunDirectory
from visuomotor.messages.schema import Episode, NodeHealth, Truth
from visuomotor.messages.services import CONTROL_RATE_HZ
from visuomotor.messages.wiring import RunPlace, WiringError

POLL_S = 0.05
TICK_S = 1.0 / CONTROL_RATE_HZ
BRAKE_S = 20.0  # wall clock, for the survivors to bring the robot to a stop
BRAKE_TICKS = 150
BRAKE_BLIND_S = 2.0  # the same where nothing measured tells its motion
UNHEARD_S = 3.0  # a node that is well reports its health every second
OPERATOR = "operator"  # named as the faulty party when a person interrupts


class RunError(RuntimeError):
    """A run that could not be done; ``exit_code`` 2 when its input was bad."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Fault(msgspec.Struct, frozen=True):
    """Why an episode was broken off."""

    node: str
    text: str


class Outcome(msgspec.Struct, kw_only=True):
    """How one episode ended. ``end`` is the world's word, "source ended" for a camera, or "fault"."""

    end: str
    fault: Fault | None = None
    stopped: bool = False  # after a fault: whether the robot was seen to stand, or the world had ended
    topic_digests: dict[str, str] = {}


class Supervisor:
    """The nodes of one run, from ``start`` to ``stop``; a context manager that leaves no process behind."""

    def __init__(
        self,
        table: Sequence[NodeSpec],
        run_dir: RunDirectory,
        *,
        clock: ClockName,
        timeouts: Timeouts | None = None,
        faults: Mapping[str, Sequence[Injection]] | None = None,
        observe: Sequence[str] = ("truth", "command"),
        service: ServiceManager | None = None,
        goes_on: bool = False,
        hosts: HostPlan | None = None,  # where some of the nodes are on other hosts
    ) -> None:
        """``goes_on``: a fault ends its episode, not the run."""
        self.table = list(table)
        self._service = service or ServiceManager()
        self._goes_on = goes_on
        self.timeouts = timeouts or Timeouts()
        run_id = f"{run_dir.path.name}-{os.getpid()}"
        self.place = RunPlace(str(run_dir.sockets), run_id, clock, None if hosts is None else hosts.network)
        jobs = [
            Job(
                spec=spec,
                place=self.place,
                run_dir=str(run_dir.path),
                parent_pid=os.getpid(),
                join_timeout_s=2 * self.timeouts.ready_s,
                faults=tuple((faults or {}).get(spec.name, ())),
            )
            for spec in table
            if not self.place.other_host(spec.name)
        ]
        names = [spec.name for spec in table]
        available = {service for spec in table for service in spec.outputs}
        self._has_truth = "truth" in available
        drives = next((s.name for s in table if "command" in s.inputs and not s.config.get("dry_run")), SOURCE)
        self._actuator = SOURCE if self._has_truth else drives  # without it nothing is left that could brake
        self._gauge = choose_gauge(available)
        told = (s for s in self._gauge.services if s in available)
        # a source without truth only assumes how it moves; what is behind CAN has measured it
        self._motion_service = next(told, "") if self._has_truth or drives != SOURCE else ""
        watched = [s for s in dict.fromkeys((*observe, self._motion_service)) if s in available]
        self.coordinator = Coordinator(self.place, names, watched)
        try:
            self.processes = Processes(jobs) if hosts is None else HostedProcesses(jobs, run_id, hosts)
        except BaseException:
            self.coordinator.close()
            raise
        self._kill_at_tick = min((f.start_s / TICK_S for f in (faults or {}).get(SUPERVISOR, ())), default=None)
        self._interrupts = 0
        self._heard_s: dict[str, float] = {}
        self._fault_text: dict[str, str] = {}
        self._spare = {spec.name for spec in table if not spec.vital}
        self.lost: dict[str, str] = {}  # nodes that are not vital and died -> how
        self._idle_steps: tuple[int, int] = (-1, 0)  # steps of the source, and how many reports did not change it

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start every node and wait until all are warmed up. Raises RunError that names the node and what it said."""
        self.processes.start()
        try:
            self.coordinator.wait_ready(self.timeouts.ready_s, self._check_start)
            self._service.ready(f"{len(self.table)} nodes are ready")
        except WiringError as error:
            raise RunError(f"the nodes do not fit together: {error}") from error
        except HandshakeError as error:
            raise RunError(f"{error}{self.processes.absent()}") from error

    def _check_start(self) -> None:
        if self._interrupts:
            raise RunError("interrupted before all nodes were ready")
        for name, how in self.processes.find_dead().items():
            if text := self.processes.bad_input(name):
                raise RunError(f"{name}: {text}", exit_code=2)
            raise RunError(
                f"node {name} {how} before it was ready: {self.processes.last_words(name) or 'it said nothing'} "
                f"(log: {self.processes.log_path(name)})"
            )

    def run_episode(self, episode: Episode, on_message: Callable[[Received], None]) -> Outcome:
        """Run one episode to its end, handing on every observed message.

        When a node dies, falls silent, or a person interrupts, the survivors brake to a stop and the outcome's fault
        names the node.
        """
        fault = self._reset(episode)
        if fault is not None:
            return Outcome(end="fault", fault=fault)
        self.coordinator.start()
        now = time.monotonic()
        self._heard_s = dict.fromkeys(self.coordinator.alive, now)
        self._idle_steps = (-1, 0)
        truth: Truth | None = None
        motion: float | None = None
        fault_tick, deadline_s = 0, float("inf")
        stopped = False
        while True:
            for received in self.coordinator.poll(POLL_S):
                self._hear(received)
                self._die_if_told(received)
                on_message(received)
                if received.episode != episode.index:
                    continue
                if isinstance(received.message, Truth):
                    truth = received.message
                if received.service == self._motion_service:
                    motion = self._gauge.read(received.message)
            if truth is not None and truth.end and (fault is None or SOURCE not in self.coordinator.dead):
                stopped = True
                break
            if new := self._find_fault():
                if fault is None:
                    fault, deadline_s = new, time.monotonic() + (BRAKE_BLIND_S if motion is None else BRAKE_S)
                    fault_tick = truth.header.tick if truth is not None else 0
                    if not self._goes_on or fault.node == OPERATOR:
                        self._service.stopping(f"braking to a stop: {fault.node} {fault.text}")
                if self._actuator in self.coordinator.dead:
                    break  # nothing is left that could brake
            if fault is not None:
                if self._gauge.stands(motion):
                    stopped = True
                    break
                overrun = truth is not None and truth.header.tick > fault_tick + BRAKE_TICKS
                if overrun or time.monotonic() > deadline_s or self._interrupts > 1:
                    break
            elif self._source_ended():
                break
            if fault is not None or self._all_heard():  # braking has a deadline
                self._service.alive()
        end = "fault" if fault is not None else truth.end if truth is not None and truth.end else "source ended"
        last_tick = truth.header.tick if fault is None and truth is not None and truth.end else -1
        digests = self._end(end, last_tick, fault)
        for received in self.coordinator.poll(0.0):  # what was published up to the end
            self._hear(received)
            on_message(received)
        if fault is None and self._end_fault is not None:
            fault, end = self._end_fault, "fault"
        return Outcome(end=end, fault=fault, stopped=stopped, topic_digests=digests)

    def restart_dead(self) -> bool:
        """Start dead nodes anew, for the next episode; False after an interrupt, or when they do not come up."""
        dead = [spec.name for spec in self.table if spec.vital and spec.name in self.coordinator.dead]
        if self._interrupts or not dead:
            return False
        for name in dead:
            self.processes.start_one(name, again=True)
            self.coordinator.expect(name)
            self._fault_text.pop(name, None)
        deadline = time.monotonic() + self.timeouts.ready_s
        while self.coordinator.dead.difference(self._spare):
            self.coordinator.admit()
            self.coordinator.poll(POLL_S)
            if self._interrupts or time.monotonic() > deadline or set(self.processes.find_dead()) - self._spare:
                return False
            self._service.alive()
        return True

    def _reset(self, episode: Episode) -> Fault | None:
        """None when all nodes have reset themselves."""
        try:
            self.coordinator.reset(episode, self.timeouts.ready_s, self._check_alive)
        except (HandshakeError, DeadNodeError) as error:
            return self._find_fault() or Fault("supervisor", str(error))
        return None

    def _end(self, end: str, last_tick: int, fault: Fault | None) -> dict[str, str]:
        """Topic digests of a whole episode; none of one that a fault ended."""
        self._end_fault: Fault | None = None
        word = end if end in ("goal", "collision", "offroad", "timeout", "fault") else ""
        try:
            digests = self.coordinator.end(word, last_tick, self.timeouts.step_s, self._check_alive)
        except (HandshakeError, DeadNodeError) as error:
            if fault is None:
                self._end_fault = self._find_fault() or Fault("supervisor", str(error))
            return {}
        return digests if fault is None and last_tick >= 0 else {}

    def _check_alive(self) -> None:
        self._let_go_of_the_dead()
        dead = set(self.processes.find_dead()) - self.coordinator.dead
        if not dead:
            self._service.alive()  # whoever waits here has a deadline
        else:
            raise DeadNodeError(f"{', '.join(sorted(dead))} died")
        if self._interrupts > 1:
            raise DeadNodeError("interrupted")

    def _hear(self, received: Received) -> None:
        self._heard_s[received.node] = time.monotonic()
        if isinstance(received.message, NodeHealth):
            health = received.message
            if health.state == "fault":
                self._fault_text[received.node] = health.text
            if received.node == SOURCE and health.state == "running":
                steps, same = self._idle_steps
                self._idle_steps = (health.steps, same + 1 if steps == health.steps else 0)

    def _all_heard(self) -> bool:
        """Whether every node on which the run depends spoke a moment ago."""
        now = time.monotonic()
        vital = set(self.coordinator.alive) - self._spare
        return all(now - self._heard_s.get(name, 0.0) < UNHEARD_S for name in vital)

    def _die_if_told(self, received: Received) -> None:
        """The injected death of the supervisor itself, at a tick of the source."""
        at = self._kill_at_tick
        if at is not None and received.node == SOURCE and received.tick >= at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _source_ended(self) -> bool:
        """Whether the source lives but steps no more: a video file that was played to its end."""
        return not self._has_truth and self._idle_steps[0] > 0 and self._idle_steps[1] >= 1

    def describe_hosts(self) -> dict[str, Any]:
        """For the score: what is known of the other hosts and of who was refused; empty where there are none."""
        if not isinstance(self.processes, HostedProcesses):
            return {}
        return self.processes.describe(self.coordinator.refused())

    def _find_fault(self) -> Fault | None:
        """The next thing that went wrong, announced to the survivors; None when nothing did."""
        self.coordinator.refused()
        self._let_go_of_the_dead()
        for name, how in self.processes.find_dead().items():
            if name not in self.coordinator.dead:
                text = self._fault_text.get(name) or f"{how}{self._said(name)}"
                return self._announce(name, text)
        if self._interrupts and OPERATOR not in self.coordinator.dead:
            self.coordinator.dead.add(OPERATOR)
            self.coordinator.operator("emergency_stop", "interrupted")
            return Fault(OPERATOR, "interrupted")
        now = time.monotonic()
        alive = self.coordinator.alive
        silent_s, name = max(((now - self._heard_s.get(name, now), name) for name in alive), default=(0.0, ""))
        if silent_s > self.timeouts.step_s:  # waiting nodes still report their health: this one is stuck
            self.processes.kill(name)
            if name in self._spare:
                return None  # found among the dead at the next look
            return self._announce(name, f"was silent for {silent_s:.1f} s and was killed")
        return None

    def _let_go_of_the_dead(self) -> None:
        """Announce the death of nodes that are not vital: nobody waits for them any more, and the run goes on."""
        for name, how in self.processes.find_dead().items():
            if name in self._spare and name not in self.coordinator.dead:
                self.lost[name] = self._announce(name, self._fault_text.get(name) or f"{how}{self._said(name)}").text

    def _said(self, name: str) -> str:
        words = self.processes.last_words(name)
        return f", saying: {words}" if words else ""

    def _announce(self, name: str, text: str) -> Fault:
        service, tick = self.coordinator.last_message.get(name, ("nothing", -1))
        last = f"{service} of tick {tick}" if tick >= 0 else service
        self.coordinator.announce_dead(name, text)
        return Fault(name, f"{text}; its last message was {last}")

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGHUP brake the robot to a stop; a second one ends the run at once."""

        def note(number: int, frame: FrameType | None) -> None:
            self._interrupts += 1

        with handling(TO_END, note):
            yield

    def stop(self) -> None:
        """Stop every node, the last started first, and close the bus."""
        self.processes.stop(self.timeouts.stop_s)
        self.coordinator.close()


class DeadNodeError(RuntimeError):
    """A process ended while the supervisor waited for it."""
