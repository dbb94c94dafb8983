"""Reads a recording in the order in which it was written, up to its end or to where it was cut.

Only whole chunks whose checksum is right are returned; of what follows the reader says how many bytes are lost. Hostile
bytes are refused or end the reading: never a crash, never more memory than a few times ``RECORD_BYTES_MAX``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import msgspec
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Attachment, Channel, Chunk, Metadata, Schema
from mcap.records import Message as Record
from mcap.stream_reader import breakup_chunk, get_chunk_data_stream
from mcap.writer import MCAP0_MAGIC

from visuomotor.deploy.record.descriptors import schema_name
from visuomotor.deploy.record.public import PublicFormError, from_public, header_of, wire_body
from visuomotor.deploy.record.writer import FORMAT_METADATA, FORMAT_VERSION, RUN_METADATA
from visuomotor.messages.schema import Header, Message
from visuomotor.messages.services import SERVICES
from visuomotor.messages.wire import schema_hash

RECORD_BYTES_MAX = 32 << 20  # the writer closes a chunk behind the message that makes it 1 MiB, and frames have 16
RECORDS_MAX = 1 << 16  # of one chunk; each costs some hundred bytes, however small it is
_Contents = list[Schema | Channel | Record]  # of one chunk
_FRAMING = struct.Struct("<BQ")  # opcode, length
_DAMAGE = (
    struct.error,
    TypeError,
    ValueError,  # also checksums and text that is not UTF-8
    KeyError,
    IndexError,
    OverflowError,
    EOFError,
    zstandard.ZstdError,
    McapError,
)


class RecordingError(ValueError):
    """A file that is not a recording, or one that cannot be used; names the file and what was expected."""


class Recorded(msgspec.Struct, frozen=True):
    """One message of a recording; ``data`` is its public form."""

    service: str
    node: str
    t_publish_ns: int  # monotonic clock of the recording host
    data: bytes
    lossy: bool = False

    @property
    def message(self) -> Message:
        """The message with its whole header. Raises PublicFormError."""
        return from_public(self.service, self.data, lossy=self.lossy)

    @property
    def header(self) -> Header:
        """The header alone; cheaper than ``message``. Raises PublicFormError."""
        return header_of(self.service, self.data, lossy=self.lossy)

    @property
    def body(self) -> bytes:
        """The bytes that were sent. Raises PublicFormError; a lossy frame has none."""
        if self.lossy:
            raise PublicFormError(f"{self.service}: a frame kept as JPEG does not give back what was sent")
        return wire_body(self.service, self.data)


class Recording:
    """A recording on disk. Raises RecordingError when it is none of ours.

    ``lost_bytes`` and ``damage`` are known once it was read to its end, see ``read``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.run: dict[str, str] = {}
        self.attachments: dict[str, bytes] = {}
        self.complete = False  # it was closed properly
        self.lost_bytes = 0
        self.damage = ""
        facts: dict[str, str] | None = None
        for record in self._records():
            if isinstance(record, Metadata):
                if record.name == FORMAT_METADATA:
                    facts = dict(record.metadata)
                elif record.name == RUN_METADATA:
                    self.run = dict(record.metadata)
            elif isinstance(record, Attachment):
                self.attachments[record.name] = bytes(record.data)
            else:
                break
        if facts is None:
            raise RecordingError(f"{path}: expected a recording of visuomotor, found no metadata '{FORMAT_METADATA}'")
        if facts.get("version") != FORMAT_VERSION:
            found = facts.get("version")
            raise RecordingError(f"{path}: version: expected {FORMAT_VERSION}, got {found!r}")
        self.lossy = facts.get("lossy") == "true"
        self.clock = facts.get("clock", "")
        try:
            self.epoch_ns = int(facts.get("monotonic_to_unix_ns", ""))
        except ValueError as error:
            raise RecordingError(f"{path}: monotonic_to_unix_ns: expected a number") from error

    def read(self) -> Iterator[Recorded]:
        """Every message of every whole chunk. Raises RecordingError when a topic has another schema than this code."""
        schemas: dict[int, Schema] = {}
        channels: dict[int, tuple[str, str, bool]] = {}
        for chunk in self._records():
            if not isinstance(chunk, list):
                continue
            for record in chunk:
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    channels[record.id] = self._check_channel(record, schemas.get(record.schema_id))
                elif isinstance(record, Record):
                    if record.channel_id not in channels:
                        raise RecordingError(f"{self.path}: message of unknown channel {record.channel_id}")
                    service, node, lossy = channels[record.channel_id]
                    yield Recorded(service, node, record.log_time - self.epoch_ns, bytes(record.data), lossy)

    def _check_channel(self, channel: Channel, schema: Schema | None) -> tuple[str, str, bool]:
        service, node = channel.metadata.get("service", ""), channel.metadata.get("node", "")
        if service not in SERVICES:
            raise RecordingError(f"{self.path}: topic {channel.topic}: {service!r} is not a service")
        ours, found = schema_hash(service), channel.metadata.get("wire_schema")
        lossy = self.lossy and service.startswith("camera_")
        if found != ours or schema is None or schema.name != schema_name(service, lossy):
            raise RecordingError(
                f"{self.path}: topic {channel.topic}: recorded with schema {found}, this version has {ours}"
            )
        return service, node, lossy

    def _records(self) -> Iterator[Metadata | Attachment | _Contents]:
        """Whole, undamaged records of the data section; sets ``complete``, ``lost_bytes`` and ``damage`` at its end."""
        try:
            with self.path.open("rb") as file:
                size = self.path.stat().st_size
                if file.read(len(MCAP0_MAGIC)) != MCAP0_MAGIC:
                    raise RecordingError(f"{self.path}: expected an MCAP file, found other first bytes")
                yield from self._scan(file, size)
        except OSError as error:
            raise RecordingError(f"{self.path}: cannot be read ({error.strerror})") from error

    def _scan(self, file: BinaryIO, size: int) -> Iterator[Metadata | Attachment | _Contents]:
        self.complete, self.damage = False, ""
        good = file.tell()
        while True:
            head = file.read(_FRAMING.size)
            if len(head) < _FRAMING.size:
                break
            opcode, length = _FRAMING.unpack(head)
            if opcode == Opcode.DATA_END:
                self.complete = _ends_well(file, size)
                good = size  # what follows is the index: no message is in it
                break
            if length > size - file.tell():
                break
            if length > RECORD_BYTES_MAX:
                self.damage = f"a record of {length} bytes"
                break
            content = file.read(length)
            try:
                record = _parse(opcode, content)
            except _DAMAGE as error:
                self.damage = f"{type(error).__name__}: {error}"
                break
            good = file.tell()
            if record is not None:
                yield record
        self.lost_bytes = size - good


