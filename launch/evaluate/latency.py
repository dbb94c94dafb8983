"""Camera-to-command latency, stage by stage, from the ``trace`` service of one host."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable

import msgspec

from visuomotor.launch.evaluate.score import percentiles
from visuomotor.messages.schema import Trace

SOURCE, SINK = "world", "guard"
TICKS_KEPT = 20_000  # half an hour at 10 Hz
TICKS_OPEN = 100  # traces of one tick come within ten seconds, or not at all
CAPTURE = "capture"  # stage of a source that waits for a camera: its start is the exposure
IDLE_STAGES = frozenset({"wait"})


class Stage(msgspec.Struct, frozen=True):
    """One bar of the waterfall, ms after the capture: medians of its start and duration, and its percentiles."""

    node: str
    name: str
    start_ms: float
    duration_ms: float
    p95_ms: float
    p99_ms: float


class _Stretch:
    """Starts after the capture and durations of one stage, ms, of the newest ticks; compact, for runs of any length."""

    def __init__(self) -> None:
        self.starts = array("f")
        self.durations = array("f")

    def add(self, start_ms: float, duration_ms: float) -> None:
        self.starts.append(start_ms)
        self.durations.append(duration_ms)
        if len(self.starts) >= 2 * TICKS_KEPT:
            del self.starts[:TICKS_KEPT], self.durations[:TICKS_KEPT]


class Latency:
    """Collects traces; ticks of which the source or the sink is missing count as incomplete, not as zero.

    Zero is the exposure where the source waits for a camera: its step is counted from then on, for what it waited
    before the light is no latency of this frame. Of a long run at least the last ``TICKS_KEPT`` ticks are kept.
    """

    def __init__(self, source: str = SOURCE, sink: str = SINK) -> None:
        self._source, self._sink = source, sink
        self._open: dict[tuple[int, int], list[tuple[str, str, int, int]]] = {}  # ticks whose traces still come
        self._stages: dict[tuple[str, str], _Stretch] = defaultdict(_Stretch)
        self._whole = _Stretch()

    def add(self, traces: Iterable[Trace]) -> None:
        """Traces of any node and of the newest ``TICKS_OPEN`` ticks, in any order."""
        for trace in traces:
            rows = self._open.setdefault((trace.header.episode, trace.header.tick), [])
            rows.extend((trace.node, name, start, end) for name, start, end in trace.stages if name not in IDLE_STAGES)
            if len(self._open) > TICKS_OPEN:
                self._close(self._open.pop(next(iter(self._open))))

    def _close(self, rows: list[tuple[str, str, int, int]]) -> None:
        exposed = [start for node, name, start, _ in rows if node == self._source and name == CAPTURE]
        starts = exposed or [start for node, _, start, _ in rows if node == self._source]
        ends = [end for node, _, _, end in rows if node == self._sink]
        if not starts or not ends:
            return
        begin = min(starts)
        self._whole.add(0.0, (max(ends) - begin) / 1e6)
        for node, name, start, end in rows:
            if node == self._source:
                if end < begin:
                    continue
                start = max(start, begin)
            self._stages[(node, name)].add((start - begin) / 1e6, (end - start) / 1e6)

    def _close_all(self) -> None:
        for rows in self._open.values():
            self._close(rows)
        self._open.clear()

    def camera_to_command_ms(self) -> list[float]:
        """One value per complete tick, from before rendering (or exposure) to the guard's command being sent."""
        self._close_all()
        return self._whole.durations.tolist()

    def summary(self) -> dict[str, dict[str, float]]:
        """Percentiles per stage (``node.stage``) and of the whole path, ms."""
        total = self.camera_to_command_ms()
        durations = {f"{node}.{name}": stretch.durations for (node, name), stretch in self._stages.items()}
        result = {name: percentiles(values) for name, values in sorted(durations.items())}
        if total:
            result["camera_to_command"] = percentiles(total)
        return result

    def waterfall(self) -> list[Stage]:
        """Stages in order of their median start after the capture."""
        self._close_all()
        stages = []
        for key, stretch in self._stages.items():
            spread, start = percentiles(stretch.durations), percentiles(stretch.starts)
            stages.append(Stage(*key, start["p50"], spread["p50"], spread["p95"], spread["p99"]))
        return sorted(stages, key=lambda stage: stage.start_ms)
