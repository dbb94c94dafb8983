"""The notification protocol against a real socket, in a real run: ready, alive only while all is well, stopping."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from visuomotor.launch.notify import SHARE_OF_LIMIT, ServiceManager, find_service_manager
from visuomotor.launch.profile import PROFILES

NODES = Path(__file__).parent / "nodes"
STEP_S = 6.0
WATCHDOG_S = 1.0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The service manager's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(60.0)
        yield end


def hear(manager: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in manager.recv(4096).decode().splitlines())


def heard_by_now(manager: socket.socket) -> list[dict[str, str]]:
    manager.setblocking(False)
    found = []
    try:
        while True:
            found.append(hear(manager))
    except BlockingIOError:
        return found


def test_words_are_datagrams_of_assignments(tmp_path: Path, manager: socket.socket) -> None:
    now = [100.0]
    service = ServiceManager(str(tmp_path / "notify"), watchdog_s=10.0, now_s=lambda: now[0])
    service.ready("four nodes\nare ready")
    assert hear(manager) == {"READY": "1", "STATUS": "four nodes are ready"}
    for now[0] in (100.0, 101.0, 103.9, 104.1):  # as often as one likes; sent at 0.4 of the limit
        service.alive()
    assert heard_by_now(manager) == [{"WATCHDOG": "1"}] * 2
    for now[0] in (105.0, 106.0, 110.5):
        service.status(lambda: "driving")
    assert heard_by_now(manager) == [{"STATUS": "driving"}] * 2
    now[0] = 200.0
    service.stopping("braking")
    service.stopping("again")
    service.alive()
    service.status(lambda: "driving")
    assert heard_by_now(manager) == [{"STOPPING": "1", "STATUS": "braking"}]


def test_an_abstract_address_and_one_that_nobody_hears(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        name = f"visuomotor-test-{os.getpid()}"
        end.bind("\0" + name)
        ServiceManager("@" + name).ready("here")
        assert hear(end) == {"READY": "1", "STATUS": "here"}
    ServiceManager(str(tmp_path / "nobody")).ready("lost, and no error")


def test_a_manager_that_does_not_read_is_not_waited_for(tmp_path: Path, manager: socket.socket) -> None:
    service = ServiceManager(str(tmp_path / "notify"), watchdog_s=1e-9)
    for _ in range(10_000):  # far more than the socket holds
        service.alive()
    assert 1 <= len(heard_by_now(manager)) < 10_000


@pytest.mark.parametrize(
    ("environment", "listens", "watchdog_s"),
    [
        ({}, False, 0.0),
        ({"NOTIFY_SOCKET": "/run/x"}, True, 0.0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000"}, True, 30.0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, True, 30.0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, True, 0.0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "soon"}, True, 0.0),
        ({"NOTIFY_SOCKET": "relative"}, False, 0.0),
    ],
)
def test_the_environment_is_read_and_not_handed_on(
    environment: dict[str, str], listens: bool, watchdog_s: float
) -> None:
    environment["HOME"] = "/root"
    service = find_service_manager(environment)
    assert service.listens is listens
    assert service.watchdog_s == pytest.approx(watchdog_s)
    assert environment == {"HOME": "/root"}


def start(tmp_path: Path) -> subprocess.Popen[str]:
    """A realtime run of the toy world that is started as a service."""
    profile = yaml.safe_load((PROFILES / "drive.yaml").read_text())
    profile["timeouts"]["step_s"] = STEP_S
    profile["cameras"] = {name: str(PROFILES / file) for name, file in profile["cameras"].items()}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(profile))
    service = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": f"{WATCHDOG_S * 1e6:.0f}"}
    arguments = [str(tmp_path / "run"), "realtime", "--profile", str(tmp_path / "mine.yaml")]
    return subprocess.Popen(
        [sys.executable, str(NODES / "toy_run.py"), *arguments],
        env=dict(os.environ, PYTHONPATH=str(NODES), **service),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_service_is_ready_alive_and_stopping(tmp_path: Path, manager: socket.socket) -> None:
    run = start(tmp_path)
    first = hear(manager)
    assert first["READY"] == "1"
    assert "4 nodes" in first["STATUS"]
    words = [hear(manager) for _ in range(8)]
    assert sum("WATCHDOG" in word for word in words) >= 4
    assert any("steps" in word.get("STATUS", "") for word in words)
    assert all("NOTIFY_SOCKET" not in child.environ() for child in psutil.Process(run.pid).children())
    os.kill(run.pid, signal.SIGTERM)
    while "STOPPING" not in (word := hear(manager)):
        assert word.keys() <= {"WATCHDOG", "STATUS"}
    assert "operator interrupted" in word["STATUS"]
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 0  # it was asked to
    assert "the car was braked to a stop" in errors
    assert "episode 1/1" not in errors  # no lines of progress in a journal
    assert heard_by_now(manager) == []


@pytest.mark.slow
def test_a_frozen_node_ends_the_words_of_being_alive(tmp_path: Path, manager: socket.socket) -> None:
    run = start(tmp_path)
    while "steps" not in hear(manager).get("STATUS", ""):  # before the first tick whoever waits has another deadline
        pass
    (policy,) = [c for c in psutil.Process(run.pid).children() if c.cmdline()[-1].endswith("policy.job.json")]
    policy.send_signal(signal.SIGSTOP)
    words = 0
    while "STOPPING" not in (word := hear(manager)):
        words += "WATCHDOG" in word
    assert words <= 0.7 * STEP_S / (SHARE_OF_LIMIT * WATCHDOG_S)  # it stopped being well long before it gave up
    assert "policy was silent" in word["STATUS"]
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "fault: policy was silent" in errors
