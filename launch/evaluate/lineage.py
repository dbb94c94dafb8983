"""The way of each command back to the light: from the actuator over the guard, policy and perception to the camera.

Which message came of which is in the headers (``parents``), when each step began and ended in the traces; both are on
one host's monotonic clock, so no stage is negative. A path that would have a negative stage (several hosts, whose
clocks are not one) is counted and left out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

import msgspec

from visuomotor.deploy.record.reader import Recorded, Recording
from visuomotor.launch.evaluate.latency import IDLE_STAGES, SOURCE
from visuomotor.launch.evaluate.score import percentiles
from visuomotor.messages.schema import Header, NodeHealth, Trace
from visuomotor.messages.wiring import SHARED

TOTALS = ("camera_to_command", "camera_to_actuator")
LOOP_STAGES = frozenset({"transport", "step", "publish", *IDLE_STAGES})  # the loop's own; all others are the node's
_Key = tuple[int, str, int]  # episode, service, seq


class PathStage(msgspec.Struct, frozen=True):
    """One bar of the waterfall: its median start after the capture and percentiles of its duration, ms."""

    name: str
    inner: bool  # part of the stage above it
    start_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class PathReport(msgspec.Struct, kw_only=True):
    """What a recording tells of latency, drops and rates."""

    clock: str = ""
    commands: int = 0
    complete: int = 0  # commands whose whole path from camera to actuator is known
    repeated: int = 0  # sent again without a new word of the policy
    not_actuated: int = 0  # overtaken by a newer one, or the recording ended first
    incomplete: int = 0  # some message or trace on the way is missing
    several_hosts: int = 0  # paths left out because their stages are on different clocks
    stages: list[PathStage] = []
    totals_ms: dict[str, dict[str, float]] = {}
    rate_hz: dict[str, float] = {}  # by publish time
    messages: dict[str, int] = {}
    not_recorded: dict[str, int] = {}  # gaps in the sequence of a service
    unused: dict[str, int] = {}  # frames of which no command came
    refused: dict[str, dict[str, int]] = {}  # node -> cause -> messages that it dropped
    missed_deadlines: dict[str, int] = {}


class _Sent(msgspec.Struct, frozen=True):
    service: str
    node: str
    t_publish_ns: int
    header: Header


class _Step(msgspec.Struct, frozen=True):
    """One step of a node: when it began, computed and published."""

    trace: Trace
    start_ns: int
    end_ns: int
    published_ns: int


class _Segment(msgspec.Struct, frozen=True):
    name: str
    inner: bool
    start_ns: int
    end_ns: int


class _Index:
    """Messages and steps of a recording, to be followed backwards."""

    def __init__(self) -> None:
        self.sent: dict[_Key, _Sent] = {}
        self.commands: list[_Sent] = []
        self.steps: dict[str, list[_Step]] = defaultdict(list)
        self.heard_by_source: dict[tuple[int, int], _Step] = {}  # episode, seq of a command -> the step that took it
        self.report = PathReport()
        self._times: dict[str, list[int]] = defaultdict(list)
        self._last_seq: dict[tuple[int, str, str], int] = {}

    def add(self, recorded: Recorded) -> None:
        if recorded.service == "trace":
            trace = recorded.message
            assert isinstance(trace, Trace)
            self._add_trace(trace)
        elif recorded.service == "node_health":
            health = recorded.message
            assert isinstance(health, NodeHealth)
            if recorded.node == health.node:
                self.report.refused[health.node] = dict(health.dropped)
                self.report.missed_deadlines[health.node] = health.missed_deadlines
        elif recorded.service not in SHARED:
            self._add_message(_Sent(recorded.service, recorded.node, recorded.t_publish_ns, recorded.header))

    def _add_message(self, sent: _Sent) -> None:
        header = sent.header
        self.sent[(header.episode, sent.service, header.seq)] = sent
        self._times[sent.service].append(sent.t_publish_ns)
        key = (header.episode, sent.service, sent.node)
        gap = header.seq - self._last_seq.get(key, header.seq - 1) - 1
        self._last_seq[key] = header.seq
        if gap > 0:
            self.report.not_recorded[sent.service] = self.report.not_recorded.get(sent.service, 0) + gap
        if sent.service == "command":
            self.commands.append(sent)

    def _add_trace(self, trace: Trace) -> None:
        named = {name: (start, end) for name, start, end in trace.stages if name in LOOP_STAGES}
        if "step" not in named or "publish" not in named:
            return
        step = _Step(trace, *named["step"], named["publish"][1])
        self.steps[trace.node].append(step)
        if trace.node == SOURCE and "command" in trace.header.parents:
            self.heard_by_source.setdefault((trace.header.episode, trace.header.parents["command"]), step)

    def finish(self) -> None:
        for steps in self.steps.values():
            steps.sort(key=lambda step: step.end_ns)
        for service, times in sorted(self._times.items()):
            span_s = (max(times) - min(times)) * 1e-9
            self.report.messages[service] = len(times)
            self.report.rate_hz[service] = round((len(times) - 1) / span_s, 3) if span_s > 0.0 else 0.0

    def step_of(self, sent: _Sent) -> _Step | None:
        """The step that published a message: the one in whose publishing its time lies."""
        steps = self.steps.get(sent.node, [])
        at = bisect_right(steps, sent.t_publish_ns, key=lambda step: step.end_ns) - 1
        return steps[at] if at >= 0 and sent.t_publish_ns <= steps[at].published_ns else None

    def parent_of(self, sent: _Sent) -> _Sent | None:
        """The message that a step waited for last: of another node than the source where there is one."""
        found = [self.sent.get((sent.header.episode, service, seq)) for service, seq in sent.header.parents.items()]
        known = [parent for parent in found if parent is not None]
        inner = [parent for parent in known if parent.node != SOURCE]
        frames = [parent for parent in known if parent.service.startswith("camera_")]
        return max(inner or frames or known, key=lambda parent: parent.t_publish_ns, default=None)


def measure(recording: Recording) -> PathReport:
    """Latency, drops and rates of a recording; a lossy one will do. Raises RecordingError."""
    index = _Index()
    for recorded in recording.read():
        index.add(recorded)
    index.finish()
    report = index.report
    report.clock, report.commands = recording.clock, len(index.commands)
    gathered: dict[tuple[str, bool], list[tuple[float, float]]] = defaultdict(list)
    totals: dict[str, list[float]] = {name: [] for name in TOTALS}
    used: set[_Key] = set()
    decided: set[tuple[int, int]] = set()
    for command in index.commands:
        wish = (command.header.episode, command.header.parents.get("policy_command", -1))
        if wish in decided:
            report.repeated += 1
            continue
        segments = _follow(index, command, recording.clock == "realtime", used)
        if segments is None:
            report.incomplete += 1
            continue
        decided.add(wish)
        if any(segment.end_ns < segment.start_ns for segment in segments):
            report.several_hosts += 1
            continue
        start_ns, sent_ns = segments[0].start_ns, command.t_publish_ns
        totals["camera_to_command"].append((sent_ns - start_ns) * 1e-6)
        if segments[-1].name == TO_ACTUATOR:
            report.complete += 1
            totals["camera_to_actuator"].append((segments[-1].end_ns - start_ns) * 1e-6)
        else:
            report.not_actuated += 1
        for segment in segments:
            row = ((segment.start_ns - start_ns) * 1e-6, (segment.end_ns - segment.start_ns) * 1e-6)
            gathered[(segment.name, segment.inner)].append(row)
    report.stages = [_summarise(name, inner, rows) for (name, inner), rows in gathered.items()]
    report.totals_ms = {name: percentiles(values) for name, values in totals.items() if values}
    frames = Counter(service for _, service, _ in index.sent if service.startswith("camera_"))
    taken = Counter(service for _, service, _ in used)
    report.unused = {service: count - taken[service] for service, count in sorted(frames.items())}
    return report


TO_ACTUATOR = "to the actuator"


def _follow(index: _Index, command: _Sent, realtime: bool, used: set[_Key]) -> list[_Segment] | None:
    """Segments from the capture to the actuator, each beginning where the last one ended; None when one is unknown."""
    chain = [command]
    while chain[-1].node != SOURCE:
        for service, seq in chain[-1].header.parents.items():
            if service.startswith("camera_"):
                used.add((command.header.episode, service, seq))
        parent = index.parent_of(chain[-1])
        if parent is None or parent in chain or (chain[-1] is command and parent.node == SOURCE):
            return None  # also a command of the guard alone, when the policy has not spoken yet
        chain.append(parent)
    chain.reverse()
    # a node of several parts sends several messages in one step: the last one stands for them
    last_of_step = [a for a, b in pairwise(chain) if a.node != b.node] + chain[-1:]
    segments: list[_Segment] = []
    for sent in last_of_step:
        step = index.step_of(sent)
        if step is None:
            return None
        if not segments:
            start_ns = sent.header.t_capture_ns if realtime else step.start_ns
            segments.append(_Segment(f"{sent.node}: capture", False, start_ns, step.end_ns))
        else:
            segments.append(_Segment(f"to {sent.node}", False, segments[-1].end_ns, step.start_ns))
            segments.append(_Segment(f"{sent.node}: step", False, step.start_ns, step.end_ns))
        segments += _inner(step.trace, sent.node, segments[0].start_ns)
        segments.append(_Segment(f"{sent.node}: publish", False, step.end_ns, sent.t_publish_ns))
    taken = index.heard_by_source.get((command.header.episode, command.header.seq))
    if taken is not None:
        segments.append(_Segment(TO_ACTUATOR, False, command.t_publish_ns, taken.start_ns))
    return segments


def _inner(trace: Trace, node: str, capture_ns: int) -> Iterable[_Segment]:
    for name, start_ns, end_ns in trace.stages:
        if name not in LOOP_STAGES:
            # the source's may begin before the frame's capture: with the capture of another camera
            yield _Segment(f"{node}.{name}", True, max(start_ns, capture_ns) if node == SOURCE else start_ns, end_ns)


def _summarise(name: str, inner: bool, rows: list[tuple[float, float]]) -> PathStage:
    starts, durations = percentiles([row[0] for row in rows]), percentiles([row[1] for row in rows])
    return PathStage(name, inner, starts["p50"], durations["p50"], durations["p95"], durations["p99"], durations["max"])
