"""The loop of one node over sockets, in either clock: wait, step, publish; episodes, health, trace."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq

from visuomotor.messages.bus import Publisher, Received, Subscriber
from visuomotor.messages.node import Node, Tick
from visuomotor.messages.rendezvous import PROBE_INTERVAL_S, join
from visuomotor.messages.schema import Episode, Message, NodeHealth, Trace
from visuomotor.messages.services import SERVICES
from visuomotor.messages.stepper import TICK_NS, Stepper
from visuomotor.messages.wiring import SUPERVISOR, RunPlace, Wiring, wire_node

HEALTH_PERIOD_S = 1.0
IDLE_S = 0.1  # how often a waiting loop looks at ``stop``
LAST_WORDS_S = 0.05  # a node that hears all is stopped once nothing has come for so long
COMPANION_GRACE_S = 0.005  # realtime: wait for the other messages of the trigger's publisher and tick
ORPHANED_PACE_S = 0.02  # lockstep: pause of a source all of whose inputs are dead, so that it floods nobody


def run_node(
    node: Node,
    place: RunPlace,
    *,
    stop: threading.Event | None = None,
    max_steps: int | None = None,
    join_timeout_s: float = 120.0,
    now_ns: Callable[[], int] | None = None,
) -> int:
    """Run a node until ``stop`` is set (or for ``max_steps``) and close it; returns the number of steps.

    Raises WiringError when the run refuses the node, HandshakeError when the run does not get together, and what the
    node raises, after publishing it as its health.
    """
    stop = stop or threading.Event()
    context: zmq.Context[Any] = zmq.Context()
    publisher: Publisher | None = None
    subscriber: Subscriber | None = None
    try:
        publisher = Publisher(context, place, node.name, wire_node(node).outputs)
        joined = join(context, place, node, publisher, stop.is_set, join_timeout_s)
        if joined is None:
            return 0
        wiring, subscriber = joined
        now_ns = now_ns or publisher.clock.now_ns
        return _Loop(node, place, wiring, publisher, subscriber, stop, max_steps, now_ns).run()
    finally:
        try:
            node.close()
        finally:
            if publisher is not None:
                publisher.close()
            if subscriber is not None:
                subscriber.close()
            context.term()


class _Loop:
    def __init__(
        self,
        node: Node,
        place: RunPlace,
        wiring: Wiring,
        publisher: Publisher,
        subscriber: Subscriber,
        stop: threading.Event,
        max_steps: int | None,
        now_ns: Callable[[], int],
    ) -> None:
        self.node = node
        self.place = place
        self.wiring = wiring
        self.publisher = publisher
        self.subscriber = subscriber
        self.stop = stop
        self.max_steps = max_steps
        self.now_ns = now_ns
        self.host = socket.gethostname()
        self.stepper = Stepper(node, place.clock, place.run_id)
        self.lockstep = place.clock == "lockstep"
        self.declared = {source.service for source in node.inputs}
        self.hear: Callable[[Received], None] | None = getattr(node, "hear", None)
        self.state = "starting"
        self.running = False
        self.stopping = False  # ``end`` has come; ``last_tick`` is still to be finished
        self.last_tick = -1
        self.dead_nodes: set[str] = set()
        self.joining = bool(subscriber.unheard)  # a node was restarted: probe until all hear each other
        self.acknowledged = True
        self.probe_due_ns = 0
        self.next_tick = 0
        self.stepped_tick = -1
        self.steps = 0
        self.missed = 0
        self.health_due_ns = 0
        self.due_ns = 0  # timer
        self.trigger_ns = 0  # arrival of the trigger message
        self.trigger_sent_ns = 0
        self.waiting_since_ns = time.monotonic_ns()
        trigger = self.stepper.trigger
        self.trigger = None if trigger is None else trigger.service
        self.period_ns = None if node.period_s is None else round(node.period_s * 1e9)
        senders = wiring.publishers(self.trigger) if self.trigger is not None else ()
        self.companions = [
            i.service
            for i in self.stepper.blocking
            if i.lag == 0 and i.service != self.trigger and wiring.publishers(i.service) == senders
        ]

    def run(self) -> int:
        while not self.stop.is_set() and (self.max_steps is None or self.steps < self.max_steps):
            now = self.now_ns()
            self._bound_waits(now)
            if self.running and not self.stepper.finished and self._due(now):
                self._step()
                self._receive(0.0)
            else:
                self._receive(self._wait_s(now))
            if self.running and self.stopping and self._ended():
                self._stop_episode()
            if self.joining:
                self._get_together()
            if self.now_ns() >= self.health_due_ns:
                self._publish_health(self.state)
        if self.hear is not None:
            while self._receive(LAST_WORDS_S):
                pass
        return self.steps

    # waiting

    def _due(self, now_ns: int) -> bool:
        if self.lockstep:
            if self.stopping and (self.last_tick < 0 or self.next_tick > self.last_tick):
                return False
            return self.node.name not in self.wiring.stalled(self.dead_nodes) and not self.stepper.missing(
                self.next_tick
            )
        if self.trigger is not None and self.stepper.fresh(self.trigger):
            return now_ns >= self.trigger_ns + COMPANION_GRACE_S * 1e9 or self._companions_here()
        return self.period_ns is not None and now_ns >= self.due_ns

    def _bound_waits(self, now_ns: int) -> None:
        """Keep what is due within its period: where the clock was set back, it would not come for as long."""
        self.trigger_ns = min(self.trigger_ns, now_ns)
        self.health_due_ns = min(self.health_due_ns, now_ns + round(HEALTH_PERIOD_S * 1e9))
        self.probe_due_ns = min(self.probe_due_ns, now_ns + round(PROBE_INTERVAL_S * 1e9))
        if self.period_ns is not None:
            self.due_ns = min(self.due_ns, now_ns + self.period_ns)

    def _companions_here(self) -> bool:
        assert self.trigger is not None
        trigger = self.stepper.newest(self.trigger)
        tick = -1 if trigger is None else trigger.header.tick
        newest = [self.stepper.newest(service) for service in self.companions]
        return all(message is not None and message.header.tick >= tick for message in newest)

    def _wait_s(self, now_ns: int) -> float:
        if self.joining:
            return PROBE_INTERVAL_S
        if self.lockstep or not self.running or self.stepper.finished:
            return IDLE_S
        times = [now_ns + IDLE_S * 1e9]
        if self.trigger is not None and self.stepper.fresh(self.trigger):
            times.append(self.trigger_ns + COMPANION_GRACE_S * 1e9)
        if self.period_ns is not None:
            times.append(self.due_ns)
        return max(0.0, (min(times) - now_ns) * 1e-9)

    def _ended(self) -> bool:
        return (
            not self.lockstep
            or self.last_tick < 0
            or self.next_tick > self.last_tick
            or self.stepper.finished
            or self.node.name in self.wiring.stalled(self.dead_nodes)
        )

    # receiving

    def _receive(self, timeout_s: float) -> int:
        if 0.0 < timeout_s < 1e-3:
            time.sleep(timeout_s)  # a poll counts in whole milliseconds
        arrived = self.subscriber.poll(timeout_s)
        for received in arrived:
            if self.hear is not None and received.service in self.declared and received.message is not None:
                self.hear(received)
            if received.node == SUPERVISOR and isinstance(received.message, (Episode, NodeHealth)):
                self._control(received.message)
            if received.service in self.declared:
                self._deliver(received)
        return len(arrived)

    def _control(self, message: Episode | NodeHealth) -> None:
        if isinstance(message, NodeHealth):
            if message.state == "fault":
                self.dead_nodes.add(message.node)
            elif message.node in self.dead_nodes:
                self.dead_nodes.discard(message.node)
                self.subscriber.doubt(message.node)
                self.joining = True
            self.stepper.dead = self.wiring.silent(self.dead_nodes)
        elif message.phase == "reset":
            self._reset(message)
        elif message.header.episode != self.stepper.episode:
            return  # this process joined after the reset
        elif message.phase == "start":
            self.running, self.joining, self.state = True, False, "running"
            self.due_ns, self.waiting_since_ns = self.now_ns(), time.monotonic_ns()
        else:
            self.stopping, self.last_tick = True, message.last_tick
            if not self.running:
                self._stop_episode()

    def _deliver(self, received: Received) -> None:
        if received.episode != self.stepper.episode:
            return  # of the last episode, still on its way
        if received.message is None:
            if received.service not in {i.service for i in self.node.inputs if i.optional}:
                self.stepper.deliver_absent(received.service, received.tick)
            return
        now = self.now_ns()
        if received.service == self.trigger:
            self.trigger_ns, self.trigger_sent_ns = now, received.t_publish_ns
        self.stepper.deliver(received.service, received.message, now)

    # stepping

    def _tick(self, now_ns: int) -> Tick:
        episode = self.stepper.episode
        if self.lockstep:
            return Tick(episode, self.next_tick, self.next_tick * TICK_NS, "lockstep")
        known = self.stepper.newest_tick()
        return Tick(episode, known if known >= 0 else self.stepped_tick + 1, now_ns, "realtime")

    def _step(self) -> None:
        if self.lockstep and self.stepper.dead.issuperset(i.service for i in self.stepper.blocking) and self.dead_nodes:
            self.stop.wait(ORPHANED_PACE_S)
        started_ns = time.monotonic_ns()
        triggered = self.trigger is not None and (self.lockstep or self.stepper.fresh(self.trigger))
        tick = self._tick(self.now_ns())
        inputs = self.stepper.take(tick)
        try:
            outputs = self.stepper.step(tick, inputs)
        except Exception as error:
            self._publish_health("fault", f"{type(error).__name__} in tick {tick.tick}: {error}")
            raise
        stepped_ns = time.monotonic_ns()
        self._publish_outputs(tick, outputs)
        own = [("wait", self.waiting_since_ns, started_ns), *getattr(self.node, "stages", ())]
        own += [("step", started_ns, stepped_ns), ("publish", stepped_ns, time.monotonic_ns())]
        to_run_ns = self.publisher.clock.convert  # nodes measure with the clock of their host
        stages = [(name, to_run_ns(start), to_run_ns(end)) for name, start, end in own]
        if triggered:
            stages.insert(1, ("transport", self.trigger_sent_ns, self.trigger_ns))
        trace = Trace(node=self.node.name, host=self.host, stages=tuple(stages))
        parents = {s: m.message.header.seq for s, m in inputs.items() if m.message is not None}
        self.stepper.stamp_one("trace", trace, tick, tick.t_ns, parents)
        self.publisher.publish("trace", trace)
        if not self.lockstep:
            self._count_missed(tick, triggered)
        self.steps += 1
        self.stepped_tick = tick.tick
        self.next_tick += 1
        self.waiting_since_ns = time.monotonic_ns()

    def _publish_outputs(self, tick: Tick, outputs: dict[str, Message]) -> None:
        for service, message in outputs.items():
            self.publisher.publish(service, message)
        if self.lockstep:
            for service in self.node.outputs:
                if service not in outputs:
                    self.publisher.absent(service, tick.tick)

    def _count_missed(self, tick: Tick, triggered: bool) -> None:
        """A deadline is missed by each tick that was skipped, and by each step that took longer than its period."""
        now = self.now_ns()
        if triggered and self.trigger is not None:
            if self.stepped_tick >= 0:
                self.missed += max(0, tick.tick - self.stepped_tick - 1)
            rate_hz = SERVICES[self.trigger].rate_hz
            if rate_hz > 0.0 and now - self.trigger_sent_ns > 1e9 / rate_hz:
                self.missed += 1
            if self.period_ns is not None:
                self.due_ns = now + self.period_ns
        elif self.period_ns is not None:
            late = max(0, (now - self.due_ns) // self.period_ns)
            self.missed += late
            self.due_ns += (late + 1) * self.period_ns

    # episodes and health

    def _reset(self, episode: Episode) -> None:
        self.running = self.stopping = False
        self.last_tick = self.stepped_tick = -1
        self.next_tick = 0
        self.stepper.begin_episode(episode.index)
        self.stepper.dead = self.wiring.silent(self.dead_nodes)
        self.publisher.begin_episode(episode.index)
        try:
            self.node.reset(episode)
        except Exception as error:
            self._publish_health("fault", f"{type(error).__name__} in reset: {error}")
            raise
        self.state, self.acknowledged = "starting", False
        if not self.joining:
            self._acknowledge()

    def _get_together(self) -> None:
        """Let the others hear this node; acknowledge the reset when it hears them."""
        if self.now_ns() >= self.probe_due_ns:
            self.probe_due_ns = self.now_ns() + round(PROBE_INTERVAL_S * 1e9)
            self.publisher.probe()
        if not self.acknowledged and not self.subscriber.waits_for(self.dead_nodes):
            self._acknowledge()

    def _acknowledge(self) -> None:
        self.state, self.acknowledged = "ready", True
        self._publish_health(self.state)

    def _stop_episode(self) -> None:
        self.running, self.stopping, self.state = False, False, "stopped"
        self._publish_health(self.state)

    def _publish_health(self, state: str, text: str = "") -> None:
        self.health_due_ns = self.now_ns() + round(HEALTH_PERIOD_S * 1e9)
        health = NodeHealth(
            node=self.node.name,
            state=state,  # type: ignore[arg-type]
            provider=getattr(self.node, "provider", ""),
            text=text or getattr(self.node, "note", ""),
            missed_deadlines=self.missed,
            steps=self.steps,
            last_tick=self.stepped_tick,
            digests=self.publisher.digests.hexdigests() if state == "stopped" else {},
            dropped=self.subscriber.watch() | self.publisher.watch(),
        )
        health.header.valid = state != "fault"
        now = self.now_ns()
        tick = Tick(self.stepper.episode, max(self.stepped_tick, 0), now, self.place.clock)
        self.stepper.stamp_one("node_health", health, tick, now, {})
        self.publisher.publish("node_health", health)
