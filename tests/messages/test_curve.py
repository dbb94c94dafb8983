"""Doors between hosts on real sockets: who holds a key on the list is let in, and nobody else gets a byte."""

from __future__ import annotations

import logging
import os
import selectors
import socket as plain_socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from visuomotor.messages.bus import Publisher, Received, Subscriber
from visuomotor.messages.curve import Doorkeeper, caller_of, prepare_call
from visuomotor.messages.keys import load_pair, load_public, make_keys
from visuomotor.messages.network import PLAIN, Network, NetworkError, assign_ports, make_doors
from visuomotor.messages.node import ClockName
from visuomotor.messages.rendezvous import Rendezvous
from visuomotor.messages.schema import CameraFrame, Command, Header
from visuomotor.messages.wiring import SUPERVISOR, SUPERVISOR_OUTPUTS, RunPlace, wire_up

MARK = bytes(range(200, 232)) * 4  # in every frame that is sent: what no stranger may ever see
HOSTS = ("car", "gpu-box", "laptop")
NODES = {"world": "car", "perception": "gpu-box", "policy": "laptop"}
READS = {"world": ["command"], "perception": ["camera_front"], "policy": ["tracks"]}
WRITES = {"world": ["camera_front", "truth"], "perception": ["tracks"], "policy": ["command"]}
PORTS = assign_ports(17400, list(NODES))


def address(number: int) -> str:
    """A loopback address of this process alone, so that tests side by side do not meet."""
    return f"127.{os.getpid() >> 8 & 127}.{os.getpid() & 255}.{number}"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    make_keys(folder, [*HOSTS, "stranger"])
    return folder


Place = Callable[..., RunPlace]


@pytest.fixture
def place(keys: Path, tmp_path: Path) -> Place:
    """The run as one of its hosts sees it."""

    def make(own: str, clock: ClockName = "lockstep", encryption: str = "curve") -> RunPlace:
        network = Network(
            own=own,
            first="car",
            addresses={host: address(number) for number, host in enumerate(HOSTS, start=1)},
            nodes=NODES,
            doors=make_doors(PORTS, NODES, "car", READS, WRITES),
            encryption=encryption,  # type: ignore[arg-type]
            keys=str(keys),
        )
        sockets = tmp_path / own
        sockets.mkdir(exist_ok=True)
        return RunPlace(str(sockets), "run", clock, network)

    return make


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    context: zmq.Context[Any] = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def publisher(context: zmq.Context[Any], place: Place) -> Iterator[Publisher]:
    """The world of host car."""
    publisher = Publisher(context, place("car"), "world", ["camera_front", "truth"])
    yield publisher
    publisher.close()


def until(done: Callable[[], object], *actions: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        for action in actions:
            action()


def frame_of(tick: int) -> CameraFrame:
    image = np.frombuffer(MARK * 6, np.uint8).reshape(16, 16, 3).copy()
    return CameraFrame(header=Header(tick=tick, seq=tick, t_capture_ns=1), image=image)


def send_and_read(publisher: Publisher, reader: Subscriber, count: int = 50) -> None:
    """The reader, who holds the right key, gets every frame: what a stranger misses was really sent."""
    got: list[Received] = []
    for tick in range(count):
        publisher.publish("camera_front", frame_of(tick))
    until(lambda: len(got) >= count, lambda: got.extend(reader.poll(0.1)))
    assert [r.tick for r in got] == list(range(count))
    assert all(isinstance(r.message, CameraFrame) and MARK in r.message.image.tobytes() for r in got)


@pytest.fixture
def reader(publisher: Publisher, place: Place) -> Iterator[Subscriber]:
    """Perception on gpu-box, connected to the world."""
    context: zmq.Context[Any] = zmq.Context()
    reader = Subscriber(context, place("gpu-box"), {"camera_front": ["world"]})
    until(lambda: not reader.unheard, publisher.probe, lambda: reader.poll(0.01))
    yield reader
    reader.close()
    context.term()


def curve_reader(context: zmq.Context[Any], endpoint: str, keys: Path, own: str, server: bytes) -> zmq.Socket[bytes]:
    pair = load_pair(keys, own)
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.CURVE_SERVERKEY, server)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.connect(endpoint)
    return socket


