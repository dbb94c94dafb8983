"""Publisher and Subscriber over real sockets: newest-only, lossless, and everything that must be dropped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zmq

from visuomotor.messages import frame, wire
from visuomotor.messages.bus import EVENT_QUEUE, Publisher, Received, Subscriber
from visuomotor.messages.run_directory import RunDirectory
from visuomotor.messages.schema import CameraFrame, Command, Header, Message, Operator
from visuomotor.messages.services import SERVICES
from visuomotor.messages.wiring import ClockName, RunPlace

IMAGE = np.zeros((384, 640, 3), np.uint8)

READER = """
import sys
import zmq
from visuomotor.messages.bus import Subscriber
from visuomotor.messages.wiring import RunPlace
reader = Subscriber(zmq.Context(), RunPlace(sys.argv[1], "run", "realtime"), {"camera_front": ["world"]})
while reader.unheard:
    reader.poll(1.0)
print("ready", flush=True)
stale = 0
while True:
    for received in reader.poll(1.0):
        print(received.tick, flush=True)
    if reader.dropped["stale"] > stale:
        stale = reader.dropped["stale"]
        print("stale", flush=True)
"""


@pytest.fixture
def sockets() -> Iterator[str]:
    with RunDirectory() as directory:
        yield str(directory.sockets)


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    context: zmq.Context[Any] = zmq.Context()
    yield context
    context.destroy(linger=0)


Connect = Callable[..., tuple[Publisher, Subscriber]]


@pytest.fixture
def connect(sockets: str, context: zmq.Context[Any]) -> Iterator[Connect]:
    """A publisher and a subscriber that hear each other."""
    opened: list[Publisher | Subscriber] = []

    def make(clock: ClockName, *services: str) -> tuple[Publisher, Subscriber]:
        place = RunPlace(sockets, "run", clock)
        publisher = Publisher(context, place, "world", services)
        subscriber = Subscriber(context, place, {service: ["world"] for service in services})
        opened.extend([publisher, subscriber])
        until(lambda: not subscriber.unheard, publisher.probe, lambda: subscriber.poll(0.01))
        while subscriber.poll(0.05):
            pass
        return publisher, subscriber

    yield make
    for end in opened:
        end.close()


def until(done: Callable[[], bool], *actions: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        for action in actions:
            action()


def stamped(message: Message, tick: int, episode: int = 0) -> Message:
    message.header = Header(tick=tick, seq=tick, episode=episode, t_capture_ns=1)
    return message


def drain(subscriber: Subscriber, count: int) -> list[Received]:
    received: list[Received] = []
    until(lambda: len(received) >= count, lambda: received.extend(subscriber.poll(0.1)))
    return received


def test_lockstep_loses_nothing_and_keeps_order_across_services(connect: Connect) -> None:
    publisher, subscriber = connect("lockstep", "camera_front", "operator", "command")
    count = 3 * EVENT_QUEUE
    small = np.zeros((2, 2, 3), np.uint8)
    for tick in range(count):
        publisher.publish("camera_front", stamped(CameraFrame(image=small), tick, episode=3))
        publisher.publish("operator", stamped(Operator(kind="order"), tick))
        publisher.absent("command", tick)
    got = drain(subscriber, 3 * count)
    assert [(r.service, r.tick) for r in got] == [
        (service, tick) for tick in range(count) for service in ("camera_front", "operator", "command")
    ]
    assert got[0].message is not None
    assert (got[0].message.header.run_id, got[0].message.header.episode) == ("run", 3)
    assert got[2].message is None
    assert subscriber.watch() == {}


def test_newest_only_in_realtime(connect: Connect) -> None:
    publisher, subscriber = connect("realtime", "camera_front", "operator")
    for tick in range(200):
        publisher.publish("camera_front", stamped(CameraFrame(image=IMAGE), tick))
        publisher.publish("operator", stamped(Operator(kind="order"), tick))
    operators = [r.tick for r in drain(subscriber, 201) if r.service == "operator"]
    assert operators == list(range(200)), "events are queued"
    publisher.publish("camera_front", stamped(CameraFrame(image=IMAGE), 500))
    frames: list[Received] = []
    until(lambda: bool(frames) and frames[-1].tick == 500, lambda: frames.extend(subscriber.poll(0.1)))
    assert len(frames) < 20, "frames are not"


def test_event_queue_is_bounded(connect: Connect) -> None:
    publisher, subscriber = connect("realtime", "operator")
    text = "x" * 1000
    for tick in range(6 * EVENT_QUEUE):
        publisher.publish("operator", stamped(Operator(kind="order", text=text), tick))
    got: list[Received] = []
    while more := subscriber.poll(0.3):
        got.extend(more)
    assert EVENT_QUEUE <= len(got) < 6 * EVENT_QUEUE
    ticks = [r.tick for r in got]
    assert ticks == sorted(ticks)


def test_stopped_reader_costs_nothing_and_sees_no_old_frame(sockets: str, context: zmq.Context[Any]) -> None:
    publisher = Publisher(context, RunPlace(sockets, "run", "realtime"), "world", ["camera_front"])
    process = subprocess.Popen([sys.executable, "-c", READER, sockets], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    try:
        poller = zmq.Poller()
        poller.register(descriptor, zmq.POLLIN)
        until(lambda: bool(poller.poll(20)), publisher.probe)
        assert process.stdout.readline() == "ready\n"
        tick = 0
        while not poller.poll(20):
            publisher.publish("camera_front", stamped(CameraFrame(image=IMAGE), tick))
            tick += 1
        process.send_signal(signal.SIGSTOP)
        until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        before = psutil.Process().memory_info().rss
        first = tick
        slowest_s = 0.0
        stopped_at = time.monotonic()
        while time.monotonic() - stopped_at < SERVICES["camera_front"].max_age_s + 0.3 or tick < first + 1000:
            started = time.monotonic()
            publisher.publish("camera_front", stamped(CameraFrame(image=IMAGE), tick))
            slowest_s = max(slowest_s, time.monotonic() - started)
            tick += 1
        assert psutil.Process().memory_info().rss - before < 64 << 20, "1000 frames would be 700 MB"
        assert slowest_s < 1.0
        # nothing is sent for longer than max_age_s: what waits in the pipes is old, and must not be shown
        waited = time.monotonic()
        until(lambda: time.monotonic() - waited > SERVICES["camera_front"].max_age_s + 0.1, lambda: poller.poll(0))
        process.send_signal(signal.SIGCONT)
        lines = b""

        def read() -> None:
            nonlocal lines
            if poller.poll(50):
                lines += os.read(descriptor, 1 << 16)

        until(lambda: b"stale\n" in lines, read)  # before the next frame is sent, which would take an old one's place
        last = tick
        while f"\n{last}\n".encode() not in lines:
            publisher.publish("camera_front", stamped(CameraFrame(image=IMAGE), last))
            read()
        seen = [int(line) for line in lines.decode().splitlines() if line != "stale"]
        assert all(t <= first or t == last for t in seen), "only frames from before the stop or from after it"
    finally:
        process.kill()
        process.communicate()
        publisher.close()


def raw_publisher(context: zmq.Context[Any], endpoint: str) -> zmq.Socket[bytes]:
    """A socket of somebody else at the address of a node."""
    socket = context.socket(zmq.PUB)
    socket.bind(endpoint)
    return socket


def packed(service: str, run: str, body: bytes) -> bytes:
    return frame.MARK + frame.pack_head(service, run, frame.Head(time.monotonic_ns(), 0, 0, frame.DATA)) + body


def test_malformed_and_foreign_bytes_are_counted_and_dropped(sockets: str, context: zmq.Context[Any]) -> None:
    place = RunPlace(sockets, "run", "lockstep")
    other = raw_publisher(context, place.endpoint("world", "command"))
    subscriber = Subscriber(context, place, {"command": ["world"]})
    body = wire.encode("command", Command())
    good = packed("command", "run", body)
    until(lambda: not subscriber.unheard, lambda: other.send(good), lambda: subscriber.poll(0.01))
    while subscriber.poll(0.05):
        pass
    random = np.random.default_rng(0)
    malformed = [body[:cut] for cut in range(len(body))] + [random.bytes(50) for _ in range(200)]
    for bad in malformed:
        other.send(packed("command", "run", bad))
    foreign = [packed("command", "another run", body), frame.prefix("command"), good[: frame.BODY_START - 1]]
    for bad in foreign:
        other.send(bad)
    other.send_multipart([good, b"more", b"parts"])
    other.send(random.bytes(100))  # not subscribed to: not even received
    other.send(packed("tracks", "run", body))
    other.send(good)
    assert [r.service for r in drain(subscriber, 1)] == ["command"]
    assert subscriber.poll(0.05) == []
    assert subscriber.watch() == {"malformed": len(malformed), "foreign": len(foreign) + 1}
    subscriber.close()


def test_oversized_is_cut_off_counted_and_the_rest_goes_on(sockets: str, context: zmq.Context[Any]) -> None:
    place = RunPlace(sockets, "run", "lockstep")
    other = raw_publisher(context, place.endpoint("world", "command"))
    subscriber = Subscriber(context, place, {"command": ["world"]})
    good = packed("command", "run", wire.encode("command", Command()))
    until(lambda: not subscriber.unheard, lambda: other.send(good), lambda: subscriber.poll(0.01))
    other.send(good + bytes(SERVICES["command"].max_bytes))
    until(lambda: subscriber.watch().get("oversized", 0) == 1, lambda: subscriber.poll(0.01))
    assert drain_after(subscriber, lambda: other.send(good))
    assert subscriber.watch() == {"oversized": 1}
    subscriber.close()


def drain_after(subscriber: Subscriber, send: Callable[[], object]) -> list[Received]:
    got: list[Received] = []
    until(lambda: bool(got), send, lambda: got.extend(subscriber.poll(0.02)))
    return got


def test_reader_goes_on_with_a_new_process_of_a_killed_publisher(sockets: str, context: zmq.Context[Any]) -> None:
    code = (
        "import sys, zmq, time\n"
        "from visuomotor.messages.bus import Publisher\n"
        "from visuomotor.messages.wiring import RunPlace\n"
        "from visuomotor.messages.schema import Command, Header\n"
        "p = Publisher(zmq.Context(), RunPlace(sys.argv[1], 'run', 'realtime'), 'guard', ['command'])\n"
        "while True:\n"
        "    p.publish('command', Command(header=Header(tick=int(sys.argv[2]))))\n"
        "    time.sleep(0.01)\n"
    )
    subscriber = Subscriber(context, RunPlace(sockets, "run", "realtime"), {"command": ["guard"]})
    try:
        for life in ("1", "2"):
            process = subprocess.Popen([sys.executable, "-c", code, sockets, life])
            ticks: list[int] = []
            until(lambda t=ticks, n=int(life): n in t, lambda t=ticks: t.extend(r.tick for r in subscriber.poll(0.1)))  # type: ignore[misc]
            process.kill()
            process.wait()
        assert Path(sockets, "guard.command").exists(), "a killed process leaves its socket: the next bind takes over"
        assert "oversized" not in subscriber.watch()
    finally:
        subscriber.close()


def test_publisher_refuses_what_does_not_fit(connect: Connect) -> None:
    publisher, _ = connect("realtime", "command")
    with pytest.raises(wire.WireError, match="command: expected a Command, got Operator"):
        publisher.publish("command", Operator(kind="engage"))


def test_digests_only_in_lockstep_and_without_the_run(sockets: str, context: zmq.Context[Any]) -> None:
    digests = []
    for run, clock in (("a", "lockstep"), ("b", "lockstep"), ("c", "realtime")):
        publisher = Publisher(context, RunPlace(sockets, run, clock), f"node_{run}", ["command", "trace"])  # type: ignore[arg-type]
        publisher.begin_episode(5)
        publisher.publish("command", stamped(Command(acceleration_mps2=1.0), 3, episode=ord(run)))
        digests.append(publisher.digests.hexdigests())
        publisher.close()
    assert digests[0] == digests[1] != {}
    assert digests[2] == {}
