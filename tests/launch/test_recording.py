"""The recorder in real runs: lossless, no burden, and the drive goes on when it dies or its disk is full."""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visuomotor.deploy.record.node import RecorderNode, create
from visuomotor.deploy.record.reader import Recording
from visuomotor.deploy.record.writer import RecordingWriter
from visuomotor.launch.cli import run_app
from visuomotor.launch.recording import RECORDER, describe_recording
from visuomotor.launch.supervisor import Supervisor
from visuomotor.messages import wire
from visuomotor.messages.bus import Received
from visuomotor.messages.digest import TopicDigests
from visuomotor.messages.schema import Header, NodeHealth, Route, Truth


def digests(path: Path) -> dict[int, dict[str, str]]:
    """Topic digests of each episode, from the recorded bytes."""
    by_episode: dict[int, TopicDigests] = {}
    for recorded in Recording(path).read():
        by_episode.setdefault(recorded.message.header.episode, TopicDigests()).add(recorded.service, recorded.body)
    return {episode: made.hexdigests() for episode, made in by_episode.items() if episode >= 0}


@pytest.mark.slow
def test_lockstep_records_all_that_was_sent(tmp_path: Path, run_toy: Callable[..., Any]) -> None:
    outcomes, _, _, line = run_toy(tmp_path, "lockstep", episodes=2, length_m=60.0)
    assert [o.end for o in outcomes] == ["goal", "goal"]
    assert digests(tmp_path / "a.mcap") == {i: o.topic_digests for i, o in enumerate(outcomes)}
    recording = Recording(tmp_path / "a.mcap")
    read = list(recording.read())
    assert recording.complete
    assert recording.run == {"seeds": "[0]"}
    assert {"profile.json", "camera_front.yaml"} <= set(recording.attachments)
    assert line.startswith(f"recording: {tmp_path / 'a.mcap'}, {len(read)} messages, ")
    assert ";" not in line
    phases = [r.message.phase for r in read if r.service == "episode"]  # type: ignore[attr-defined]
    assert phases == ["reset", "start", "end"] * 2
    stopped = {r.node for r in read if isinstance(r.message, NodeHealth) and r.message.state == "stopped"}
    assert stopped == {"world", "perception", "policy", "guard"}
    traces = {(r.node, r.message.header.tick) for r in read if r.service == "trace"}
    last = max(tick for _, tick in traces)
    assert {("world", last), ("guard", last)} <= traces


@pytest.mark.slow
def test_realtime_misses_nothing_while_the_disk_keeps_up(tmp_path: Path, run_toy: Callable[..., Any]) -> None:
    (outcome,), _, seen, line = run_toy(tmp_path, "realtime", length_m=20.0)
    assert outcome.end == "goal"
    assert "dropped" not in line
    sent = [r.tick for r in seen if isinstance(r.message, Truth)]
    recorded = [r.message.header.tick for r in Recording(tmp_path / "a.mcap").read() if r.service == "truth"]
    assert recorded == sent


@pytest.mark.slow
@pytest.mark.parametrize("clock", ["lockstep", "realtime"])
def test_a_killed_recorder_does_not_end_the_drive(tmp_path: Path, run_toy: Callable[..., Any], clock: str) -> None:
    killed: list[int] = []

    def kill(tick: int, supervisor: Supervisor) -> None:
        if tick >= 12 and not killed:
            killed.append(tick)
            os.kill(supervisor.processes.pid(RECORDER), signal.SIGKILL)

    (outcome,), supervisor, seen, line = run_toy(tmp_path, clock, on_tick=kill, length_m=30.0, step_s=0.06)
    assert outcome.end == "goal"
    assert outcome.fault is None
    assert "SIGKILL" in supervisor.lost[RECORDER]
    assert "cut: the recorder was killed by SIGKILL" in line
    recording = Recording(tmp_path / "a.mcap")
    ticks = [r.message.header.tick for r in recording.read() if r.service == "truth"]
    assert not recording.complete
    assert len(ticks) >= 2
    assert ticks == list(range(len(ticks)))
    assert max(r.tick for r in seen) > killed[0]


