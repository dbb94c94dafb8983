"""Camera-to-command latency, stage by stage, from the ``trace`` service of one host."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import msgspec

from visuomotor.launch.evaluate.score import percentiles
from visuomotor.messages.schema import Trace

SOURCE, SINK = "world", "guard"
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


class Latency:
    """Collects traces; ticks of which the source or the sink is missing count as incomplete, not as zero."""

    def __init__(self, source: str = SOURCE, sink: str = SINK) -> None:
        self._source, self._sink = source, sink
        self._ticks: dict[tuple[int, int], list[tuple[str, str, int, int]]] = defaultdict(list)

    def add(self, traces: Iterable[Trace]) -> None:
        """Traces of any node and tick, in any order."""
        for trace in traces:
            rows = self._ticks[(trace.header.episode, trace.header.tick)]
            rows.extend((trace.node, name, start, end) for name, start, end in trace.stages if name not in IDLE_STAGES)

    def _complete(self) -> list[tuple[int, int, list[tuple[str, str, int, int]]]]:
        complete = []
        for rows in self._ticks.values():
            exposed = [start for node, name, start, _ in rows if node == self._source and name == CAPTURE]
            starts = exposed or [start for node, _, start, _ in rows if node == self._source]
            ends = [end for node, _, _, end in rows if node == self._sink]
            if starts and ends:
                complete.append((min(starts), max(ends), rows))
        return complete

    def camera_to_command_ms(self) -> list[float]:
        """One value per complete tick, from before rendering (or exposure) to the guard's command being sent."""
        return [(end - start) / 1e6 for start, end, _ in self._complete()]

    def summary(self) -> dict[str, dict[str, float]]:
        """Percentiles per stage (``node.stage``) and of the whole path, ms."""
        durations: dict[str, list[float]] = defaultdict(list)
        for _, _, rows in self._complete():
            for node, name, start, end in rows:
                durations[f"{node}.{name}"].append((end - start) / 1e6)
        result = {name: percentiles(values) for name, values in sorted(durations.items())}
        total = self.camera_to_command_ms()
        if total:
            result["camera_to_command"] = percentiles(total)
        return result

    def waterfall(self) -> list[Stage]:
        """Stages in order of their median start after the capture."""
        starts: dict[tuple[str, str], list[float]] = defaultdict(list)
        durations: dict[tuple[str, str], list[float]] = defaultdict(list)
        for begin, _, rows in self._complete():
            for node, name, start, end in rows:
                starts[(node, name)].append((start - begin) / 1e6)
                durations[(node, name)].append((end - start) / 1e6)
        stages = []
        for key, values in starts.items():
            spread = percentiles(durations[key])
            stages.append(Stage(*key, percentiles(values)["p50"], spread["p50"], spread["p95"], spread["p99"]))
        return sorted(stages, key=lambda stage: stage.start_ms)
