"""The supervisor's own death, and Ctrl-C at the command line: real processes, a toy world."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

NODES = Path(__file__).parent / "nodes"


def start(run_dir: Path, clock: str) -> subprocess.Popen[str]:
    """A run whose world makes the file ``moving`` once the car has driven for a second."""
    return subprocess.Popen(
        [sys.executable, str(NODES / "toy_run.py"), str(run_dir), clock],
        env=dict(os.environ, PYTHONPATH=str(NODES)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    pause = time.monotonic
    while not condition():
        assert pause() < deadline, f"waited {timeout_s} s for {what}"
        select.select([], [], [], 0.02)  # leaves the cores to the nodes


def nodes_of(run_dir: Path) -> list[psutil.Process]:
    """Node processes of this run directory, found by their command line: also when they have lost their parent."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if any(part.startswith(str(run_dir)) for part in line) and "visuomotor.launch.run_node" in line:
            found.append(process)
    return found


def is_driving(process: subprocess.Popen[str], run_dir: Path) -> Callable[[], bool]:
    def check() -> bool:
        assert process.poll() is None, process.communicate()[1]
        return (run_dir / "moving").exists()

    return check


@pytest.mark.slow
@pytest.mark.parametrize("clock", ["lockstep", "realtime"])
def test_when_the_supervisor_is_killed_the_world_brakes_and_nobody_stays(tmp_path: Path, clock: str) -> None:
    run_dir = tmp_path / "run"
    process = start(run_dir, clock)
    wait_for(is_driving(process, run_dir), "the car to move")
    assert len(nodes_of(run_dir)) == 4
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not nodes_of(run_dir), "all nodes to end", 90.0)
    record = json.loads((run_dir / "orphaned.json").read_text())
    assert record["end"] == "fault"
    assert record["fault_node"] == "supervisor"
    assert record["speed_mps"] < 0.1
    assert record["ticks_braked"] > 5

    (run_dir / "moving").unlink()
    again = start(run_dir, "lockstep")  # the same directory: nothing stale is in the way
    wait_for(is_driving(again, run_dir), "the second run to drive")
    second = start(run_dir, "lockstep")  # at the same time as the other: refused
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 2
    assert "run directory is in use by another run" in errors

    os.kill(again.pid, signal.SIGINT)
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 1
    assert "fault: operator interrupted" in errors
    assert "the car was braked to a stop" in errors
    assert nodes_of(run_dir) == []
    (episode,) = json.loads((run_dir / "score.json").read_text())["episodes"]
    assert episode["end"] == "fault"
    assert episode["fault_node"] == "operator"
    assert not (run_dir / "sockets").exists()