@pytest.mark.slow
def test_a_full_disk_ends_the_recording_and_not_the_drive(tmp_path: Path, run_toy: Callable[..., Any]) -> None:
    limited: list[int] = []

    def fill_disk(tick: int, supervisor: Supervisor) -> None:
        if tick >= 12 and not limited:  # the kernel refuses to let any file of that process grow, as on a full disk
            limited.append((tmp_path / "a.mcap").stat().st_size)
            limit = (limited[0] + 100, limited[0] + 100)
            resource.prlimit(supervisor.processes.pid(RECORDER), resource.RLIMIT_FSIZE, limit)

    (outcome,), supervisor, seen, line = run_toy(tmp_path, "lockstep", on_tick=fill_disk, length_m=60.0, step_s=0.06)
    assert outcome.end == "goal"
    assert supervisor.lost == {}
    assert "recording stopped" in line
    assert "File too large" in line
    notes = [r.message.text for r in seen if r.node == RECORDER and isinstance(r.message, NodeHealth)]
    assert any("recording stopped" in note for note in notes)
    assert 0 < (tmp_path / "a.mcap").stat().st_size <= limited[0] + 100
    ticks = [r.message.header.tick for r in Recording(tmp_path / "a.mcap").read() if r.service == "truth"]
    assert ticks == list(range(len(ticks)))


def make_node(tmp_path: Path, **changes: object) -> RecorderNode:
    config = {"file": str(tmp_path / "a.mcap"), "services": ["route"], "clock": "realtime", **changes}
    return create({**config, "summary": str(tmp_path / "recorder.json")})


def route(seq: int, points: int = 500) -> Received:
    message = Route(header=Header(tick=seq, seq=seq), odom_reference_m=np.zeros((points, 2), np.float32))
    return Received("route", "world", 0, seq, seq, message, wire.encode("route", message))


def test_no_space_left_is_told_and_counted(tmp_path: Path) -> None:
    node = make_node(tmp_path, clock="lockstep")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, node._writer._file.fileno())  # every write fails from here on with ENOSPC
    os.close(full)
    rng = np.random.default_rng(0)
    for seq in range(3000):  # more than a chunk holds
        received = route(seq)
        received.message.odom_reference_m = rng.random((500, 2), np.float32)  # type: ignore[union-attr]
        node.hear(received)
    node.close()
    assert "recording stopped" in node.note
    assert "No space left on device" in node.note
    assert json.loads((tmp_path / "recorder.json").read_text())["stopped"] == node.note


@pytest.mark.parametrize("clock", ["realtime", "lockstep"])
def test_a_slow_disk_drops_in_realtime_and_waits_in_lockstep(
    tmp_path: Path, clock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_is_free = threading.Event()
    add = RecordingWriter.add

    def slow_add(self: RecordingWriter, *args: object) -> None:
        disk_is_free.wait()
        add(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(RecordingWriter, "add", slow_add)
    node = make_node(tmp_path, clock=clock, backlog_bytes=20_000)
    heard = threading.Thread(target=lambda: [node.hear(route(seq)) for seq in range(50)])
    heard.start()
    if clock == "realtime":
        heard.join(timeout=30.0)
        assert not heard.is_alive()  # though the disk has not taken a single message yet
    disk_is_free.set()
    heard.join()
    node.close()
    read = [r.message.header.seq for r in Recording(tmp_path / "a.mcap").read()]
    if clock == "lockstep":
        assert read == list(range(50))
        assert not node.dropped
    else:
        assert 1 <= len(read) < 10
        assert node.dropped["route"] == 50 - len(read)


def test_messages_that_never_came_are_counted(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    for seq in (0, 1, 4, 5, 9):
        node.hear(route(seq))
    node.close()
    assert node.missed == {"route": 5}
    line = describe_recording(tmp_path, tmp_path / "a.mcap", "")
    assert line.endswith("; 5 of route overtaken by newer ones on the bus")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--record", "there.mcap"], "--record: there.mcap exists already; remove it or choose another name"),
        (["--record", "/proc/a.mcap"], "--record: /proc/a.mcap cannot be made"),
        (["--lossy"], "--lossy: expected together with --record FILE"),
    ],
)
def test_bad_recordings_are_refused_before_anything_starts(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.mcap").touch()
    assert run_app(["launch", "drive", "--perception", "truth", "--policy", "idm", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["there.mcap"]
