"""The recorder: a node that reads everything, publishes nothing, and on which nobody waits.

In lockstep it takes part in every tick and loses nothing. In realtime a slow disk never slows the graph: what does not
fit into the backlog is dropped and counted. A disk that is full ends the recording, not the run.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from visuomotor.deploy.record.backlog import Backlog
from visuomotor.deploy.record.writer import RecordingWriter
from visuomotor.messages.bus import Received
from visuomotor.messages.node import Input, Inputs, Tick
from visuomotor.messages.schema import Episode, Message
from visuomotor.messages.services import SERVICES
from visuomotor.messages.wiring import SHARED

BACKLOG_BYTES = 64 << 20
IDLE_S = 0.25  # how often a writer with nothing to do looks whether a chunk is due


class RecorderConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the recorder is told. ``run`` and ``attachments`` go into the file as they are."""

    file: str
    services: tuple[str, ...]  # that the other nodes publish
    clock: str
    lossy: bool = False
    run: dict[str, str] = {}
    attachments: dict[str, str] = {}  # name -> text
    summary: str = ""  # file for what was counted
    backlog_bytes: int = BACKLOG_BYTES


class RecorderNode:
    """Hands every message that it hears to a thread that writes."""

    name = "recorder"
    outputs: tuple[str, ...] = ()
    period_s: float | None = 1.0  # a step does nothing; one a second shows that the recorder lives

    def __init__(self, config: RecorderConfig, writer: RecordingWriter) -> None:
        logged = [s for s in config.services if SERVICES[s].logged]
        self.inputs = (
            *(Input(s) for s in logged if s not in SHARED),
            *(Input(s, optional=True) for s in SERVICES if s in SHARED and SERVICES[s].logged),
        )
        self.note = ""
        self.dropped: Counter[str] = Counter()  # service -> messages for which the disk was too slow
        self.missed: Counter[str] = Counter()  # service -> messages that never came: overtaken by newer ones
        self._config = config
        self._lossless = config.clock == "lockstep"
        self._writer = writer
        self._backlog: Backlog[Received] = Backlog(config.backlog_bytes)
        self._last_seq: dict[tuple[str, str], tuple[int, int]] = {}
        self._thread = threading.Thread(target=self._write, name="recorder", daemon=True)
        self._thread.start()

    def warm_up(self) -> None:
        """The file is open already."""

    def reset(self, episode: Episode) -> None:
        """Nothing belongs to an episode."""

    def hear(self, received: Received) -> None:
        """Take in one message; in lockstep wait for the disk when it is slower than the graph."""
        self._count_missed(received)
        if not self._backlog.put(received, len(received.body), wait=self._lossless) and not self.note:
            self.dropped[received.service] += 1

    def _count_missed(self, received: Received) -> None:
        assert received.message is not None
        key, seq = (received.service, received.node), received.message.header.seq
        episode, last = self._last_seq.get(key, (received.episode, seq - 1))
        if episode == received.episode and seq > last + 1:
            self.missed[received.service] += seq - last - 1
        self._last_seq[key] = (received.episode, seq)

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """Nothing: messages are recorded as they come."""
        return {}

    def _write(self) -> None:
        try:
            while not self._backlog.ended:
                received = self._backlog.get(IDLE_S)
                if received is None:
                    self._writer.flush_if_due()
                elif received.message is not None:
                    self._writer.add(
                        received.service, received.node, received.t_publish_ns, received.message, received.body
                    )
            self._writer.close()
        except Exception as error:  # whatever it is: the run goes on without a recording
            reason = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
            self.note = f"recording stopped: {self._config.file}: {reason}; what was written before is kept"
            self._backlog.close(discard=True)
            self._writer.abandon()
            with contextlib.suppress(OSError):  # the log may be on the same disk
                sys.stderr.write(self.note + "\n")

    def close(self) -> None:
        """Write what waits, finish the file, and write beside the logs what was counted."""
        self._backlog.close()
        self._thread.join()
        if self._config.summary:
            counts = {
                "file": self._config.file,
                "messages": self._writer.messages,
                "stopped": self.note,
                "dropped": dict(self.dropped),
                "missed": dict(self.missed),
            }
            with contextlib.suppress(OSError):  # a full disk: the supervisor says that there are no counts
                Path(self._config.summary).write_text(json.dumps(counts, indent=1) + "\n")


def create(config: dict[str, Any]) -> RecorderNode:
    """Node from the fields of ``RecorderConfig``. Raises ValueError when the file exists or cannot be made."""
    try:
        checked = msgspec.convert(config, RecorderConfig)
    except msgspec.ValidationError as error:
        raise ValueError(f"recorder: {error}") from error
    try:
        writer = RecordingWriter(
            Path(checked.file),
            clock=checked.clock,
            run=checked.run,
            attachments={name: text.encode() for name, text in checked.attachments.items()},
            lossy=checked.lossy,
        )
    except OSError as error:
        raise ValueError(f"--record: {checked.file}: cannot be made ({error.strerror})") from error
    return RecorderNode(checked, writer)
