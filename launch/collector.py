"""What the supervisor observes, put in order tick by tick and handed to metrics, report and viewer."""

from __future__ import annotations

from collections import Counter, defaultdict, deque

import numpy as np

from visuomotor.launch.evaluate.latency import Latency
from visuomotor.launch.evaluate.metrics import make_metrics
from visuomotor.launch.evaluate.score import percentiles
from visuomotor.launch.recording import RECORDER
from visuomotor.launch.report.capture import EpisodeCapture
from visuomotor.launch.report.view import LiveView
from visuomotor.messages.bus import Received
from visuomotor.messages.schema import Message, NodeHealth, Trace
from visuomotor.messages.services import CONTROL_RATE_HZ

LATE_TICKS = 5  # a tick is complete when one so much newer has begun: whatever else of it comes was dropped
STEPS_KEPT = 1000  # of each node, for the percentiles of now
CAPTURES_MAX = 6  # episodes whose frames are kept for the report; the failed ones rather than the others


class NodeStatus:
    """What is known of one node while it runs."""

    def __init__(self) -> None:
        self.state = "starting"
        self.provider = ""
        self.steps = 0
        self.missed = 0
        self.text = ""
        self.dropped: dict[str, int] = {}
        self.step_ms: deque[float] = deque(maxlen=STEPS_KEPT)
        self.steps_heard = 0
        self.last_tick = -1
        self.heard_ns = 0

    def hear(self, received: Received) -> None:
        """Take in one message of this node."""
        message = received.message
        self.heard_ns = received.t_publish_ns
        if isinstance(message, NodeHealth):
            self.state, self.text = message.state, message.text
            self.provider = message.provider or self.provider
            self.steps, self.missed, self.dropped = message.steps, message.missed_deadlines, dict(message.dropped)
        elif isinstance(message, Trace):
            self.last_tick = received.tick
            self.step_ms += [(end - start) * 1e-6 for name, start, end in message.stages if name == "step"]
            self.steps_heard += 1

    def summary_ms(self) -> dict[str, float]:
        """Percentiles of the duration of its last steps."""
        return percentiles(list(self.step_ms))


class EpisodeCollector:
    """Messages of one episode in order of ticks."""

    def __init__(self, kind: str, seed: int, index: int, capture: EpisodeCapture | None, view: LiveView | None) -> None:
        self.seed = seed
        self.index = index
        self.metrics = make_metrics(kind)
        self.capture = capture
        self.published: Counter[str] = Counter()
        self._times_ns: dict[str, tuple[int, int]] = {}
        self._view = view
        self._ticks: dict[int, dict[str, Message]] = defaultdict(dict)
        self._flushed = -1

    def add(self, received: Received) -> None:
        """Take in one message; those of other episodes and of nodes about themselves are left out."""
        message = received.message
        if message is None or received.episode != self.index or isinstance(message, NodeHealth):
            return
        if isinstance(message, Trace):
            if self.capture is not None:
                self.capture.traces.append(message)
            return
        service, tick = received.service, received.tick
        self.published[service] += 1
        first, _ = self._times_ns.get(service, (received.t_publish_ns, 0))
        self._times_ns[service] = (first, received.t_publish_ns)
        if tick <= self._flushed:
            return
        self._ticks[tick][service] = message
        if service == "command":
            self._flush(tick - 1)
        else:
            self._flush(tick - LATE_TICKS)

    def finish(self) -> None:
        """Hand on what is left."""
        self._flush(max(self._ticks, default=-1))

    def _flush(self, last: int) -> None:
        for tick in sorted(t for t in self._ticks if t <= last):
            messages = self._ticks.pop(tick)
            self.metrics.add(messages)
            if self.capture is not None:
                self.capture.add(tick, messages)
            if self._view is not None:
                self._view.add(self.index, tick, messages)
        self._flushed = max(self._flushed, last)

    @property
    def span_s(self) -> float:
        """Time from the first message to the last, by the stamps of their publishers."""
        firsts, lasts = zip(*self._times_ns.values(), strict=True) if self._times_ns else ((0,), (0,))
        return (max(lasts) - min(firsts)) * 1e-9

    def rates_hz(self, clock: str) -> dict[str, float]:
        """Service -> messages per second of the clock."""
        rates = {}
        for service, (first, last) in self._times_ns.items():
            intervals = self.published[service] - 1
            if clock == "lockstep":
                ticks = max(1, self._flushed)
                rates[service] = round(intervals / ticks * CONTROL_RATE_HZ, 3)
            else:
                rates[service] = round(intervals / ((last - first) * 1e-9), 3) if last > first else 0.0
        return rates


class RunCollector:
    """All episodes of a run."""

    def __init__(self, kind: str, nodes: list[str], *, capture: bool, view: LiveView | None) -> None:
        self.kind = kind  # task, or kind of profile
        self.nodes = {name: NodeStatus() for name in nodes}
        self.latency = Latency()
        self.episodes: list[EpisodeCollector] = []
        self._capture = capture
        self._view = view

    def begin(self, seed: int, index: int) -> EpisodeCollector:
        """A collector for the next episode."""
        capture = EpisodeCapture(seed) if self._capture else None
        self.episodes.append(EpisodeCollector(self.kind, seed, index, capture, self._view))
        return self.episodes[-1]

    def add(self, received: Received) -> None:
        """Take in one message of the current episode."""
        if received.node in self.nodes:
            self.nodes[received.node].hear(received)
        if received.node == RECORDER:
            return  # it is no part of the path from camera to command
        if isinstance(received.message, Trace):
            self.latency.add([received.message])
        if self.episodes:
            self.episodes[-1].add(received)

    def finish_episode(self) -> None:
        """Close the current episode; frames are given up of successful ones past the number that a report shows."""
        self.episodes[-1].finish()
        captures = [e for e in self.episodes if e.capture is not None and e.capture.ticks]
        if len(captures) > CAPTURES_MAX:
            good = [e for e in captures[1:] if e.metrics.success]
            drop = good[-1] if good else captures[-1]
            drop.capture = None

    @property
    def captures(self) -> list[EpisodeCapture]:
        """What the report shows."""
        return [e.capture for e in self.episodes if e.capture is not None]

    def rates_hz(self, clock: str) -> dict[str, float]:
        """Mean rate of every service over the episodes."""
        rows = [episode.rates_hz(clock) for episode in self.episodes]
        names = sorted({name for row in rows for name in row})
        return {name: round(float(np.mean([row[name] for row in rows if name in row])), 3) for name in names}

    def missed_share(self) -> float:
        """Share of missed deadlines among the steps, of the node that misses most."""
        return max((n.missed / (n.steps + n.missed) for n in self.nodes.values() if n.steps), default=0.0)