def test_the_right_key_gets_all_in_both_clocks_over_tcp_and_ipc(
    context: zmq.Context[Any], place: Place, publisher: Publisher, reader: Subscriber
) -> None:
    near = Subscriber(context, place("car"), {"camera_front": ["world"]})
    until(lambda: not near.unheard, publisher.probe, lambda: near.poll(0.01))
    while reader.poll(0.05):
        pass
    send_and_read(publisher, reader)
    assert [r.tick for r in near.poll(1.0)] == list(range(50))
    near.close()
    assert reader.watch() == {}
    assert publisher.watch() == {}


@pytest.mark.parametrize(
    ("stranger", "cause"),
    [("no key", "no_key"), ("wrong key", "unknown_key"), ("no reader", "not_a_reader"), ("wrong server", "no_key")],
)
def test_whoever_has_not_the_right_key_gets_no_byte(
    context: zmq.Context[Any],
    place: Place,
    keys: Path,
    publisher: Publisher,
    reader: Subscriber,
    stranger: str,
    cause: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = place("laptop").network
    assert network is not None
    endpoint = network.endpoint("car", "world")
    car = load_public(keys, "car")
    if stranger == "no key":
        socket = context.socket(zmq.SUB)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(endpoint)
    elif stranger == "wrong key":
        socket = curve_reader(context, endpoint, keys, "stranger", car)
    elif stranger == "no reader":  # laptop is of the run, but nothing on it reads the world
        socket = curve_reader(context, endpoint, keys, "laptop", car)
    else:
        socket = curve_reader(context, endpoint, keys, "gpu-box", load_public(keys, "stranger"))
    with caplog.at_level(logging.WARNING, "visuomotor.messages"):
        until(lambda: publisher.watch().get(cause), lambda: socket.poll(20))
    send_and_read(publisher, reader)
    assert not socket.poll(300), socket.recv()
    assert set(publisher.watch()) == {cause}
    assert any("world: refused" in line and cause in line for line in caplog.messages)
    assert not any(load_pair(keys, host).secret.decode() in caplog.text for host in ("car", "gpu-box"))
    socket.close()


def test_raw_bytes_have_no_effect_and_no_answer(place: Place, publisher: Publisher, reader: Subscriber) -> None:
    """A plain tcp connection: an old protocol's greeting, a greeting without keys, noise, a length of 2^63."""
    network = place("laptop").network
    assert network is not None
    host, port = network.addresses["car"], network.doors["world"].port
    null_greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    ready = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB"
    curve_greeting = null_greeting.replace(b"NULL\0", b"CURVE")
    attacks = [
        b"\x01\x00",
        null_greeting + ready + b"\x00\x01\x01",
        curve_greeting + ready + b"\x00\x01\x01",
        curve_greeting + b"\x02" + b"\x7f" + b"\xff" * 7 + bytes(1000),
        np.random.default_rng(0).bytes(5000),
    ]
    connections = [plain_socket.create_connection((host, port), timeout=5.0) for _ in attacks]
    for connection, attack in zip(connections, attacks, strict=True):
        connection.sendall(attack)
    send_and_read(publisher, reader)
    for connection in connections:
        connection.settimeout(0.3)
        answer = b""
        try:
            while data := connection.recv(4096):
                answer += data
        except (TimeoutError, ConnectionResetError):
            pass
        assert MARK not in answer
        assert len(answer) < 300, "a greeting and a hand shake that was cut off, no more"
        connection.close()
    until(lambda: publisher.watch().get("no_key"), lambda: reader.poll(0.01))
    send_and_read(publisher, reader)


@pytest.mark.parametrize("encryption", ["curve", PLAIN])
def test_who_listens_on_the_way_learns_nothing_unless_the_profile_says_so(place: Place, encryption: str) -> None:
    run = place("car", encryption=encryption)
    assert run.network is not None
    door = run.network.doors["world"]
    heard = bytearray()
    tap = plain_socket.create_server((address(9), door.port))

    def relay() -> None:
        near, _ = tap.accept()
        far = plain_socket.create_connection((address(1), door.port))
        with near, far, selectors.DefaultSelector() as selector:
            selector.register(near, selectors.EVENT_READ, far)
            selector.register(far, selectors.EVENT_READ, near)
            while True:
                for key, _ in selector.select():
                    data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                    if not data:
                        return
                    heard.extend(data)
                    key.data.sendall(data)

    thread = threading.Thread(target=relay, daemon=True)
    thread.start()
    context: zmq.Context[Any] = zmq.Context()
    publisher = Publisher(context, run, "world", ["camera_front", "truth"])
    tapped = msgspec.structs.replace(run.network, own="gpu-box", addresses=run.network.addresses | {"car": address(9)})
    reader = Subscriber(context, msgspec.structs.replace(run, network=tapped), {"camera_front": ["world"]})
    until(lambda: not reader.unheard, publisher.probe, lambda: reader.poll(0.01))
    while reader.poll(0.05):
        pass
    send_and_read(publisher, reader)
    reader.close()
    publisher.close()
    context.term()
    thread.join(10.0)
    tap.close()
    assert len(heard) > 50 * len(MARK), "all of it went through here"
    assert (MARK in heard) == (encryption == PLAIN)


@pytest.mark.parametrize("impostor", ["wrong key", "no key"])
def test_a_publisher_with_another_key_is_not_believed(
    context: zmq.Context[Any], place: Place, keys: Path, impostor: str
) -> None:
    run = place("gpu-box")
    assert run.network is not None
    socket = context.socket(zmq.PUB)
    if impostor == "wrong key":
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, load_pair(keys, "stranger").secret)
    socket.bind(run.network.endpoint("car", "world"))
    reader = Subscriber(context, run, {"camera_front": ["world"]})
    honest = Publisher(zmq.Context(), RunPlace(run.sockets, "run", "lockstep"), "world", ["camera_front"])
    forged: list[bytes] = []
    honest._send = lambda service, data: forged.append(bytes(data))  # type: ignore[method-assign]
    honest.publish("camera_front", frame_of(1))

    def send() -> None:
        socket.send(forged[0])

    until(lambda: reader.watch().get("refused"), send, lambda: reader.poll(0.01))
    assert reader.poll(0.2) == []
    assert reader.unheard == {("camera_front", "world")}
    assert set(reader.dropped) == {"refused"}
    reader.close()
    socket.close(linger=0)
    honest.close()


