"""The supervisor's end of the bus: gets the nodes together, begins and ends episodes, watches what they publish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import zmq

from visuomotor.messages.bus import Publisher, Received, Subscriber
from visuomotor.messages.digest import merge_digests
from visuomotor.messages.node import Input
from visuomotor.messages.rendezvous import PROBE_INTERVAL_S, HandshakeError, Rendezvous, sources_of
from visuomotor.messages.schema import Episode, Header, Message, NodeHealth, Operator, OperatorKind
from visuomotor.messages.wiring import SUPERVISOR, SUPERVISOR_OUTPUTS, RunPlace, Wiring, wire_up
from visuomotor.messages.word import Published, Word

Check = Callable[[], None]


def _nothing() -> None:
    """No check."""


class Coordinator:
    """Publishes ``episode``, ``operator`` and the deaths of nodes; reads ``observe`` from whoever publishes it.

    Waiting calls take ``check``, called many times a second: it raises when a process has died, which ends the wait.
    """

    def __init__(self, place: RunPlace, names: Sequence[str], observe: Iterable[str] = ("truth",)) -> None:
        self.place = place
        self.names = tuple(names)
        self.episode: Episode | None = None
        self._running = False
        self.dead: set[str] = set()
        self._restarted: set[str] = set()
        self._probe_due = 0.0
        self.health: dict[str, NodeHealth] = {}
        self.last_message: dict[str, tuple[str, int]] = {}  # node -> service and tick of the last message seen of it
        self._seq: dict[str, int] = {}
        self._inbox: list[Received] = []
        self._context: zmq.Context[Any] = zmq.Context()
        self._subscriber: Subscriber | None = None
        reads = tuple(Input(s, optional=True) for s in dict.fromkeys((*observe, "node_health", "trace")))
        self._reads = {source.service for source in reads}
        self._own = wire_up(SUPERVISOR, reads, SUPERVISOR_OUTPUTS)
        self._publisher = Publisher(self._context, place, SUPERVISOR, SUPERVISOR_OUTPUTS)
        try:
            self._rendezvous = Rendezvous(self._context, place, self._own, self.names, self._publisher.doorkeeper)
        except BaseException:
            self._publisher.close()
            raise

    @property
    def wiring(self) -> Wiring | None:
        """Who publishes and reads what; None before the nodes have come."""
        return self._rendezvous.wiring

    @property
    def alive(self) -> list[str]:
        """Nodes that were not announced dead."""
        return [name for name in self.names if name not in self.dead]

    def wait_ready(self, timeout_s: float, check: Check = _nothing) -> None:
        """Until every node is warmed up and hears every publisher it reads.

        Raises WiringError when nodes do not fit together, HandshakeError that names the missing ones after
        ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            check()
            self._rendezvous.poll(PROBE_INTERVAL_S)
            wiring = self._rendezvous.wiring
            if wiring is not None:
                if self._subscriber is None:
                    self._subscriber = Subscriber(self._context, self.place, sources_of(self._own, wiring, self._reads))
                self._publisher.probe()
                self._collect(0.0)
                if not self._rendezvous.missing() and not self._subscriber.unheard:
                    self._rendezvous.go()
                    return
            if time.monotonic() > deadline:
                waiting = ", ".join(f"{name} ({state})" for name, state in self._rendezvous.missing().items())
                raise HandshakeError(f"not ready after {timeout_s:.0f} s: {waiting or 'connections'}")

    def admit(self) -> None:
        """Let restarted nodes in and forget that they were dead; call often while one is starting.

        A node let in stands still until the next ``reset``.
        """
        self._rendezvous.poll(0.0)
        missing = self._rendezvous.missing()
        if missing and time.monotonic() >= self._probe_due:
            self._probe_due = time.monotonic() + PROBE_INTERVAL_S
            self._publisher.probe()
        for node in self.dead.difference(missing) & self._restarted:
            self.dead.discard(node)
            self._restarted.discard(node)
            if self._subscriber is not None:
                self._subscriber.doubt(node)
            self._publish("node_health", NodeHealth(node=node, state="ready", text="restarted"))
            for other in self.dead:  # the new one has not heard of them
                self.announce_dead(other, "dead before this node came")

    def expect(self, node: str) -> None:
        """Tell that a dead node is being started again, see ``admit``."""
        self._restarted.add(node)
        self._rendezvous.expect(node)

    def reset(self, episode: Episode, timeout_s: float, check: Check = _nothing) -> None:
        """Announce a new episode and wait until every living node has reset itself and acknowledged.

        ``episode.index`` must grow from call to call. Raises HandshakeError that names the nodes that did not answer.
        """
        if self.episode is not None and episode.index <= self.episode.index:
            raise ValueError(f"episode.index: expected more than {self.episode.index}, got {episode.index}")
        self.episode = episode
        self.health.clear()
        self._seq.clear()
        self._publisher.begin_episode(episode.index)
        self._phase("reset")
        self._wait_for("ready", timeout_s, check, "acknowledge the reset")

    def start(self) -> None:
        """Let tick 0 begin. ``operator`` messages sent before arrive before."""
        self._phase("start")

    def end(self, end: str, last_tick: int, timeout_s: float, check: Check = _nothing) -> dict[str, str]:
        """End the episode and return the topic digests of all nodes.

        With ``last_tick`` >= 0 (the tick of the ``truth`` that has ``end`` set) every living node finishes that tick
        first; with -1 it stops at once, and the digests mean nothing. Raises HandshakeError as ``reset`` does.
        """
        self._phase("end", end=end, last_tick=last_tick)
        self._wait_for("stopped", timeout_s, check, "end the episode")
        own = self._publisher.digests.hexdigests()
        return merge_digests([own, *(self.health[name].digests for name in self.alive)])

    def announce_dead(self, node: str, text: str) -> None:
        """Tell the others that a node has died: what only it could send is waited for no more."""
        self.dead.add(node)
        health = NodeHealth(node=node, state="fault", text=text)
        self._publish("node_health", health)

    def operator(self, kind: OperatorKind, text: str = "") -> None:
        """Publish a person's word."""
        self._publish("operator", Operator(kind=kind, text=text))

    def poll(self, timeout_s: float) -> list[Received]:
        """Everything observed since the last call; waits up to ``timeout_s``. Passes on words."""
        self._rendezvous.poll(0.0)
        self._rendezvous.answer_words(self._pass_on)
        if not self._inbox:
            self._collect(timeout_s)
        else:
            self._collect(0.0)
        messages, self._inbox = self._inbox, []
        return messages

    def _pass_on(self, word: Word) -> Published:
        if self.episode is None or not self._running:
            return Published(refused="no episode is going on just now; say it again in a moment")
        self.operator(word.kind, word.text)
        return Published(episode=self.episode.index, seq=self._seq["operator"] - 1)

    def refused(self) -> dict[str, int]:
        """Cause -> who was not let in from the network; the log names each, so call about once a second."""
        return self._publisher.watch()

    def dropped(self) -> dict[str, int]:
        """Cause -> messages that the supervisor's own reader refused."""
        return {} if self._subscriber is None else self._subscriber.watch()

    def close(self) -> None:
        """Close all sockets; what was published last gets a moment to leave."""
        self._rendezvous.close()
        self._publisher.close()
        if self._subscriber is not None:
            self._subscriber.close()
        self._context.term()

    def _phase(self, phase: str, end: str = "", last_tick: int = -1) -> None:
        if self.episode is None:
            raise ValueError(f"{phase}: no episode was reset")
        self._running = phase == "start"
        e = self.episode
        fields = {"task": e.task, "suite": e.suite, "split": e.split, "seed": e.seed, "index": e.index}
        message = Episode(phase=phase, end=end, last_tick=last_tick, **fields)  # type: ignore[arg-type]
        self._publish("episode", message)

    def _publish(self, service: str, message: Message) -> None:
        seq = self._seq.get(service, 0)
        self._seq[service] = seq + 1
        index = -1 if self.episode is None else self.episode.index
        now_ns = time.monotonic_ns() if self.place.clock == "realtime" else 0  # lockstep: nothing of the wall clock
        message.header = Header(run_id=self.place.run_id, episode=index, seq=seq, t_capture_ns=now_ns, valid=True)
        self._publisher.publish(service, message)

    def _wait_for(self, state: str, timeout_s: float, check: Check, what: str) -> None:
        index = -1 if self.episode is None else self.episode.index
        deadline = time.monotonic() + timeout_s
        while True:
            check()
            late = [
                name
                for name in self.alive
                if name not in self.health
                or self.health[name].header.episode != index
                or self.health[name].state != state
            ]
            late += [] if self._subscriber is None else self._subscriber.waits_for(self.dead)
            if not late:
                return
            if time.monotonic() > deadline:
                seen = ", ".join(f"{name} (last: {self._describe(name)})" for name in late)
                raise HandshakeError(f"did not {what} in {timeout_s:.0f} s: {seen}")
            self._collect(0.05)

    def _describe(self, node: str) -> str:
        service, tick = self.last_message.get(node, ("nothing", -1))
        return f"{service} of tick {tick}" if tick >= 0 else service

    def _collect(self, timeout_s: float) -> None:
        if self._subscriber is None:
            return
        for received in self._subscriber.poll(timeout_s):
            if received.message is None:
                continue
            self.last_message[received.node] = (received.service, received.tick)
            if isinstance(received.message, NodeHealth):
                self.health[received.node] = received.message
            self._inbox.append(received)
