"""The link between hosts on real sockets: what each end learns, and who is not listened to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from visuomotor.messages.host_link import Death, HostClient, HostServer, Report
from visuomotor.messages.keys import make_keys
from visuomotor.messages.network import PLAIN, Network, assign_ports, make_doors

NODES = {"world": "car", "perception": "gpu-box", "policy": "laptop"}


@pytest.fixture
def network(tmp_path: Path) -> Network:
    make_keys(tmp_path, ["car", "gpu-box", "laptop"])
    doors = make_doors(
        assign_ports(17400, list(NODES)), NODES, "car", dict.fromkeys(NODES, ()), dict.fromkeys(NODES, ())
    )
    ends = {host: f"127.{os.getpid() >> 8 & 127}.{os.getpid() & 255}.{21 + i}" for i, host in enumerate(NODES.values())}
    return Network(
        own="car", first="car", addresses=ends, nodes=NODES, doors=doors, encryption="curve", keys=str(tmp_path)
    )


@pytest.fixture
def server(network: Network) -> Iterator[HostServer]:
    server = HostServer(network, "run-1", b"what to do")
    yield server
    server.close()


@pytest.fixture
def client(network: Network) -> Iterator[HostClient]:
    client = HostClient(msgspec.structs.replace(network, own="gpu-box"))
    yield client
    client.close()


def until(done: Callable[[], object], *actions: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        for action in actions:
            action()


def test_each_end_learns_the_state_of_the_other(server: HostServer, client: HostClient) -> None:
    assert client.silent_s() == float("inf")
    until(lambda: client.wish, lambda: client.exchange(0.02))
    assert client.wish is not None
    assert (client.wish.run_id, client.wish.task, client.wish.lives) == ("run-1", b"what to do", {"perception": 0})
    server.start("perception")
    said = {"run_id": "run-1", "deaths": {"perception": Death(1, "exited")}, "folder": "/logs"}
    until(lambda: client.wish.lives == {"perception": 1}, lambda: client.exchange(0.02, **said))
    assert client.wish.task == b"", "known to who has taken up the run"
    state = server.states()["gpu-box"]
    assert state.taken_up
    assert state.report is not None
    assert state.report.deaths == {"perception": Death(1, "exited")}
    assert server.states()["laptop"].report is None
    server.kill("perception")
    until(lambda: client.wish.kills == {"perception": 1}, lambda: client.exchange(0.02, **said))
    server.give_up("gpu-box")
    assert not server.states()["gpu-box"].taken_up
    server.finish()
    until(lambda: client.wish.over, lambda: client.exchange(0.02))
    assert client.silent_s() < 5.0


def test_the_offset_of_one_clock_from_itself_is_within_its_bound(server: HostServer, client: HostClient) -> None:
    until(lambda: client.offset, lambda: client.exchange(0.02))
    assert client.offset is not None
    assert abs(client.offset.offset_ns) <= client.offset.bound_ns
    until(lambda: (report := server.states()["gpu-box"].report) and report.offset, lambda: client.exchange(0.02))


def test_a_host_does_not_speak_for_another(server: HostServer, client: HostClient) -> None:
    client.host = "laptop"
    deadline = time.monotonic() + 0.5
    until(lambda: time.monotonic() > deadline, lambda: client.exchange(0.02, leaving="a lie"))
    assert client.wish is None
    assert all(state.report is None for state in server.states().values())
    client.host = "gpu-box"
    until(lambda: client.wish, lambda: client.exchange(0.02))


def test_without_the_right_key_nothing_is_learnt_and_nothing_has_an_effect(
    server: HostServer, client: HostClient, network: Network, tmp_path: Path
) -> None:
    other = tmp_path / "others"
    make_keys(other, ["gpu-box"])
    (other / "car.key").write_bytes((tmp_path / "car.key").read_bytes())
    wrong = HostClient(msgspec.structs.replace(network, own="gpu-box", keys=str(other)))
    until(lambda: wrong.trouble, lambda: wrong.exchange(0.02, leaving="a lie"))
    assert wrong.trouble == "car does not take the key of gpu-box"
    assert wrong.wish is None
    none = HostClient(msgspec.structs.replace(network, own="gpu-box", keys="", encryption=PLAIN))
    until(lambda: server.refused().get("no_key"), lambda: none.exchange(0.02, leaving="a lie"))
    assert none.wish is None
    assert server.refused()["unknown_key"] >= 1
    assert server.states()["gpu-box"].report is None
    wrong.close()
    none.close()
    until(lambda: client.wish, lambda: client.exchange(0.02))


def test_a_first_host_with_another_key_is_not_believed(network: Network, client: HostClient, tmp_path: Path) -> None:
    folder = tmp_path / "impostor"
    make_keys(folder, ["car", "gpu-box", "laptop"])
    impostor = HostServer(msgspec.structs.replace(network, keys=str(folder)), "run-1", b"do as I say")
    until(lambda: client.trouble, lambda: client.exchange(0.02))
    assert client.trouble == "who answers at the address of car has not its key, or not this encryption"
    assert client.wish is None
    impostor.close()


def test_noise_under_the_right_key_is_dropped(server: HostServer, client: HostClient, network: Network) -> None:
    until(lambda: client.wish, lambda: client.exchange(0.02))
    report = msgspec.msgpack.encode(Report(host="gpu-box", sent_ns=1))
    for noise in (b"", b"\xff" * 100, report[:-1], msgspec.msgpack.encode({"host": 1})):
        client._socket.send(noise)
    client._socket.send_multipart([b"a", b"b", report], zmq.NOBLOCK)
    client.wish = None
    until(lambda: client.wish, lambda: client.exchange(0.02))
