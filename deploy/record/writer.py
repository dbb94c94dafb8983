"""Writes a recording: an MCAP file with one channel per publisher and service, in small chunks.

A chunk is closed every ``CHUNK_S`` seconds or ``CHUNK_BYTES`` bytes and handed to the operating system, so that a
killed recorder loses at most that much. What the run was is in the file's first records.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import mcap.writer
import zstandard
from mcap.writer import CompressionType, Writer

from visuomotor.deploy.record.descriptors import schema_data, schema_name
from visuomotor.deploy.record.public import to_public
from visuomotor.messages.schema import CameraFrame, Message
from visuomotor.messages.wire import Buffer, schema_hash

FORMAT_VERSION = "1"
RUN_METADATA, FORMAT_METADATA = "visuomotor.run", "visuomotor.format"
CHUNK_BYTES = 1 << 20
CHUNK_S = 0.5
ZSTD_LEVEL = 1  # frames take a fifth of the time of level 3 and a sixth more room


def _compress(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(data)


# mcap's writer compresses with the module's default level and has no option for another
mcap.writer.zstandard = SimpleNamespace(compress=_compress)  # type: ignore[assignment]


class RecordingWriter:
    """One recording. Raises OSError where the file cannot be made or written; what was flushed before stays readable.

    ``run`` says what was run, for people and for replay; ``attachments`` are its files by name. Publish times are on
    this host's monotonic clock and are recorded as Unix time, with the difference of the two in the metadata.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: str,
        run: Mapping[str, str] | None = None,
        attachments: Mapping[str, bytes] | None = None,
        lossy: bool = False,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.lossy = lossy
        self.messages = 0
        self._now_s = now_s
        self._channels: dict[tuple[str, str], int] = {}
        self._schemas: dict[str, int] = {}
        self._held_bytes = 0
        self.epoch_ns = time.time_ns() - time.monotonic_ns()
        self._image_epoch_ns = self.epoch_ns if clock == "realtime" else 0
        self._file: BinaryIO = path.open("xb")
        self._writer = Writer(self._file, chunk_size=2 * CHUNK_BYTES, compression=CompressionType.ZSTD)
        self._writer.start(profile="", library="visuomotor")
        facts = {
            "version": FORMAT_VERSION,
            "lossy": "true" if lossy else "false",
            "clock": clock,
            "monotonic_to_unix_ns": str(self.epoch_ns),
        }
        self._writer.add_metadata(FORMAT_METADATA, facts)
        self._writer.add_metadata(RUN_METADATA, dict(run or {}))
        for name, data in (attachments or {}).items():
            kind = "application/json" if name.endswith(".json") else "application/yaml"
            self._writer.add_attachment(time.time_ns(), time.time_ns(), name, kind, data)
        self._file.flush()
        self._flushed_s = now_s()

    def add(self, service: str, node: str, t_publish_ns: int, message: Message, body: Buffer) -> None:
        """Record one message of ``node`` that came as the bytes ``body``."""
        lossy = self.lossy and isinstance(message, CameraFrame)
        data = to_public(service, message, body, lossy=lossy, epoch_ns=self._image_epoch_ns)
        channel = self._channel(service, node, lossy)
        log_ns = max(0, t_publish_ns + self.epoch_ns)
        sequence = message.header.seq & 0xFFFFFFFF
        self._writer.add_message(channel, log_time=log_ns, data=data, publish_time=log_ns, sequence=sequence)
        self.messages += 1
        self._held_bytes += len(data)
        self.flush_if_due()

    def _channel(self, service: str, node: str, lossy: bool) -> int:
        channel = self._channels.get((service, node))
        if channel is None:
            name = schema_name(service, lossy)
            if name not in self._schemas:
                self._schemas[name] = self._writer.register_schema(name, "protobuf", schema_data(name))
            facts = {"node": node, "service": service, "wire_schema": schema_hash(service)}
            channel = self._writer.register_channel(f"/{service}", "protobuf", self._schemas[name], facts)
            self._channels[(service, node)] = channel
        return channel

    def flush_if_due(self) -> None:
        """Hand a chunk to the operating system when it is large or old enough."""
        if self._held_bytes and (self._held_bytes >= CHUNK_BYTES or self._now_s() - self._flushed_s >= CHUNK_S):
            self.flush()

    def flush(self) -> None:
        """Close the chunk and hand it to the operating system."""
        self._writer.flush()
        self._held_bytes = 0
        self._flushed_s = self._now_s()

    @property
    def size_bytes(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def close(self) -> None:
        """Write the index and close the file."""
        try:
            self._writer.finish()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file as it is, as after a full disk."""
        with contextlib.suppress(OSError):  # of bytes that the disk did not take; it is closed all the same
            self._file.close()
