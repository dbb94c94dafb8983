"""Recordings: what was sent comes back, the makers' package reads it, a cut file reads to the cut."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader

from visuomotor.deploy.record.public import PublicFormError
from visuomotor.deploy.record.reader import Recorded, Recording, RecordingError
from visuomotor.deploy.record.writer import RecordingWriter
from visuomotor.messages import wire
from visuomotor.messages.schema import CameraFrame, Command, Header, Message, Route


def frame(tick: int, rng: np.random.Generator) -> CameraFrame:
    image = rng.integers(0, 256, (24, 32, 3), np.uint8)
    header = Header(run_id="r", episode=0, tick=tick, seq=tick, t_capture_ns=tick * 100, parents={"command": tick})
    return CameraFrame(header=header, image=image)


def fill(path: Path, ticks: int = 40, chunk_every: int = 5, lossy: bool = False) -> list[tuple[str, bytes]]:
    """A recording of frames and commands; returns what was sent."""
    rng = np.random.default_rng(0)
    sent = []
    writer = RecordingWriter(
        path, clock="lockstep", run={"seed": "7"}, attachments={"a.json": b"{}"}, lossy=lossy, now_s=lambda: 0.0
    )
    for tick in range(ticks):
        command = Command(header=Header(run_id="r", tick=tick, seq=tick), causes=("speed",) * (tick % 3))
        both: tuple[tuple[str, str, Message], ...] = (
            ("camera_front", "world", frame(tick, rng)), ("command", "guard", command)
        )  # fmt: skip
        for service, node, message in both:
            body = wire.encode(service, message)
            sent.append((service, body))
            writer.add(service, node, 1000 + tick, message, body)
        if tick % chunk_every == chunk_every - 1:
            writer.flush()
    writer.close()
    return sent


def test_a_whole_recording(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    sent = fill(path)
    recording = Recording(path)
    read = list(recording.read())
    assert [(r.service, r.body) for r in read] == sent
    assert {(r.service, r.node) for r in read} == {("camera_front", "world"), ("command", "guard")}
    assert [r.t_publish_ns for r in read[::2]] == [1000 + tick for tick in range(40)]
    assert read[0].message.header.parents == {"command": 0}
    assert (recording.complete, recording.lost_bytes, recording.damage) == (True, 0, "")
    assert (recording.run, recording.attachments, recording.lossy) == ({"seed": "7"}, {"a.json": b"{}"}, False)


def test_the_path_may_be_text(tmp_path: Path) -> None:
    fill(tmp_path / "a.mcap", ticks=5)
    assert Recording(str(tmp_path / "a.mcap")).path == tmp_path / "a.mcap"


def test_the_makers_package_reads_it_with_what_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    sent = fill(path)
    with path.open("rb") as file:
        reader = make_reader(file)
        summary = reader.get_summary()
        assert summary is not None
        assert summary.statistics is not None
        assert summary.statistics.message_count == len(sent)
        names = {c.topic: summary.schemas[c.schema_id].name for c in summary.channels.values()}
        assert names == {"/camera_front": "foxglove.RawImage", "/command": "visuomotor.Command"}
        for count, (schema, channel, message) in enumerate(reader.iter_messages()):
            assert schema is not None
            assert (channel.message_encoding, schema.encoding) == ("protobuf", "protobuf")
            pool = descriptor_pool.DescriptorPool()
            for part in descriptor_pb2.FileDescriptorSet.FromString(schema.data).file:
                pool.Add(part)
            public = message_factory.GetMessageClass(pool.FindMessageTypeByName(schema.name)).FromString(message.data)
            received = wire.decode(*sent[count])
            if isinstance(received, CameraFrame):
                assert (public.width, public.height, public.step, public.encoding) == (32, 24, 96, "bgr8")
                assert public.data == received.image.tobytes()
                assert public.timestamp.nanos == received.header.t_capture_ns
            else:
                assert isinstance(received, Command)
                assert tuple(public.causes) == received.causes
            assert public.header.tick == message.sequence == received.header.tick


def test_lossy_frames_are_jpeg_and_do_not_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    sent = fill(path, lossy=True)
    recording = Recording(path)
    first, second = list(recording.read())[:2]
    assert recording.lossy
    assert isinstance(first.message, CameraFrame)
    assert first.message.image.shape == (24, 32, 3)
    assert first.message.header.parents == {"command": 0}
    with pytest.raises(PublicFormError, match="camera_front: a frame kept as JPEG"):
        _ = first.body
    assert second.body == sent[1][1]


def read_all(path: Path) -> tuple[Recording, list[Recorded]] | None:
    try:
        recording = Recording(path)
        return recording, list(recording.read())
    except RecordingError:
        return None


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[tuple[str, bytes]]]:
    path = tmp_path_factory.mktemp("whole") / "a.mcap"
    sent = fill(path)
    return path.read_bytes(), sent


def chunk_ends(data: bytes) -> list[int]:
    """Offsets at which a chunk of the file is whole, by the makers' own index."""
    from io import BytesIO

    summary = make_reader(BytesIO(data)).get_summary()
    assert summary is not None
    return [c.chunk_start_offset + c.chunk_length for c in summary.chunk_indexes]


