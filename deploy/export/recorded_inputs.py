"""Inputs of a policy or a forecaster as a recorded run had them: its messages through the real node again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from visuomotor.control.network import NetworkPolicy
from visuomotor.deploy.export.calibration_frames import FRAMES_MIN, RECORDINGS, CalibrationError
from visuomotor.deploy.export.policy_rows import POLICIES, PolicyRow
from visuomotor.deploy.record.reader import Recording
from visuomotor.deploy.runtime.bundle import META_FILE, Bundle, BundleError
from visuomotor.messages.graph import Graph
from visuomotor.messages.node import Inputs, Node, Tick
from visuomotor.messages.schema import Episode, Message
from visuomotor.perception.forecaster import Futures, LstmForecaster, checked_history
from visuomotor.perception.forecaster_node import ForecasterNode

Arrays = dict[str, np.ndarray]


class _Player:
    """Publishes recorded messages."""

    name = "recording"
    inputs = ()
    period_s: float | None = None

    def __init__(self, outputs: tuple[str, ...]) -> None:
        self.outputs = outputs
        self.next: dict[str, Message] = {}

    def warm_up(self) -> None: ...

    def reset(self, episode: Episode) -> None: ...

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        return self.next

    def close(self) -> None: ...


class _WatchedPolicy(NetworkPolicy[Any]):
    """The policy itself, which also keeps what it saw: its last action is part of the next observation."""

    def __init__(self, bundle: Bundle, row: PolicyRow, seen: list[Arrays]) -> None:
        super().__init__(bundle, row.interface, "cpu")
        self._row, self._seen = row, seen

    def act(self, inputs: Any) -> np.ndarray:
        self._seen.append({"observation": self._row.interface.observe(inputs)})
        return super().act(inputs)


class _WatchedForecaster(LstmForecaster):
    """Keeps what it saw and foresees nothing."""

    def __init__(self, bundle: Bundle, seen: list[Arrays]) -> None:
        super().__init__(bundle, "cpu")
        self._seen = seen

    def predict(self, history_m: np.ndarray, present: np.ndarray, class_id: np.ndarray, scene: np.ndarray) -> Futures:
        arrays = checked_history(history_m, present, class_id, scene, self.history_samples)
        if len(history_m):
            self._seen.append(dict(zip(("history_m", "present", "class_id", "scene"), arrays, strict=True)))
        count = len(history_m)
        empty = Futures.empty(self.futures, self.horizon_steps)
        return Futures(*(np.zeros((count, *array.shape[1:]), np.float32) for array in empty))


def record_inputs(path: Path, bundle: Bundle, count: int, seed: int) -> tuple[list[Arrays], int]:
    """At most ``count`` inputs of ``bundle``, a seeded choice in their order, and how many there were.

    ``path`` is a recording or a folder of them. Raises CalibrationError when they hold too few, BundleError for a
    policy that no task's node takes.
    """
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in RECORDINGS) if path.is_dir() else [path]
    if not files or files[0].suffix.lower() not in RECORDINGS or not files[0].is_file():
        raise CalibrationError(f"{path}: expected an npz file or recordings (*.mcap) for a {bundle.meta.kind}")
    seen: list[Arrays] = []
    node = _make_node(bundle, seen)
    services = tuple(source.service for source in node.inputs)
    player = _Player(services)
    graph = Graph([player, node], digest=False)
    for file in files:
        episode = -1
        for at, messages in _read_ticks(file, services):
            if at != episode:
                episode = at
                graph.reset(Episode(phase="reset", index=at))
            player.next = messages
            graph.tick()
    graph.close()
    if len(seen) < FRAMES_MIN:
        raise CalibrationError(f"{path}: expected at least {FRAMES_MIN} inputs of {bundle.name}, got {len(seen)}")
    chosen = np.sort(np.random.default_rng(seed).choice(len(seen), min(count, len(seen)), replace=False))
    return [seen[i] for i in chosen], len(seen)


def _make_node(bundle: Bundle, seen: list[Arrays]) -> Node:
    """The node that runs ``bundle``, which keeps what the network saw in ``seen``."""
    if bundle.meta.kind != "policy":
        return ForecasterNode(_WatchedForecaster(bundle, seen))
    row = POLICIES.get(bundle.meta.task)
    if row is None:
        raise BundleError(
            f"{bundle.path / META_FILE}: task: expected one of {', '.join(POLICIES)}, got {bundle.meta.task!r}"
        )
    return row.node(_WatchedPolicy(bundle, row, seen))


def _read_ticks(file: Path, services: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Message]]]:
    """Episode and messages of every tick of a recording."""
    ticks: dict[tuple[int, int], dict[str, Message]] = {}
    for recorded in Recording(file).read():
        if recorded.service in services:
            message = recorded.message
            ticks.setdefault((message.header.episode, message.header.tick), {})[recorded.service] = (
                msgspec.structs.replace(message, header=msgspec.structs.replace(message.header))
            )
    for key in sorted(ticks):
        yield key[0], ticks[key]