def test_a_door_without_its_keeper_lets_nobody_in(context: zmq.Context[Any], place: Place, keys: Path) -> None:
    network = place("car").network
    assert network is not None
    keeper_context: zmq.Context[Any] = zmq.Context()
    keeper = Doorkeeper(keeper_context, network)  # in a context of its own, so that nobody asks it
    socket = context.socket(zmq.PUB)
    keeper.bind(socket, "world")
    reader = curve_reader(context, network.endpoint("car", "world"), keys, "gpu-box", load_public(keys, "car"))
    deadline = time.monotonic() + 1.0
    until(lambda: time.monotonic() > deadline, lambda: socket.send(MARK), lambda: reader.poll(10))
    assert not reader.poll(0)
    socket.close(linger=0)
    keeper.close()
    keeper_context.term()


def test_the_rendezvous_takes_a_node_only_from_its_own_host(
    context: zmq.Context[Any], place: Place, keys: Path
) -> None:
    run = place("car")
    supervisor = Publisher(context, run, SUPERVISOR, SUPERVISOR_OUTPUTS)
    own = wire_up(SUPERVISOR, (), SUPERVISOR_OUTPUTS)
    rendezvous = Rendezvous(context, run, own, tuple(NODES), supervisor.doorkeeper)
    hello = msgspec.msgpack.encode(
        {"type": "_Hello", "node": {"name": "perception", "inputs": [], "outputs": ["tracks"], "schemas": {}}}
    )

    def call(own: str) -> zmq.Socket[bytes]:
        network = place(own).network
        assert network is not None
        socket = context.socket(zmq.DEALER)
        prepare_call(socket, network, "car")
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(network.endpoint("car", "rendezvous"))
        socket.send(hello)
        return socket

    bare = context.socket(zmq.DEALER)
    bare.connect(supervisor.place.network.endpoint("car", "rendezvous"))  # type: ignore[union-attr]
    bare.send(hello)
    until(lambda: supervisor.watch().get("no_key"), lambda: rendezvous.poll(0.02))
    wrong = call("laptop")
    until(lambda: wrong.poll(0), lambda: rendezvous.poll(0.02))
    assert b"perception: is a node of host gpu-box, not of laptop" in wrong.recv()
    assert set(rendezvous.missing().values()) == {"starting"}, "nobody has had an effect"
    right = call("gpu-box")
    until(lambda: rendezvous.missing()["perception"] == "connecting", lambda: rendezvous.poll(0.02))
    assert not bare.poll(100)
    for socket in (bare, wrong, right):
        socket.close(linger=0)
    rendezvous.close()
    supervisor.close()