def _ends_well(file: BinaryIO, size: int) -> bool:
    file.seek(max(0, size - len(MCAP0_MAGIC)))
    return file.read() == MCAP0_MAGIC


def _parse(opcode: int, content: bytes) -> Metadata | Attachment | _Contents | None:
    stream = ReadDataStream(BytesIO(content))
    if opcode == Opcode.METADATA:
        return Metadata.read(stream)
    if opcode == Opcode.ATTACHMENT:
        return Attachment.read(stream)
    if opcode != Opcode.CHUNK:
        return None
    chunk = Chunk.read(stream)
    if chunk.uncompressed_size > RECORD_BYTES_MAX:
        raise ValueError(f"a chunk of {chunk.uncompressed_size} bytes")
    if chunk.compression == "zstd" and zstandard.frame_content_size(chunk.data) != chunk.uncompressed_size:
        raise ValueError("a chunk whose size is not what it says")
    if chunk.compression not in ("", "zstd"):
        raise ValueError(f"compression {chunk.compression!r}; expected zstd")
    if _exceeds(chunk, RECORDS_MAX):
        raise ValueError(f"a chunk of more than {RECORDS_MAX} records")
    return [r for r in breakup_chunk(chunk, validate_crc=True) if isinstance(r, (Schema, Channel, Record))]


def _exceeds(chunk: Chunk, count: int) -> bool:
    """Whether more records than ``count`` are in a chunk, by their lengths alone."""
    stream, size = get_chunk_data_stream(chunk, validate_crc=True)
    data, at = stream.read(size), 0
    for _ in range(count):
        if at + _FRAMING.size > len(data):
            return False
        at += _FRAMING.size + _FRAMING.unpack_from(data, at)[1]
    return at < len(data)
