"""Logs of whole runs in one process: the messages of some services, tick by tick, kept as a file for each run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from visuomotor.messages import wire
from visuomotor.messages.graph import Graph
from visuomotor.messages.node import Node
from visuomotor.messages.schema import Episode, Message, Truth

Ticks = list[tuple[Message, ...]]  # of each tick the message of each service


def play_logs(
    nodes: Sequence[Node],
    episodes: Iterable[Episode],
    services: Sequence[str],
    *,
    ticks_max: int,
    keep: Path | None = None,
) -> Iterator[Ticks]:
    """Every tick of each episode until its truth says that it has ended, cut after ``ticks_max``.

    With ``keep`` each finished run is a file in that folder, and a run that is there already is read instead.
    """
    graph = Graph(nodes, digest=False)
    try:
        graph.warm_up()
        for episode in episodes:
            kept = None if keep is None else keep / f"{episode.split}-{episode.seed}.log"
            if kept is not None and kept.is_file():
                yield load_log(kept, services)
                continue
            graph.reset(episode)
            log: Ticks = []
            while len(log) < ticks_max:
                sent = graph.tick()
                if any(service not in sent for service in services):
                    break
                log.append(tuple(sent[service] for service in services))
                truth = sent.get("truth")
                if isinstance(truth, Truth) and truth.end:
                    break
            if kept is not None:
                save_log(log, kept, services)
            yield log
    finally:
        graph.close()


def save_log(log: Ticks, path: Path, services: Sequence[str]) -> None:
    """The log's messages on the wire's encoding, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    messages = [[wire.encode(*pair) for pair in zip(services, tick, strict=True)] for tick in log]
    partial = path.with_suffix(".partial")
    partial.write_bytes(msgspec.msgpack.encode(messages))
    partial.replace(path)


def load_log(path: Path, services: Sequence[str]) -> Ticks:
    """Read what ``save_log`` wrote. Raises WireError when the schema has changed since."""
    messages = msgspec.msgpack.decode(path.read_bytes(), type=list[list[bytes]])
    return [tuple(wire.decode(*pair) for pair in zip(services, tick, strict=True)) for tick in messages]