def test_only_what_another_host_reads_has_a_door(place: Place) -> None:
    network = place("car").network
    assert network is not None
    assert {name: door.hosts for name, door in network.doors.items()} == {
        "hosts": ("gpu-box", "laptop"),
        "rendezvous": ("gpu-box", "laptop"),
        "supervisor": ("gpu-box", "laptop"),
        "world": ("gpu-box",),
        "world.camera_front": ("gpu-box",),
        "perception": ("car", "laptop"),
        "perception.tracks": ("car", "laptop"),
        "policy": ("car",),
        "policy.command": ("car",),
    }
    assert len(set(PORTS.values())) == len(PORTS)
    with pytest.raises(NetworkError, match="nobody on another host was known to read it"):
        network.endpoint("car", "world.camera_left")
    with pytest.raises(NetworkError, match="base_port: 65500 puts 3 nodes on ports up to 65627"):
        assign_ports(65500, list(NODES))


def test_plain_tcp_needs_the_words_that_say_what_it_means(place: Place, context: zmq.Context[Any]) -> None:
    with pytest.raises(NetworkError, match=f"expected 'curve' or '{PLAIN}', got 'none'"):
        place("car", encryption="none")
    network = place("car").network
    with pytest.raises(NetworkError, match="expected a folder of keys"):
        msgspec.structs.replace(network, keys="")
    publisher = Publisher(context, place("laptop", encryption=PLAIN), "policy", ["command"])
    reader = Subscriber(context, place("car", encryption=PLAIN), {"command": ["policy"]})
    until(lambda: not reader.unheard, publisher.probe, lambda: reader.poll(0.01))
    reader.close()
    publisher.close()


def test_a_port_in_use_and_an_address_of_nobody_are_named(context: zmq.Context[Any], place: Place) -> None:
    run = place("car")
    assert run.network is not None
    taken = plain_socket.create_server((run.network.addresses["car"], run.network.doors["world"].port))
    with taken, pytest.raises(NetworkError, match=r"car: tcp://127\S+ cannot be bound \(Address already in use\)"):
        Publisher(context, run, "world", ["truth"])
    elsewhere = dict(run.network.addresses, car="192.0.2.1")  # RFC 5737: nobody's
    moved = msgspec.structs.replace(run.network, addresses=elsewhere)
    other: zmq.Context[Any] = zmq.Context()
    with pytest.raises(NetworkError, match="Cannot assign requested address"):
        Publisher(other, msgspec.structs.replace(run, network=moved), "world", ["truth"])
    other.term()  # nothing is left open


def test_a_message_tells_whose_key_it_came_under(context: zmq.Context[Any], place: Place) -> None:
    network = place("car").network
    assert network is not None
    keeper = Doorkeeper(context, network)
    router = context.socket(zmq.ROUTER)
    keeper.bind(router, "rendezvous")
    dealer = context.socket(zmq.DEALER)
    prepare_call(dealer, place("gpu-box").network, "car")  # type: ignore[arg-type]
    dealer.connect(network.endpoint("car", "rendezvous"))
    dealer.send(Command.__name__.encode())
    assert router.poll(5000)
    assert caller_of(router.recv_multipart(copy=False)[-1]) == "gpu-box"
    router.close()
    dealer.close(linger=0)
    keeper.close()