@given(share=st.floats(0.0, 1.0))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cut_recording_reads_to_the_cut(
    share: float, whole: tuple[bytes, list[tuple[str, bytes]]], tmp_path: Path
) -> None:
    data, sent = whole
    cut = round(share * len(data))
    path = tmp_path / "cut.mcap"
    path.write_bytes(data[:cut])
    expected = 10 * sum(end <= cut for end in chunk_ends(data))
    found = read_all(path)
    if found is None:
        assert expected == 0
        return
    recording, read = found
    assert [(r.service, r.body) for r in read] == sent[:expected]
    assert recording.complete == (cut == len(data))
    assert 0 <= recording.lost_bytes < 20_000
    if 0 < expected < len(sent):
        last = max(end for end in chunk_ends(data) if end <= cut)
        assert recording.lost_bytes <= cut - last


@given(at=st.floats(0.0, 1.0, exclude_max=True), value=st.integers(1, 255), more=st.binary(max_size=8))
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_bytes_never_crash_the_reader_nor_come_out_as_messages(
    at: float, value: int, more: bytes, whole: tuple[bytes, list[tuple[str, bytes]]], tmp_path: Path
) -> None:
    data, sent = bytearray(whole[0]), whole[1]
    start = int(at * len(data))
    data[start] ^= value
    data[start + 1 : start + 1 + len(more)] = more
    path = tmp_path / "damaged.mcap"
    path.write_bytes(data)
    found = read_all(path)
    if found is not None:
        assert [(r.service, r.body) for r in found[1]] == sent[: len(found[1])]


@given(data=st.binary(max_size=300))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_foreign_files_are_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "foreign.mcap"
    path.write_bytes(data)
    assert read_all(path) is None


def test_a_recording_of_another_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mcap"
    fill(path, ticks=5)
    monkeypatch.setattr("visuomotor.deploy.record.reader.schema_hash", lambda service: "0" * 16)
    with pytest.raises(RecordingError, match=r"topic /camera_front: recorded with schema [0-9a-f]{16}, this version"):
        list(Recording(path).read())


ENDLESS = """
import sys
from pathlib import Path
import numpy as np
from visuomotor.deploy.record.writer import RecordingWriter
from visuomotor.messages import wire
from visuomotor.messages.schema import Header, Route
writer = RecordingWriter(Path(sys.argv[1]), clock="lockstep")
tick = 0
while True:
    route = Route(header=Header(tick=tick, seq=tick), odom_reference_m=np.full((500, 2), tick, np.float32))
    writer.add("route", "world", tick, route, wire.encode("route", route))
    if tick % 50 == 49:
        writer.flush()
        print(tick, flush=True)
    tick += 1
"""


def test_a_recorder_killed_while_it_writes(tmp_path: Path) -> None:
    path = tmp_path / "killed.mcap"
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    flushed = [int(process.stdout.readline()) for _ in range(20)][-1]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    recording = Recording(path)
    read = [r.message for r in recording.read()]
    assert not recording.complete
    assert len(read) > flushed
    assert [m.header.tick for m in read] == list(range(len(read)))
    assert all(isinstance(m, Route) and float(m.odom_reference_m[0, 0]) == m.header.tick for m in read)
