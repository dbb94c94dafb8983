"""What the fuzzer puts into recordings and onto the CAN bus."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import can
import msgspec
import numpy as np
import zstandard
from fuzz_bus import make_message
from fuzz_files import RefusedError, _OfFile
from fuzz_mutation import lie, mutate_bytes, mutate_lines, pick, splice

from visuomotor.deploy.record import public, reader
from visuomotor.deploy.record.writer import RecordingWriter
from visuomotor.deploy.vehicle import can_codec, can_link
from visuomotor.launch import profile, replay, replay_report
from visuomotor.messages import wire
from visuomotor.messages.schema import CameraFrame, Header
from visuomotor.messages.services import SERVICES

CHUNK = 6  # MCAP's opcode
MAGIC_SIZE = 8


class Recordings(_OfFile):
    """MCAP files: records and chunks with lying lengths, bombs, damage behind a right checksum."""

    name = "recording"
    share = 4_000
    suffix = ".mcap"
    memory_mb = 512
    readers = (
        *(reader.Recording.__init__, reader.Recording.read, reader.Recording._check_channel, reader.Recording._scan),
        *(reader._parse, replay.recorded_profile.__wrapped__),  # type: ignore[attr-defined]
    )

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        self._records = []
        kept = {"profile.json": profile.load_profile("drive").model_dump_json().encode()}
        kept |= {file.name: file.read_bytes() for file in (profile.PROFILES / "drive").glob("*.yaml")}
        for lossy in (False, True):
            path = self.path.with_name(f"{lossy}.mcap")
            writer = RecordingWriter(path, clock="lockstep", run={"seeds": "[7]"}, attachments=kept, lossy=lossy)
            for tick in range(6):
                for service in ("camera_front", "command", "tracks", "trace"):
                    message = make_message(rng, service)
                    if service == "camera_front":
                        message = CameraFrame(header=Header(tick=tick), image=np.zeros((8, 12, 3), np.uint8))
                    writer.add(service, "world", tick, message, wire.encode(service, message))
                writer.flush()
            writer.close()
            self._records.append(split_records(path.read_bytes()))

    def make(self, rng: np.random.Generator) -> bytes:
        records = list(pick(rng, self._records))
        at, kind = int(rng.integers(len(records))), int(rng.integers(12))
        if kind == 0:
            return mutate_bytes(rng, join_records(records))
        if kind == 1:
            return splice(rng, join_records(records), join_records(pick(rng, self._records)))
        if kind == 2:
            del records[at]
        elif kind == 3:
            records.insert(int(rng.integers(len(records))), records[at])
        elif kind == 4:
            records[at] = (int(rng.integers(256)), records[at][1])
        elif kind == 5:
            records[at] = (records[at][0], lie(rng, records[at][1]))
        else:
            chunks = [i for i, (opcode, _) in enumerate(records) if opcode == CHUNK]
            at = pick(rng, chunks)
            records[at] = (CHUNK, self._mutate_chunk(rng, records[at][1]))
        return join_records(records)

    def _mutate_chunk(self, rng: np.random.Generator, content: bytes) -> bytes:
        """A chunk whose checksum is right, or left out, all the same."""
        start, compressed = split_chunk(content)
        data = zstandard.decompress(compressed)
        size, kind = None, int(rng.integers(10))
        if kind < 5:
            data = mutate_bytes(rng, data)
        elif kind == 5:
            data = lie(rng, data)
        elif kind == 6:
            data = bytes(pick(rng, (1 << 20, 31 << 20, 40 << 20))) if rng.integers(8) == 0 else bytes(1000)
        elif kind == 7:  # very many very small records
            small = pick(rng, (struct.pack("<BQ", 5, 22) + bytes(22), struct.pack("<BQ", 4, 16) + bytes(16)))
            data = small * int(pick(rng, (10, 1000, 300_000)))
        else:
            size = int(pick(rng, (0, 1, len(data) - 1, len(data) + 1, 1 << 30, 1 << 62, (1 << 64) - 1)))
        crc = zlib.crc32(data) if rng.integers(2) else 0
        level = zstandard.ZstdCompressor(level=1, write_content_size=bool(rng.integers(10)))
        name = pick(rng, (b"lz4", b"", b"\xff", b"zstd")) if kind == 9 else b"zstd"
        return pack_chunk(start, len(data) if size is None else size, crc, name, level.compress(data))

    def load(self, path: Path) -> None:
        recording = reader.Recording(path)
        for recorded in recording.read():
            for part in ("header", "message", "body"):
                try:
                    getattr(recorded, part)
                except public.PublicFormError as error:
                    if not str(error).startswith(recorded.service):
                        raise AssertionError(f"does not name the service: {error}") from error
        replay_report._seeds(recording)
        replay_report.other_bundles(recording, {})
        with replay.recorded_profile(recording):
            pass

    def is_past_header(self, message: str) -> bool:
        return "expected an MCAP file" not in message and "found no metadata" not in message


def split_records(data: bytes) -> list[tuple[int, bytes]]:
    """Opcode and content of the records of an MCAP file."""
    records, at = [], MAGIC_SIZE
    while at < len(data) - MAGIC_SIZE:
        opcode, length = struct.unpack_from("<BQ", data, at)
        records.append((opcode, data[at + 9 : at + 9 + length]))
        at += 9 + length
    return records


def join_records(records: list[tuple[int, bytes]]) -> bytes:
    """The file of the records."""
    magic = b"\x89MCAP0\r\n"
    return magic + b"".join(struct.pack("<BQ", opcode, len(c)) + c for opcode, c in records) + magic


def split_chunk(content: bytes) -> tuple[bytes, bytes]:
    """Times and compressed records of a chunk."""
    (name_size,) = struct.unpack_from("<I", content, 28)
    return content[:16], content[40 + name_size :]


def pack_chunk(times: bytes, size: int, crc: int, name: bytes, data: bytes) -> bytes:
    """The content of a chunk record."""
    return times + struct.pack("<QII", size, crc, len(name)) + name + struct.pack("<Q", len(data)) + data


class PublicForms:
    """Protobuf of every service, lossy frames among them."""

    name = "public"
    share = 40_000
    refusals = (public.PublicFormError,)
    memory_mb = 256
    readers = (public.from_public, public._parse, public._from_parsed, public._values, public._array, public._image)

    def __init__(self, rng: np.random.Generator) -> None:
        self._forms = []
        for service in SERVICES:
            for lossy in (False, True) if service.startswith("camera_") else (False,):
                for _ in range(6):
                    message = make_message(rng, service)
                    if isinstance(message, CameraFrame):
                        message = CameraFrame(header=message.header, image=np.zeros((8, 12, 3), np.uint8))
                    data = public.to_public(service, message, wire.encode(service, message), lossy=lossy)
                    self._forms.append((service, lossy, data))

    def make(self, rng: np.random.Generator) -> bytes:
        service, lossy, data = pick(rng, self._forms)
        kind = int(rng.integers(8))
        if lossy and kind < 4 and (size := data.find(b"\xff\xc0")) > 0:  # the JPEG says that it is larger
            data = data[: size + 5] + struct.pack(">HH", *rng.choice([1, 8, 1000, 30000, 65535], 2)) + data[size + 9 :]
        elif kind == 0:
            data = splice(rng, data, pick(rng, self._forms)[2])
        elif kind < 7:
            data = mutate_bytes(rng, data)
        return msgspec.msgpack.encode((service, lossy, data))

    def read(self, data: bytes) -> bool:
        service, lossy, form = msgspec.msgpack.decode(data, type=tuple[str, bool, bytes])
        public.header_of(service, form, lossy=lossy)
        message = public.from_public(service, form, lossy=lossy)
        if not lossy:
            public.wire_body(service, form)
        return isinstance(message, SERVICES[service].type)

    def is_past_header(self, message: str) -> bool:
        return "not protobuf" not in message

    def close(self) -> None:
        pass


class Databases(_OfFile):
    """DBC files; of those that are accepted, a frame of every message is decoded."""

    name = "dbc"
    share = 1_500
    suffix = ".dbc"
    memory_mb = 256
    readers = (can_codec._load, can_codec._protection, can_codec.CanCodec.__init__, can_codec.CanCodec._decode)
    words = (
        *(
            "0",
            "1",
            "7",
            "8",
            "9",
            "64",
            "65",
            "1800",
            "536870912",
            "4294967295",
            "99999999999999999999",
            "-1",
            "1e999",
        ),
        *(
            "0|16@1-",
            "63|64@0+",
            "0|1000000@1+",
            "0|0@1+",
            "(0,0)",
            "(1e308,1e308)",
            "[0|0]",
            "[5|-5]",
            "m0",
            "M",
            "BO_",
        ),
        *("SG_", "BA_", "VAL_", '"', ";", ":", "Counter", "Checksum", "256", "SIG_VALTYPE_", "\0", "é"),
    )

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        self._text = can_codec.SHIPPED_DBC.read_text()

    def make(self, rng: np.random.Generator) -> bytes:
        kind = int(rng.integers(8))
        if kind == 0:
            return mutate_bytes(rng, self._text.encode())
        if kind == 1:
            return mutate_lines(rng, self._text).encode("utf-8", "surrogatepass")
        if kind == 2:
            size = int(pick(rng, (10**6, 10**9, 10**13)))
            return self._text.replace("COMMAND: 8", f"COMMAND: {size}").encode()
        if kind == 3:
            name = pick(rng, ("Speed", "Acceleration", "YawRate"))
            more = f"\nSIG_VALTYPE_ 512 {name} : {pick(rng, (0, 1, 2, 3, 9))};\n"
            return (self._text + more).encode()
        tokens = re.split(r"( )", self._text)
        for _ in range(int(rng.integers(1, 4))):
            tokens[int(rng.integers(len(tokens)))] = pick(rng, self.words)
        return "".join(tokens).encode()

    def load(self, path: Path) -> None:
        codec = can_codec.CanCodec(path)
        for name in codec._checked:
            definition = codec.message(name)
            for fill in (0, 0x7F, 0xFF):
                data = bytearray([fill]) * definition.length
                if (at := codec._checked[name].checksum_byte) is not None:
                    data[at] = 0
                    data[at] = can_codec._checksum(definition.frame_id, data)
                decoded = codec.decode(definition.frame_id, bytes(data))
                if decoded is not None and not np.isfinite(list(decoded.values.values())).all():
                    raise AssertionError(f"accepted a value that is not finite: {decoded}")


class Frames:
    """CAN frames of any identifier, length and data, as the thread of a link takes them."""

    name = "can"
    share = 100_000
    refusals = (RefusedError,)
    memory_mb = 64
    readers = (can_link.CanLink._take, can_codec.CanCodec.decode, can_codec.CanCodec._decode, can_codec.CanCodec._lost)

    def __init__(self, rng: np.random.Generator) -> None:
        codec = can_codec.CanCodec()
        self._definitions = [(codec.message(name), kept) for name, kept in codec._checked.items()]
        names = [definition.name for definition, _ in self._definitions]
        self._link = can_link.CanLink(names, interface="virtual", channel="fuzz")

    def make(self, rng: np.random.Generator) -> bytes:
        definition, kept = pick(rng, self._definitions)
        data = bytearray(rng.bytes(definition.length))
        if rng.integers(2):
            data = bytearray(definition.length)
            data[: int(rng.integers(1, 3))] = rng.bytes(1)
        frame_id, kind = definition.frame_id, int(rng.integers(10))
        if kept.checksum_byte is not None and kind < 8 and len(data) == 8:
            data[6] = int(rng.integers(16))  # the counter of the shipped DBC
            data[kept.checksum_byte] = 0
            data[kept.checksum_byte] = can_codec._checksum(frame_id, data)
        if kind == 7:
            frame_id = int(rng.integers(0, 2**29))
        elif kind == 8:
            data = bytearray(rng.bytes(int(rng.integers(0, 65))))
        return msgspec.msgpack.encode((frame_id, int(rng.integers(100)), bytes(data)))

    def read(self, data: bytes) -> bool:
        frame_id, flags, content = msgspec.msgpack.decode(data, type=tuple[int, int, bytes])
        before = sum(self._link.codec.refused.values())
        extended = frame_id > 0x7FF or flags == 0
        frame = can.Message(
            arbitration_id=frame_id,
            data=content,
            is_extended_id=extended,
            is_error_frame=flags == 1,
            is_remote_frame=flags == 2,
            is_fd=len(content) > 8,
        )
        self._link._take(frame)
        if sum(self._link.codec.refused.values()) > before:
            raise RefusedError(str(set(self._link.codec.refused)))
        return True

    def is_past_header(self, message: str) -> bool:
        return True

    def close(self) -> None:
        for definition, _ in self._definitions:
            self._link.newest(definition.name)  # raises what the thread died of
        self._link.close()


RECORD_TARGETS: tuple[Any, ...] = (Recordings, PublicForms, Databases, Frames)
